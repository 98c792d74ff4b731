"""From files to splits: every row is accounted for, bad rows are named, and nothing that belongs together is torn."""

import csv
import json
import math
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.contracts import Corpus, Ledger, Record
from tunesmith.errors import UserError
from tunesmith.prepare import sources
from tunesmith.prepare.corpus import read_corpus
from tunesmith.prepare.options import DataOptions
from tunesmith.prepare.sources import RawRow
from tunesmith.prepare.split import divide, text_key
from tunesmith.tasks.classification import Classification
from tunesmith.tasks.regression import Regression
from tunesmith.tasks.span_qa import SpanQA

Rows = Sequence[Mapping[str, Any] | str]


def write(base: Path, name: str, rows: Rows) -> None:
    """A JSONL file of these rows; a text stands as it is."""
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    (base / name).write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def corpus(base: Path, train: Rows, *, seed: int = 0, task: Any = None, **more: Any) -> Corpus:
    """What is made of these rows. more: options of the data; a list of rows is written to a file of its own."""
    write(base, "train.jsonl", train)
    for name, value in more.items():
        if isinstance(value, list):
            write(base, f"{name}.jsonl", value)
            more[name] = f"{name}.jsonl"
    return read_corpus(DataOptions(train="train.jsonl", **more), task or Classification(), base=base, seed=seed)


def refusal(base: Path, train: Rows, **more: Any) -> str:
    with pytest.raises(UserError) as told:
        corpus(base, train, **more)
    assert "\n" not in str(told.value)
    return str(told.value)


def many(**counts: int) -> list[dict[str, Any]]:
    """So many rows of each label, all of different texts."""
    return [{"text": f"{label} {n}", "label": label} for label, count in counts.items() for n in range(count)]


def texts(made: Corpus, split: str) -> set[str]:
    return {record.inputs["text"] for record in made.splits.get(split, ())}


def labels(made: Corpus, split: str) -> Counter[str]:
    return Counter(record.target for record in made.splits.get(split, ()))


GOOD_ROW = st.builds(
    lambda text, label: {"text": text, "label": label},
    st.text("ab é", min_size=1, max_size=3).filter(str.strip),
    st.sampled_from(["x", "y"]),
)
BAD_ROW = st.sampled_from(
    [
        "{",
        "[]",
        '{"text": "", "label": "x"}',
        '{"text": "a"}',
        '{"label": "x"}',
        '{"text": null, "label": "y"}',
        '{"text": "a", "label": "z"}',
    ]
)
MIXTURE = st.lists(st.one_of(GOOD_ROW, BAD_ROW), max_size=12)
ANCHOR: list[dict[str, Any]] = [{"text": "an anchor", "label": "x"}, {"text": "its chain", "label": "y"}]


@settings(deadline=None, max_examples=150)
@given(
    train=MIXTURE,
    validation=st.one_of(MIXTURE, st.sampled_from([0.0, 0.1, 0.5])),
    test=st.one_of(MIXTURE, st.sampled_from([0.0, 0.2])),
    labels=st.sampled_from([None, ("x", "y")]),
    seed=st.integers(0, 9),
)
def test_every_row_read_is_in_one_split_or_skipped_for_a_reason(
    tmp_path_factory: pytest.TempPathFactory, train: Any, validation: Any, test: Any, labels: Any, seed: int
) -> None:
    base = tmp_path_factory.getbasetemp()
    held = {
        name: [*value, {"text": f"only {name}", "label": "x"}] if isinstance(value, list) else value
        for name, value in (("validation", validation), ("test", test))
    }
    made = corpus(base, [*ANCHOR, *train], seed=seed, task=Classification(labels=labels), on_bad_row="skip", **held)
    written = {"train.jsonl": 2 + len(train)}
    written |= {f"{name}.jsonl": len(rows) for name, rows in held.items() if isinstance(rows, list)}
    assert made.ledger.read == written
    assert sum(made.ledger.ways.values()) == sum(written.values())
    for name, rows in made.splits.items():
        assert made.ledger.ways[name] == len(rows) > 0
    reasons = Counter(f"skipped:{row['reason']}" for row in made.skipped)
    assert {way: n for way, n in made.ledger.ways.items() if way.startswith("skipped:")} == reasons
    places = [(record.source, record.line) for rows in made.splits.values() for record in rows]
    places += [(row["source"], row["line"]) for row in made.skipped]
    assert sorted(places) == sorted((name, line + 1) for name, count in written.items() for line in range(count))
    assert_nothing_crosses(made)


