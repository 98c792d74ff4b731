"""Answers that are code: programs judged by their tests, queries by the rows they give, and both on real benchmarks."""

import gzip
import itertools
import json
import os
import sqlite3
import sys
import time
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tunesmith.errors import UserError
from tunesmith.evaluate.execution import (
    LONGEST_PROGRAM,
    Attempt,
    Database,
    QueryFailed,
    _rows_or_failure,
    first_function,
    is_ordered,
    is_valid_python,
    is_valid_sql,
    pass_at_k,
    program,
    query_results,
    same_result,
    same_results,
    without_fences,
)
from tunesmith.evaluate.sandbox import LIMITS, Limits, Ran, run_many, run_python

needs_sandbox = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is made of Linux namespaces")
PLACE = "TUNESMITH_BENCH_DATA"


def check_python(prompt: str, answer: str, test: str, entry_point: str, limits: Limits = LIMITS) -> Ran:
    return run_python(program(Attempt(prompt, answer, test, entry_point)), limits=limits)


def query_rows(database: Database, sql: str, **limits: Any) -> Any:
    (answer,) = query_results(database, [sql], **limits)
    return _rows_or_failure(answer, sql)


def benchmark(name: str) -> Path:
    """A file of the benchmarks' folder; skips the test where there is none."""
    if PLACE not in os.environ:
        pytest.skip(f"{PLACE} does not name a folder of benchmark data")
    path = Path(os.environ[PLACE]) / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return path


def rows_of(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        return [json.loads(line) for line in lines]


@pytest.mark.parametrize(
    ("n", "c", "k"), [(n, c, k) for n in range(1, 7) for c in range(n + 1) for k in range(1, n + 1)]
)
def test_pass_at_k_is_the_share_of_choices_that_hold_a_right_answer(n: int, c: int, k: int) -> None:
    choices = list(itertools.combinations([True] * c + [False] * (n - c), k))
    assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, choices)) / len(choices), abs=1e-15)


def test_pass_at_k_loses_nothing_to_rounding() -> None:
    assert pass_at_k(10, 3, 1) == 0.3
    assert pass_at_k(10**6, 1, 1) == 1e-6
    assert pass_at_k(200, 0, 100) == 0.0
    assert pass_at_k(200, 101, 100) == 1.0
    assert pass_at_k(5000, 2500, 2) == pytest.approx(1 - 2500 * 2499 / (5000 * 4999), rel=1e-15)


@pytest.mark.parametrize(("n", "c", "k"), [(0, 0, 1), (3, 4, 1), (3, -1, 1), (3, 1, 0), (3, 1, 4)])
def test_pass_at_k_refuses_what_is_not_defined(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match="pass@k needs"):
        pass_at_k(n, c, k)


@pytest.mark.parametrize(
    ("completion", "kept"),
    [
        ("    return 1\n", "    return 1\n"),
        ("    return 1\n\n\ndef other():\n    pass", "    return 1\n\n"),
        ("    return 1\nclass A:", "    return 1"),
        ("    return 1\n# next\nif x:", "    return 1"),
        ("    # a remark\n    if x:\n        print(1)\nprint(f())", "    # a remark\n    if x:\n        print(1)"),
        ("    return 1\nif __name__:", "    return 1"),
        ("", ""),
    ],
)  # fmt: skip
def test_a_completion_ends_where_the_function_ends(completion: str, kept: str) -> None:
    assert first_function(completion) == kept


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("    return 1\n", "    return 1\n"),
        ("def f():\n    return 1\n", "def f():\n    return 1\n"),
        ("```python\ndef f():\n    return 1\n```", "def f():\n    return 1\n"),
        ("Like this:\n\n```py\ndef f():\n    return 1\n```\nIt gives 1.", "def f():\n    return 1\n"),
        ("```\npip install x\n```\nthen\n```python\ndef f():\n    return 1\n```", "def f():\n    return 1\n"),
        ("```python\ndef f():\n    return 1", "def f():\n    return 1"),
        ("```python\n    return 1\n```", "    return 1\n"),
        ("The body:\n```python\n    return 1\n```", "    return 1\n"),
        ("    return 1\n```\n\nIt gives 1.\n```python\ndef f():\n    return 2\n```", "    return 1\n"),
    ],
)
def test_code_is_taken_out_of_its_fences(answer: str, code: str) -> None:
    assert without_fences(answer, "f") == code


