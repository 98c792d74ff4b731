"""Questions without an answer, answers in windows, and where an answer stands."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiny import model_folder
from tunesmith import api
from tunesmith.batch import encoded
from tunesmith.errors import BadRow
from tunesmith.evaluate.metrics import worth
from tunesmith.given import Outputs
from tunesmith.tasks.span_qa import CONTEXT, NEVER, NOTHING, SpanQA
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