def assert_nothing_crosses(made: Corpus) -> None:
    folded = {
        name: {" ".join(unicodedata.normalize("NFC", record.inputs["text"]).split()) for record in rows}
        for name, rows in made.splits.items()
    }
    assert sum(map(len, folded.values())) == len(set().union(*folded.values()))


def test_a_ledger_that_does_not_add_up_is_an_error() -> None:
    assert Ledger({"a": 3}, {"train": 2, "skipped:no_text": 1}).ways["train"] == 2
    with pytest.raises(ValueError, match="differ"):
        Ledger({"a": 3}, {"train": 2})


def test_a_bad_row_stops_with_its_file_line_field_and_both_values(tmp_path: Path) -> None:
    told = refusal(tmp_path, [*many(x=3), {"text": 5.5, "label": ["x"]}, *many(y=3)])
    assert told == (
        "train.jsonl, line 4: field 'label': found ['x'], expected a label; "
        "mend the rows, or set data.on_bad_row=skip to leave them out and count them"
    )
    told = refusal(tmp_path, [*many(x=3, y=3), '{"text": "cut'])
    assert told.startswith("train.jsonl, line 7: column 10: not JSON (Unterminated string starting at); mend")


def test_many_bad_rows_are_counted_by_reason_and_the_first_are_shown(tmp_path: Path) -> None:
    bad: list[dict[str, Any]] = [{"text": " ", "label": "x"}] * 6 + [{"text": None, "label": "x"}] * 2
    told = refusal(tmp_path, [*many(x=3, y=3), *bad])
    assert told.startswith("train.jsonl, line 7: field 'text': found an empty text, expected a text (8 bad rows: ")
    assert "6 × empty_text, 2 × no_text" in told
    assert [f"line {line}:" in told for line in (7, 8, 11, 12)] == [True, True, True, False]


def test_bad_rows_of_every_source_are_told_together(tmp_path: Path) -> None:
    bad = [{"text": None, "label": "x"}]
    told = refusal(tmp_path, many(x=3, y=3), validation=many(x=1) + bad, test=many(y=1) + bad)
    assert told.startswith("validation.jsonl, line 2: ")
    assert "2 bad rows" in told
    assert "test.jsonl, line 2: " in told


def test_bad_rows_may_be_skipped_and_are_listed(tmp_path: Path) -> None:
    made = corpus(tmp_path, ["{", *many(x=3, y=3), {"text": "a"}], on_bad_row="skip", validation=0)
    assert made.ledger.ways == {"train": 6, "skipped:unreadable": 1, "skipped:bad_label": 1}
    assert made.skipped[0]["detail"].startswith("column 2: not JSON (Expecting property name")
    assert made.skipped[1] == {
        "source": "train.jsonl",
        "line": 8,
        "reason": "bad_label",
        "detail": "field 'label': found None, expected a label",
    }


def test_row_numbers_count_all_rows_of_a_split(tmp_path: Path) -> None:
    write(tmp_path, "more.jsonl", many(z=2))
    write(tmp_path, "train.jsonl", [*many(x=1), "{", *many(y=1)])
    options = DataOptions(train=("train.jsonl", "more.jsonl"), on_bad_row="skip", validation=0)
    made = read_corpus(options, Classification(), base=tmp_path, seed=0)
    found = [(record.row, record.source, record.line, record.target) for record in made.splits["train"]]
    assert found == [
        (0, "train.jsonl", 1, "x"),
        (2, "train.jsonl", 3, "y"),
        (3, "more.jsonl", 1, "z"),
        (4, "more.jsonl", 2, "z"),
    ]


def test_a_missing_column_brings_the_nearest_and_all_that_are_there(tmp_path: Path) -> None:
    rows = [{"texts": "a", "label": "x", "id": 1}, {"texts": "b", "label": "y", "id": 2}]
    told = refusal(tmp_path, rows)
    assert told == ("train.jsonl: has no column 'text'; did you mean 'texts'? (columns: 'id', 'label', 'texts')")
    told = refusal(tmp_path, many(x=2, y=2), test=rows)
    assert told.startswith("test.jsonl: has no column 'text'")
    assert "'custmer'" in refusal(tmp_path, many(x=2, y=2), group="custmer")