PROMPT = (
    'from typing import List\n\n\ndef helper(x):\n    return x\n\n\ndef f(x: List) -> int:\n    """Length of x."""\n'
)
TEST = "def check(candidate):\n    assert candidate([1, 2]) == 2\n    assert candidate([]) == 0\n"


@needs_sandbox
@pytest.mark.parametrize(
    "answer",
    [
        "    return len(x)\n",
        "    return len(x)\n\n\ndef broken(:",
        "    return len(x)\n\n\ndef f(x):\n    return 5\n",
        "    return helper(len(x))\n```\nThat is all.",
        "def f(x: List) -> int:\n    return len(x)\n",
        "def length(x):\n    return len(x)\n\ndef f(x):\n    return length(x)\n",
        "Sure!\n```python\ndef f(x: List) -> int:\n    return helper(len(x))\n```\nIt counts.",
        "```python\nimport operator\n\nasync def g(): ...\n\ndef f(x):\n    return operator.length_hint(x)\n```",
    ],
)
def test_a_right_answer_passes_in_each_form(answer: str) -> None:
    assert check_python(PROMPT, answer, TEST, "f") == Ran(True, "passed")


@needs_sandbox
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("    return 2\n", "failed"),
        ("return len(x)", "failed"),
        ("", "failed"),
        ("    return len(x\n", "failed"),
        ("    import sys; sys.exit(0)\n", "exited"),
        ("    import os; os._exit(0)\n", "exited"),
        ("    return 0\nimport os\nos._exit(0)\n", "exited"),
        ("    return 0\ncheck = print\n", "failed"),
        ("    while True: pass\n", "timeout"),
    ],
)
def test_a_wrong_answer_does_not_pass(answer: str, reason: str) -> None:
    assert check_python(PROMPT, answer, TEST, "f", Limits(seconds=0.5)).reason == reason


@needs_sandbox
def test_many_answers_are_judged_in_their_order() -> None:
    answers = ["    return len(x)\n", "    return 0\n"] * 3
    passed = [ran.passed for ran in run_many(program(Attempt(PROMPT, answer, TEST, "f")) for answer in answers)]
    assert passed == [True, False] * 3


def test_the_program_is_prompt_answer_test_and_the_call() -> None:
    assert program(Attempt("def f():\n", "    return 1\n\ndef g(): ...", "def check(c): ...\n", "f")) == (
        "def f():\n    return 1\n\ndef check(c): ...\n\ncheck(f)"
    )


SHOP = """
PRAGMA foreign_keys = OFF;
BEGIN;
CREATE TABLE item (name TEXT, price REAL, stock INT, picture BLOB);
INSERT INTO item VALUES ('pen', 1.5, 10, NULL), ('ink', 0.1, 3, x'00FF'), ('cup', 0.2, 3, NULL);
COMMIT;
"""
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
TWICE_OVER = "WITH t0 AS (SELECT 1 x)" + "".join(f", t{i + 1} AS (SELECT a.x FROM t{i} a, t{i} b)" for i in range(25))


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    path = tmp_path / "the shop?#%20.sqlite"
    connection = sqlite3.connect(path)
    connection.executescript(SHOP)
    connection.close()
    return path


def test_rows_come_with_their_types_from_a_file_and_from_a_script(shop: Path) -> None:
    rows = [("pen", 1.5, 10, None), ("ink", 0.1, 3, b"\x00\xff"), ("cup", 0.2, 3, None)]
    assert query_rows(shop, "SELECT * FROM item") == rows
    assert query_rows(SHOP, "SELECT * FROM item;") == rows
    assert query_rows("", "SELECT 9e999, 'ü', '', 9223372036854775807, \"text\"") == [
        (float("inf"), "ü", "", 2**63 - 1, "text")
    ]


