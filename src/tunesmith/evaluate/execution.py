"""Does an answer that is code do what it should: programs against their tests, queries against a database.

Programs run in the sandbox. Queries run in SQLite, which can do no more than read: an authorizer refuses all else. They
have a process of their own because some of SQLite's functions cannot be interrupted and because memory is limited for a
whole process; it needs no namespaces, so queries are judged on any machine.
"""

import ast
import json
import math
import re
import signal
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tunesmith.errors import UserError, named, shown

STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
"""Where a completed function is over (Chen et al. 2021, arXiv:2107.03374, section 3.2)."""
LONGEST_PROGRAM = 200_000
"""Characters of a text that may be asked for whether it is Python."""
SECONDS, ROWS = 5.0, 100_000
GRACE = 5.0
"""Seconds beyond those of its queries after which SQLite's process is killed."""
SIGNIFICANT_DIGITS = 12
BATCH = 100
"""Queries that share a process."""
CHILD = Path(__file__).with_name("query_child.py")

Cell = int | float | str | bytes | None
Row = tuple[Cell, ...]
Database = Path | str
"""A path names an SQLite file; a text is a script of CREATE and INSERT that fills an empty database."""


class QueryFailed(UserError):
    """A query gave no rows: it is wrong, does something else than reading, or reached a limit."""


def pass_at_k(n: int, c: int, k: int) -> float:
    """The chance that at least one of k answers is right, when c of n independent ones were: unbiased, 0 to 1.

    Counted in whole numbers, so that nothing is lost to rounding. Raises ValueError where it is not defined.
    Source: Chen et al. 2021, arXiv:2107.03374, section 2.1: 1 - C(n - c, k) / C(n, k).
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"pass@k needs 0 <= c <= n and 1 <= k <= n; found n = {n}, c = {c}, k = {k}")
    every = math.comb(n, k)
    return (every - math.comb(n - c, k)) / every


@dataclass(frozen=True)
class Attempt:
    """An answer to a problem of HumanEval's form: `test` defines `check`, which is given the function `entry_point`."""

    prompt: str
    completion: str
    test: str
    entry_point: str


def program(attempt: Attempt) -> str:
    """The source that is run: the answer, the test, and the call of `check`.

    An answer that goes on where the prompt ends is cut by `first_function` and put after it. One that defines the whole
    function, as chat models do, replaces the prompt from that function on; what stands above it (imports, other
    functions) stays. Markdown fences are taken off first. Indentation is never repaired.
    """
    text = without_fences(attempt.completion, attempt.entry_point)
    if _defines(text, attempt.entry_point) and not _goes_on(text):
        answer = _above(attempt.prompt, attempt.entry_point) + text
    else:
        answer = attempt.prompt + first_function(text)
    return f"{answer}\n{attempt.test}\ncheck({attempt.entry_point})"


def first_function(completion: str) -> str:
    """What of a completion belongs to the function that it goes on with: all before the first of STOPS."""
    found = [place for stop in STOPS if (place := completion.find(stop)) >= 0]
    return completion[: min(found, default=len(completion))]


def without_fences(completion: str, entry_point: str) -> str:
    """The code of an answer in Markdown: the fenced block that defines `entry_point`, else the first; else all of it.

    The end of the last block may be missing. An answer that begins with indented code, as where the prompt had opened
    the block, ends at the first fence.
    """
    before, *rest = re.split(r"^[ \t]*```.*\n?", completion, flags=re.MULTILINE)
    blocks = rest[::2]
    if _goes_on(before):
        return before
    whole = [block for block in blocks if _defines(block, entry_point)]
    return (whole or blocks or [before])[0]


def _goes_on(text: str) -> bool:
    """Whether a text begins with indented code: the body of what the prompt began."""
    return re.match(r"(\s*\n)?[ \t]+\S", text) is not None


def _definition(entry_point: str) -> str:
    return rf"^(async[ \t]+)?def[ \t]+{re.escape(entry_point)}\b"


def _defines(text: str, entry_point: str) -> bool:
    return re.search(_definition(entry_point), text, re.MULTILINE) is not None


def _above(prompt: str, entry_point: str) -> str:
    """The prompt up to the last definition of `entry_point`; all of it where it has none."""
    found = list(re.finditer(_definition(entry_point), prompt, re.MULTILINE))
    return prompt[: found[-1].start()] if found else prompt + "\n"


def is_valid_python(text: str) -> bool:
    """Whether Python can parse the text, which is not run.

    A text that is nested too deeply for the parser is not, nor is one of more than LONGEST_PROGRAM characters.
    """
    if len(text) > LONGEST_PROGRAM:
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a strange escape in a string, for one
        try:
            ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return False
    return True


def is_valid_sql(text: str, database: Database | None = None) -> bool:
    """Whether SQLite can compile the text as one statement, which is not run.

    With a database, tables, columns and functions must exist there. Without one, only grammar counts: names that do not
    exist are forgiven. SQL of other systems that SQLite does not know is not valid.
    """
    (answer,) = query_results(database or "", [text], compile_only=True)
    return isinstance(answer, list) or (database is None and answer.startswith("no such "))