def test_a_column_that_only_some_rows_have_is_a_matter_of_those_rows(tmp_path: Path) -> None:
    made = corpus(tmp_path, [{"text": "a"}, *many(x=2, y=2)], on_bad_row="skip", validation=0)
    assert made.ledger.ways == {"train": 4, "skipped:bad_label": 1}


@pytest.mark.parametrize("seed", range(5))
def test_each_label_is_divided_in_proportion_within_one_row(tmp_path: Path, seed: int) -> None:
    counts = {"a": 70, "b": 33, "c": 14, "d": 5}
    made = corpus(tmp_path, many(**counts), validation=0.1, test=0.25, seed=seed)
    for split, share in (("validation", 0.1), ("test", 0.25)):
        for label, count in counts.items():
            assert abs(labels(made, split)[label] - share * count) <= 1, (split, label)
        assert abs(len(made.splits[split]) - share * sum(counts.values())) <= 1


@pytest.mark.parametrize("seed", range(5))
def test_twelve_rows_of_three_labels_give_every_split_a_row_and_train_every_label(tmp_path: Path, seed: int) -> None:
    made = corpus(tmp_path, many(a=4, b=4, c=4), test=0.1, seed=seed)
    assert made.ledger.ways == {"train": 10, "validation": 1, "test": 1}
    assert set(labels(made, "train")) == {"a", "b", "c"}


@pytest.mark.parametrize("seed", range(8))
def test_a_label_of_two_rows_keeps_one_to_learn_from(tmp_path: Path, seed: int) -> None:
    made = corpus(tmp_path, many(a=20, b=20, c=2), validation=0.3, test=0.3, seed=seed)
    assert labels(made, "train")["c"] >= 1
    assert sum(labels(made, split)["c"] for split in made.splits) == 2
    assert made.task.label_names == ("a", "b", "c")  # type: ignore[attr-defined]


def test_a_label_of_one_row_is_learned_from(tmp_path: Path) -> None:
    made = corpus(tmp_path, many(a=8, b=1), validation=0.4)
    assert labels(made, "train")["b"] == 1


def test_too_few_rows_for_a_split_are_told(tmp_path: Path) -> None:
    made = corpus(tmp_path, many(a=1, b=1), validation=0.1)
    assert made.ledger.ways == {"train": 2}
    assert ("split", "too few rows for a validation split of its own") in {(f.check, f.message) for f in made.findings}


@pytest.mark.parametrize("seed", range(5))
def test_a_group_never_crosses_a_split(tmp_path: Path, seed: int) -> None:
    rows = [{"text": f"text {n}", "label": "xy"[n % 2], "customer": n % 17} for n in range(102)]
    made = corpus(tmp_path, rows, group="customer", validation=0.2, test=0.2, seed=seed)
    groups = [{record.group for record in made.splits[split]} for split in ("train", "validation", "test")]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 17
    assert all(12 <= len(made.splits[split]) <= 27 for split in ("validation", "test"))


@pytest.mark.parametrize("seed", range(8))
def test_one_large_group_takes_no_place_from_the_small_ones(tmp_path: Path, seed: int) -> None:
    rows = [{"text": f"text {n}", "label": "xy"[n % 2], "customer": max(0, n - 88)} for n in range(100)]
    made = corpus(tmp_path, rows, group="customer", validation=0.1, seed=seed)
    assert len(made.splits["validation"]) == 10


@pytest.mark.parametrize("seed", range(5))
def test_where_no_group_is_small_enough_the_smallest_is_held_out(tmp_path: Path, seed: int) -> None:
    rows = [{"text": f"text {n}", "label": "xy"[n % 2], "customer": (n > 30) + (n > 50)} for n in range(100)]
    made = corpus(tmp_path, rows, group="customer", validation=0.1, seed=seed)
    assert {record.group for record in made.splits["validation"]} == {"1"}


