"""What a data file is taken for, by its columns and first rows, and why."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tunesmith.cli.starter import look
from tunesmith.errors import UserError
from tunesmith.prepare.detect import ROWS_LOOKED_AT, Detection, detect
from tunesmith.prepare.layouts import scheme_of
from tunesmith.prepare.sources import read_source
from tunesmith.recipe import load_recipe
from tunesmith.tasks import TASKS

Row = Callable[[int], dict[str, Any]]
KNOWN_KINDS = (
    "classification", "regression", "prompted", "preference", "multiple_choice", "span_qa", "ner", "chat", "code",
    "generation", "language",
)  # fmt: skip


def written(base: Path, row: Row, rows: int = 20) -> Path:
    """A file of these rows; `row` makes one of its number."""
    path = base / "rows.jsonl"
    path.write_text("".join(json.dumps(row(n)) + "\n" for n in range(rows)), encoding="utf-8")
    return path


def text(n: int) -> str:
    return f"a few words and {n}"


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as told:
        detect(path)
    assert "\n" not in str(told.value)
    found, hint, kinds = (
        str(told.value).removeprefix(f"{path}: ").partition("; or name what is to be learned with --task ")
    )
    assert not hint or kinds == f"KIND ({', '.join(kind for kind in KNOWN_KINDS)})"
    assert hint or "holds no readable rows" in found
    return found


LAYOUTS: dict[str, tuple[Row, str, dict[str, Any]]] = {
    "usual names": (
        lambda n: {"text": text(n), "label": "ab"[n % 2]},
        "classification",
        {"text": "text", "label": "label"},
    ),
    "odd names": (
        lambda n: {"Was ist's?": ["gut", "gar nicht gut"][n % 2], "Äußerung (voll)": text(n)},
        "classification",
        {"text": "Äußerung (voll)", "label": "Was ist's?"},
    ),
    "capitals and spaces": (
        lambda n: {" Text ": text(n), "LABEL": "ab"[n % 2], "note": text(n) * 3},
        "classification",
        {"text": " Text ", "label": "LABEL"},
    ),
    "emoji": (
        lambda n: {"message": text(n), "mood": "😀😡😐"[n % 3]},
        "classification",
        {"text": "message", "label": "mood"},
    ),
    "true and false": (
        lambda n: {"body": text(n), "spam": n % 2 == 0},
        "classification",
        {"text": "body", "label": "spam"},
    ),
    "few whole numbers": (
        lambda n: {"review": text(n), "stars": n % 5 + 1},
        "classification",
        {"text": "review", "label": "stars"},
    ),
    "fractions": (
        lambda n: {"review": text(n), "stars": n / 4},
        "regression",
        {"text": "review", "target": "stars"},
    ),
    "whole numbers in a row that are called a score": (
        lambda n: {"review": text(n), "score": n},
        "regression",
        {"text": "review", "target": "score"},
    ),
    "many whole numbers": (
        lambda n: {"advert": text(n), "price": n * n},
        "regression",
        {"text": "advert", "target": "price"},
    ),
    "numbers as text": (
        lambda n: {"advert": text(n), "price": f"{n / 3:.2f}"},
        "regression",
        {"text": "advert", "target": "price"},
    ),
    "a pair": (
        lambda n: {"Premise": text(n), "Hypothesis": text(n + 1), "label": n % 3},
        "classification",
        {"text": "Premise", "text_b": "Hypothesis", "label": "label"},
    ),
    "a pair with numbers of its questions": (
        lambda n: {
            "id": n,
            "qid1": 2 * n,
            "qid2": 2 * n + 1,
            "question1": text(n),
            "question2": text(-n),
            "same": n % 2,
        },
        "classification",
        {"text": "question1", "text_b": "question2", "label": "same"},
    ),
    "a pair and how alike it is": (
        lambda n: {"sentence1": text(n), "sentence2": text(n * 2), "similarity": n / 5},
        "regression",
        {"text": "sentence1", "text_b": "sentence2", "target": "similarity"},
    ),
    "lists of labels": (
        lambda n: {"text": text(n), "topics": [["a"], ["b", "a"], []][n % 3]},
        "classification",
        {"text": "text", "label": "topics", "multi_label": True},
    ),
    "ids and a language": (
        lambda n: {"id": f"row-{n}", "user_id": n * 7, "lang": "de", "text": text(n), "label": "ab"[n % 2]},
        "classification",
        {"text": "text", "label": "label"},
    ),
    "a counter before a label of another name": (
        lambda n: {"": n, "utterance": text(n), "verdict": "ab"[n % 2]},
        "classification",
        {"text": "utterance", "label": "verdict"},
    ),
    "short texts and long labels": (
        lambda n: {"utterance": f"hi {n}", "intent": ["greeting of any kind", "a farewell to a friend"][n % 2]},
        "classification",
        {"text": "utterance", "label": "intent"},
    ),
    "one word texts and one word labels": (
        lambda n: {"word": f"w{n}", "language": ["de", "en"][n % 2]},
        "classification",
        {"text": "word", "label": "language"},
    ),
    "a title beside the text": (
        lambda n: {"title": f"number {n}", "text": text(n), "tag": "ab"[n % 2]},
        "classification",
        {"text": "text", "label": "tag"},
    ),
    "two labels, one of a known name": (
        lambda n: {"text": text(n), "channel": ["mail", "chat"][n // 10], "intent": "ab"[n % 2]},
        "classification",
        {"text": "text", "label": "intent"},
    ),
    "a label that is mostly missing": (
        lambda n: {"text": text(n), "label": "xyz"[n % 3] if n < 9 else None, "group": "ab"[n % 2]},
        "classification",
        {"text": "text", "label": "group"},
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_is_taken_for_what_it_is(layout: str, tmp_path: Path) -> None:
    row, kind, options = LAYOUTS[layout]
    path = written(tmp_path, row)
    found = detect(path)
    assert (found.kind, found.options) == (kind, options)
    assert found.rows == 20
    task = TASKS.load(kind)(**found.options)
    for raw in read_source(path.name, tmp_path):
        if raw.fields.get(found.options.get("label", "")) is not None or kind == "regression":
            task.read(raw.fields)


def test_the_notes_say_what_was_found_and_why(tmp_path: Path) -> None:
    found = detect(written(tmp_path, LAYOUTS["a pair"][0]))
    assert found.notes == (
        "20 rows looked at, columns 'Premise', 'Hypothesis', 'label'",
        "text: the pair 'Premise' and 'Hypothesis', by their names",
        "label: 'label' holds 3 different whole numbers, taken for classes; "
        "for a scale use `kind: regression` with `target`",
    )
    assert detect(written(tmp_path, LAYOUTS["odd names"][0])).notes[1:] == (
        "text: 'Äußerung (voll)', 5 words a row",
        "label: 'Was ist's?' has 2 different values",
    )
    assert detect(written(tmp_path, LAYOUTS["fractions"][0])).notes[2] == "target: 'stars' holds 20 different numbers"


@pytest.mark.parametrize(
    ("name", "content", "options"),
    [
        ("a.csv", "v1;v2\n" + "ham;what a day\nspam;win a prize\n" * 4, {"text": "v2", "label": "v1"}),
        ("a.tsv", "text\tclass\n" + "what a day\t1\nwin a prize\t0\n" * 4, {"text": "text", "label": "class"}),
        ("a.csv", "id,review,sentiment\n" + "".join(f'{n},"good, or {n}",{n % 2}\n' for n in range(20)),
         {"text": "review", "label": "sentiment"}),
        ("a.csv", "date,review,verdict\n" + "".join(f"2024-01-{n + 1:02},so {n},{'ab'[n % 2]}\n" for n in range(20)),
         {"text": "review", "label": "verdict"}),
    ],
)  # fmt: skip
def test_separated_values_are_taken_by_what_they_spell(
    tmp_path: Path, name: str, content: str, options: dict[str, str]
) -> None:
    (tmp_path / name).write_text(content)
    found = detect(tmp_path / name)
    assert (found.kind, found.options) == ("classification", options)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (lambda n: {"text": text(n), "label": f"only {n}"},
         "has no column that looks like a label or a number to learn; its columns: 'text', 'label'; "
         "'label' has 20 different values in 20 rows, too many for labels"),
        (lambda n: {"text": text(n), "score": f"{n},5", "size": 1 if n < 5 else None},
         "has no column that looks like a label or a number to learn; its columns: 'text', 'score', 'size'; "
         "'score' holds numbers with commas, write them like 1234.5; 'size' is empty in most rows"),
        (lambda n: {"text": text(n)},
         "has no column that looks like a label or a number to learn; its columns: 'text'"),
        (lambda n: {"text": text(n), "label": "always"},
         "has no column that looks like a label or a number to learn; its columns: 'text', 'label'; "
         "'label' always holds 'always'"),
        (lambda n: {"text": text(n), "label": 1},
         "has no column that looks like a label or a number to learn; its columns: 'text', 'label'; "
         "'label' always holds 1"),
        (lambda n: {"input": text(n % 5), "label": "always"},
         "has no column that looks like a label or a number to learn; its columns: 'input', 'label'; "
         "'label' always holds 'always'"),
        (lambda n: {"title": text(n), "dialog": [f"hi {n}", f"so {n}"]},
         "has no column that looks like a label or a number to learn; its columns: 'title', 'dialog'; "
         "'dialog' holds lists or objects of no known form"),
        (lambda n: {"id": n, "row": n + 4, "text": text(n)},
         "has no column that looks like a label or a number to learn; its columns: 'id', 'row', 'text'"),
        (lambda n: {"text": text(n), "size": 10**400 + n},
         "has no column that looks like a label or a number to learn; its columns: 'text', 'size'"),
        (lambda n: {"height": n / 3, "label": n % 2}, "has no column of texts; its columns: 'height', 'label'"),
        (lambda n: {"id": f"a-{n}", "label": n % 2}, "has no column of texts; its columns: 'id', 'label'"),
        (lambda n: {"\x1b[2J": n % 2}, "has no column of texts; its columns: '\\x1b[2J'"),
    ],
)  # fmt: skip
def test_a_file_without_text_or_answer_is_refused_with_its_columns(tmp_path: Path, row: Row, told: str) -> None:
    assert refusal(written(tmp_path, row)) == told


def test_a_file_without_a_good_row_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes('{"text": "grüße"}\n'.encode("latin-1"))
    assert refusal(path) == (
        "holds no readable rows; a.jsonl, line 1: byte 13 is not UTF-8; "
        "save it as UTF-8, such as with iconv -f latin1 -t utf-8"
    )


def test_broken_rows_are_not_looked_at(tmp_path: Path) -> None:
    path = written(tmp_path, LAYOUTS["usual names"][0])
    path.write_text("[1]\n" + path.read_text() + "{\n")
    found = detect(path)
    assert found.rows == 20
    assert (
        "2 rows cannot be read; the first: rows.jsonl, line 1: found [1], expected an object with named fields"
        in found.notes
    )


def test_a_few_odd_values_do_not_hide_a_column_of_numbers(tmp_path: Path) -> None:
    found = detect(written(tmp_path, lambda n: {"text": text(n), "price": n / 3 if n != 7 else "n/a"}))
    assert (found.kind, found.options["target"]) == ("regression", "price")
    assert found.notes[-1].endswith("1 of 20 values are none, such as 'n/a': mend them, or set data.on_bad_row=skip")


def test_the_answer_that_is_asked_for_is_taken_although_it_looks_unfit(tmp_path: Path) -> None:
    path = written(tmp_path, lambda n: {"text": text(n), "note": text(n), "label": f"only {n}"})
    found = detect(path, "classification")
    assert (found.kind, found.options) == ("classification", {"text": "text", "label": "label"})
    assert found.notes[-1] == (
        "answer: 'label', the likeliest of those that are left; "
        "'label' has 20 different values in 20 rows, too many for labels"
    )


def test_numbers_with_commas_are_no_labels_although_a_few_values_are_none(tmp_path: Path) -> None:
    path = written(tmp_path, lambda n: {"text": text(n), "score": f"{n % 3},5" if n != 7 else "n/a"})
    assert refusal(path).endswith("'score' holds numbers with commas, write them like 1234.5")
    path = written(tmp_path, lambda n: {"text": text(n), "score": f"1.234,{n % 3}", "label": "ab"[n % 2]})
    assert detect(path).options["label"] == "label"
    found = detect(path, "regression")
    assert (found.kind, found.options["target"]) == ("regression", "score")
    assert found.notes[-1] == (
        "answer: 'score', the likeliest of those that are left; "
        "'score' holds numbers with commas, write them like 1234.5"
    )


def test_the_kind_that_is_asked_for_is_the_one_that_is_found(tmp_path: Path) -> None:
    path = written(tmp_path, LAYOUTS["fractions"][0])
    found = detect(path, "classification")
    assert (found.kind, found.options) == ("classification", {"text": "review", "label": "stars"})
    assert found.notes[-1] == "task: classification, as you say, instead of regression"
    found = detect(written(tmp_path, LAYOUTS["few whole numbers"][0]), "regression")
    assert (found.kind, found.options) == ("regression", {"text": "review", "target": "stars"})
    found = detect(path, "prompted")
    assert (found.kind, found.options) == ("prompted", {"text": "review", "label": "stars"})


def test_numbers_of_tags_are_tags_whose_names_are_still_to_be_said(tmp_path: Path) -> None:
    found = detect(written(tmp_path, lambda n: {"tokens": ["in", "York"], "ner_tags": [0, n % 3]}))
    assert (found.kind, found.options) == ("ner", {"tokens": "tokens", "tags": "ner_tags"})
    assert "tag_names" in found.notes[-1]


def test_numbers_are_taken_before_names_where_they_are_asked_for(tmp_path: Path) -> None:
    path = written(tmp_path, lambda n: {"text": text(n), "label": "ab"[n % 2], "price": n / 3})
    assert (detect(path).kind, detect(path, "regression").options["target"]) == ("classification", "price")
    path = written(tmp_path, lambda n: {"text": text(n), "label": "ab"[n % 2]})
    assert detect(path, "regression").notes[-1].endswith("'label' holds no numbers")


def test_a_task_of_another_kind_needs_neither_texts_nor_an_answer(tmp_path: Path) -> None:
    found = detect(written(tmp_path, lambda n: {"id": n}), "mine:Own")
    assert (found.kind, found.options, found.rows) == ("mine:Own", {}, 20)
    found = detect(written(tmp_path, lambda n: {"text": text(n)}), "mine:Own")
    assert (found.kind, found.options) == ("mine:Own", {"text": "text"})
    with pytest.raises(UserError, match="has no column that looks like a label"):
        detect(written(tmp_path, lambda n: {"text": text(n)}), "classification")


def test_only_the_first_rows_are_looked_at(tmp_path: Path) -> None:
    def row(n: int) -> dict[str, Any]:
        return {"text": text(n), "label": "ab"[n % 2]} if n < ROWS_LOOKED_AT else {"late": n}

    found: Detection = detect(written(tmp_path, row, ROWS_LOOKED_AT + 5))
    assert (found.rows, found.notes[0]) == (ROWS_LOOKED_AT, "1000 rows looked at, columns 'text', 'label'")


def messages(n: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": text(n)}, {"role": "assistant", "content": f"so {n}"}]


def talk(n: int, reply: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text(n)}, {"role": "assistant", "content": f"{reply} {n}"}]


DECODER = "name a decoder such as a Llama or GPT folder for this task"
KNOWN: dict[str, tuple[Row, str, dict[str, Any]]] = {
    "words and tags": (
        lambda n: {"id": str(n), "tokens": ["in", "New", "York"], "tags": ["O", "B-LOC", "I-LOC"]},
        "ner",
        {"tokens": "tokens", "tags": "tags"},
    ),
    "words and tags of the first scheme": (
        lambda n: {"Tokens": ["in", "York"], "Tags": ["O", "I-LOC"]},
        "ner",
        {"tokens": "Tokens", "tags": "Tags", "scheme": "IOB1"},
    ),
    "a text and the places of its entities": (
        lambda n: {"text": text(n), "spans": [{"start": 0, "end": 1, "label": "X"}] if n else []},
        "ner",
        {"text": "text", "spans": "spans"},
    ),
    "questions about a text": (
        lambda n: {"question": text(n), "id": n, "context": text(n), "answers": {"text": ["few"], "start": [2]}},
        "span_qa",
        {"question": "question", "context": "context", "answers": "answers"},
    ),
    "questions about a text with answers as texts": (
        lambda n: {"context": text(n), "question": text(n), "answers": ["words", "few"][: n % 3]},
        "span_qa",
        {"question": "question", "context": "context", "answers": "answers"},
    ),
    "messages": (lambda n: {"messages": messages(n)}, "chat", {"messages": "messages"}),
    "messages of people and machines": (
        lambda n: {"conversations": [{"from": "human", "value": text(n)}, {"from": "gpt", "value": f"so {n}"}]},
        "chat",
        {"messages": "conversations"},
    ),
    "instructions": (
        lambda n: {"instruction": text(n), "input": "" if n % 2 else f"and {n}", "output": f"so be it {n}"},
        "chat",
        {"form": "alpaca", "prompt": "instruction", "reply": "output"},
    ),
    "prompts": (
        lambda n: {"prompt": text(n), "completion": f"so be it {n}"},
        "chat",
        {"form": "prompt", "prompt": "prompt", "reply": "completion"},
    ),
    "preferences": (
        lambda n: {"prompt": text(n), "chosen": f"good {n}", "rejected": f"bad {n}"},
        "preference",
        {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"},
    ),
    "choices": (
        lambda n: {"question": text(n), "choices": ["yes", "no"], "answer": "AB"[n % 2]},
        "multiple_choice",
        {"question": "question", "choices": "choices", "answer": "answer"},
    ),
    "choices about a text": (
        lambda n: {"context": text(n), "question": f"is it {n}", "choices": ["yes", "no"], "answer": n % 2},
        "multiple_choice",
        {"question": "question", "context": "context", "choices": "choices", "answer": "answer"},
    ),
    "choices that are called options": (
        lambda n: {"article": text(n) * 3, "question": "what is it", "options": ["a b", "c d"], "answer": "AB"[n % 2]},
        "multiple_choice",
        {"question": "question", "context": "article", "choices": "options", "answer": "answer"},
    ),
    "choices with what each is called": (
        lambda n: {
            "id": f"q{n}", "question": text(n), "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "B",
        },
        "multiple_choice",
        {"question": "question", "choices": "choices", "answer": "answerKey"},
    ),
    "endings": (
        lambda n: {"ctx": text(n), "endings": ["x y", "z w"], "label": str(n % 2)},
        "multiple_choice",
        {"question": "ctx", "choices": "endings", "answer": "label"},
    ),
    "tags of a hub data set": (
        lambda n: {"tokens": ["in", "York"], "ner_tags": ["O", "B-LOC"]},
        "ner",
        {"tokens": "tokens", "tags": "ner_tags"},
    ),
    "spans that are called labels": (
        lambda n: {"text": text(n), "label": [[0, 5, "X"]]},
        "ner",
        {"text": "text", "spans": "label"},
    ),
    "replies that begin with their prompt": (
        lambda n: {"prompt": text(n), "chosen": talk(n, "good"), "rejected": talk(n, "no"), "score_chosen": 8.0},
        "preference",
        {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"},
    ),
    "replies in conversations that are one text": (
        lambda n: {
            "chosen": f"\n\nHuman: {text(n)}\n\nAssistant: good", "rejected": f"\n\nHuman: {text(n)}\n\nAssistant: no",
        },
        "preference",
        {"chosen": "chosen", "rejected": "rejected"},
    ),
    "inputs, some of them again, and outputs": (
        lambda n: {"input": text(n % 5), "output": f"{n} as {text(n)}"},
        "generation",
        {"source": "input", "target": "output"},
    ),
    "questions and answers": (
        lambda n: {"question": text(n), "answer": f"so be it {n}"},
        "generation",
        {"source": "question", "target": "answer"},
    ),
    "articles and highlights": (
        lambda n: {"id": f"a{n}", "highlights": text(n), "article": text(n) * 9},
        "generation",
        {"source": "article", "target": "highlights"},
    ),
    "documents and summaries": (
        lambda n: {"document": text(n) * 9, "summary": text(n)},
        "generation",
        {"source": "document", "target": "summary"},
    ),
    "two languages": (
        lambda n: {"en": text(n), "de": f"ein paar Wörter und {n}"},
        "generation",
        {"source": "en", "target": "de"},
    ),
    "functions": (
        lambda n: {
            "prompt": f"def f{n}(x):", "canonical_solution": f" return {n}", "test": "x", "entry_point": f"f{n}",
        },
        "code",
        {"prompt": "prompt", "solution": "canonical_solution", "test": "test", "entry_point": "entry_point"},
    ),
    "texts from texts": (
        lambda n: {"source": text(n), "target": f"{n} few"},
        "generation",
        {"source": "source", "target": "target"},
    ),
    "several texts from a text": (
        lambda n: {"source": text(n), "targets": [f"{n} few", "some"]},
        "generation",
        {"source": "source", "target": "targets"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("layout", KNOWN)
def test_a_task_with_columns_of_its_own_is_known_by_them(layout: str, tmp_path: Path) -> None:
    row, kind, options = KNOWN[layout]
    found = detect(written(tmp_path, row))
    assert (found.kind, found.options, found.rows) == (kind, options, 20)
    task = TASKS.load(kind)(**found.options)
    for raw in read_source("rows.jsonl", tmp_path):
        inputs, target = task.read(raw.fields)
        assert inputs
        assert target is not None
    if layout == "instructions":  # what is beside the instruction is asked, too
        assert "and 0" in str(task.read(row(0))[0]["conversation"])


@pytest.mark.parametrize("layout", KNOWN)
def test_a_task_that_is_asked_for_finds_the_same_columns(layout: str, tmp_path: Path) -> None:
    row, kind, options = KNOWN[layout]
    found = detect(written(tmp_path, row), kind)
    assert (found.kind, found.options) == (kind, options)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_task_that_is_asked_for_is_never_taken_for_another(layout: str, tmp_path: Path) -> None:
    path = written(tmp_path, LAYOUTS[layout][0])
    for kind in TASKS:
        if kind not in ("classification", "regression", "multi_task"):
            assert detect(path, kind).kind == kind


@pytest.mark.parametrize(
    ("row", "text_column", "label"),
    [
        (lambda n: {"source": ["mail", "web"][n % 2], "target": n % 2, "text": text(n)}, "text", "target"),
        (lambda n: {"source": text(n), "target": "ab"[n % 2]}, "source", "target"),
        (lambda n: {"input": text(n % 5), "output": "ab"[n % 2]}, "input", "output"),
        (lambda n: {"question": text(n), "answer": ["yes", "no"][n % 2]}, "question", "answer"),
        (lambda n: {"prompt": text(n), "completion": ["good", "bad"][n % 2]}, "prompt", "completion"),
        (lambda n: {"tokens": text(n), "tags": "ab"[n % 2]}, "tokens", "tags"),
        (lambda n: {"text": text(n), "messages": "ab"[n % 2]}, "text", "messages"),
        (lambda n: {"question": text(n), "context": text(n), "label": "ab"[n % 2]}, "question", "label"),
        (lambda n: {"text": f"the [[A|word]] {n}", "label": "ab"[n % 2]}, "text", "label"),
    ],
)
def test_labels_in_columns_with_the_names_of_another_task_stay_labels(
    tmp_path: Path, row: Row, text_column: str, label: str
) -> None:
    found = detect(written(tmp_path, row))
    assert (found.kind, found.options) == ("classification", {"text": text_column, "label": label})


def test_a_lone_text_is_learned_as_such_in_a_file_of_texts_and_when_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "story.txt"
    path.write_text("once upon a time\n\nthere was a kettle\n")
    for kind in (None, "language"):
        found = detect(path, kind)
        assert (found.kind, found.options, found.rows) == ("language", {"text": "text"}, 2)
    assert "no column that looks like a label" in refusal(written(tmp_path, lambda n: {"text": text(n)}))
    found = detect(written(tmp_path, lambda n: {"id": n, "Inhalt": text(n) * 3, "label": "ab"[n % 2]}), "language")
    assert found.options == {"text": "Inhalt"}
    with pytest.raises(UserError, match="has no column of texts"):
        detect(written(tmp_path, lambda n: {"id": n}), "language")


def test_marks_in_a_text_are_entities_when_asked_for(tmp_path: Path) -> None:
    def row(n: int) -> dict[str, Any]:
        return {"text": text(n), "said": f"the [[THING|red lamp]] {n}" if n % 4 else "no more"}

    found = detect(written(tmp_path, row), "ner")
    assert (found.kind, found.options) == ("ner", {"text": "said"})
    assert found.notes[-1] == "ner: 15 rows of 'said' hold marks like [[LABEL|words]]"
    assert TASKS.load("ner")(**found.options).read(row(1))[1] == ((4, 12, "THING"),)


def test_two_texts_of_any_names_are_taken_in_their_order_when_asked_for(tmp_path: Path) -> None:
    path = written(tmp_path, lambda n: {"id": n, "article": text(n) * 2, "summary": text(n)})
    assert detect(path, "generation").options == {"source": "article", "target": "summary"}
    assert detect(path, "chat").options == {"form": "pair", "prompt": "article", "reply": "summary"}


def test_columns_that_are_not_there_are_left_to_be_named(tmp_path: Path) -> None:
    found = detect(written(tmp_path, lambda n: {"asked": text(n), "good": f"a {n}", "bad": f"b {n}"}), "preference")
    assert found.options == {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}
    assert found.notes[-1] == (
        "preference usually has 'prompt', 'chosen', 'rejected', which are not here: name your columns under task"
    )


@pytest.mark.parametrize(
    ("rows", "scheme"),
    [
        ([["O", "B-A", "I-A", "B-A"], ["B-B"]], "IOB2"),
        ([["I-A", "I-A", "B-A", "I-A"], ["O", "I-B"]], "IOB1"),
        ([["S-A", "O", "B-A", "E-A"]], "IOBES"),
        ([["U-A", "B-A", "I-A", "L-A"]], "BILOU"),
        ([["B-A", "I-B"]], "any"),
        ([["O", "O"], []], "IOB2"),
    ],
)
def test_tags_are_told_apart_by_what_opens_a_span(rows: list[list[str]], scheme: str) -> None:
    assert scheme_of(rows) == scheme


@pytest.mark.parametrize(
    ("layout", "about"),
    [
        ("prompts", f"{DECODER}, or an encoder-decoder such as a T5 or BART"),
        ("texts from texts", f"{DECODER}, or an encoder-decoder such as a T5 or BART"),
        ("preferences", DECODER),
    ],
)
def test_a_recipe_for_a_task_that_no_encoder_learns_says_that_another_model_is_needed(
    tmp_path: Path, layout: str, about: str
) -> None:
    path = written(tmp_path, KNOWN[layout][0])
    starter = look(path)
    assert starter.notes[-1] == f"model: builtin:minilm is an encoder; {about}"
    recipe = starter.text(tmp_path / "recipe.yaml")
    assert f"\nmodel: builtin:minilm  # an encoder: {about}\n" in recipe
    named = look(path, model="org/name")
    assert all("encoder" not in note for note in named.notes)
    assert "\nmodel: org/name  # a hub id such as" in named.text(tmp_path / "recipe.yaml")


@pytest.mark.parametrize("layout", [*KNOWN, "usual names"])
@pytest.mark.parametrize("asked", [True, False])
def test_the_recipe_of_every_layout_loads_and_names_its_columns(tmp_path: Path, layout: str, asked: bool) -> None:
    row, kind, options = {**KNOWN, **LAYOUTS}[layout]
    starter = look(written(tmp_path, row), task=kind if asked else None)
    assert (starter.kind, starter.options) == (kind, options)
    (tmp_path / "recipe.yaml").write_text(starter.text(tmp_path / "recipe.yaml"), encoding="utf-8")
    task = load_recipe(tmp_path / "recipe.yaml").task
    assert task == TASKS.load(kind)(**options)
    assert ("encoder" in starter.notes[-1]) == (kind in ("chat", "code", "generation", "preference"))


@pytest.mark.parametrize("kind", ["ner", "multiple_choice", "span_qa", "language"])
def test_a_task_that_an_encoder_learns_needs_no_other_model(tmp_path: Path, kind: str) -> None:
    assert look(written(tmp_path, LAYOUTS["usual names"][0]), task=kind).missing is None
