"""Code that models write: run, compared and kept as it is, down to its white space."""

import gzip
import json
import os
import shutil
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tiny import model_folder
from tunesmith import api
from tunesmith.contracts import Family, Record
from tunesmith.errors import BadRow, UserError
from tunesmith.evaluate import METRICS
from tunesmith.evaluate.metrics import measure
from tunesmith.given import Outputs, Predictions, Reply
from tunesmith.recipe import recipe_from
from tunesmith.tasks.code import LOST, Code
from tunesmith.tasks.generation import Generation
from tunesmith.tasks.replies import continued_ids
from workshop import opened, records_of

DATA = os.environ.get("TUNESMITH_BENCH_DATA")


def real(name: str) -> list[dict[str, Any]]:
    """The rows of a public set; skips where the folder of such sets is not named."""
    if not DATA or not (Path(DATA) / name).exists():
        pytest.skip(f"TUNESMITH_BENCH_DATA names no folder that holds {name}")
    path = Path(DATA) / name
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        return [json.loads(line) for line in file]


def answered(task: Any, records: Sequence[Record], texts: Sequence[Sequence[str]]) -> Predictions:
    """What the task makes of these generated texts, one or several a record."""
    nothing = Outputs([], None, [[Reply(text, (), True) for text in row] for row in texts])  # type: ignore[arg-type]
    found: Predictions = task.predictions(nothing, records)
    return found


def value(name: str, predictions: Predictions) -> float:
    return float(METRICS.load(name)(predictions))


ROWS = [
    {"prompt": "def double(x):\n", "solution": "    return 2 * x", "test": "assert double(4) == 8"},
    {"prompt": "def last(x):\n", "solution": "    return x[-1]", "test": "assert last('ab') == 'b'"},
]


def judged_references(folder: Path, rows: Sequence[Mapping[str, Any]], task: Mapping[str, Any]) -> list[dict[str, Any]]:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    whole = {"model": "./none", "task": task, "data": {"train": "rows.jsonl", "validation": 0.2}}
    found = api.audit(recipe_from(whole), folder)["findings"]
    return [finding for finding in found if finding["check"] == "references"]


def test_right_programs_that_fail_their_own_tests_are_told_by_the_audit(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"def f{n}():\n", "solution": f"    return {n}", "test": f"assert f{n}() == {n}"} for n in range(60)
    ]
    task = {"kind": "code", "test": "test"}
    assert judged_references(tmp_path, rows, task) == []
    wrong = [{**row, "test": f"assert f{n}() == -1"} if n < 40 else row for n, row in enumerate(rows)]
    (said,) = judged_references(tmp_path, wrong, task)
    failed = int(said["message"].partition(" ")[0])
    assert said["message"] == f"{failed} of 50 right programs that were run fail their own tests"
    assert 30 <= failed <= 40
    assert (said["severity"], said["count"]) == ("warning", failed)
    assert all(int(where.rpartition(" ")[2]) <= 40 for where in said["rows"])
    assert judged_references(tmp_path, wrong, {"kind": "code"}) == [], "nothing is run without tests"


def test_the_audit_says_where_no_program_can_be_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunesmith.evaluate.sandbox._refusal", lambda: "there are no walls")
    rows = [{**ROWS[0], "prompt": f"def double(x{n}):\n"} for n in range(6)]
    (said,) = judged_references(tmp_path, rows, {"kind": "code", "test": "test"})
    assert said["severity"] == "info"
    assert (
        "no right program was run against its tests: this machine cannot close off a program (there are no walls)"
        in said["message"]
    )


def test_a_program_that_passes_its_tests_counts_and_one_that_does_not_does_not() -> None:
    task = Code(test="test")
    records = records_of(task, ROWS)
    right = answered(task, records, [[row["solution"]] for row in ROWS])
    assert measure(right, task.metrics) | {"chrf": None} == {
        "pass_at_1": 1.0, "same_text": 1.0, "valid_code": 1.0, "chrf": None, "reply_nll": None, "stop_rate": 1.0,
    }  # fmt: skip
    wrong = answered(task, records, [["    return x"], ["    return ("]])
    assert value("pass_at_1", wrong) == 0.0
    assert value("valid_code", wrong) == 0.5


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"solution": "def double(x):\n    return 2 * x"}, None),
        ({"prompt": "write double", "solution": "So:\n```python\ndef double(x):\n    return 2 * x\n```\n"}, None),
        ({"prompt": "class Sum:\n", "solution": "    def run(self): ...", "name": "Sum().run"}, None),
        ({"prompt": "from math import sqrt\n", "solution": "double = sqrt"}, None),
        ({"solution": "    retrun x y"}, "broken_code"),
        ({"solution": ["    return 2 * x", "    return ("]}, "broken_code"),
        ({"solution": "x" + chr(0)}, "broken_code"),
        ({"name": "duoble"}, "no_entry_point"),
    ],
)
def test_right_code_that_can_pass_no_test_is_a_bad_row(changes: dict[str, Any], reason: str | None) -> None:
    row = {**ROWS[0], "name": "double", **changes}
    task = Code(test="test", entry_point="name")
    if reason is None:
        task.read(row)
        return
    with pytest.raises(BadRow, match="field 'solution'") as told:
        task.read(row)
    assert told.value.reason == reason
    assert Code().read(row)[1] is not None  # nothing is tested
    assert Code(test="test", language="other").read(row)[1] is not None