def test_groups_and_equal_texts_are_joined_into_chains(tmp_path: Path) -> None:
    chain = [{"text": f"link {n // 2}", "label": "x", "customer": (n + 1) // 2} for n in range(20)]
    made = corpus(tmp_path, [*chain, *({**row, "customer": row["text"]} for row in many(x=20, y=20))],
                  group="customer", validation=0.3, on_bad_row="skip")  # fmt: skip
    homes = {split for split, rows in made.splits.items() if any(row.inputs["text"].startswith("link") for row in rows)}
    assert len(homes) == 1


@pytest.mark.parametrize("nothing", [None, ""])
def test_a_row_without_a_group_is_a_bad_row(tmp_path: Path, nothing: str | None) -> None:
    rows = [{**row, "customer": "c"} for row in many(x=3, y=3)]
    rows[2]["customer"] = nothing
    told = refusal(tmp_path, rows, group="customer")
    assert told.startswith("train.jsonl, line 3: field 'customer': found nothing, expected a group's name")


def test_a_group_of_a_separate_test_file_is_left_out_of_train(tmp_path: Path) -> None:
    train = [{**row, "customer": n % 4} for n, row in enumerate(many(x=8, y=8))]
    test = [{"text": "another", "label": "x", "customer": 3}]
    made = corpus(tmp_path, train, test=test, group="customer", validation=0.0)
    assert made.ledger.ways == {"train": 12, "test": 1, "skipped:group_in_test": 4}
    assert {record.group for record in made.splits["train"]} == {"0", "1", "2"}


def test_the_same_bytes_are_divided_alike_and_another_seed_divides_anew(tmp_path: Path) -> None:
    rows = many(x=30, y=30)
    first, again, other = (corpus(tmp_path, rows, seed=seed, test=0.2) for seed in (1, 1, 2))
    assert first.splits == again.splits
    assert first.fingerprint == again.fingerprint
    assert texts(first, "test") != texts(other, "test")
    assert texts(first, "validation") != texts(other, "validation")
    assert first.fingerprint != other.fingerprint
    lines = [record.line for record in first.splits["train"]]
    assert lines == sorted(lines)


def test_the_fingerprint_changes_with_a_single_label(tmp_path: Path) -> None:
    rows = many(x=5, y=5)
    before = corpus(tmp_path, rows, validation=0)
    after = corpus(tmp_path, [*rows[:-1], {**rows[-1], "label": "x"}], validation=0)
    assert before.fingerprint != after.fingerprint
    assert before.files.keys() == after.files.keys() == {"train.jsonl"}
    assert before.files != after.files


@pytest.mark.parametrize("change", [{"label": "x"}, {"text": "other"}, {"text": "y  4"}])
def test_the_fingerprint_of_a_data_set_without_files_covers_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, str]
) -> None:
    def made(rows: list[dict[str, Any]]) -> Corpus:
        found = [RawRow("hub:a/b", n, row) for n, row in enumerate(rows, start=1)]
        monkeypatch.setattr(sources, "_hub", lambda spec: iter(found))
        return read_corpus(DataOptions(train="hub:a/b", validation=0), Classification(), base=tmp_path, seed=0)

    rows = many(x=5, y=5)
    assert made(rows).fingerprint == made(list(rows)).fingerprint
    assert made(rows).fingerprint != made([*rows[:-1], {**rows[-1], **change}]).fingerprint
    assert made(rows).files == {"hub:a/b": "hub"}


def test_files_of_the_same_name_are_both_in_the_fingerprint(tmp_path: Path) -> None:
    def made(last: str) -> Corpus:
        for folder, rows in (("one", many(x=2, y=2)), ("two", [*many(z=2), {"text": "last", "label": last}])):
            (tmp_path / folder).mkdir(exist_ok=True)
            write(tmp_path / folder, "rows.jsonl", rows)
        (tmp_path / "here").mkdir(exist_ok=True)
        options = DataOptions(train=("../two/rows.jsonl", "../one/rows.jsonl"), validation=0)
        return read_corpus(options, Classification(), base=tmp_path / "here", seed=0)

    first, second = made("x"), made("y")
    assert len(first.files) == len(second.files) == 2
    assert first.fingerprint != second.fingerprint


VARIANTS = ("café  au lait", "cafe\u0301 au lait", " café\tau\nlait ")


@pytest.mark.parametrize("seed", range(6))
def test_texts_that_read_the_same_never_cross_a_split(tmp_path: Path, seed: int) -> None:
    rows = [{"text": f"{text} {n}", "label": "xy"[n % 2]} for n in range(20) for text in VARIANTS]
    made = corpus(tmp_path, rows, validation=0.2, test=0.2, seed=seed)
    assert {split: len(found) for split, found in made.splits.items()} == {"train": 36, "validation": 12, "test": 12}
    assert_nothing_crosses(made)


def test_only_what_reads_the_same_has_the_same_key() -> None:
    def key(*parts: str) -> bytes:
        return text_key(Record(0, "", 1, dict(zip(("text", "text_b"), parts, strict=False)), None))

    assert len({key(text) for text in VARIANTS}) == 1
    assert len({key(text) for text in ("a b", "ab", "A b", "a b.", "à b")}) == 5
    assert key("a", "b") != key("a b")
    assert key("a b", "c") != key("a", "b c")