def test_text_that_is_not_utf_8_is_shown_with_replacements() -> None:
    assert query_rows("", "SELECT CAST(x'41FF' AS TEXT)") == [("A\ufffd",)]


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM item",
        "INSERT INTO item (name) VALUES ('x')",
        "UPDATE item SET price = 0",
        "CREATE TABLE other (a)",
        "CREATE TEMP TABLE other (a)",
        "DROP TABLE item",
        "ATTACH 'other.sqlite' AS other",
        "PRAGMA table_info(item)",
        "PRAGMA journal_mode = WAL",
        "SELECT * FROM pragma_table_info('item')",
        "SELECT load_extension('x')",
        "VACUUM INTO 'copy.sqlite'",
        "BEGIN",
        "SELECT 1; DELETE FROM item",
        "WITH x AS (SELECT 1) DELETE FROM item",
    ],
)
def test_a_query_can_only_read(sql: str, shop: Path) -> None:
    before = shop.read_bytes()
    for database in (shop, SHOP):
        with pytest.raises(QueryFailed):
            query_rows(database, sql)
    assert shop.read_bytes() == before
    assert [path.name for path in shop.parent.iterdir()] == [shop.name]


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        (ENDLESS + "SELECT count(*) FROM n", "time is over"),
        (ENDLESS + "SELECT i FROM n", "more than 1000 rows"),
        ("SELECT count(*) FROM " + ", ".join(f"item AS i{n}" for n in range(40)), "time is over"),
        (ENDLESS + "SELECT hex(zeroblob(8000000)) FROM n", "more than 67108864 bytes"),
        (ENDLESS + "SELECT randomblob(9000000) FROM n ORDER BY 1", "time is over|out of memory"),
        ("SELECT randomblob(1000000000)", "too big"),
        ("SELECT zeroblob(1000000000)", "too big"),
        ("SELECT instr(zeroblob(16000000), zeroblob(8000000) || x'01')", "time is over"),
        ("SELECT replace(hex(zeroblob(4000000)), '0', hex(zeroblob(4000)))", "too big"),
        (TWICE_OVER + " SELECT * FROM t25", "time is over|out of memory"),
        ("SELECT " + "(" * 9999 + "1", "parser stack overflow"),
        ("SELECT " + "+".join("1" * 9999), "too large"),
        ("SELECT '" + "x" * (2 << 20) + "'", "too large|too big"),
    ],
)
def test_a_query_without_measure_is_stopped(sql: str, reason: str) -> None:
    start = time.monotonic()
    with pytest.raises(QueryFailed, match=reason):
        query_rows(SHOP, sql, seconds=0.5, rows=1000)
    assert time.monotonic() - start < 15


@pytest.mark.parametrize(
    "sql", ["", ";", "-- nothing", "SELEC 1", "SELECT nothing FROM item", "SELECT 1\0", "SELECT '\ud800'"]
)
def test_a_query_that_is_none_fails_in_one_line(sql: str) -> None:
    with pytest.raises(QueryFailed) as failed:
        query_rows(SHOP, sql)
    assert "\n" not in str(failed.value)
    assert str(failed.value).startswith("query '")


