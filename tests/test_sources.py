"""Rows out of files of every kind: what is read, what is a bad row with its line, and what is refused."""

import csv
import gzip
import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.errors import UserError
from tunesmith.prepare import sources
from tunesmith.prepare.sources import RawRow, read_source

BOM = b"\xef\xbb\xbf"
ENDINGS = ("jsonl", "json", "csv", "tsv", "parquet", "jsonl.gz", "conll", "txt")
GOOD = b'{"text": "good"}\n'


@pytest.fixture
def rows(tmp_path: Path) -> Callable[..., list[RawRow]]:
    """Writes the bytes into a file of that name and reads it as a source."""

    def read(name: str, content: bytes | str) -> list[RawRow]:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return list(read_source(name, tmp_path))

    return read


def refusal(spec: str, base: Path) -> str:
    """What the user is told; always in one line that begins with the place."""
    with pytest.raises(UserError) as told:
        list(read_source(spec, base))
    assert "\n" not in str(told.value)
    assert told.value.fix
    return str(told.value)


def refused(base: Path, name: str, content: bytes) -> str:
    (base / name).write_bytes(content)
    return refusal(name, base)


def fields(found: list[RawRow]) -> list[dict[str, Any]]:
    assert [row.problem for row in found] == [None] * len(found)
    return [dict(row.fields) for row in found]


def test_json_lines_skip_blank_lines_but_count_them(rows: Callable[..., list[RawRow]]) -> None:
    found = rows("a.jsonl", BOM + b'{"text": "one"}\r\n\r\n  \n{"text": "two", "more": [1, null]}')
    assert fields(found) == [{"text": "one"}, {"text": "two", "more": [1, None]}]
    assert [(row.source, row.line) for row in found] == [("a.jsonl", 1), ("a.jsonl", 4)]


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.ndjson.gz", "A.JSONL.GZ"])
def test_compressed_json_lines_read_like_plain_ones(rows: Callable[..., list[RawRow]], name: str) -> None:
    assert fields(rows(name, gzip.compress(GOOD * 3))) == [{"text": "good"}] * 3


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'{"text": "open}', "column 10: not JSON (Unterminated string starting at)"),
        (b'{"text": "a"', "column 13: not JSON (Expecting ',' delimiter)"),
        (b'{"text": "a", }', "column 15: not JSON (Expecting property name enclosed in double quotes)"),
        (b'{"text": "a"} {}', "column 15: not JSON (Extra data)"),
        (b"no json", "column 1: not JSON (Expecting value)"),
        (b'{"text": "a\x00b"}', "column 12: not JSON (Invalid control character at)"),
        (b"[1, 2]", "found [1, 2], expected an object with named fields"),
        (b'"\\u001b[31m"', "found '\\x1b[31m', expected an object with named fields"),
        (b'{"text": "\xff"}', "byte 11 is not UTF-8; save it as UTF-8, such as with iconv -f latin1 -t utf-8"),
        (b'{"text": "\\ud83d"}', "holds half of a character pair (a lone surrogate)"),
        (b'{"text": {"deep": ["\\uDE00"]}}', "holds half of a character pair (a lone surrogate)"),
        (b'{"text": ["a\\u0000b"]}', "holds a NUL character"),
        (b'{"a\\u0000": 1}', "holds a NUL character"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"text": ' * 2_000 + b"1" + b"}" * 2_000, "nested too deeply"),
        (b'{"text": ' + b"9" * 5_000 + b"}", "holds a number of too many digits"),
    ],
)
def test_a_broken_json_line_is_a_bad_row_between_good_ones(
    rows: Callable[..., list[RawRow]], line: bytes, problem: str
) -> None:
    found = rows("a.jsonl", GOOD + line + b"\n" + GOOD)
    assert [(row.line, row.problem) for row in found] == [(1, None), (2, problem), (3, None)]
    assert found[1].fields == {}
    assert found[2].fields == {"text": "good"}


