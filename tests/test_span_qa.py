"""Questions without an answer, answers in windows, and where an answer stands."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tiny import model_folder
from tunesmith import api
from tunesmith.batch import Encoded, collate, encoded, padding_for
from tunesmith.errors import BadRow, UserError
from tunesmith.evaluate.metrics import worth
from tunesmith.given import Outputs
from tunesmith.tasks.span_qa import NEVER, SpanQA
from tunesmith.tasks.span_windows import CONTEXT, NOTHING
from tunesmith.tasks.threshold import best_threshold
from workshop import opened, records_of

CONTEXT_TEXT = "the red kettle is broken and the lamp is late"


def outputs(task: SpanQA, folder: Path, rows: list[dict[str, Any]], gaps: list[float]) -> tuple[Outputs, list[Any]]:
    """Scores by which the first right answer (or the first word) lies below no answer by `gaps`, one a row."""
    codec = opened(folder, "bert", "AutoModelForQuestionAnswering").codec
    records = records_of(task, rows)
    data = encoded(task.encode(records, codec, 64))
    values = []
    for place, gap in enumerate(gaps):
        pointed, first = data.columns["pointed"][place], data.columns["first"][place]
        scores = np.full((len(pointed), 2), -50.0)
        scores[pointed == NOTHING] = 0.0
        start = records[place].target[0][1] if records[place].target else 0
        scores[(pointed == CONTEXT) & (first == start)] = -gap / 2
        values.append(scores)
    return Outputs(values, data), records


def test_the_threshold_is_learned_from_rows_of_which_some_have_no_answer(tmp_path: Path) -> None:
    answers = [["the"], ["red"], [], []]
    rows = [{"question": "what", "context": CONTEXT_TEXT, "answers": right} for right in answers]
    task = SpanQA().learn(records_of(SpanQA(), rows))
    given_, records = outputs(task, tmp_path / "bert", rows, [-3.0, 1.0, 2.0, 4.0])
    settled = task.settle(given_, records, worth)
    assert settled.threshold is not None
    assert 1.0 <= settled.threshold < 2.0
    found = settled.predictions(given_, records)
    assert [answer[0] for answer in found.answers] == ["the", "red", "", ""]
    assert SpanQA(threshold=0.5).settle(given_, records, worth).threshold == 0.5


@pytest.mark.parametrize(("metric", "answered"), [("answer_f1", 3), ("answer_exact", 1)])
def test_the_threshold_suits_the_main_metric(tmp_path: Path, metric: str, answered: int) -> None:
    """Two answers that have most of the right words raise F1 and not the exact match; one question has no answer."""
    answers = [["red"], ["kettle is broken"], ["lamp is late"], []]
    rows = [{"question": "what", "context": CONTEXT_TEXT, "answers": right} for right in answers]
    task = SpanQA(metric=metric)
    given_, records = outputs(task, tmp_path / "bert", rows, [-3.0, 1.0, 1.0, 2.0])
    found = task.settle(given_, records, worth).predictions(given_, records)
    assert sum(answer != ("",) for answer in found.answers) == answered


def test_where_every_training_question_has_an_answer_every_question_gets_one(tmp_path: Path) -> None:
    rows = [{"question": "what", "context": CONTEXT_TEXT, "answers": ["lamp"]}]
    task = SpanQA().learn(records_of(SpanQA(), rows))
    assert task.threshold == NEVER
    given_, records = outputs(task, tmp_path / "bert", rows, [30.0])
    assert task.settle(given_, records, worth).predictions(given_, records).answers[0] == ("lamp",)


def test_without_held_out_rows_that_have_none_the_better_score_decides(tmp_path: Path) -> None:
    rows = [{"question": "what", "context": CONTEXT_TEXT, "answers": right} for right in (["lamp"], [])]
    task = SpanQA().learn(records_of(SpanQA(), rows))
    given_, records = outputs(task, tmp_path / "bert", rows[:1], [1.0])
    assert task.settle(given_, records, worth).predictions(given_, records).answers[0] == ("",)


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        (["moon"], "answer_not_in_context"),
        ({"text": ["lamp"], "start": [0]}, "answer_not_in_context"),
        ({"text": ["lamp"], "start": []}, "answer_not_in_context"),
        ([" "], "empty_answer"),
        (7, "bad_answer"),
    ],
)
def test_an_answer_that_does_not_stand_in_the_text_is_a_bad_row(answers: Any, reason: str) -> None:
    with pytest.raises(BadRow) as error:
        SpanQA().read({"question": "what", "context": CONTEXT_TEXT, "answers": answers})
    assert error.value.reason == reason


def test_training_rows_without_any_answer_are_told() -> None:
    rows = [{"question": "what", "context": CONTEXT_TEXT, "answers": []}]
    with pytest.raises(UserError, match="column 'answers': no question of the training rows has an answer"):
        SpanQA().learn(records_of(SpanQA(), rows))


def windows_of(task: SpanQA, folder: Path, kind: str, answers: Any, question: str = "what", most: int = 64) -> Encoded:
    codec = opened(folder, kind, "AutoModelForQuestionAnswering").codec
    rows = [{"question": question, "context": CONTEXT_TEXT, "answers": answers}]
    return encoded(task.encode(records_of(task, rows), codec, most))


@pytest.mark.parametrize("kind", ["bert", "roberta", "gpt2"])
@pytest.mark.parametrize("question", ["what", "what is it that is so broken and late again and again today"])
def test_a_question_leaves_room_for_the_text_however_short_the_window(kind: str, question: str, tmp_path: Path) -> None:
    data = windows_of(SpanQA(window=8, stride=0), tmp_path / kind, kind, ["lamp"], question)
    assert not data.refused
    assert data.lengths.max() == 8
    assert all((data.columns["pointed"][at] == CONTEXT).any() for at in range(len(data)))
    held = {at for at in range(len(data)) for at in data.columns["first"][at].tolist()} - {-1}
    assert {word.start() for word in re.finditer(r"\S+", CONTEXT_TEXT)} <= held


def test_a_window_that_holds_no_text_beside_the_question_is_told(tmp_path: Path) -> None:
    task = SpanQA()
    data = windows_of(task, tmp_path / "roberta", "roberta", ["lamp"], most=5)  # four are control tokens
    assert data.refused == {0: "window_too_short"}


@pytest.mark.parametrize(
    ("answers", "options", "refused"),
    [
        (["the red kettle is broken and the lamp"], {"window": 9, "stride": 2}, "answer_longer_than_window"),
        (["the red kettle is"], {"longest": 3}, "answer_longer_than_task.longest"),
        (["the red kettle is"], {"longest": 4}, ""),
        (["the red kettle is broken and the lamp", "red kettle"], {"window": 9, "stride": 3}, ""),
        (["the red kettle is", "red"], {"longest": 3}, ""),
    ],
)
def test_an_answer_that_cannot_be_given_is_not_learned(
    answers: list[str], options: dict[str, Any], refused: str, tmp_path: Path
) -> None:
    data = windows_of(SpanQA(**options), tmp_path / "bert", "bert", answers)
    assert data.refused == ({0: refused} if refused else {})
    if not refused:
        begin = CONTEXT_TEXT.index(answers[-1])
        marked = [
            at
            for at in range(len(data))
            if ((data.columns["starts"][at] == 1) & (data.columns["first"][at] == begin)).any()
        ]
        assert marked


def test_an_answer_the_tokenizer_drops_is_told(tmp_path: Path) -> None:
    codec = opened(tmp_path / "bert", "bert", "AutoModelForQuestionAnswering").codec
    rows = [{"question": "what", "context": "the lamp \u200b", "answers": ["\u200b"]}]
    data = encoded(SpanQA().encode(records_of(SpanQA(), rows), codec, 64))
    assert data.refused == {0: "answer_without_token"}


def test_blanks_around_an_answer_do_not_make_it_none(tmp_path: Path) -> None:
    data = windows_of(SpanQA(), tmp_path / "bert", "bert", [" red kettle "])
    assert not data.columns["starts"][0][data.columns["pointed"][0] == NOTHING].any()


def test_a_window_with_a_part_of_the_answer_is_read_but_not_learned_from(tmp_path: Path) -> None:
    """Its scores count for the answer; its loss, and what the loss is divided by, do not."""
    task = SpanQA(window=10, stride=3)
    data = windows_of(task, tmp_path / "bert", "bert", ["red kettle"])
    marks = [int(data.columns["starts"][at].sum()) for at in range(len(data))]
    lone = windows_of(task, tmp_path / "bert", "bert", [])
    assert len(data) == len(lone)
    assert set(marks) == {0, 1}
    assert marks == [int(data.columns["ends"][at].sum()) for at in range(len(data))]
    batch = collate(data, range(len(data)), padding_for(task.columns(), 0))
    assert task.count(batch) == 2 * sum(marks)
    outputs = torch.zeros(*batch.inputs["input_ids"].shape, 2, requires_grad=True)
    choices = [int((data.columns["pointed"][at] > 0).sum()) for at in range(len(data)) if marks[at]]
    assert float(task.loss(outputs, batch).detach()) == pytest.approx(2 * sum(math.log(count) for count in choices))
    ungraded = collate(data, [marks.index(0)], padding_for(task.columns(), 0))
    loss = task.loss(outputs[:1, : ungraded.inputs["input_ids"].shape[1]], ungraded)
    loss.backward()
    assert float(loss.detach()) == 0
    assert outputs.grad is not None
    assert not outputs.grad.any()


def mean_at(threshold: float, no_answer: np.ndarray, if_answered: np.ndarray, impossible: np.ndarray) -> float:
    return float(np.where(no_answer <= threshold, if_answered, impossible).mean())


ROWS = st.lists(
    st.tuples(st.integers(-3, 3).map(float), st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.booleans()),
    min_size=1,
    max_size=9,
)


@settings(deadline=None)
@given(ROWS)
def test_no_threshold_gives_a_better_mean_than_the_best_one(rows: list[tuple[float, float, bool]]) -> None:
    no_answer, if_answered, impossible = (np.array(column) for column in zip(*rows, strict=True))
    threshold, mean = best_threshold(no_answer, if_answered, impossible)
    every = [mean_at(one, no_answer, if_answered, impossible) for one in np.arange(-4, 4, 0.5)]
    assert mean == pytest.approx(max(every), abs=1e-12)
    assert mean_at(threshold, no_answer, if_answered, impossible) == pytest.approx(mean, abs=1e-12)


def test_the_threshold_lies_where_answers_stop_to_pay() -> None:
    no_answer = np.array([3.0, -2.0, 0.5, -1.0])
    impossible = np.array([False, False, True, False])
    assert best_threshold(no_answer, np.array([0.0, 1.0, 0.0, 0.5]), impossible) == (-1.0, 0.625)  # 1 + 0.5 + 1 of 4
    assert best_threshold(no_answer, np.array([1.0, 1.0, 0.5, 0.5]), impossible) == (3.0, 0.75)  # 1 + 0.5 + 0.5 + 1


def test_of_equally_good_thresholds_the_one_with_fewer_answers_is_taken() -> None:
    no_answer, impossible = np.array([-2.0, 0.5, 3.0]), np.array([False, True, False])
    assert best_threshold(no_answer, np.array([1.0, 0.0, 1.0]), impossible) == (-2.0, 2 / 3)


def test_rows_that_no_threshold_can_part_are_taken_together() -> None:
    no_answer, if_answered, impossible = np.zeros(3), np.array([1.0, 0.0, 0.0]), np.array([False, True, True])
    threshold, mean = best_threshold(no_answer, if_answered, impossible)
    assert threshold < 0
    assert mean == pytest.approx(2 / 3)


def test_no_rows_have_no_threshold_to_be_found() -> None:
    threshold, mean = best_threshold(np.zeros(0), np.zeros(0), np.zeros(0))
    assert threshold == 0
    assert math.isnan(mean)


def test_checkpoints_are_compared_at_the_threshold_that_suits_them(tmp_path: Path) -> None:
    """What is watched on the validation rows is what is judged there, and never less than giving no answer at all."""
    rows = [
        {"question": "what is broken", "context": f"{CONTEXT_TEXT} {n}", "answers": ["kettle"] if n % 3 else []}
        for n in range(24)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model_folder("bert", tmp_path / "bert")
    recipe = {
        "model": "./bert",
        "task": {"kind": "span_qa"},
        "data": {"train": "rows.jsonl", "validation": 0.5, "cache": False},
        "method": "full",
        "train": {"epochs": 1, "batch_size": 8, "learning_rate": 1e-4, "evaluate_every": 1},
        "deploy": {"verify": False},
    }
    run = api.run(recipe, folder=tmp_path / "run", base=tmp_path)
    judged = run.read_json("evaluation.json")
    events = [json.loads(line) for line in run.journal.read_text().splitlines()]
    watched = [event["metrics"]["answer_f1"] for event in events if event["event"] == "evaluation"]
    never = next(one for one in judged["baselines"] if one["name"] == "no_answer")["metrics"]["answer_f1"]["value"]
    assert min(watched) >= never > 0
    assert max(watched) == pytest.approx(judged["metrics"]["answer_f1"]["value"])