def test_a_query_that_ends_its_process_does_not_spoil_the_others() -> None:
    stuck = "SELECT instr(zeroblob(16000000), zeroblob(8000000) || x'01')"
    assert query_results(SHOP, ["SELECT 1", stuck, "SELECT 2", "SELECT x"], seconds=0.2) == [
        [(1,)],
        "time is over",
        [(2,)],
        "no such column: x",
    ]
    assert query_results("", [f"SELECT {n}" for n in range(250)]) == [[(n,)] for n in range(250)]
    assert query_results("", []) == []


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("CREATE TABL x", "syntax error"),
        ("ATTACH 'other.sqlite' AS o; CREATE TABLE o.x (a);", "not authorized"),
        ("VACUUM INTO 'other.sqlite'", "authorized|authorization|not attach"),
        (f"CREATE TABLE x AS {ENDLESS} SELECT i FROM n", "interrupted"),
    ],
)
def test_a_script_that_is_no_database_is_refused(
    script: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=rf"^database script: .*({reason}).*; give an SQLite file") as error:
        query_rows(script, "SELECT 1", seconds=0.5)
    assert not isinstance(error.value, QueryFailed)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database" * 99)
    with pytest.raises(UserError, match="text: file is not a database; give an SQLite file"):
        query_rows(tmp_path / "text", "SELECT 1")
    with pytest.raises(UserError, match="absent: unable to open database file"):
        query_rows(tmp_path / "absent", "SELECT 1")
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize(
    ("gold", "answer", "same"),
    [
        ("SELECT name FROM item", "SELECT name FROM item ORDER BY price", True),
        ("SELECT name FROM item ORDER BY name", "SELECT name FROM item ORDER BY price", False),
        ("SELECT name FROM item ORDER BY stock, name", "SELECT name FROM item ORDER BY name", True),
        ("SELECT name FROM item WHERE stock = 3", "SELECT item.name AS n FROM item WHERE stock < 5", True),
        ("SELECT name, price FROM item", "SELECT price, name FROM item", False),
        ("SELECT stock FROM item", "SELECT DISTINCT stock FROM item", False),
        ("SELECT 3", "SELECT 3.0", True),
        ("SELECT 3", "SELECT '3'", False),
        ("SELECT 0.3", "SELECT sum(price) FROM item WHERE stock = 3", True),
        ("SELECT 12345678901234", "SELECT 12345678901234.0", True),
        ("SELECT 1e-9", "SELECT 2e-9", False),
        ("SELECT NULL", "SELECT NULL", True),
        ("SELECT NULL", "SELECT 0", False),
        ("SELECT name FROM item WHERE stock > 99", "SELECT stock FROM item WHERE stock > 99", True),
        ("SELECT name FROM item WHERE name = \"pen\"", "SELECT 'pen'", True),
        ("SELECT 1", "SELECT 1 FROM nothing", False),
        ("SELECT 1", "DELETE FROM item", False),
        ("SELECT 1", "", False),
    ],
)  # fmt: skip
def test_results_are_the_same_when_their_rows_are(gold: str, answer: str, same: bool) -> None:
    assert same_result(gold, answer, SHOP) is same


def test_a_gold_query_that_fails_is_named() -> None:
    with pytest.raises(QueryFailed, match="query 'SELECT x': no such column: x"):
        same_result("SELECT x", "SELECT 1", SHOP)
    with pytest.raises(QueryFailed, match="time is over"):
        same_result(ENDLESS + "SELECT max(i) FROM n", "SELECT 1", SHOP, seconds=0.2)