def test_a_spelled_nul_is_text_and_one_in_a_list_of_rows_is_a_bad_row(rows: Callable[..., list[RawRow]]) -> None:
    assert fields(rows("a.jsonl", '{"text": "\\\\u0000"}')) == [{"text": "\\u0000"}]
    found = rows("a.json", '[{"text": "a\\u0000"}, {"text": "a"}]')
    assert [row.problem for row in found] == ["holds a NUL character", None]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json", "a.txt", "a.conll", "a.csv.gz"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_text_of_two_bytes_a_character_is_refused_with_what_to_do(tmp_path: Path, name: str, encoding: str) -> None:
    content = "text,label\na kettle,good\nein Käse,bad\n".encode(encoding)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    with pytest.raises(UserError) as told:
        list(read_source(name, tmp_path))
    assert str(told.value) == f"{name}: is UTF-16 text; save it as UTF-8, such as with iconv -f utf-16 -t utf-8"


def test_a_whole_character_pair_is_text(rows: Callable[..., list[RawRow]]) -> None:
    assert fields(rows("a.jsonl", '{"text": "\\ud83d\\ude00"}')) == [{"text": "😀"}]


def test_what_looks_like_a_number_or_a_date_stays_text(rows: Callable[..., list[RawRow]]) -> None:
    values = {"text": "2024-01-01T00:00:00Z", "number": "007"}
    assert fields(rows("a.jsonl", json.dumps(values))) == [values]
    assert fields(rows("a.csv", "text,number\n2024-01-01T00:00:00Z,007\n")) == [values]


def test_a_field_may_be_new_null_or_of_another_kind_in_later_rows(rows: Callable[..., list[RawRow]]) -> None:
    content = '{"text": null}\n{"text": "now"}\n{"text": 3, "extra": true}\n'
    assert fields(rows("a.jsonl", content)) == [{"text": None}, {"text": "now"}, {"text": 3, "extra": True}]


def test_a_line_without_end_is_refused_with_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "LONGEST_LINE", 40)
    told = refused(tmp_path, "a.jsonl", GOOD + b'{"text": "' + b"x" * 40 + b'"}\n')
    assert told == "a.jsonl, line 2: is longer than 40 bytes; is this a file of rows?"


@pytest.mark.parametrize("content", ['[{"a": 1}, {"a": 2}]', '{"version": 3, "rows": [{"a": 1}, {"a": 2}]}'])
def test_json_may_be_a_list_or_an_object_with_one_list(rows: Callable[..., list[RawRow]], content: str) -> None:
    found = rows("a.json", BOM + content.encode())
    assert fields(found) == [{"a": 1}, {"a": 2}]
    assert [row.line for row in found] == [1, 2]
    assert fields(rows("a.json.gz", gzip.compress(content.encode()))) == [{"a": 1}, {"a": 2}]


def test_json_rows_that_are_no_objects_are_bad_rows(rows: Callable[..., list[RawRow]]) -> None:
    found = rows("a.json", '[{"a": 1}, 7, {"a": "\\ud800"}]')
    assert [(row.line, row.problem) for row in found] == [
        (1, None),
        (2, "found 7, expected an object with named fields"),
        (3, "holds half of a character pair (a lone surrogate)"),
    ]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'{"a": [1], "b": [2]}', "a.json: holds no list of rows"),
        (b'{"a": 1}', "a.json: holds no list of rows"),
        (b'"text"', "a.json: holds no list of rows"),
        (b'{"a": 1}\n{"a": 2}\n', "a.json: is not JSON (Extra data: line 2 column 1"),
        (b'[{"a": 1},\n{"a": "\xff"}]', "a.json, line 2: is not UTF-8; save it as UTF-8, such as with iconv -f latin1"),
        (b"[" * 100_000, "a.json: is not JSON (maximum recursion depth exceeded"),
    ],
)
def test_json_without_one_list_of_rows_is_refused(tmp_path: Path, content: bytes, told: str) -> None:
    assert refused(tmp_path, "a.json", content).startswith(told)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "text,label\nyes; really,1\n"),
        ("a.csv", "text;label\nyes; really;1\n".replace("yes; really", '"yes; really"')),
        ("a.csv", "text\tlabel\nyes; really\t1\n"),
        ("a.tsv", "text\tlabel\nyes; really\t1\n"),
        ("a.CSV", "\ufeff text , label\r\nyes; really,1\r\n"),
        ("a.csv", "text,label\ryes; really,1\r"),
    ],
)
def test_separated_values_read_whatever_separates_them(
    rows: Callable[..., list[RawRow]], name: str, content: str
) -> None:
    assert fields(rows(name, content)) == [{"text": "yes; really", "label": "1"}]
    assert fields(rows(name + ".gz", gzip.compress(content.encode()))) == [{"text": "yes; really", "label": "1"}]


