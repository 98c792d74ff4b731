"""Answers to choose from: how the right one may be named, and that the model reads each whole and unlike the others."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tunesmith.batch import PIECES, encoded
from tunesmith.contracts import Codec
from tunesmith.errors import BadRow
from tunesmith.evaluate.lines import prediction_line
from tunesmith.given import Outputs
from tunesmith.report.rows import answered, right
from tunesmith.tasks.multiple_choice import MultipleChoice
from workshop import opened, records_of

HEADS = {"bert": "AutoModelForMultipleChoice", "gpt2": "AutoModelForCausalLM"}
LONG = "thank you " * 20


def codec(folder: Path, kind: str) -> Codec:
    return opened(folder / kind, kind, HEADS[kind]).codec


def row(choices: Any, answer: Any) -> dict[str, Any]:
    return {"question": "what is late", "choices": choices, "answer": answer}


@pytest.mark.parametrize(
    ("choices", "answer", "place"),
    [
        (["yes", "no"], "no", 1),
        (["yes", "no"], 1, 1),
        (["yes", "no"], "1", 1),
        (["yes", "no"], "b", 1),
        (["10", "20"], 20, 1),
        ([1, 2, 3, 4], "C", 2),
        (["0", "1"], 1, 1),
        ({"text": ["yes", "no"], "label": ["A", "B"]}, "B", 1),
        ({"text": ["yes", "no"], "label": ["1", "2"]}, "2", 1),
        ({"text": ["yes", "no"], "label": ["1", "2"]}, 1, 0),
        ({"text": ["B", "A"], "label": ["A", "B"]}, "A", 0),
        ({"text": ["yes", "no"]}, "no", 1),
    ],
)
def test_the_right_answer_is_named_by_label_place_letter_or_text(choices: Any, answer: Any, place: int) -> None:
    inputs, found = MultipleChoice().read(row(choices, answer))
    assert found == place
    assert len(inputs["choices"]) == len(choices["text"] if isinstance(choices, dict) else choices)


@pytest.mark.parametrize(
    ("choices", "answer", "reason", "told"),
    [
        (["yes", "no"], "C", "bad_answer", r"found 'C', .* letter \(A to B\) or its place \(0 to 1, counted from 0\)"),
        (["yes", "no"], 2, "bad_answer", r"found 2, .*counted from 0"),
        (["yes", "no"], None, "bad_answer", "found None"),
        (["yes", "no"], True, "bad_answer", "found True"),
        ([1, 2, 3, 4], 3, "ambiguous_answer", r"found 3, which is the text of one answer.*counted from 0"),
        (["1", "2", "3", "4"], "2", "ambiguous_answer", "found '2', which is the text of one answer"),
        (["B", "A"], "A", "ambiguous_answer", "the place or letter of another"),
        (["yes", "yes", "no"], "yes", "same_choices", "found 'yes', which is offered more than once"),
        (["yes", "yes", "no"], 1, "same_choices", "offered more than once"),
        ({"text": ["yes", "no"], "label": ["1", "2"]}, "A", "bad_answer", "found 'A', .* of the labels '1', '2'"),
        ({"text": ["yes", "no"], "label": ["1", "2"]}, "0", "bad_answer", "one of the labels"),
        ({"text": ["yes", "no"], "label": ["1"]}, "1", "bad_choices", "a label for each of 2 answers"),
        ({"text": ["yes", "no"], "label": ["1", "1"]}, "1", "bad_choices", "a label for each of 2 answers"),
        ({"label": ["1", "2"]}, "1", "bad_choices", "with a list each"),
        (["yes"], 0, "bad_choices", "at least two answers"),
    ],
)  # fmt: skip
def test_what_names_no_answer_or_several_is_told(choices: Any, answer: Any, reason: str, told: str) -> None:
    with pytest.raises(BadRow, match=told) as error:
        MultipleChoice().read(row(choices, answer))
    assert error.value.reason == reason


@pytest.mark.parametrize(
    ("kind", "choices", "refused"),
    [
        ("gpt2", [f"{LONG} yes", "no"], "answer_too_long"),
        ("gpt2", ["no", f"{LONG} yes"], "answer_too_long"),
        ("bert", [f"{LONG} yes", f"{LONG} no"], "choices_read_alike"),
        ("bert", ["Yes", "yes"], "choices_read_alike"),
        ("bert", ["no", f"{LONG} yes"], ""),
        ("bert", ["no", "yes"], ""),
        ("gpt2", ["no", "yes"], ""),
    ],
)
def test_a_row_whose_right_answer_the_model_cannot_tell_is_refused(
    kind: str, choices: list[str], refused: str, tmp_path: Path
) -> None:
    task = MultipleChoice()
    (example,) = task.encode(records_of(task, [row(choices, 0)]), codec(tmp_path, kind), 24)
    assert example.refused == refused


@pytest.mark.parametrize("kind", HEADS)
def test_what_is_cut_of_a_long_question_is_counted(kind: str, tmp_path: Path) -> None:
    task, found = MultipleChoice(), []
    for most in (400, 24):
        asked = {**row(["no", "yes thank you"], 0), "question": LONG}
        (example,) = task.encode(records_of(task, [asked]), codec(tmp_path, kind), most)
        found.append(example)
    whole, short = (max(example.columns[PIECES]) for example in found)
    assert (found[0].cut, short) == (0, 24)
    assert found[1].cut == whole - short


def test_of_answers_that_are_alike_the_right_one_is_still_told(tmp_path: Path) -> None:
    task = MultipleChoice()
    records = records_of(task, [row(["no", "no", "yes", "never"], 2)])
    data = encoded(task.encode(records, codec(tmp_path, "bert"), 64))
    outputs = Outputs([np.array([0.0, 1.0, 2.0, 3.0])], data)
    (answer,) = task.answers(outputs, records)
    assert list(answer.scores) == ["no", "no [1]", "yes", "never"]
    assert sum(answer.scores.values()) == pytest.approx(1)
    line = prediction_line(task.predictions(outputs, records), 0, records[0], answer)
    assert (right(line), answered(line)) == ("yes", "never")