def test_a_database_that_cannot_be_read_is_told_before_anything_is_learned(tmp_path: Path) -> None:
    rows = [{"prompt": "how many", "solution": "SELECT 1"}]
    text = tmp_path / "text.db"
    text.write_text("no database at all")
    for path, words in ((tmp_path / "no.db", "no such file"), (tmp_path, "directory"), (text, "is no SQLite file")):
        task = Code(language="sql", database=str(path))
        with pytest.raises(UserError, match=rf"task\.database: .*{words}"):
            task.learn(records_of(task, rows))


def test_pass_at_k_is_the_chance_that_one_of_k_programs_passes() -> None:
    task = Code(test="test", samples=10, decoding={"temperature": 1.0})  # type: ignore[arg-type]
    records = records_of(task, ROWS[:1])
    given = answered(task, records, [["    return 2 * x"] * 3 + ["    return x"] * 7])
    assert value("pass_at_1", given) == pytest.approx(0.3)
    assert value("pass_at_10", given) == 1.0


def test_the_function_that_check_takes_is_the_row_s(tmp_path: Path) -> None:
    row = {**ROWS[0], "test": "def check(f):\n    assert f(1) == 2\n", "name": "double"}
    task = Code(test="test", entry_point="name")
    assert value("pass_at_1", answered(task, records_of(task, [row]), [["    return x + x"]])) == 1.0


def test_queries_are_compared_by_their_rows(tmp_path: Path) -> None:
    database = tmp_path / "shop.sqlite"
    with sqlite3.connect(database) as made:
        made.executescript("CREATE TABLE t (a INTEGER); INSERT INTO t VALUES (1), (2);")
    rows = [{"prompt": "how many", "solution": "SELECT COUNT(*) FROM t"}]
    task = Code(language="sql", database=str(database))
    records = records_of(task, rows)
    assert value("execution_accuracy", answered(task, records, [["SELECT 2"]])) == 1.0
    assert value("execution_accuracy", answered(task, records, [["SELECT 3"]])) == 0.0
    assert value("execution_accuracy", answered(task, records, [["DROP TABLE t"]])) == 0.0
    script = {**rows[0], "script": "CREATE TABLE t (a); INSERT INTO t VALUES (7);"}
    task = Code(language="sql", schema="script")  # type: ignore[call-arg]
    assert value("execution_accuracy", answered(task, records_of(task, [script]), [["SELECT 1"]])) == 1.0