def test_a_tsv_with_commas_in_its_header_is_separated_by_tabs(rows: Callable[..., list[RawRow]]) -> None:
    assert fields(rows("a.tsv", "a,b,c\td\n1\t2\n")) == [{"a,b,c": "1", "d": "2"}]


def test_line_numbers_count_lines_within_quotes_and_blank_ones(rows: Callable[..., list[RawRow]]) -> None:
    found = rows("a.csv", 'text,label\r\n"two\r\nlines",1\r\n\r\nshort\r\n"say ""hi""",2\r\nx,y,z\r\n')
    assert [(row.line, row.problem) for row in found] == [
        (2, None),
        (5, "found 1 cells, expected 2"),
        (6, None),
        (7, "found 3 cells, expected 2"),
    ]
    assert found[0].fields == {"text": "two\r\nlines", "label": "1"}
    assert found[2].fields == {"text": 'say "hi"', "label": "2"}


def test_a_cell_with_a_nul_is_a_bad_row(rows: Callable[..., list[RawRow]]) -> None:
    found = rows("a.csv", "text,label\na\0b,1\ngood,2\n")
    assert [(row.line, row.problem) for row in found] == [(2, "holds a NUL character"), (3, None)]


def test_a_quote_within_a_cell_is_read_or_named(rows: Callable[..., list[RawRow]]) -> None:
    found = rows("a.csv", 'text,label\n5" pipe,1\n"5" pipe,2\nc,3\n')
    assert [(row.line, row.problem and row.problem[:39]) for row in found] == [
        (2, None),
        (3, "cannot be read as separated values (','"),
        (4, None),
    ]
    assert found[0].fields == {"text": '5" pipe', "label": "1"}


def test_columns_without_a_name_are_called_by_their_place(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b",text,label,,\n0,a,b,,\n")
    (row,) = read_source("a.csv", tmp_path)
    assert row.fields == {"column 1": "0", "text": "a", "label": "b", "column 4": "", "column 5": ""}


def test_a_quote_left_open_never_swallows_rows_in_silence(tmp_path: Path) -> None:
    told = refused(tmp_path, "a.csv", b'text,label\nc,3\n"open,4\ne,5\nf,6\n')
    assert told.startswith("a.csv, line 3: opens a quote that nothing closes before the file ends; close it")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"text, text\na,b\n", "a.csv, line 1: names the column 'text' twice; give each column a name of its own"),
        (b"\ntext,label\na,b\n", "a.csv, line 1: is blank; the first line names the columns"),
        (b'"text,label\na,b\n', "a.csv, line 1: is no line of columns (unexpected end of data)"),
        (b"text,label\na,1\ncaf\xe9,2\n", "a.csv, line 3: is not UTF-8; save it as UTF-8"),
        ("text,label\na,b\n".encode("utf-16"), "a.csv: is UTF-16 text; save it as UTF-8"),
    ],
)
def test_separated_values_that_cannot_be_told_apart_are_refused(tmp_path: Path, content: bytes, told: str) -> None:
    assert refused(tmp_path, "a.csv", content).startswith(told)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
def test_a_file_without_rows_gives_none(rows: Callable[..., list[RawRow]], name: str) -> None:
    assert rows(name, "text\n" if name != "a.jsonl" else "\n \n") == []
    assert rows(name, BOM) == []