def test_rows_that_also_stand_in_the_test_file_are_left_out_of_train_and_counted(tmp_path: Path) -> None:
    train = [*many(x=5, y=5), {"text": VARIANTS[0], "label": "x"}, {"text": "both", "label": "x"}]
    validation = [{"text": "both", "label": "x"}, {"text": "seen", "label": "y"}, {"text": "y 4", "label": "y"}]
    test = [{"text": VARIANTS[1], "label": "x"}, {"text": "seen", "label": "y"}]
    made = corpus(tmp_path, train, validation=validation, test=test)
    assert made.ledger.ways == {
        "train": 9,
        "validation": 2,
        "test": 2,
        "skipped:also_in_test": 2,
        "skipped:also_in_validation": 2,
    }
    skipped = {(row["source"], row["line"]): row["reason"] for row in made.skipped}
    assert skipped == {
        ("train.jsonl", 11): "also_in_test",
        ("validation.jsonl", 2): "also_in_test",
        ("train.jsonl", 10): "also_in_validation",
        ("train.jsonl", 12): "also_in_validation",
    }
    assert_nothing_crosses(made)


def test_the_test_file_itself_never_loses_a_row(tmp_path: Path) -> None:
    test = many(x=3, y=3) * 2
    assert len(corpus(tmp_path, many(x=6, y=6), test=test).splits["test"]) == 12


@pytest.mark.parametrize("rows", [[], many(x=1)])
def test_fewer_than_two_rows_are_refused(tmp_path: Path, rows: Rows) -> None:
    told = refusal(tmp_path, rows or [" "])
    expected = "data.train: leaves 1 usable rows to learn from; at least 2 are needed" if rows else "holds no rows"
    assert expected in told


def test_rows_that_are_all_in_the_test_file_leave_nothing_to_learn_from(tmp_path: Path) -> None:
    told = refusal(tmp_path, many(x=3, y=3), test=many(x=3, y=3))
    assert "leaves 0 usable rows to learn from (left out: 6 × also_in_test)" in told


def test_rows_left_out_are_told_where_the_others_cannot_be_learned_from(tmp_path: Path) -> None:
    told = refusal(tmp_path, many(x=4, y=3), test=many(y=3), validation=0)
    assert "only the label 'x' in the training rows (left out: 3 × also_in_test); at least 2 are needed" in told


def test_rows_of_unknown_labels_alone_leave_nothing_to_learn_from(tmp_path: Path) -> None:
    task = Classification(labels=("a", "b"))
    assert "leaves 0 usable rows" in refusal(tmp_path, many(x=3, y=3), task=task, on_bad_row="skip")


def test_one_label_only_is_refused(tmp_path: Path) -> None:
    told = refusal(tmp_path, many(x=9))
    assert told == "column 'label': only the label 'x' in the training rows; at least 2 are needed"


def test_a_label_that_only_the_test_file_has_is_a_bad_row_with_the_nearest(tmp_path: Path) -> None:
    test = [{"text": "known", "label": "refund"}, {"text": "odd", "label": "refnd"}]
    told = refusal(tmp_path, many(refund=3, parcel=3), test=test)
    assert told.startswith(
        "test.jsonl, line 2: field 'label': found 'refnd', expected one of 2 labels; did you mean 'refund'?"
    )
    made = corpus(tmp_path, many(refund=3, parcel=3), test=test, on_bad_row="skip", validation=0)
    assert made.ledger.ways == {"train": 6, "test": 1, "skipped:unknown_label": 1}
    assert made.task.label_names == ("parcel", "refund")  # type: ignore[attr-defined]


def test_a_file_to_judge_by_of_which_no_row_is_left_is_told(tmp_path: Path) -> None:
    rows = many(x=6, y=6)
    made = corpus(tmp_path, rows[2:], validation=rows[:2], test=rows[:2])
    (finding,) = (one for one in made.findings if one.check == "split")
    assert (finding.severity, finding.message) == (
        "warning",
        "no row of data.validation is left (2 × also_in_test), so nothing is judged by it",
    )
    assert set(made.splits) == {"train", "test"}
    odd = [{"text": "new", "label": "z"}]
    made = corpus(tmp_path, rows, test=odd, on_bad_row="skip")
    assert [one.message for one in made.findings if one.check == "split"] == [
        "no row of data.test is left (1 × unknown_label), so nothing is judged by it"
    ]
    told = refusal(tmp_path, rows, validation=["{", "[]"], on_bad_row="skip")
    assert told == "data.validation: holds no usable rows (left out: 2 × unreadable); mend them, or name another"