@pytest.mark.parametrize(
    ("sql", "ordered"),
    [
        ("SELECT a FROM t ORDER BY a", True),
        ("select a from t order\n\tby a desc limit 3;", True),
        ("SELECT a FROM t UNION SELECT b FROM u ORDER BY 1", True),
        ("SELECT a FROM t ORDER /* not yet */ BY a", True),
        ("SELECT a FROM (SELECT a FROM t ORDER BY a)", False),
        ("WITH x AS (SELECT a FROM t ORDER BY a LIMIT 1) SELECT * FROM x", False),
        ("SELECT rank() OVER (ORDER BY a) FROM t", False),
        ("SELECT 'ORDER BY' FROM t", False),
        ("SELECT 'it''s ( ' FROM t ORDER BY a", True),
        ('SELECT "order by" FROM [order by]', False),
        ("SELECT a FROM t -- ORDER BY a", False),
        ("SELECT a FROM t /* ORDER BY a */", False),
        ('SELECT "order", by FROM t', False),
    ],
)
def test_the_order_of_rows_counts_where_the_query_itself_settles_it(sql: str, ordered: bool) -> None:
    assert is_ordered(sql) is ordered


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("x = 1", True),
        ("", True),
        ("def f():\n    return 1", True),
        ("'\\d' is 1", True),
        ("1if x else 2", True),
        ("def f(:", False),
        ("x = ", False),
        ("return = 1", False),
        ("  x = 1", False),
        ("x = 1\0", False),
        ("x = '\ud800'", False),
        ("print 'x'", False),
        ("(" * 9999, False),
        ("-" * 9999 + "1", False),
        ("x" + ".x" * 9999, False),
        ("if x:\n pass\n" + "elif x:\n pass\n" * 9999, False),
        ("lambda: " * 9999 + "1", False),
        ("x = 1\n" * LONGEST_PROGRAM, False),
    ],
)
def test_python_is_told_from_what_is_not(text: str, valid: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert is_valid_python(text) is valid


@pytest.mark.parametrize(
    ("text", "alone", "in_shop"),
    [
        ("SELECT name FROM item", True, True),
        ("SELECT name FROM item;", True, True),
        ("SELECT colour FROM item", True, False),
        ("SELECT soundness(name) FROM item", True, False),
        ("DELETE FROM item", True, True),
        ("CREATE TABLE other (a INT)", True, True),
        ("EXPLAIN SELECT 1", True, True),
        ("SELECT name FROM", False, False),
        ("SELECT name FROM item WHERE (stock", False, False),
        ("SELECT 'name", False, False),
        ("SELECT name FROM item LIMIT 1 ORDER BY name", False, False),
        ("SELECT 1; SELECT 2", False, False),
        ("ATTACH 'other.sqlite' AS other", False, False),
        ("what is the biggest city", False, False),
        ("", False, False),
        (TWICE_OVER + " SELECT", False, False),
    ],
)
def test_sql_is_told_from_what_is_not(text: str, alone: bool, in_shop: bool) -> None:
    assert (is_valid_sql(text), is_valid_sql(text, SHOP)) == (alone, in_shop)


def test_checking_sql_runs_nothing(shop: Path) -> None:
    before = shop.read_bytes()
    assert is_valid_sql("DROP TABLE item", shop)
    assert is_valid_sql("PRAGMA user_version = 7", shop)
    assert shop.read_bytes() == before


def human_eval() -> list[Attempt]:
    """Each problem with its reference solution."""
    rows = rows_of(benchmark("humaneval/test.jsonl.gz"))
    return [Attempt(row["prompt"], row["canonical_solution"], row["test"], row["entry_point"]) for row in rows]


@needs_sandbox
def test_every_reference_solution_of_humaneval_passes() -> None:
    problems = human_eval()
    assert len(problems) == 164
    assert [ran for ran in run_many(map(program, problems)) if not ran.passed] == []


@needs_sandbox
def test_reference_solutions_of_humaneval_pass_as_chat_answers() -> None:
    answers = []
    for problem in human_eval()[::8]:
        begin = problem.prompt.rindex(f"def {problem.entry_point}")
        text = f"Here it is:\n\n```python\n{problem.prompt[begin:]}{problem.completion}```\nIt is quick."
        answers.append(replace(problem, completion=text))
    assert [ran for ran in run_many(map(program, answers)) if not ran.passed] == []


@needs_sandbox
def test_no_solution_of_humaneval_passes_for_another_problem() -> None:
    problems = human_eval()
    turned = [replace(each, completion=problems[place - 1].completion) for place, each in enumerate(problems)]
    assert [ran for ran in run_many(map(program, turned)) if ran.passed] == []


@pytest.mark.parametrize("split", ["dev.jsonl", "test.jsonl.gz", "train.jsonl.gz"])
def test_geography_queries_are_right_for_themselves_and_wrong_for_others(split: str) -> None:
    database = benchmark("text2sql_geography/geography.sqlite")
    every = [row["target"] for row in rows_of(benchmark(f"text2sql_geography/{split}"))]
    results = query_results(database, every)
    failed = [result for result in results if isinstance(result, str)]
    assert len(failed) / len(every) < 0.03, failed  # some were written for another SQL, and fail there as well
    golds = [(sql, result) for sql, result in zip(every, results, strict=True) if not isinstance(result, str)]

    assert same_results([(sql, sql) for sql, _ in golds], database) == [True] * len(golds)

    others = []
    for place, (_, result) in enumerate(golds):
        following = golds[place + 1 :] + golds[:place]
        others.append(next(sql for sql, other in following if Counter(other) != Counter(result)))
    assert same_results(zip([sql for sql, _ in golds], others, strict=True), database) == [False] * len(golds)

    turned = golds[1:] + golds[:1]
    equal = [Counter(a) == Counter(b) for (_, a), (_, b) in zip(golds, turned, strict=True)]
    assert same_results([(a, b) for (a, _), (b, _) in zip(golds, turned, strict=True)], database) == equal
    assert sum(equal) < len(equal) / 2


def test_every_query_and_every_solution_of_the_benchmarks_is_valid() -> None:
    assert all(is_valid_python(each.prompt + each.completion) for each in human_eval())
    database = benchmark("text2sql_geography/geography.sqlite")
    queries = [row["target"] for row in rows_of(benchmark("text2sql_geography/dev.jsonl"))]
    results = query_results(database, queries)
    assert [is_valid_sql(sql, database) for sql in queries] == [not isinstance(result, str) for result in results]
    assert not any(is_valid_python(sql) for sql in queries)