def test_parquet_rows_keep_their_types(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = arrow.table({"text": ["a", None], "label": [1, 2], "labels": [["x"], []]})
    parquet.write_table(table, tmp_path / "a.parquet")
    found = list(read_source("a.parquet", tmp_path))
    assert fields(found) == [
        {"text": "a", "label": 1, "labels": ["x"]},
        {"text": None, "label": 2, "labels": []},
    ]
    assert [row.line for row in found] == [1, 2]


@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_parquet_that_is_cut_off_or_none_at_all_is_refused(tmp_path: Path, kept: float) -> None:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(arrow.table({"text": ["a"] * 100}), tmp_path / "whole.parquet")
    content = (tmp_path / "whole.parquet").read_bytes()
    assert "a.parquet: is not Parquet" in refused(tmp_path, "a.parquet", content[: int(len(content) * kept)])
    assert "a.parquet: is not Parquet" in refused(tmp_path, "a.parquet", GOOD)


@pytest.mark.parametrize("ending", ["conll", "iob", "iob2", "bio", "conll.gz", "BIO"])
def test_columns_of_words_and_tags_are_a_row_a_sentence(rows: Callable[..., list[RawRow]], ending: str) -> None:
    content = BOM + b"# id = 7\nEU B-ORG\nrejects O\n\nPeter B-PER\n"
    found = rows(f"a.{ending}", gzip.compress(content) if ending.endswith("gz") else content)
    assert fields(found) == [
        {"id": "7", "tokens": ["EU", "rejects"], "tags": ["B-ORG", "O"]},
        {"tokens": ["Peter"], "tags": ["B-PER"]},
    ]
    assert [(row.source, row.line) for row in found] == [(f"a.{ending}", 2), (f"a.{ending}", 5)]


def test_a_broken_line_of_words_and_tags_is_a_bad_row_between_good_ones(rows: Callable[..., list[RawRow]]) -> None:
    found = rows("a.conll", b"a O\n\nb\n\n\xff O\n\nc O\n")
    assert [(row.line, row.problem) for row in found] == [
        (1, None),
        (3, "found 1 column, expected a word, its tag, 2 columns in all"),
        (5, "byte 1 is not UTF-8; save it as UTF-8, such as with iconv -f latin1 -t utf-8"),
        (7, None),
    ]


SQUAD = {
    "version": "v2.0",
    "data": [
        {
            "title": "Kettles",
            "paragraphs": [
                {
                    "context": "a red kettle",
                    "qas": [
                        {"id": "1", "question": "what?", "answers": [{"text": "kettle", "answer_start": 6}]},
                        {"id": "2", "question": "blue?", "answers": [], "is_impossible": True},
                    ],
                }
            ],
        }
    ],
}


def test_a_squad_document_is_a_row_a_question(rows: Callable[..., list[RawRow]]) -> None:
    found = rows("a.json", json.dumps(SQUAD))
    both = {"title": "Kettles", "context": "a red kettle"}
    assert fields(found) == [
        {**both, "id": "1", "question": "what?", "answers": {"text": ["kettle"], "start": [6]}, "is_impossible": False},
        {**both, "id": "2", "question": "blue?", "answers": {"text": [], "start": []}, "is_impossible": True},
    ]
    assert [row.where for row in found] == ["a.json, question 1", "a.json, question 2"]
    assert fields(rows("a.json.gz", gzip.compress(json.dumps(SQUAD).encode()))) == fields(found)


def test_a_question_that_is_half_a_character_is_a_bad_row(rows: Callable[..., list[RawRow]]) -> None:
    content = json.dumps(SQUAD).replace("blue?", "\\ud83d")
    assert [(row.line, row.problem) for row in rows("a.json", content)] == [
        (1, None),
        (2, "holds half of a character pair (a lone surrogate)"),
    ]


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_plain_text_is_a_row_a_line_that_is_not_blank(rows: Callable[..., list[RawRow]], name: str) -> None:
    content = BOM + "Once upon a time,\r\n\r\n \t\n  there was a käse, \x85 she said\nand that is all".encode()
    found = rows(name, gzip.compress(content) if name.endswith("gz") else content)
    assert fields(found) == [
        {"text": "Once upon a time,"},
        {"text": "  there was a käse, \x85 she said"},
        {"text": "and that is all"},
    ]
    assert [row.line for row in found] == [1, 4, 5]


def test_a_line_of_plain_text_that_cannot_be_read_is_a_bad_row(rows: Callable[..., list[RawRow]]) -> None:
    assert [(row.line, row.problem) for row in rows("a.txt", b"good\ngr\xfc\xdfe\nb\0d\n")] == [
        (1, None),
        (2, "byte 3 is not UTF-8; save it as UTF-8, such as with iconv -f latin1 -t utf-8"),
        (3, "holds a NUL character"),
    ]


def test_plain_text_beside_other_data_is_a_note_about_it(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("one\n")
    assert [row.fields for row in read_source(str(tmp_path), Path())] == [{"text": "one"}]
    (tmp_path / "a.jsonl").write_bytes(GOOD)
    assert [row.fields for row in read_source(str(tmp_path), Path())] == [{"text": "good"}]


def test_a_folder_is_its_data_files_in_the_order_of_their_names(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    (folder / "deeper.jsonl").mkdir(parents=True)
    (folder / "b.jsonl").write_bytes(GOOD)
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(GOOD * 2))
    (folder / "README.md").write_text("no data")
    found = list(read_source("many", tmp_path))
    assert [(row.source, row.line) for row in found] == [
        ("many/a.jsonl.gz", 1),
        ("many/a.jsonl.gz", 2),
        ("many/b.jsonl", 1),
    ]


def test_a_folder_of_several_kinds_or_of_none_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    (folder / "README.md").write_text("no data")
    assert refusal("many", tmp_path).startswith("many: holds no data file; it may hold .jsonl")
    (folder / "a.jsonl").write_bytes(GOOD)
    (folder / "b.csv").write_text("text\na\n")
    assert refusal("many", tmp_path) == "many: mixes .csv, .jsonl files; name the files one by one"


def test_a_missing_file_brings_the_nearest_name(tmp_path: Path) -> None:
    (tmp_path / "tickets.jsonl").write_bytes(GOOD)
    assert refusal("tikets.jsonl", tmp_path) == "tikets.jsonl: is not there; did you mean 'tickets.jsonl'?"
    assert refusal("no/where.jsonl", tmp_path) == "no/where.jsonl: is not there; is the path right?"
    assert "tickets.jsonl/x.csv: cannot be read" in refusal("tickets.jsonl/x.csv", tmp_path)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("a.doc", "a.doc: is of no known kind (.doc); use .jsonl"),
        ("a", "a: is of no known kind (no ending); use .jsonl"),
        ("a.gz", "a.gz: is of no known kind (.gz); use .jsonl"),
        ("odd\nname.xlsx", "odd\\nname.xlsx: is of no known kind (.xlsx); use .jsonl"),
    ],
)
def test_an_unknown_ending_is_refused_with_the_known_ones(tmp_path: Path, name: str, told: str) -> None:
    assert refused(tmp_path, name, GOOD).startswith(told)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet", "a.jsonl.gz"])
