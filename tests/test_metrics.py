"""Every metric against scikit-learn and scipy, and what becomes of it where it is not defined."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from sklearn import metrics

from test_metrics_of_texts import REFERENCES as OF_TEXTS
from tunesmith.evaluate import METRICS
from tunesmith.evaluate.labels import confusion, per_class
from tunesmith.evaluate.metrics import measure, worth
from tunesmith.given import Predictions

Reference = Callable[[Predictions], float]
NUMBERS = ("mae", "mse", "rmse", "pearson", "spearman", "r2")


def predictions(gold: Any, answers: Any, scores: Any = None, labels: int | None = None) -> Predictions:
    gold, answers = np.array(gold), np.array(answers)
    scores = None if scores is None else np.array(scores, dtype=np.float64)
    size = labels or (gold.shape[1] if gold.ndim == 2 else int(max(gold.max(), answers.max())) + 1)
    return Predictions(np.arange(len(gold)), gold, answers, scores, tuple(f"label {place}" for place in range(size)))


def single(seed: int, labels: int, rows: int = 40, present: Sequence[int] | None = None) -> Predictions:
    """Random answers that are often right; scores in tenths, so that there are ties, zeros and ones."""
    generator = np.random.default_rng(seed)
    gold = generator.choice(present or range(labels), size=rows)
    answers = np.where(generator.random(rows) < 0.6, gold, generator.integers(0, labels, size=rows))
    weights = 0.2 + 2.0 * np.eye(labels)[answers] + generator.random((rows, labels))
    weights /= weights.sum(axis=1, keepdims=True)
    return predictions(gold, answers, generator.multinomial(10, weights) / 10, labels)


def several(seed: int, labels: int, rows: int = 40, absent: int | None = None) -> Predictions:
    generator = np.random.default_rng(seed)
    gold = (generator.random((rows, labels)) < generator.uniform(0.2, 0.8, labels)).astype(int)
    if absent is not None:
        gold[:, absent] = 0
    scores = np.round(np.clip(gold * 0.3 + generator.random((rows, labels)) * 0.7, 0, 1), 1)
    answers = (scores >= 0.5).astype(int)
    if absent is not None:
        answers[:, absent] = 0
    return predictions(gold, answers, scores)


def numbers(seed: int, targets: int, rows: int = 30) -> Predictions:
    generator = np.random.default_rng(seed)
    gold = np.round(generator.normal(3, 2, (rows, targets)), 1)
    return predictions(gold, gold * 0.5 + generator.normal(1, 1, (rows, targets)))


def one_hot(gold: NDArray[Any], size: int) -> NDArray[Any]:
    return gold if gold.ndim == 2 else np.eye(size, dtype=int)[gold]


def column_mean(score: Callable[[Any, Any], float]) -> Reference:
    """The mean over the labels that some rows have and some have not, asked one by one."""

    def compute(p: Predictions) -> float:
        assert p.scores is not None
        gold = one_hot(p.gold, len(p.labels))
        mixed = [k for k in range(gold.shape[1]) if len(np.unique(gold[:, k])) == 2]
        return float(np.mean([score(gold[:, k], p.scores[:, k]) for k in mixed]))

    return compute


def f1(average: str) -> Reference:
    return lambda p: float(metrics.f1_score(p.gold, p.answers, average=average, zero_division=0))


def samples_f1(p: Predictions) -> float:
    gold, answers = one_hot(p.gold, len(p.labels)), one_hot(p.answers, len(p.labels))
    return float(metrics.f1_score(gold, answers, average="samples", zero_division=0))


def log_loss(p: Predictions) -> float:
    assert p.scores is not None
    if p.gold.ndim == 1:
        return float(metrics.log_loss(p.gold, p.scores, labels=range(len(p.labels))))
    columns = range(len(p.labels))
    return float(np.mean([metrics.log_loss(p.gold[:, k], p.scores[:, k], labels=[0, 1]) for k in columns]))


def correlation(kind: Callable[[Any, Any], Any]) -> Reference:
    return lambda p: float(
        np.mean([kind(p.gold[:, k], p.answers[:, k]).statistic for k in range(p.gold.shape[1])]),
    )


REFERENCES: dict[str, Reference] = {
    "accuracy": lambda p: float(metrics.accuracy_score(p.gold, p.answers)),
    "macro_f1": f1("macro"),
    "micro_f1": f1("micro"),
    "weighted_f1": f1("weighted"),
    "samples_f1": samples_f1,
    "exact_match": lambda p: float(metrics.accuracy_score(p.gold, p.answers)),
    "hamming_loss": lambda p: float(metrics.hamming_loss(p.gold, p.answers)),
    "mcc": lambda p: math.nan if p.gold.ndim == 2 else float(metrics.matthews_corrcoef(p.gold, p.answers)),
    "roc_auc": column_mean(metrics.roc_auc_score),
    "average_precision": column_mean(metrics.average_precision_score),
    "log_loss": log_loss,
    "mae": lambda p: float(metrics.mean_absolute_error(p.gold, p.answers)),
    "mse": lambda p: float(metrics.mean_squared_error(p.gold, p.answers)),
    "rmse": lambda p: float(metrics.root_mean_squared_error(p.gold, p.answers)),
    "pearson": correlation(stats.pearsonr),
    "spearman": correlation(stats.spearmanr),
    "r2": lambda p: float(metrics.r2_score(p.gold, p.answers)),
}
LABELS = tuple(name for name in REFERENCES if name not in NUMBERS)


def same(name: str, given: Predictions) -> None:
    found, wanted = METRICS.load(name)(given), REFERENCES[name](given)
    assert found == pytest.approx(wanted, rel=1e-9, abs=1e-12, nan_ok=True)


def test_every_metric_has_a_reference() -> None:
    of_code = {"pass_at_1", "pass_at_10", "execution_accuracy", "valid_code"}  # test_code.py
    assert {*REFERENCES, *OF_TEXTS, *of_code} == set(METRICS)
    assert not set(REFERENCES) & set(OF_TEXTS)


@pytest.mark.parametrize("name", LABELS)
def test_metrics_of_one_label_a_row_are_scikit_learns(name: str) -> None:
    for seed in range(8):
        same(name, single(seed, labels=2 + seed % 4))


@pytest.mark.parametrize("name", LABELS)
def test_metrics_of_one_label_a_row_are_scikit_learns_where_classes_are_absent(name: str) -> None:
    for seed in range(8):
        same(name, single(seed, labels=6, rows=12, present=(0, 2, 5)))


@pytest.mark.parametrize("name", LABELS)
def test_metrics_of_several_labels_a_row_are_scikit_learns(name: str) -> None:
    for seed in range(8):
        same(name, several(seed, labels=2 + seed % 3))


@pytest.mark.parametrize("name", LABELS)
def test_metrics_of_several_labels_a_row_are_scikit_learns_where_a_label_is_absent(name: str) -> None:
    for seed in range(8):
        same(name, several(seed, labels=4, rows=12, absent=1))


@pytest.mark.parametrize("targets", [1, 2])
@pytest.mark.parametrize("name", NUMBERS)
def test_metrics_of_numbers_are_those_of_scikit_learn_and_scipy(name: str, targets: int) -> None:
    for seed in range(8):
        same(name, numbers(seed, targets))


def test_the_whole_table_of_scikit_learn_gives_the_same_areas_when_all_classes_are_there() -> None:
    p = single(3, labels=4, rows=80)
    assert p.scores is not None
    area = metrics.roc_auc_score(p.gold, p.scores, multi_class="ovr", average="macro")
    assert METRICS.load("roc_auc")(p) == pytest.approx(area)
    precision = metrics.average_precision_score(one_hot(p.gold, 4), p.scores, average="macro")
    assert METRICS.load("average_precision")(p) == pytest.approx(precision)


def test_the_area_of_two_classes_is_that_of_the_second_ones_score() -> None:
    p = single(5, labels=2)
    assert p.scores is not None
    assert METRICS.load("roc_auc")(p) == pytest.approx(metrics.roc_auc_score(p.gold, p.scores[:, 1]))


def test_a_score_of_nothing_for_what_is_right_costs_as_much_as_in_scikit_learn() -> None:
    p = predictions([0, 1], [1, 1], [[0.0, 1.0], [0.0, 1.0]])
    assert METRICS.load("log_loss")(p) == pytest.approx(metrics.log_loss([0, 1], p.scores))


@pytest.mark.parametrize("name", list(REFERENCES))
def test_right_answers_are_better_than_wrong_ones(name: str) -> None:
    poor = numbers(1, 2) if name in NUMBERS else single(1, labels=3)
    perfect = predictions(poor.gold, poor.gold, None if poor.scores is None else np.eye(3)[poor.gold])
    metric = METRICS.load(name)
    assert (metric(perfect) > metric(poor)) == metric.higher_is_better
    assert metric(perfect) != metric(poor)


NO_ROWS = predictions(np.zeros(0, dtype=int), np.zeros(0, dtype=int), np.zeros((0, 2)), labels=2)
NO_NUMBERS = predictions(np.zeros((0, 1)), np.zeros((0, 1)))


@pytest.mark.parametrize(
    ("given", "names"),
    [
        pytest.param(NO_ROWS, LABELS, id="no rows"),
        pytest.param(NO_NUMBERS, NUMBERS, id="no rows of numbers"),
        pytest.param(predictions([0, 1], [0, 1]), ["roc_auc", "average_precision", "log_loss"], id="no scores"),
        pytest.param(
            predictions([1, 1], [1, 1], [[0.2, 0.8]] * 2), ["roc_auc", "average_precision", "mcc"], id="one class"
        ),
        pytest.param(
            predictions([1], [1], [[0.2, 0.8]]), ["roc_auc", "average_precision", "mcc"], id="one row of one class"
        ),
        pytest.param(predictions([[1, 0]], [[1, 0]], [[0.9, 0.1]]), ["roc_auc", "mcc"], id="one row of several"),
        pytest.param(predictions([[2.0]], [[3.0]]), ["pearson", "spearman", "r2"], id="one row of a number"),
        pytest.param(
            predictions([[2.0]] * 3, [[1.0], [2.0], [4.0]]), ["pearson", "spearman", "r2"], id="constant gold"
        ),
        pytest.param(
            predictions([[0.1]] * 3, [[1.0], [2.0], [4.0]]), ["pearson", "spearman", "r2"], id="gold without a true sum"
        ),
        pytest.param(
            predictions([[1e9], [1e9 + 1e-7], [1e9]], [[1.0], [2.0], [4.0]]), ["pearson"], id="nearly constant gold"
        ),
        pytest.param(
            predictions([[1.0], [2.0], [4.0]], [[0.1]] * 3), ["pearson", "spearman"], id="the same answer to all"
        ),
        pytest.param(
            predictions([[1.0, 5.0], [2.0, 5.0]], [[1.0, 2.0], [2.0, 3.0]]),
            ["pearson", "spearman", "r2"],
            id="one of two targets constant",
        ),
    ],
)
def test_what_is_not_defined_is_none(given: Predictions, names: Sequence[str]) -> None:
    assert measure(given, names) == dict.fromkeys(names)
    assert all(math.isnan(METRICS.load(name)(given)) for name in names)


@pytest.mark.parametrize("name", ["accuracy", "macro_f1", "log_loss", "mae"])
def test_each_row_has_a_worth_of_its_own_whether_or_not_the_metric_is_a_sum(name: str) -> None:
    scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    rows = Predictions(np.arange(3), np.array([0, 1, 1]), np.array([0, 1, 0]), scores, ("no", "yes"))
    if name == "mae":
        rows = Predictions(np.arange(3), np.zeros((3, 1)), np.array([[0.0], [0.0], [2.0]]), None, ("a",))
    found = worth(rows, name)
    wanted = {"accuracy": [1, 1, 0], "macro_f1": [1, 1, 0], "log_loss": np.log([0.9, 0.8, 0.4]), "mae": [0, 0, -2]}
    assert found == pytest.approx(wanted[name])


@pytest.mark.parametrize("name", ["mae", "mse"])
def test_an_error_that_is_not_finite_is_never_left_out_of_the_mean(name: str) -> None:
    rows = Predictions(np.arange(2), np.zeros((2, 1)), np.array([[0.0], [np.nan]]), None, ("a",))
    assert math.isnan(METRICS.load(name)(rows))


def test_what_is_defined_on_few_rows_is_told() -> None:
    assert measure(predictions([1], [1], [[0.2, 0.8]]), ["accuracy", "macro_f1"]) == {"accuracy": 1.0, "macro_f1": 1.0}
    assert measure(predictions([[2.0]], [[3.5]]), ["mae", "rmse"]) == {"mae": 1.5, "rmse": 1.5}
    assert measure(predictions([[0.1]] * 3, [[0.1]] * 3), ["mae", "r2"]) == {"mae": 0.0, "r2": None}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 6), st.integers(2, 5), st.integers(0, 1_000), st.booleans())
def test_no_metric_of_labels_warns_or_fails_on_few_rows(rows: int, labels: int, seed: int, many: bool) -> None:
    given = several(seed, labels, rows) if many else single(seed, labels, rows)
    found = measure(given, LABELS)
    assert all(value is None or math.isfinite(value) for value in found.values())
    assert (found["accuracy"] is None) == (rows == 0)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.sampled_from([0.0, 0.1, 1e-9, 7.0])), min_size=0, max_size=5))
def test_no_metric_of_numbers_warns_or_fails_on_few_rows(pairs: list[tuple[float, float]]) -> None:
    rows = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    for gold, answers in ((rows[:, :1], rows[:, 1:]), (rows[:, 1:], rows[:, :1])):
        found = measure(predictions(gold, answers), NUMBERS)
        assert all(value is None or math.isfinite(value) for value in found.values())


@pytest.mark.parametrize("given", [single(2, 5, 15, (0, 3)), single(4, 3), several(6, 4, absent=2)])
def test_the_table_of_labels_is_scikit_learns(given: Predictions) -> None:
    size = len(given.labels)
    wanted = metrics.precision_recall_fscore_support(
        given.gold, given.answers, labels=list(range(size)), zero_division=np.nan
    )
    for place, row in enumerate(per_class(given)):
        assert row["label"] == given.labels[place]
        for name, values in zip(("precision", "recall", "f1", "support"), wanted, strict=True):
            found = math.nan if row[name] is None else row[name]
            assert found == pytest.approx(values[place], nan_ok=True)


def test_the_confusion_is_scikit_learns_with_gold_down_and_absent_labels_kept() -> None:
    given = single(2, labels=5, rows=15, present=(0, 3))
    found = confusion(given)
    assert found is not None
    assert found["labels"] == list(given.labels)
    assert found["counts"] == metrics.confusion_matrix(given.gold, given.answers, labels=range(5)).tolist()
    assert confusion(predictions([0, 0, 1], [1, 1, 1])) == {
        "labels": ["label 0", "label 1"],
        "counts": [[0, 2], [0, 1]],
    }
    assert confusion(several(1, 3)) is None
