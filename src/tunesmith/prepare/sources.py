"""Rows out of files, one at a time: JSONL, JSON, CSV, TSV, Parquet, CoNLL, plain text, a folder, or a hub data set."""

import csv
import gzip
import io
import json
import os
import stat
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from tunesmith.errors import MissingExtra, UserError, nearest, shown

LONGEST_LINE = 32_000_000
"""Bytes; a longer line is no row of text but a file of another kind."""
LINES_LOOKED_AT = 20
"""Of a CSV file, to find what divides its columns."""
BOM = b"\xef\xbb\xbf"
UNREADABLE = (OSError, EOFError, zlib.error)
"""What reading raises when a disk fails, or a compressed file is cut off or damaged."""
AS_UTF8 = "save it as UTF-8, such as with iconv -f latin1 -t utf-8"
UTF16 = (b"\xff\xfe", b"\xfe\xff")
HEAD = 4096
"""Bytes that are looked at to tell UTF-16 from UTF-8."""
NUL = "holds a NUL character"
PLAIN = ".txt"
"""Of files with a text a line; beside other data files they tell about the data and are none."""
HALF_A_PAIR = "holds half of a character pair (a lone surrogate)"


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row as it stands in a file. problem: why it cannot be read; its fields are then empty.

    line: its number in the file, of what `unit` says.
    """

    source: str
    line: int
    fields: Mapping[str, Any]
    problem: str | None = None
    unit: str = "line"

    @property
    def where(self) -> str:
        return f"{self.source}, {self.unit} {self.line}"


def read_source(spec: str, base: Path) -> Iterator[RawRow]:
    """The rows of a file, a folder or a data set, in order. Relative paths start at `base`.

    A broken line is a row with a problem. Raises UserError for what is no readable source at all.
    """
    if spec.startswith("hub:"):
        yield from _hub(spec)
        return
    path = base / Path(spec).expanduser()
    if (path / "dataset_info.json").is_file() and (path / "state.json").is_file():
        yield from _saved_data_set(path, spec)
        return
    for file in source_files(spec, base):
        _require_bytes(file, file_name(file, base))
        yield from _READERS[_kind(file)](file, file_name(file, base))


def source_files(spec: str, base: Path) -> list[Path]:
    """The files that a source consists of; none for a hub data set. Raises UserError when there are none to read."""
    if spec.startswith("hub:"):
        return []
    path = base / Path(spec).expanduser()
    if path.is_dir():
        return _folder(path, spec)
    _check(path, spec)
    return [path]


def is_plain_text(spec: str, base: Path) -> bool:
    """Whether a source holds a text a line and nothing else."""
    files = source_files(spec, base)
    return bool(files) and all(_kind(file) == PLAIN for file in files)


def file_name(path: Path, base: Path) -> str:
    """How a file is called in messages: relative to `base` where it lies below, else by its name."""
    relative = os.path.relpath(path, base)
    return path.name if relative.startswith("..") else relative


def _kind(path: Path) -> str:
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix == ".gz" else suffix


def _folder(path: Path, spec: str) -> list[Path]:
    if (path / "dataset_info.json").is_file() and (path / "state.json").is_file():
        return sorted(file for file in path.rglob("*") if file.is_file())
    if (path / "dataset_dict.json").is_file():
        raise UserError(shown(spec, 200)[1:-1], "holds several splits", "name the folder of one of them")
    files = sorted(file for file in path.iterdir() if file.is_file() and _kind(file) in _READERS)
    files = [file for file in files if _kind(file) != PLAIN] or files
    kinds = sorted({_kind(file) for file in files})
    if not files:
        raise UserError(shown(spec, 200)[1:-1], "holds no data file", f"it may hold {', '.join(_READERS)}")
    if len(kinds) > 1:
        raise UserError(shown(spec, 200)[1:-1], f"mixes {', '.join(kinds)} files", "name the files one by one")
    for file in files:
        _check(file, str(file))
    return files


def _check(path: Path, spec: str) -> None:
    where = shown(spec, 200)[1:-1]
    try:
        status = path.stat()
    except FileNotFoundError:
        there = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UserError(where, "is not there", nearest(path.name, there) if there else "is the path right?") from None
    except (OSError, ValueError) as error:
        raise UserError(where, f"cannot be read ({error})", "is the path right?") from error
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
        raise UserError(where, "is not a file but a pipe or device", "write its rows to a file first")
    if status.st_size == 0:
        raise UserError(where, "is empty", "a data file needs rows")
    if _kind(path) not in _READERS:
        raise UserError(where, f"is of no known kind ({path.suffix or 'no ending'})", f"use {', '.join(_READERS)}")


def _open(path: Path) -> IO[bytes]:
    try:
        return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")  # type: ignore[return-value]
    except OSError as error:
        raise UserError(path.name, f"cannot be read ({error.strerror})", "may it be read by you?") from error


def _require_bytes(path: Path, name: str) -> None:
    """Refuses text that has two bytes a character, which would be read as one row of nonsense."""
    if _kind(path) == ".parquet":
        return
    try:
        with _open(path) as file:
            head = file.read(HEAD)
    except UNREADABLE:  # as its reader will say
        return
    every_other = max(head[::2].count(0), head[1::2].count(0))
    if head.startswith(UTF16) or 4 * every_other > len(head):
        raise UserError(name, "is UTF-16 text", "save it as UTF-8, such as with iconv -f utf-16 -t utf-8")


def _lines(path: Path, name: str) -> Iterator[bytes]:
    """The lines of a file, without a byte order mark."""
    with _open(path) as file:
        number = 0
        while line := _line(file, name, number + 1):
            number += 1
            yield line.removeprefix(BOM) if number == 1 else line


def _line(file: IO[bytes], name: str, number: int) -> bytes:
    try:
        line = file.readline(LONGEST_LINE + 1)
    except UNREADABLE as error:
        raise UserError(f"{name}, line {number}", f"cannot be read ({error})", "is the file complete?") from error
    if len(line) > LONGEST_LINE:
        raise UserError(f"{name}, line {number}", f"is longer than {LONGEST_LINE:,} bytes", "is this a file of rows?")
    return line


def _json_lines(path: Path, name: str) -> Iterator[RawRow]:
    for number, line in enumerate(_lines(path, name), start=1):
        if line.strip():
            yield _json_row(line, name, number)


def _texts(path: Path, name: str) -> Iterator[RawRow]:
    """A row each line that is not blank, whole, in the column `text`."""
    for number, line in enumerate(_lines(path, name), start=1):
        try:
            text = line.decode().rstrip("\r\n")
        except UnicodeDecodeError as error:
            yield RawRow(name, number, {}, f"byte {error.start + 1} is not UTF-8; {AS_UTF8}")
            continue
        if "\0" in text:
            yield RawRow(name, number, {}, NUL)
        elif text.strip():
            yield RawRow(name, number, {"text": text})


def _tagged_words(path: Path, name: str) -> Iterator[RawRow]:
    from tunesmith.prepare.conll import read_conll  # which makes its rows of this file's kind

    yield from read_conll(_lines(path, name), name)


def _json_row(line: bytes, name: str, number: int) -> RawRow:
    try:
        text = line.decode().rstrip("\r\n")
        fields = json.loads(text)
    except UnicodeDecodeError as error:
        return RawRow(name, number, {}, f"byte {error.start + 1} is not UTF-8; {AS_UTF8}")
    except json.JSONDecodeError as error:
        return RawRow(name, number, {}, f"column {error.colno}: not JSON ({error.msg})")
    except ValueError:  # Python's guard against numbers that take long to read
        return RawRow(name, number, {}, "holds a number of too many digits")
    except RecursionError:
        return RawRow(name, number, {}, "nested too deeply")
    if not isinstance(fields, dict):
        return RawRow(name, number, {}, f"found {shown(fields)}, expected an object with named fields")
    if "\\ud" in text.lower() or "\\u0000" in text:
        return _whole(RawRow(name, number, fields))
    return RawRow(name, number, fields)


def _whole(row: RawRow) -> RawRow:
    """The row, or one with a problem where a text of it cannot be used."""
    try:
        text = json.dumps(row.fields, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return replace(row, fields={}, problem=HALF_A_PAIR)
    return replace(row, fields={}, problem=NUL) if b"\\u0000" in text and _holds_nul(row.fields) else row


def _holds_nul(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_holds_nul(part) for pair in value.items() for part in pair)
    return any(map(_holds_nul, value)) if isinstance(value, list) else isinstance(value, str) and "\0" in value


def _json(path: Path, name: str) -> Iterator[RawRow]:
    from tunesmith.prepare.conll import is_squad, read_squad

    with _open(path) as file:
        try:
            found = json.loads(file.read().removeprefix(BOM))
        except UnicodeDecodeError as error:
            raise UserError(f"{name}, line {_line_of_bytes(path)}", "is not UTF-8", AS_UTF8) from error
        except (ValueError, RecursionError) as error:
            raise UserError(name, f"is not JSON ({error})", "a file of one object a line ends in .jsonl") from error
        except UNREADABLE as error:
            raise UserError(name, f"cannot be read ({error})", "is the file complete?") from error
    if is_squad(found):
        for row in read_squad(found, name):
            yield _whole(row)
        return
    if isinstance(found, dict):
        lists = [value for value in found.values() if isinstance(value, list)]
        found = lists[0] if len(lists) == 1 else None
    if not isinstance(found, list):
        raise UserError(name, "holds no list of rows", "expected [{…}, …], or an object with one such list")
    for number, fields in enumerate(found, start=1):
        if not isinstance(fields, dict):
            yield RawRow(name, number, {}, f"found {shown(fields)}, expected an object with named fields")
        else:
            yield _whole(RawRow(name, number, fields))


def _separated(path: Path, name: str) -> Iterator[RawRow]:
    csv.field_size_limit(LONGEST_LINE)
    with _open(path) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as file:
        try:
            first = [file.readline(LONGEST_LINE) for _ in range(LINES_LOOKED_AT)]
            delimiter = "\t" if _kind(path) == ".tsv" else max(",;\t", key=lambda sign: _suits(sign, first))
            file.seek(0)
            rows = csv.reader(file, delimiter=delimiter, strict=True)
            header = [column.strip() or f"column {place}" for place, column in enumerate(next(rows, [""]), start=1)]
            yield from _cells(rows, header, name)
        except UnicodeDecodeError as error:
            raise UserError(f"{name}, line {_line_of_bytes(path)}", "is not UTF-8", AS_UTF8) from error
        except csv.Error as error:
            raise UserError(f"{name}, line 1", f"is no line of columns ({error})", "is a quote left open?") from error
        except UNREADABLE as error:
            raise UserError(name, f"cannot be read ({error})", "is the file complete?") from error


def _suits(delimiter: str, lines: Sequence[str]) -> tuple[bool, int, int]:
    """How well a sign divides the first lines of a file: several columns, many rows that have as many, columns."""
    try:
        header, *rows = csv.reader(lines, delimiter=delimiter)
    except (ValueError, csv.Error):
        return False, 0, 0
    return len(header) > 1, sum(len(cells) == len(header) for cells in rows), len(header)


def _line_of_bytes(path: Path) -> int:
    """The first line that is not UTF-8."""
    with _open(path) as file:
        return next((n for n, line in enumerate(file, start=1) if line.decode(errors="ignore").encode() != line), 1)


def _cells(rows: Any, header: list[str], name: str) -> Iterator[RawRow]:
    if not header:
        raise UserError(f"{name}, line 1", "is blank", "the first line names the columns")
    twice = next((column for column, count in Counter(header).items() if count > 1), None)
    if twice is not None:
        found = f"names the column {shown(twice)} twice"
        raise UserError(f"{name}, line 1", found, "give each column a name of its own")
    while True:
        line = rows.line_num + 1
        try:
            cells = next(rows, None)
        except csv.Error as error:
            if "unexpected end of data" in str(error):  # as one bad row it would hide all rows to the end
                where, found = f"{name}, line {line}", "opens a quote that nothing closes before the file ends"
                raise UserError(where, found, 'close it, or write a quote inside a cell as ""') from error
            yield RawRow(name, line, {}, f"cannot be read as separated values ({error}); is a quote left open?")
            continue
        if cells is None:
            return
        if not cells:
            continue
        if len(cells) != len(header):
            yield RawRow(name, line, {}, f"found {len(cells)} cells, expected {len(header)}")
        elif any("\0" in cell for cell in cells):
            yield RawRow(name, line, {}, NUL)
        else:
            yield RawRow(name, line, dict(zip(header, cells, strict=True)))


def _parquet(path: Path, name: str) -> Iterator[RawRow]:
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise MissingExtra(name, "data") from error
    number = 0
    try:
        for batch in parquet.ParquetFile(path).iter_batches(batch_size=1000):
            for fields in batch.to_pylist():
                number += 1
                yield RawRow(name, number, fields)
    except (arrow.ArrowInvalid, OSError) as error:
        raise UserError(name, f"is not Parquet ({error})", "is the file complete?") from error


def _hub(spec: str) -> Iterator[RawRow]:
    """`hub:NAME[:CONFIG][@SPLIT]`, from the local cache or, where the hub can be reached, from there."""
    name, _, split = spec.removeprefix("hub:").partition("@")
    name, _, config = name.partition(":")
    try:
        from datasets import load_dataset
    except ModuleNotFoundError as error:
        raise MissingExtra(spec, "data") from error
    try:
        found = load_dataset(name, config or None, split=split or "train")
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(spec, f"cannot be loaded ({reason})", "fetch it once where the hub can be reached") from error
    for number, fields in enumerate(found, start=1):
        yield RawRow(spec, number, fields)


def _saved_data_set(path: Path, spec: str) -> Iterator[RawRow]:
    try:
        from datasets import load_from_disk
    except ModuleNotFoundError as error:
        raise MissingExtra(spec, "data") from error
    try:
        for number, fields in enumerate(load_from_disk(str(path)), start=1):
            yield RawRow(path.name, number, fields)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(path.name, f"is no whole data set ({reason})", "save it again") from error


_READERS: dict[str, Callable[[Path, str], Iterator[RawRow]]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".csv": _separated,
    ".tsv": _separated,
    ".parquet": _parquet,
    ".conll": _tagged_words,
    ".iob": _tagged_words,
    ".iob2": _tagged_words,
    ".bio": _tagged_words,
    PLAIN: _texts,
}