def test_an_empty_file_is_refused(tmp_path: Path, name: str) -> None:
    assert refused(tmp_path, name, b"") == f"{name}: is empty; a data file needs rows"


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.json", "a.parquet"])
def test_a_pipe_is_refused_at_once_instead_of_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    assert refusal(name, tmp_path).startswith(f"{name}: is not a file but a pipe or device")


def damaged(content: bytes) -> bytes:
    """The content compressed, with its middle overwritten."""
    whole = gzip.compress(content)
    assert len(whole) > 200
    return whole[:100] + b"\xff" * 80 + whole[180:]


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.json.gz", "a.csv.gz"])
def test_a_compressed_file_that_is_cut_off_damaged_or_none_is_refused(tmp_path: Path, name: str) -> None:
    many = [{"text": zlib.crc32(str(number).encode())} for number in range(300)]
    content = {
        "a.jsonl.gz": "".join(json.dumps(row) + "\n" for row in many),
        "a.json.gz": json.dumps(many),
        "a.csv.gz": "text,n\n" + "".join(f"{row['text']},1\n" for row in many),
    }[name].encode()
    for broken in (gzip.compress(content)[:-12], damaged(content), content):
        told = refused(tmp_path, name, broken)
        assert told.startswith(name)
        assert told.endswith("; is the file complete?")