def test_a_bad_question_of_a_document_is_named_by_its_number(tmp_path: Path) -> None:
    def asked(question: str, start: int) -> dict[str, Any]:
        return {"id": question, "question": question, "answers": [{"text": "kettle", "answer_start": start}]}

    paragraph = {"context": "a red kettle", "qas": [asked("what?", 6), asked("which?", 1)]}
    (tmp_path / "a.json").write_text(json.dumps({"data": [{"title": "Kettles", "paragraphs": [paragraph]}]}))
    with pytest.raises(UserError, match=r"^a.json, question 2: "):
        read_corpus(DataOptions(train="a.json"), SpanQA(), base=tmp_path, seed=0)


def test_a_limit_takes_the_first_rows_of_each_source(tmp_path: Path) -> None:
    rows = [{"text": f"text {n}", "label": "xy"[n % 2]} for n in range(50)]
    made = corpus(tmp_path, [*rows, "{"], test=[{**row, "text": f"t {row['text']}"} for row in rows], limit=10)
    assert made.ledger.read == {"train.jsonl": 10, "test.jsonl": 10}
    assert made.ledger.ways == {"train": 9, "validation": 1, "test": 10}
    assert max(record.line for split in made.splits.values() for record in split) == 10


def test_csv_and_json_lines_of_the_same_rows_are_divided_alike(tmp_path: Path) -> None:
    rows = many(x=10, y=10)
    with (tmp_path / "train.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label"])
        writer.writeheader()
        writer.writerows(rows)
    other = read_corpus(DataOptions(train="train.csv"), Classification(), base=tmp_path, seed=0)
    made = corpus(tmp_path, rows)
    assert texts(other, "train") == texts(made, "train")
    assert texts(other, "validation") == texts(made, "validation")


@pytest.mark.parametrize(
    ("value", "name"), [(1.0, "1"), (1, "1"), (True, "true"), ("True", "True"), ("1.0", "1.0"), (" Ab ", "Ab")]
)
def test_a_label_is_called_as_json_writes_it_and_text_keeps_its_own_name(
    tmp_path: Path, value: object, name: str
) -> None:
    made = corpus(tmp_path, [*many(x=2), {"text": "odd", "label": value}], validation=0)
    assert set(labels(made, "train")) == {"x", name}


def test_numbers_are_divided_without_strata_and_a_wrong_one_is_named(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"text": f"text {n}", "score": n / 7} for n in range(40)]
    made = corpus(tmp_path, rows, task=Regression(), validation=0.25)
    assert made.ledger.ways == {"train": 30, "validation": 10}
    told = refusal(tmp_path, [*rows, {"text": "odd", "score": math.nan}], task=Regression())
    assert told.startswith("train.jsonl, line 41: field 'score': found nan, expected a ")


@settings(deadline=None)
@given(
    words=st.lists(st.tuples(st.integers(0, 15), st.sampled_from("ab"), st.integers(0, 6)), min_size=1, max_size=40),
    shares=st.sampled_from([(0.1, 0.0), (0.2, 0.2), (0.5, 0.4), (0.9, 0.0)]),
    seed=st.integers(0, 3),
)
def test_any_division_keeps_texts_and_groups_whole(
    words: list[tuple[int, str, int]], shares: tuple[float, float], seed: int
) -> None:
    records = [Record(n, "f", n + 1, {"text": str(word)}, label, str(group) if group else None)
               for n, (word, label, group) in enumerate(words)]  # fmt: skip
    asked = dict(zip(("validation", "test"), shares, strict=True))
    parts = divide(records, [record.target for record in records], asked, seed)
    assert sorted(place for part in parts.values() for place in part) == list(range(len(records)))
    assert all(part == sorted(part) for part in parts.values())
    assert parts["train"]
    for together in ("text", "group"):
        homes: dict[object, set[str]] = {}
        for name, part in parts.items():
            for place in part:
                value = records[place].group if together == "group" else records[place].text
                if value is not None:
                    homes.setdefault(value, set()).add(name)
        assert all(len(names) == 1 for names in homes.values())
