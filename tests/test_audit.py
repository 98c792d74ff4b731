"""Each look at the data finds the flaw that was planted, with its place and count, and is silent without it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tunesmith.contracts import Corpus, Finding, Ledger, Record
from tunesmith.prepare.audit import CHECKS, SHOWN, audit, picture
from tunesmith.prepare.corpus import read_corpus
from tunesmith.prepare.options import DataOptions
from tunesmith.tasks import TASKS
from tunesmith.tasks.classification import Classification
from tunesmith.tasks.regression import Regression

Row = tuple[str, Any]
CLEAN: dict[str, list[Row]] = {
    "train": [(f"the {word} row {n}", label) for n, word in enumerate(("first", "second", "third", "fourth", "fifth"))
              for label, word in (("x", word), ("y", f"other {word}"))],
    "validation": [("held out", "x"), ("held out too", "y")],
    "test": [("for the end", "x"), ("at last\n\ttwo lines, naïve – “quoted” 😀", "y")],
}  # fmt: skip


def records(split: str, rows: Sequence[Row]) -> list[Record]:
    return [Record(n, f"{split}.csv", n + 2, {"text": text}, target) for n, (text, target) in enumerate(rows)]


def with_rows(**more: Sequence[Row]) -> dict[str, list[Record]]:
    """The clean splits, with rows appended."""
    return {split: records(split, [*rows, *more.get(split, ())]) for split, rows in CLEAN.items()}


ONE, SEVERAL = Classification(labels=("x", "y")), Classification(labels=("x", "y"), multi_label=True)


def found(check: str, splits: Mapping[str, Sequence[Record]], task: Any = ONE) -> list[Finding]:
    return list(CHECKS.load(check)(splits, task))


def corpus(splits: Mapping[str, Sequence[Record]]) -> Corpus:
    rows = {split: len(held) for split, held in splits.items()}
    return Corpus(Classification(labels=("x", "y")), splits, Ledger(rows, rows), (), {}, "print")


REPEATED = ("the first row 0", "x")
PLANTED: dict[str, tuple[dict[str, list[Row]], str, str, int, tuple[str, ...]]] = {
    "repeats": (
        {"train": [REPEATED, ("the  first row 0 ", "x")]},
        "warning",
        "2 of 12 train rows repeat an earlier one exactly",
        2,
        ("train.csv, line 12", "train.csv, line 13"),
    ),
    "conflicts": (
        {"train": [("the first row 0", "y")]},
        "warning",
        "1 rows have the text of another row but another target",
        1,
        ("train.csv, line 2", "train.csv, line 12"),
    ),
    "leaks": (
        {"validation": [("at last", "y")], "test": [REPEATED, ("at  last", "y")]},
        "error",
        "2 rows stand in another split too, which makes scores too good",
        2,
        ("test.csv, line 4", "test.csv, line 5"),
    ),
    "near": (
        {"validation": [("The first: row 0!", "x")], "test": [("the FIRST row0", "y")]},
        "warning",
        "1 validation rows differ from a training row only by case, punctuation or white space, "
        "which makes scores too good",
        1,
        ("validation.csv, line 4",),
    ),
    "balance": (
        {"train": [("a rarity", "z"), ("another", "z"), ("one more", "rare")]},
        "warning",
        "2 labels have fewer than 5 training rows: rare, z",
        2,
        (),
    ),
    "spellings": (
        {"train": [("a rarity", "X"), ("another", "new label")], "test": [("one more", "NewLabel")]},
        "warning",
        "labels differ only by case or space: 'NewLabel' and 'new label', 'X' and 'x'",
        2,
        (),
    ),
    "header": (
        {"train": [(f"row {n}", "label") for n in range(5)]},
        "warning",
        "'label': is the line that names the columns missing?",
        1,
        (),
    ),
    "characters": (
        {"train": [("caf\ufffd", "x")], "test": [("it\x92s", "y"), ("bell \x07", "x")]},
        "warning",
        "3 rows hold replacement or control characters, a sign of a wrong encoding",
        3,
        ("train.csv, line 12", "test.csv, line 4", "test.csv, line 5"),
    ),
}


def test_every_check_has_a_planted_flaw() -> None:
    assert {*PLANTED, "absent", "constant"} == set(CHECKS)


@pytest.mark.parametrize("check", list(CHECKS))
def test_clean_rows_bring_no_finding(check: str) -> None:
    assert found(check, with_rows()) == []


@pytest.mark.parametrize("check", PLANTED)
def test_a_planted_flaw_is_found_with_its_place_and_count(check: str) -> None:
    more, severity, message, count, rows = PLANTED[check]
    planted = found(check, with_rows(**more))
    assert planted[0] == Finding(check, severity, message, count, rows)
    assert len(planted) == (2 if check == "near" else 1)  # of each split that judges


@pytest.mark.parametrize("check", PLANTED)
def test_half_a_flaw_is_none(check: str) -> None:
    alike: dict[str, dict[str, list[Row]]] = {
        "repeats": {"train": [("the first row 0", "y")], "test": [REPEATED]},
        "conflicts": {"train": [REPEATED, ("The first row 0", "y")], "test": [REPEATED]},
        "leaks": {"train": [REPEATED], "test": [("for the end", "x")]},
        "near": {"train": [("?!", "x")], "test": [("the first row 1", "x"), REPEATED, ("!!", "x")]},
        "balance": {"train": [(f"row {n}", "z") for n in range(5)], "test": [("a rarity", "rare")]},
        "spellings": {"train": [(f"row {n}", "xx") for n in range(5)]},
        "header": {"train": [(f"row {n}", "a label") for n in range(5)]},
        "characters": {"train": [("tab\t, next\x85, feed\f, line\r\n, soft\u00adhyphen, \ufeff, \u200b", "x")]},
    }
    assert found(check, with_rows(**alike[check])) == []


@pytest.mark.parametrize("several", [False, True])
def test_labels_without_a_training_row_are_named(several: bool) -> None:
    splits = with_rows(test=[("one of them", "z")])
    if several:
        splits = {name: [replace(r, target=(r.target,)) for r in rows] for name, rows in splits.items()}
    task = Classification(labels=("x", "v", "y", "z"), multi_label=several)
    message = "2 labels of the recipe have no training row, and cannot be learned: 'v', 'z'"
    assert found("absent", splits, task) == [Finding("absent", "warning", message, 2)]


def test_a_kind_of_entity_without_a_training_span_is_named() -> None:
    task, splits = learned("ner")
    wider = task.model_copy(update={"labels": (*task.label_names, "place")})
    (said,) = found("absent", splits, wider)
    assert said.message.endswith("1 labels of the recipe have no training row, and cannot be learned: 'place'")


def scored(*numbers: float) -> dict[str, list[Record]]:
    return {"train": [Record(n, "f", n, {"text": f"row {n}"}, (number,)) for n, number in enumerate(numbers)]}


@pytest.mark.parametrize(
    ("task", "splits", "odd"),
    [
        (Regression(text="text", target="3.5"), scored(1.0, 2.0), "'3.5'"),
        (Regression(text="what they said to us", target="score"), scored(1.0, 2.0), "'what they said to us'"),
        (SEVERAL.model_copy(update={"label": "y,x"}), {"train": records("train", [("a", ("x", "y"))])}, "'y,x'"),
    ],
)
def test_a_row_where_the_names_of_the_columns_belong_is_found(task: Any, splits: Any, odd: str) -> None:
    [finding] = CHECKS.load("header")(splits, task)
    assert finding.message == f"{odd}: is the line that names the columns missing?"


def test_names_that_are_no_row_are_none() -> None:
    assert list(CHECKS.load("header")(scored(1.0), Regression(text="1", target="score"))) == []
    several = {"train": records("train", [("a", ("x", "y"))])}
    assert list(CHECKS.load("header")(several, SEVERAL.model_copy(update={"label": "x,z"}))) == []


def test_very_uneven_labels_are_found(tmp_path: Path) -> None:
    many = [(f"one of many {n}", "x") for n in range(46)]
    [finding] = found("balance", with_rows(train=many))
    assert finding.message == "'x' has 51 training rows and 'y' 5; task.balance can even that out"
    assert finding.count == 51
    assert found("balance", with_rows(train=many[:-1])) == []


def test_numbers_have_no_balance_of_labels() -> None:
    assert found("balance", scored(1.0, 2.0), Regression()) == []


def test_several_labels_a_row_are_counted_one_by_one() -> None:
    rows: list[Row] = [(f"row {n}", ("x", "y") if n < 4 else ("x",)) for n in range(9)]
    [finding] = found("balance", {"train": records("train", rows)}, SEVERAL)
    assert finding.message == "1 labels have fewer than 5 training rows: y"


def pairs(same: int) -> list[Record]:
    return [
        Record(n, "train.csv", n + 2, {"text": f"row {n}", "text_b": "always" if n < same else f"now {n}"}, "xy"[n % 2])
        for n in range(6)
    ]


def test_an_input_that_is_the_same_in_every_training_row_is_found() -> None:
    [finding] = found("constant", {"train": pairs(6)})
    assert finding == Finding("constant", "warning", "'text_b' is the same in every training row", 6)
    assert found("constant", {"train": pairs(5)}) == []
    assert found("constant", {"train": pairs(6)[:1]}) == []


def test_a_pair_is_only_repeated_when_both_texts_are() -> None:
    first = Record(0, "f", 1, {"text": "a", "text_b": "b"}, "x")
    swapped = Record(1, "f", 2, {"text": "b", "text_b": "a"}, "x")
    moved = Record(2, "f", 3, {"text": "a b", "text_b": ""}, "x")
    assert found("repeats", {"train": [first, swapped, moved]}) == []
    assert [finding.count for finding in found("repeats", {"train": [first, swapped, first, Record(3, "f", 4,
            {"text": "a", "text_b": "b"}, "x")]})] == [1]  # fmt: skip


def test_a_finding_shows_only_the_first_rows_but_counts_all() -> None:
    [finding] = found("repeats", with_rows(train=[REPEATED] * 30))
    assert finding.count == 30
    assert len(finding.rows) == SHOWN


def test_an_audit_is_all_checks_together() -> None:
    assert audit(corpus(with_rows())) == ()
    more: dict[str, list[Row]] = {split: [] for split in CLEAN}
    for planted, *_ in PLANTED.values():
        for split, rows in planted.items():
            more[split] += rows
    assert {finding.check for finding in audit(corpus(with_rows(**more)))} == set(PLANTED)


def test_a_corpus_brings_the_findings_of_its_files_and_no_leaks(tmp_path: Path) -> None:
    def findings(train: Sequence[Row], test: Sequence[Row]) -> dict[str, Finding]:
        for name, rows in (("train", train), ("test", test)):
            lines = (json.dumps({"text": text, "label": label}) + "\n" for text, label in rows)
            (tmp_path / f"{name}.jsonl").write_text("".join(lines))
        options = DataOptions(train="train.jsonl", test="test.jsonl", validation=0)
        return {
            finding.check: finding for finding in read_corpus(options, Classification(), base=tmp_path, seed=0).findings
        }

    clean = [(f"row {n}", "xy"[n % 2]) for n in range(20)]
    assert findings(clean, [("new", "x")]) == {}
    made = findings([*clean, ("row 3", "y"), ("shared", "x")], [("shared", "x"), ("b\x07d", "y")])
    assert set(made) == {"repeats", "characters"}
    assert made["repeats"].rows == ("train.jsonl, line 21",)
    assert made["characters"].rows == ("test.jsonl, line 2",)


def test_a_picture_counts_labels_and_spreads_numbers(tmp_path: Path) -> None:
    found = picture(corpus(with_rows(test=[("more", ("x", "z"))])))
    assert found["test"] == {"rows": 3, "balance": {"x": 2, "y": 1, "z": 1}, "targets": None}
    numbers = records("train", [("a", (1.0,)), ("b", (2.0,)), ("c", (6.0,))])
    rows = {"train": 3}
    made = Corpus(Regression(), {"train": numbers}, Ledger(rows, rows), (), {}, "print")
    assert picture(made)["train"] == {"rows": 3, "balance": None, "targets": {"min": 1.0, "mean": 3.0, "max": 6.0}}


ALIKE: Mapping[str, Any] = {"question": "is it red", "context": "the kettle is red", "choices": ["yes", "no"]}
ROWS: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "ner": (
        {"text": "text"},
        [{"text": f"row {n}: [[THING|lamp]] and [[thing|kettle]] by [[PLACE|Bath]]"} for n in range(12)],
    ),
    "span_qa": ({}, [{**ALIKE, "question": f"what {n}", "answers": ["red"] if n % 2 else []} for n in range(12)]),
    "chat": ({}, [{"prompt": f"and {n}?", "completion": ["yes", "Yes", "no"][n % 3]} for n in range(12)]),
    "code": ({}, [{"prompt": f"def f{n}():", "solution": f" return {n}"} for n in range(12)]),
    "generation": ({}, [{"source": f"row {n}", "target": ["yes", "Yes", "no"][n % 3]} for n in range(12)]),
    "language": ({}, [{"text": f"once upon {n} times"} for n in range(12)]),
    "preference": ({}, [{"prompt": f"and {n}?", "chosen": "yes", "rejected": f"no {n}"} for n in range(12)]),
    "multiple_choice": ({}, [{**ALIKE, "question": f"is it {n}", "answer": int(n > 10)} for n in range(12)]),
}
"""Options of a task and clean rows for it, whose targets are of every shape there is."""


def learned(kind: str, more: Sequence[Mapping[str, Any]] = (), **options: Any) -> tuple[Any, dict[str, list[Record]]]:
    """A task and its training rows, as a corpus has them; `more` is appended."""
    given, rows = ROWS[kind]
    task = TASKS.load(kind)(**{**given, **options})
    made = [Record(n, "f", n + 1, *task.read(row)) for n, row in enumerate([*rows, *more])]
    return task.learn(made), {"train": made}


def told(kind: str, more: Sequence[Mapping[str, Any]] = (), **options: Any) -> dict[str, tuple[str, int]]:
    """What every check says, and of how many."""
    task, splits = learned(kind, more, **options)
    return {f.check: (f"{f.severity}: {f.message}", f.count) for name in CHECKS for f in found(name, splits, task)}


def test_every_other_task_has_rows_here() -> None:
    assert {*ROWS, "classification", "regression", "multi_task", "prompted"} == set(TASKS)


@pytest.mark.parametrize("kind", ROWS)
def test_clean_rows_of_any_task_bring_nothing_but_what_is_planted(kind: str) -> None:
    planted = {
        "ner": {"spellings": ("warning: labels differ only by case or space: 'THING' and 'thing'", 1)},
        "preference": {"constant": ("warning: 'chosen' is the same in every training row", 12)},
        "span_qa": {"constant": ("warning: 'context' is the same in every training row", 12)},
    }
    assert told(kind) == planted.get(kind, {})


@pytest.mark.parametrize("kind", ROWS)
def test_rows_of_any_task_that_come_again_are_repeats_and_no_conflict(kind: str) -> None:
    again = told(kind, ROWS[kind][1][:2])
    assert again["repeats"] == ("warning: 2 of 14 train rows repeat an earlier one exactly", 2)
    assert "conflicts" not in again


@pytest.mark.parametrize("form", ["a name", ["a list"], {"a": "dict"}])
def test_targets_of_any_kind_are_compared(form: Any) -> None:
    splits = {
        "train": [Record(0, "f", 1, {"text": "a"}, "x"), *(Record(n, "f", n, {"text": "b"}, form) for n in (1, 2))]
    }
    assert [finding.count for finding in found("repeats", splits)] == [1]
    assert found("conflicts", splits) == []


@pytest.mark.parametrize(
    ("kind", "other"),
    [
        ("ner", {"text": "row 0: lamp and kettle by [[PLACE|Bath]]"}),
        ("ner", {"text": "row 0: lamp and kettle by Bath"}),
        ("span_qa", {**ALIKE, "question": "what 0", "answers": ["kettle"]}),
        ("span_qa", {**ALIKE, "question": "what 1", "answers": []}),
        ("multiple_choice", {**ALIKE, "question": "is it 0", "answer": "no"}),
    ],
)
def test_another_answer_to_the_same_row_is_a_conflict(kind: str, other: Mapping[str, Any]) -> None:
    assert told(kind, [other])["conflicts"] == ("warning: 1 rows have the text of another row but another target", 1)


@pytest.mark.parametrize(
    ("kind", "other"),
    [("chat", {"prompt": "and 0?", "completion": "maybe"}), ("generation", {"source": "row 0", "target": "maybe"})],
)
def test_another_text_for_the_same_row_is_only_remarked(kind: str, other: Mapping[str, Any]) -> None:
    assert told(kind, [other]) == {"conflicts": ("info: 1 rows have the text of another row but another right text", 1)}


def test_entities_are_counted_by_span() -> None:
    more = [{"text": f"in {n} [[CITY|Bath]] or [[CITY|York]]"} for n in range(2)]
    message, count = told("ner", more)["balance"]
    assert (message, count) == ("warning: 1 labels have fewer than 5 training spans: CITY", 1)
    many = [{"text": f"on {n}: " + "[[CITY|Bath]] " * 11} for n in range(11)]
    assert told("ner", many)["balance"] == ("warning: 'CITY' has 121 training spans and 'PLACE' 12", 121)


def test_a_broken_character_is_found_in_a_text_that_was_written() -> None:
    assert told("chat", [{"prompt": "and", "completion": "caf\ufffd"}])["characters"][1] == 1
    assert told("generation", [{"source": "and", "target": ["fine", "b\x07d"]}])["characters"][1] == 1


@pytest.mark.parametrize("kind", ROWS)
def test_columns_of_any_task_that_are_called_as_usual_are_no_row(kind: str) -> None:
    assert "header" not in told(kind)


def test_columns_that_are_called_like_a_text_are_a_row_for_any_task() -> None:
    odd = "the red kettle arrived broken"
    rows = [{odd: f"row {n}", "short": "yes"} for n in range(4)]
    task = TASKS.load("generation")(source=odd, target="short")
    made = [Record(n, "f", n, *task.read(row)) for n, row in enumerate(rows)]
    [finding] = found("header", {"train": made}, task)
    assert finding.message == f"'{odd}': is the line that names the columns missing?"


@pytest.mark.parametrize("kind", ROWS)
def test_a_picture_shows_the_labels_of_spans_and_takes_no_text_for_a_label(kind: str) -> None:
    task, splits = learned(kind)
    made = Corpus(task, splits, Ledger({"f": 12}, {"train": 12}), (), {}, "print")
    balance = {"ner": {"THING": 12, "thing": 12, "PLACE": 12}, "multiple_choice": {}}
    assert picture(made)["train"] == {"rows": 12, "balance": balance.get(kind), "targets": None}