def test_a_cut_off_file_is_refused_with_the_line_it_ends_in(tmp_path: Path) -> None:
    content = gzip.compress("".join(f'{{"text": "{n * n}"}}\n' for n in range(9)).encode(), mtime=0)
    told = refused(tmp_path, "a.jsonl.gz", content[:-8])
    assert told.startswith("a.jsonl.gz, line 10: cannot be read (Compressed file ended")


def saved(folder: Path) -> Path:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    datasets.Dataset.from_list([{"text": "a", "label": 1}, {"text": "b", "label": 0}]).save_to_disk(str(folder))
    return folder


def test_a_saved_data_set_is_read_row_by_row(tmp_path: Path) -> None:
    saved(tmp_path / "kept")
    found = list(read_source("kept", tmp_path))
    assert fields(found) == [{"text": "a", "label": 1}, {"text": "b", "label": 0}]
    assert [(row.source, row.line) for row in found] == [("kept", 1), ("kept", 2)]


@pytest.mark.parametrize("part", ["state.json", "dataset_info.json", "data-00000-of-00001.arrow"])
def test_a_damaged_data_set_is_refused(tmp_path: Path, part: str) -> None:
    file = saved(tmp_path / "kept") / part
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert refusal("kept", tmp_path).startswith("kept: is no whole data set (")


def test_a_saved_set_of_several_splits_is_refused(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert refusal("kept", tmp_path) == "kept: holds several splits; name the folder of one of them"


def test_files_outside_the_base_are_shown_by_name_alone(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "a.jsonl").write_bytes(GOOD)
    assert [row.source for row in read_source(str(tmp_path / "a.jsonl"), tmp_path / "here")] == ["a.jsonl"]
    assert [row.source for row in read_source("../a.jsonl", tmp_path / "here")] == ["a.jsonl"]


@settings(deadline=None)
@given(st.binary(max_size=200), st.sampled_from([f"a.{ending}" for ending in ENDINGS]))
def test_no_bytes_at_all_bring_another_end_than_rows_or_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str
) -> None:
    file = tmp_path_factory.getbasetemp() / name
    file.write_bytes(content)
    told = name
    found: list[RawRow] = []
    try:
        found = list(read_source(name, file.parent))
    except UserError as error:
        told = str(error)
    assert told.startswith(name)
    assert all(row.source == name and row.line > 0 for row in found)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1), st.text("ab")
        ),
        min_size=1,
        max_size=5,
    )
)
def test_written_rows_read_back_alike_from_every_kind_of_file(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]]
) -> None:
    base = tmp_path_factory.getbasetemp()
    written = [{"text": text, "label": label} for text, label in pairs]
    (base / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in written))
    (base / "b.json").write_text(json.dumps(written, ensure_ascii=False), encoding="utf-8")
    with (base / "b.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label"], quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(written)
    for name in ("b.jsonl", "b.json", "b.csv"):
        assert fields(list(read_source(name, base))) == written


@pytest.mark.parametrize(
    ("content", "columns"),
    [
        ("said, then?;mood\na;b\nc, d;e\n", ["said, then?", "mood"]),
        ("a;b,c\n1;2,3\n", ["a;b", "c"]),
        ('text,label\n"x; y; z",one\n"u; v; w",two\n', ["text", "label"]),
        ("text\nx\n", ["text"]),
    ],
)
def test_the_sign_that_divides_most_rows_like_the_header_is_taken(
    content: str, columns: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(content)
    first = next(row for row in read_source(str(path), Path()) if row.problem is None)
    assert list(first.fields) == columns
