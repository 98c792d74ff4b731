"""The verdict: what it says in each case, and that the numbers behind it have the right sign."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finished_run import given as outputs_of
from tunesmith.contracts import Record, Task
from tunesmith.evaluate.judge import FEW_ROWS, judge, verdict
from tunesmith.evaluate.options import EvaluateOptions
from tunesmith.given import Predictions
from tunesmith.tasks.classification import Classification
from tunesmith.tasks.regression import Regression

QUICK = EvaluateOptions(resamples=100)
PLAIN = ("where", "is", "my", "parcel", "the", "lamp", "came", "again")
NAMES = ("broken", "late", "thanks")


def records(task: Task, rows: Sequence[Mapping[str, Any]]) -> list[Record]:
    return [Record(place, "rows.csv", place + 2, *task.read(row)) for place, row in enumerate(rows)]


def labelled(rows: int, seed: int, *, telling: bool) -> list[dict[str, str]]:
    """Rows of three labels, the second the most frequent; with `telling`, a word of the text gives it away."""
    generator = np.random.default_rng(seed)
    labels = generator.choice(NAMES, size=rows, p=[0.3, 0.5, 0.2])
    return [
        {"text": " ".join([*generator.choice(PLAIN, 4), f"so{label}" if telling else "so"]), "label": str(label)}
        for label in labels
    ]


def starred(rows: int, seed: int, *, telling: bool) -> list[dict[str, Any]]:
    generator = np.random.default_rng(seed)
    stars = generator.integers(0, 4, size=rows)
    return [
        {"text": " ".join([*generator.choice(PLAIN, 4), f"so{value}" if telling else "so"]), "score": float(value)}
        for value in stars
    ]


def answered(task: Task, rows: Sequence[Record], right: Sequence[bool]) -> Predictions:
    """What a model says that is right, and sure, where `right` is set, and elsewhere takes the next label."""
    gold = task.gold(rows).gold
    given = np.where(right, gold, (gold + 1) % 3)
    return task.predictions(outputs_of(4.0 * np.eye(3)[given]), rows)


def judged(
    task: Task, splits: Mapping[str, Sequence[Record]], predictions: Predictions, split: str = "test", **options: Any
) -> dict[str, Any]:
    asked = QUICK.model_copy(update=options)
    found = judge(predictions, task, splits=splits, split=split, options=asked, seed=1)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    return found


def classified(
    right: float, *, telling: bool, rows: int = 80, split: str = "test", metric: str | None = None, **options: Any
) -> dict[str, Any]:
    """The judgement of a model that is right on a share of the rows."""
    task = Classification(metric=metric)
    train = records(task, labelled(120, 1, telling=telling))
    held = train[:rows] if split == "train" else records(task, labelled(rows, 2, telling=telling))
    learned = task.learn(train)
    predictions = answered(learned, held, (np.arange(len(held)) < right * len(held)).tolist())
    return judged(learned, {"train": train, split: held}, predictions, split, **options)


def measured(spread: float, *, telling: bool, metric: str | None = None, same: bool = False) -> dict[str, Any]:
    """The judgement of a model whose answers are off by about `spread`."""
    task = Regression(metric=metric)
    train, held = records(task, starred(120, 1, telling=telling)), records(task, starred(60, 2, telling=telling))
    if same:
        held = [Record(r.row, r.source, r.line, r.inputs, (2.0,)) for r in held]
    learned = task.learn(train)
    gold = np.array([record.target for record in held])
    answers = gold + spread * np.random.default_rng(3).normal(0, 1, gold.shape)
    predictions = Predictions(np.arange(len(held)), gold, answers, None, learned.label_names, "numbers")
    return judged(learned, {"train": train, "test": held}, predictions)


def other(found: Mapping[str, Any], name: str | None = None) -> Any:
    return next(row for row in found["baselines"] if row["name"] == (name or found["better_baseline"]))


def test_better_is_said_with_its_size_limits_and_p() -> None:
    found = classified(0.95, telling=False)
    theirs = other(found)
    gap = theirs["difference"]
    assert gap["value"] == pytest.approx(0.95 - theirs["metrics"]["accuracy"]["value"])
    assert 0 < gap["low"] < gap["value"] < gap["high"]
    assert theirs["p_value"] == pytest.approx(1 / 101)
    said = f"better than {theirs['label']} by {gap['value']:.3f} [{gap['low']:.3f}, {gap['high']:.3f}] (p = 0.0099)"
    assert said in found["verdict"]
    assert found["verdict"].startswith("accuracy 0.950 [")
    assert " on 80 test rows; " in found["verdict"]


def test_worse_is_said_in_capitals() -> None:
    found = classified(0.4, telling=True)
    theirs = other(found, "tfidf_logistic")
    assert found["better_baseline"] == "tfidf_logistic"
    assert theirs["difference"]["value"] < 0
    assert f"WORSE than TF-IDF + logistic regression by {-theirs['difference']['value']:.3f} (p = " in found["verdict"]
    assert "; better" not in found["verdict"]


def test_a_tie_is_not_called_better() -> None:
    found = classified(1.0, telling=True)
    assert other(found, "tfidf_logistic")["difference"]["value"] == 0
    assert "not shown to be better than TF-IDF + logistic regression (p = 1)" in found["verdict"]
    assert "by" not in found["verdict"]


def test_a_gain_that_chance_could_give_is_not_called_better() -> None:
    found = classified(0.6, telling=False)
    theirs = other(found)
    assert theirs["difference"]["value"] > 0
    assert theirs["p_value"] > 0.05
    assert f"not shown to be better than {theirs['label']} (p = {theirs['p_value']:.2g})" in found["verdict"]


def test_a_smaller_error_is_better() -> None:
    found = measured(0.1, telling=False)
    assert found["higher_is_better"] is False
    gap = other(found)["difference"]
    assert gap["low"] < gap["value"] < gap["high"] < 0
    said = f" by {-gap['value']:.3f} [{-gap['high']:.3f}, {-gap['low']:.3f}] (p = "
    assert f"better than {other(found)['label']}{said}" in found["verdict"]
    assert found["verdict"].startswith("mae 0.")


def test_a_larger_error_is_worse() -> None:
    found = measured(3.0, telling=True)
    assert found["better_baseline"] == "tfidf_ridge"
    gap = other(found)["difference"]
    assert gap["value"] > 0
    assert f"WORSE than TF-IDF + ridge regression by {gap['value']:.3f} (p = " in found["verdict"]


@pytest.mark.parametrize("metric", ["mae", "mse", "rmse", "r2", "spearman"])
def test_words_are_the_better_baseline_for_numbers_that_they_tell(metric: str) -> None:
    found = measured(0.5, telling=True, metric=metric)
    assert found["better_baseline"] == "tfidf_ridge"
    assert found["main"] == metric
    values = [row["metrics"][metric]["value"] for row in found["baselines"]]
    assert found["higher_is_better"] == (metric in ("r2", "spearman"))
    if None not in values:
        assert (values[1] > values[0]) == found["higher_is_better"]


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "mcc", "log_loss"])
def test_words_are_the_better_baseline_for_labels_that_they_tell(metric: str) -> None:
    assert classified(0.9, telling=True, metric=metric)["better_baseline"] == "tfidf_logistic"


def test_the_most_frequent_label_is_the_better_baseline_where_words_mislead() -> None:
    found = classified(0.9, telling=False, metric="log_loss")
    values = {row["name"]: row["metrics"]["log_loss"]["value"] for row in found["baselines"]}
    assert values["majority"] < values["tfidf_logistic"]
    assert found["better_baseline"] == "majority"


def test_a_metric_that_is_not_defined_is_said_to_be_so() -> None:
    found = measured(0.5, telling=True, metric="pearson", same=True)
    assert found["verdict"] == "pearson is not defined on these 60 rows"
    assert found["metrics"]["pearson"] == {"value": None, "low": None, "high": None}
    assert all(row["difference"]["value"] is None and row["p_value"] is None for row in found["baselines"])


def test_a_baseline_without_a_score_is_not_the_better_one() -> None:
    """The mean is the same for every row, so no correlation with it is defined."""
    found = measured(0.5, telling=False, metric="pearson")
    assert other(found, "mean")["metrics"]["pearson"]["value"] is None
    assert found["better_baseline"] == "tfidf_ridge"


def test_validation_rows_are_said_to_have_chosen_the_stop() -> None:
    found = classified(0.9, telling=False, split="validation")
    assert found["split"] == "validation"
    assert found["verdict"].endswith("; these rows also chose when to stop, so the score is a little too good")
    assert "chose when to stop" not in classified(0.9, telling=False)["verdict"]


def test_training_rows_are_said_to_prove_nothing() -> None:
    found = classified(1.0, telling=True, split="train")
    assert found["baselines"] == []
    assert found["better_baseline"] is None
    assert found["verdict"] == (
        "accuracy 1.000 [1.000, 1.000] on 80 train rows; "
        "these are the training rows, so the score says nothing about new ones"
    )


def test_few_rows_are_said_to_be_few() -> None:
    few, enough = (classified(1.0, telling=False, rows=rows) for rows in (FEW_ROWS - 1, FEW_ROWS))
    assert few["verdict"].endswith(f"; fewer than {FEW_ROWS} rows, so the interval itself is unsure")
    assert "unsure" not in enough["verdict"]
    assert few["detectable"] > enough["detectable"] > 0


def test_one_row_is_judged_without_a_warning() -> None:
    found = classified(1.0, telling=False, rows=1)
    assert found["metrics"]["accuracy"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert found["metrics"]["roc_auc"]["value"] is None
    assert 0 < found["detectable"] <= 1
    assert "not shown to be better" in found["verdict"]


def test_without_baselines_the_verdict_is_the_score_alone() -> None:
    found = classified(0.9, telling=False, baselines=False)
    assert found["baselines"] == []
    assert found["verdict"].count(";") == 0


def test_the_level_and_the_number_of_resamples_are_those_asked_for() -> None:
    wide, narrow = (classified(0.8, telling=False, level=level, resamples=200) for level in (0.95, 0.6))
    assert (wide["level"], narrow["level"]) == (0.95, 0.6)
    widths = [found["metrics"]["accuracy"]["high"] - found["metrics"]["accuracy"]["low"] for found in (wide, narrow)]
    assert widths[0] > 1.5 * widths[1] > 0
    assert other(classified(1.0, telling=False, resamples=300))["p_value"] == pytest.approx(1 / 301)


def test_the_tables_of_labels_are_there_for_labels_alone() -> None:
    found = classified(0.9, telling=False)
    assert found["confusion"]["labels"] == list(NAMES)
    assert sum(map(sum, found["confusion"]["counts"])) == found["rows"] == 80
    assert sum(row["support"] for row in found["per_class"]) == 80
    assert found["metrics"].keys() == set(Classification().metrics)
    numbers = measured(0.5, telling=True)
    assert numbers["confusion"] is numbers["per_class"] is numbers["detectable"] is None


def test_several_labels_a_row_are_judged() -> None:
    task = Classification(multi_label=True, label="labels")
    rows = [
        {"text": f"{'a broken lamp' if place % 2 else 'a lamp'}{', late' if place % 3 else ''}", "labels": labels}
        for place in range(60)
        for labels in [[name for name, there in (("broken", place % 2), ("late", place % 3)) if there]]
    ]
    held = records(task, rows)
    learned = task.learn(held)
    gold = learned.gold(held).gold
    given = learned.predictions(outputs_of(3.0 - 6.0 * (gold == 0)), held)
    found = judged(learned, {"train": held, "test": held}, given)
    assert found["main"] == "micro_f1"
    assert found["metrics"]["micro_f1"]["value"] == found["metrics"]["exact_match"]["value"] == 1
    assert found["confusion"] is None
    assert [row["support"] for row in found["per_class"]] == [30, 40]
    assert found["better_baseline"] == "tfidf_logistic"


def test_the_seed_decides_the_judgement() -> None:
    assert classified(0.8, telling=True) == classified(0.8, telling=True)


FACTS: dict[str, Any] = {
    "split": "test",
    "rows": 100,
    "main": "mae",
    "higher_is_better": False,
    "metrics": {"mae": {"value": 0.5, "low": 0.4, "high": 0.6}},
    "baselines": [
        {"name": "mean", "label": "mean", "difference": {"value": -0.25, "low": -0.5, "high": -0.125}, "p_value": 0.01},
        {"name": "ridge", "label": "ridge", "difference": {"value": 0.25, "low": 0.1, "high": 0.5}, "p_value": 0.0001},
    ],
    "better_baseline": "mean",
}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "mae 0.500 [0.400, 0.600] on 100 test rows; better than mean by 0.250 [0.125, 0.500] (p = 0.01)"),
        (
            {"better_baseline": "ridge"},
            "mae 0.500 [0.400, 0.600] on 100 test rows; WORSE than ridge by 0.250 (p = 0.0001)",
        ),
        (
            {"higher_is_better": True, "better_baseline": "ridge"},
            "mae 0.500 [0.400, 0.600] on 100 test rows; better than ridge by 0.250 [0.100, 0.500] (p = 0.0001)",
        ),
        (
            {"better_baseline": None, "split": "validation"},
            "mae 0.500 [0.400, 0.600] on 100 validation rows; "
            "these rows also chose when to stop, so the score is a little too good",
        ),
        (
            {"metrics": {"mae": {"value": 0.5, "low": None, "high": None}}, "better_baseline": None},
            "mae 0.500 on 100 test rows",
        ),
        ({"metrics": {"mae": {"value": None, "low": None, "high": None}}}, "mae is not defined on these 100 rows"),
    ],
)
def test_the_verdict_reads_so(changes: Mapping[str, Any], said: str) -> None:
    assert verdict({**FACTS, **changes}) == said


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ((), "100 validation rows"),
        (("the template",), "; these rows also chose the template, so the score is a little too good"),
    ],
)
def test_validation_rows_are_said_to_have_chosen_what_they_did(chosen: Sequence[str], said: str) -> None:
    assert verdict({**FACTS, "better_baseline": None, "split": "validation"}, chosen).endswith(said)


@pytest.mark.parametrize(("p", "shown"), [(None, "not defined"), (0.05, "0.05"), (0.5, "0.5")])
def test_only_a_p_below_the_line_makes_a_gain(p: float | None, shown: str) -> None:
    facts = {**FACTS, "baselines": [{**FACTS["baselines"][0], "p_value": p}]}
    assert verdict(facts).endswith(f"; not shown to be better than mean (p = {shown})")


def test_what_is_not_finite_never_reaches_the_file() -> None:
    task = Classification()
    train = records(task, labelled(20, 1, telling=False))
    learned = task.learn(train)
    held = [record for record in train if record.target == "late"][:3]
    found = judged(learned, {"train": train, "test": held}, answered(learned, held, [True] * len(held)))
    values = [entry["value"] for row in [found, *found["baselines"]] for entry in row["metrics"].values()]
    assert None in values
    assert all(value is None or math.isfinite(value) for value in values)


def test_a_metric_of_ones_own_is_measured_once_under_its_own_name(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "own_measure.py").write_text(
        "from tunesmith.evaluate.metrics import Metric\n"
        "MISSES = Metric('misses', lambda found: float((found.gold != found.answers).sum()), higher_is_better=False)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    found = classified(0.75, telling=False, metric="own_measure:MISSES")
    assert found["main"] == "misses"
    assert found["metrics"]["misses"]["value"] == 20
    assert {"misses", "accuracy"} <= set(found["metrics"])
    assert not any(":" in name for name in found["metrics"])
    assert found["verdict"].startswith("misses 20.000 [")