def query_results(
    database: Database,
    queries: Sequence[str],
    *,
    seconds: float = SECONDS,
    rows: int = ROWS,
    compile_only: bool = False,
) -> list[list[Row] | str]:
    """The rows that each SELECT gives, in SQLite's order, or why it gives none; they share a process.

    A query reads and does nothing else: no writing, ATTACH, PRAGMA or extension; a file is opened read-only, as one
    that nobody changes. Text that is not UTF-8 gets replacement characters. One fails that is wrong, is not permitted,
    takes longer than `seconds`, too much memory, or gives more than `rows`. Raises UserError for a database that cannot
    be read. compile_only: they are not run, so all statements are permitted and none gives a row.
    """
    request = {
        "file": database.absolute().as_uri() if isinstance(database, Path) else "",
        "script": database if isinstance(database, str) else "",
        "seconds": seconds,
        "rows": rows,
        "compile": compile_only,
    }
    answers: list[list[Row] | str] = []
    while len(answers) < len(queries):
        batch = queries[len(answers) : len(answers) + BATCH]
        lines, end = _said(json.dumps(request | {"queries": batch}).encode(), seconds * (1 + len(batch)) + GRACE)
        said = [json.loads(line) for line in lines]
        if said and "broken" in said[0]:
            where = named(database) if isinstance(database, Path) else "database script"
            raise UserError(where, said[0]["broken"], "give an SQLite file, or a script of CREATE and INSERT")
        answers += [[_row(cells) for cells in one["rows"]] if "rows" in one else str(one["error"]) for one in said]
        if len(said) < len(batch):
            answers.append(end)  # the one that the process ended with; the others go on in a new one
    return answers


def same_result(gold_sql: str, answer_sql: str, database: Database, *, seconds: float = SECONDS) -> bool:
    """Whether both queries give the same rows (execution accuracy).

    Rows are compared in order where the gold query has an ORDER BY of its own (not in a subquery), otherwise as a
    multiset. The order of columns counts, their names do not; 1 equals 1.0, and numbers are equal to
    SIGNIFICANT_DIGITS. An answer that fails is wrong. Raises QueryFailed for a gold query that fails.
    Source: Yu et al. 2018, arXiv:1809.08887, and Zhong et al. 2020, arXiv:2010.02840, section 2.
    """
    return same_results([(gold_sql, answer_sql)], database, seconds=seconds)[0]


def same_results(pairs: Iterable[tuple[str, str]], database: Database, *, seconds: float = SECONDS) -> list[bool]:
    """`same_result` of each pair of a gold query and an answer; quicker, since they share a process.

    Raises QueryFailed for the first gold query that fails: `query_results` finds them all.
    """
    queries = [query for pair in pairs for query in pair]
    answers = query_results(database, queries, seconds=seconds)
    golds = [_rows_or_failure(gold, sql) for gold, sql in zip(answers[::2], queries[::2], strict=True)]
    return [_equal(*each) for each in zip(golds, answers[1::2], map(is_ordered, queries[::2]), strict=True)]


def _equal(gold: list[Row], answer: list[Row] | str, ordered: bool) -> bool:
    if isinstance(answer, str):
        return False
    expected, given = ([_rounded(row) for row in rows] for rows in (gold, answer))
    return given == expected if ordered else Counter(given) == Counter(expected)


def is_ordered(sql: str) -> bool:
    """Whether a query settles the order of its rows: an ORDER BY outside of brackets, strings and comments."""
    depth, before = 0, ""
    for token in _SQL_TOKENS.finditer(sql):
        word = token.group().upper()
        depth += (word == "(") - (word == ")")
        if word.startswith(("--", "/*")):
            continue
        if depth == 0 and (before, word) == ("ORDER", "BY"):
            return True
        before = word
    return False


_SQL_TOKENS = re.compile(
    r"""'(?:[^']|'')*' | "(?:[^"]|"")*" | `[^`]*` | \[[^\]]*\] | --[^\n]* | /\*.*?\*/ | \w+ | [()]""",
    re.VERBOSE | re.DOTALL,
)


def _rounded(row: Row) -> Row:
    return tuple(
        float(f"{cell:.{SIGNIFICANT_DIGITS}g}") if isinstance(cell, float) and not cell.is_integer() else cell
        for cell in row
    )


def _rows_or_failure(answer: list[Row] | str, sql: str) -> list[Row]:
    if isinstance(answer, str):
        raise QueryFailed(f"query {shown(sql)}", answer)
    return answer


def _row(cells: Sequence[int | float | str | dict[str, str] | None]) -> Row:
    return tuple(bytes.fromhex(cell["hex"]) if isinstance(cell, dict) else cell for cell in cells)


def _said(request: bytes, seconds: float) -> tuple[list[bytes], str]:
    """The whole lines that SQLite's process wrote, and how it ended."""
    try:
        done = subprocess.run(  # noqa: S603 - our own script
            [sys.executable, "-I", "-S", str(CHILD)], input=request, capture_output=True, timeout=seconds, check=False
        )
        written, status, complaint = done.stdout, done.returncode, done.stderr.decode(errors="replace").splitlines()
    except subprocess.TimeoutExpired as error:
        written, status, complaint = error.stdout or b"", -signal.SIGXCPU, []
    ended = " ".join([f"SQLite's process ended with status {status}", *complaint[-1:]])
    end = "time is over" if status == -signal.SIGXCPU else ended
    return [line for line in written.splitlines(keepends=True) if line.endswith(b"\n")], end