def test_a_database_is_found_from_the_recipe_and_from_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model_folder("gpt2", tmp_path / "gpt2")
    with sqlite3.connect(tmp_path / "shop.sqlite") as made:
        made.executescript("CREATE TABLE t (a INTEGER); INSERT INTO t VALUES (1), (2);")
    rows = [{"prompt": f"how many {n}", "solution": f"SELECT {n}"} for n in range(8)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    decoding = {"max_new_tokens": 4}
    recipe: dict[str, Any] = {
        "model": "./gpt2",
        "task": {"kind": "code", "language": "sql", "database": "shop.sqlite", "decoding": decoding},
        "data": {"train": "rows.jsonl", "test": 0.3, "cache": False},
        "train": {"max_steps": 1},
        "evaluate": {"resamples": 100, "baselines": False},
        "deploy": {"verify": False},
    }
    (tmp_path / "away").mkdir()
    monkeypatch.chdir(tmp_path / "away")
    run = api.run(recipe, folder=tmp_path / "runs" / "one", base=tmp_path)
    assert run.recipe().task.database == "../../shop.sqlite"  # type: ignore[attr-defined]
    assert run.read_json("evaluation.json")["metrics"]["execution_accuracy"]["value"] is not None
    note = json.loads((run.artifact / "tunesmith.json").read_text())
    assert note["task"]["database"] == "shop.sqlite"
    judged = api.evaluate(run, tmp_path / "rows.jsonl")
    assert judged["metrics"]["execution_accuracy"]["value"] is not None
    assert "trained on" in judged["verdict"]  # the rows and the database are those of the run
    with sqlite3.connect(tmp_path / "away" / "shop.sqlite") as other:
        other.executescript("CREATE TABLE t (a INTEGER); INSERT INTO t VALUES (3);")
    moved = {**recipe, "task": {**recipe["task"], "database": "away/shop.sqlite"}}
    with pytest.raises(UserError, match="was trained on data"):
        api.run(moved, folder=run.folder, base=tmp_path)
    assert run.recipe().task.database == "../../shop.sqlite"  # type: ignore[attr-defined]
    assert run.state == "complete"
    shutil.copyfile(tmp_path / "shop.sqlite", tmp_path / "away" / "shop.sqlite")
    again = api.run(moved, folder=run.folder, base=tmp_path)
    assert again.recipe().task.database == "../../away/shop.sqlite"  # type: ignore[attr-defined]
    assert again.state == "complete"


@pytest.mark.parametrize("kind", ["gpt2", "llama", "codellama", "qwen2", "gemma", "deepseek-v3", "bloom"])
def test_white_space_at_the_start_of_an_answer_is_learned_and_given_back(kind: str, tmp_path: Path) -> None:
    codec = opened(tmp_path / kind, kind, "AutoModelForCausalLM").codec
    task = Code()
    records = records_of(task, ROWS)
    for record, example in zip(records, task.encode(records, codec, 64), strict=True):
        assert not example.refused
        ids = [int(token) for token in example.columns["input_ids"]]
        text = codec.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert text.lstrip().endswith(ROWS[record.row]["prompt"] + ROWS[record.row]["solution"])


def test_a_tokenizer_that_knows_no_line_breaks_refuses_code_that_has_some(tmp_path: Path) -> None:
    codec = opened(tmp_path / "flan", "flan", "AutoModelForSeq2SeqLM").codec
    assert codec.family is Family.ENCODER_DECODER
    task = Code()
    rows = [{"prompt": "two", "solution": "a\n b"}, {"prompt": "one", "solution": "lamp"}]
    refused = [example.refused for example in task.encode(records_of(task, rows), codec, 64)]
    assert refused == [LOST, ""]


def test_a_gap_is_given_with_the_model_s_own_tokens(tmp_path: Path) -> None:
    task = Code(suffix="behind")
    records = records_of(task, [{"prompt": "def late", "solution": "(x):", "behind": " return x"}])
    codec = opened(tmp_path / "codellama", "codellama", "AutoModelForCausalLM").codec
    (example,) = task.encode(records, codec, 64)
    tokens = codec.tokenizer.convert_ids_to_tokens([int(token) for token in example.columns["input_ids"]])
    places = [tokens.index(mark) for mark in ("▁<PRE>", "▁<SUF>", "▁<MID>")]
    assert places == sorted(places)
    with pytest.raises(UserError, match=r"task\.suffix"):
        task.encode(records, opened(tmp_path / "gpt2", "gpt2", "AutoModelForCausalLM").codec, 64)


def test_tokens_go_on_with_what_stands_before_them(tmp_path: Path) -> None:
    tokenizer = opened(tmp_path / "gpt2", "gpt2", "AutoModelForCausalLM").tokenizer
    before, text = "the red ", "lamp\n is"
    whole = tokenizer(before, add_special_tokens=False)["input_ids"] + continued_ids(tokenizer, before, text)
    assert tokenizer.decode(whole).lstrip() == before + text


def test_several_samples_without_a_temperature_are_refused() -> None:
    with pytest.raises(ValueError, match=r"decoding\.temperature"):
        Code(samples=10)


def test_humaneval_s_solutions_pass_and_those_of_other_problems_do_not() -> None:
    rows = real("humaneval/test.jsonl.gz")
    task = Code(solution="canonical_solution", test="test", entry_point="entry_point")
    records = records_of(task, rows)
    right = [[row["canonical_solution"]] for row in rows]
    assert value("pass_at_1", answered(task, records, right)) == 1.0
    assert value("pass_at_1", answered(task, records, right[1:] + right[:1])) == 0.0


def test_gsm8k_s_answers_are_right_and_other_rows_answers_are_not() -> None:
    rows = real("gsm8k/test.jsonl.gz")[:300]
    task = Generation(source="question", target="answer")
    numbers = [row["answer"].split("####")[1].strip() for row in rows]
    records = records_of(task, rows)
    texts = [[row["answer"]] for row in rows]
    assert value("same_number", answered(task, records, texts)) == 1.0
    others = [next(other for other, n in zip(texts, numbers, strict=True) if n != number) for number in numbers]
    assert value("same_number", answered(task, records, others)) == 0.0


def test_geography_s_queries_give_their_rows_and_other_rows_queries_do_not() -> None:
    rows = real("text2sql_geography/test.jsonl.gz")
    task = Code(
        language="sql", prompt="source", solution="target", database=f"{DATA}/text2sql_geography/geography.sqlite"
    )
    records = records_of(task, rows)
    own = METRICS.load("execution_accuracy").sums(answered(task, records, [[row["target"]] for row in rows]))
    runs = own[:, 1] == 1  # a few right queries are no SQL that SQLite knows
    assert runs.mean() > 0.99
    assert own[runs, 0].min() == 1.0
    empty = answered(task, records, [["SELECT 'none of these'"] for _ in rows])
    assert np.nansum(METRICS.load("execution_accuracy").sums(empty)[:, 0]) == 0.0
