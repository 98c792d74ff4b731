"""Intervals hold the truth as often as they say, and the paired test is seldom wrong."""

import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from tunesmith.evaluate import METRICS
from tunesmith.evaluate.intervals import bootstrap, difference, paired_test, smallest_detectable
from tunesmith.evaluate.metrics import Metric
from tunesmith.given import Predictions

ACCURACY: Metric = METRICS.load("accuracy")
MAE: Metric = METRICS.load("mae")


def graded(right: NDArray[np.bool_]) -> Predictions:
    """Predictions of two labels that are right where `right` is set."""
    gold = np.arange(len(right)) % 2
    answers = np.where(right, gold, 1 - gold)
    return Predictions(np.arange(len(right)), gold, answers, np.eye(2)[answers], ("no", "yes"))


def measured(errors: NDArray[np.float64]) -> Predictions:
    """Predictions of a number that are off by `errors`."""
    gold = np.linspace(0, 10, len(errors))[:, None]
    return Predictions(np.arange(len(errors)), gold, gold + errors[:, None], None, ("length",))


def coverage(level: float, simulations: int = 400, rows: int = 150, truth: float = 0.8) -> float:
    """Share of simulated sets whose interval holds the true accuracy."""
    generator = np.random.default_rng(11)
    held = 0
    for seed in range(simulations):
        drawn = graded(generator.random(rows) < truth)
        found = bootstrap(drawn, ACCURACY, resamples=200, level=level, seed=seed)
        held += found.low <= truth <= found.high
    return held / simulations


def test_an_interval_holds_the_true_accuracy_as_often_as_it_says() -> None:
    assert 0.915 <= coverage(0.95) <= 0.975
    assert 0.42 <= coverage(0.5) <= 0.6


def test_an_interval_is_as_wide_as_theory_says() -> None:
    found = bootstrap(graded(np.arange(400) % 4 != 0), ACCURACY, resamples=2000, level=0.95, seed=0)
    assert found.value == 0.75
    assert found.level == 0.95
    spread = 1.96 * math.sqrt(0.75 * 0.25 / 400)
    assert (found.low, found.high) == pytest.approx((0.75 - spread, 0.75 + spread), abs=0.006)


@pytest.mark.parametrize("name", ["accuracy", "macro_f1", "log_loss"])
def test_the_seed_alone_decides_the_interval(name: str) -> None:
    metric = METRICS.load(name)
    given = replace(graded(np.arange(61) % 3 != 0), scores=np.random.default_rng(1).dirichlet([1, 1], 61))
    first, again, other = (bootstrap(given, metric, resamples=100, level=0.9, seed=seed) for seed in (4, 4, 5))
    assert first == again
    assert (first.low, first.high) != (other.low, other.high)
    assert first.value == other.value


@pytest.mark.parametrize("name", ["accuracy", "mae", "mse"])
def test_the_fast_path_gives_the_interval_of_the_slow_one(name: str) -> None:
    metric: Metric = METRICS.load(name)
    errors = np.random.default_rng(3).normal(0, 2, 57)
    given = graded(errors > -1) if name == "accuracy" else measured(errors)
    slow = replace(metric, sums=None, value=None)
    fast, wanted = (bootstrap(given, each, resamples=150, level=0.95, seed=9) for each in (metric, slow))
    assert (fast.value, fast.low, fast.high) == pytest.approx((wanted.value, wanted.low, wanted.high))


def test_the_fast_path_averages_over_targets_as_the_metric_does() -> None:
    generator = np.random.default_rng(8)
    gold = generator.normal(0, 1, (40, 2))
    given = Predictions(np.arange(40), gold, gold + generator.normal(0, [1, 5], (40, 2)), None, ("a", "b"))
    for name in ("mae", "mse"):
        metric = METRICS.load(name)
        fast, slow = (
            bootstrap(given, each, resamples=100, level=0.95, seed=2)
            for each in (metric, replace(metric, sums=None, value=None))
        )
        assert (fast.low, fast.high) == pytest.approx((slow.low, slow.high))


def test_several_labels_a_row_count_as_right_only_together() -> None:
    gold = np.array([[1, 0], [1, 1]] * 10)
    given = Predictions(np.arange(20), gold, np.array([[1, 0], [1, 0]] * 10), np.full((20, 2), 0.5), ("a", "b"))
    found = bootstrap(given, ACCURACY, resamples=200, level=0.95, seed=0)
    assert found.value == 0.5
    assert 0.2 < found.low < 0.5 < found.high < 0.8


def test_a_difference_is_signed_and_drawn_on_the_same_rows() -> None:
    right = np.random.default_rng(5).random(200) < 0.7
    slightly_better = right.copy()
    slightly_better[np.flatnonzero(~right)[:12]] = True
    a, b = graded(slightly_better), graded(right)
    found = difference(a, b, ACCURACY, resamples=400, level=0.95, seed=0)
    turned = difference(b, a, ACCURACY, resamples=400, level=0.95, seed=0)
    assert found.value == pytest.approx(0.06)
    assert (turned.value, turned.low, turned.high) == pytest.approx((-found.value, -found.high, -found.low))
    alone = bootstrap(b, ACCURACY, resamples=400, level=0.95, seed=0)
    assert 0 < found.low < found.high < 0.12
    assert found.high - found.low < 0.7 * (alone.high - alone.low)


def test_the_difference_from_itself_is_nothing() -> None:
    given = graded(np.arange(50) % 3 != 0)
    found = difference(given, given, ACCURACY, resamples=100, level=0.95, seed=0)
    assert (found.value, found.low, found.high) == (0, 0, 0)


def test_what_a_metric_reads_beside_the_answers_changes_sides_with_them() -> None:
    def given(right: float) -> Predictions:
        extras = {"right": np.arange(40) < right, "shares": np.full((40, 2), right), "own": np.zeros(40)}
        return Predictions(np.arange(40), np.zeros(40), np.zeros(40), None, (), "scores", extras=extras)

    good, poor = given(36), given(4)
    poor = replace(poor, extras={name: poor.extras[name] for name in ("right", "shares")})
    metric = Metric("own", lambda rows: float((rows.extras["right"] * rows.extras["shares"][:, 0]).mean()))
    assert paired_test(good, poor, metric, permutations=99, seed=0) == 0.01
    assert paired_test(good, good, metric, permutations=99, seed=0) == 1


def test_p_is_uniform_where_both_are_equally_good() -> None:
    generator = np.random.default_rng(21)
    sets = [[measured(generator.normal(0, 1, 40)) for _ in range(2)] for _ in range(600)]
    found = np.array([paired_test(a, b, MAE, permutations=99, seed=seed) for seed, (a, b) in enumerate(sets)])
    assert np.mean(found <= 0.05) <= 0.07
    assert np.mean(found <= 0.5) == pytest.approx(0.5, abs=0.05)
    assert stats.kstest(found, "uniform").pvalue > 0.01


def test_equal_accuracy_is_seldom_called_different() -> None:
    generator = np.random.default_rng(22)
    sets = [[graded(generator.random(80) < 0.8) for _ in range(2)] for _ in range(200)]
    found = np.array([paired_test(a, b, ACCURACY, permutations=99, seed=seed) for seed, (a, b) in enumerate(sets)])
    assert np.mean(found <= 0.05) <= 0.07
    assert found.mean() > 0.45


def test_the_same_answers_have_a_p_of_one() -> None:
    given = graded(np.arange(40) % 3 != 0)
    assert paired_test(given, given, ACCURACY, permutations=100, seed=0) == 1


def test_a_clear_difference_has_the_smallest_p_there_is_and_never_zero() -> None:
    good, poor = graded(np.ones(60, dtype=bool)), graded(np.arange(60) % 2 == 0)
    assert paired_test(good, poor, ACCURACY, permutations=199, seed=0) == 1 / 200
    assert paired_test(measured(np.zeros(60)), measured(np.ones(60)), MAE, permutations=199, seed=0) == 1 / 200


def test_a_real_gain_is_mostly_found() -> None:
    generator = np.random.default_rng(23)
    found = [
        paired_test(
            graded(generator.random(150) < 0.92),
            graded(generator.random(150) < 0.75),
            ACCURACY,
            permutations=99,
            seed=seed,
        )
        for seed in range(40)
    ]
    assert np.mean(np.array(found) <= 0.05) > 0.85


def test_p_comes_near_the_exact_one() -> None:
    """Of the 8 ways to change sides in three rows, two are as extreme as all against none."""
    good, poor = graded(np.ones(3, dtype=bool)), graded(np.zeros(3, dtype=bool))
    assert paired_test(good, poor, ACCURACY, permutations=4000, seed=0) == pytest.approx(2 / 8, abs=0.025)


@pytest.mark.parametrize("name", ["mae", "mse"])
def test_p_does_not_depend_on_the_unit(name: str) -> None:
    """Errors in tenths add up to the same in many ways: rounding must not break such ties."""
    generator = np.random.default_rng(0)
    a, b = generator.integers(0, 4, 12) / 10, generator.integers(0, 5, 12) / 10
    gold = np.zeros((12, 1))

    def p_value(unit: float) -> float:
        x, y = (Predictions(np.arange(12), gold, unit * errors[:, None], None, ("length",)) for errors in (a, b))
        return paired_test(x, y, METRICS.load(name), permutations=400, seed=0)

    assert 0.01 < p_value(1.0) < 0.1
    assert p_value(1e-9) == p_value(1e-6) == p_value(1.0) == p_value(1e9)


@pytest.mark.parametrize("name", ["accuracy", "macro_f1", "log_loss"])
def test_p_is_the_same_whichever_comes_first(name: str) -> None:
    generator = np.random.default_rng(7)
    a, b = (replace(graded(generator.random(50) < 0.7), scores=generator.dirichlet([1, 1], 50)) for _ in range(2))
    metric = METRICS.load(name)
    forth, back = (paired_test(x, y, metric, permutations=99, seed=1) for x, y in ((a, b), (b, a)))
    assert forth == back
    assert 0 < forth <= 1
    clear = paired_test(graded(np.ones(50, dtype=bool)), a, metric, permutations=99, seed=1)
    assert clear == paired_test(a, graded(np.ones(50, dtype=bool)), metric, permutations=99, seed=1)
    assert clear <= 0.02


def test_all_right_and_one_row_work() -> None:
    for given in (graded(np.ones(20, dtype=bool)), graded(np.ones(1, dtype=bool))):
        found = bootstrap(given, ACCURACY, resamples=100, level=0.95, seed=0)
        assert (found.value, found.low, found.high) == (1, 1, 1)
        assert paired_test(given, given, ACCURACY, permutations=100, seed=0) == 1
    one, other = measured(np.array([0.5])), measured(np.array([2.0]))
    assert bootstrap(one, MAE, resamples=100, level=0.95, seed=0).high == 0.5
    assert paired_test(one, other, MAE, permutations=100, seed=0) == 1


@pytest.mark.parametrize("name", ["mcc", "roc_auc", "macro_f1", "log_loss"])
def test_resamples_on_which_a_metric_is_not_defined_are_left_out(name: str) -> None:
    given = graded(np.array([True, True, False, True]))
    found = bootstrap(given, METRICS.load(name), resamples=200, level=0.95, seed=0)
    assert found.low <= found.high
    assert math.isfinite(found.value)
    assert math.isfinite(found.low)


@pytest.mark.parametrize("name", ["accuracy", "macro_f1", "mae", "pearson"])
def test_nothing_is_said_of_no_rows(name: str) -> None:
    metric = METRICS.load(name)
    given = measured(np.zeros(0)) if name in ("mae", "pearson") else graded(np.zeros(0, dtype=bool))
    for found in (
        bootstrap(given, metric, resamples=100, level=0.95, seed=0),
        difference(given, given, metric, resamples=100, level=0.95, seed=0),
    ):
        assert all(math.isnan(value) for value in (found.value, found.low, found.high))
    assert math.isnan(paired_test(given, given, metric, permutations=100, seed=0))


def test_the_smallest_detectable_gain_shrinks_with_rows() -> None:
    found = [smallest_detectable(rows, 0.8) for rows in (1, 10, 100, 1000, 10_000)]
    assert all(value is not None and 0 < value <= 1 for value in found)
    assert found == sorted(found, key=lambda value: -(value or 0))
    assert found[2] == pytest.approx(2.8016 * math.sqrt(2 * 0.16 / 100), rel=1e-4)
    assert smallest_detectable(400, 0.8) == pytest.approx((smallest_detectable(100, 0.8) or 0) / 2)
    assert smallest_detectable(0, 0.8) is None
    assert 0 < (smallest_detectable(100, 1.0) or 0) < 0.2


def test_a_gain_of_the_detectable_size_is_found_four_times_in_five() -> None:
    rows, gain = 400, smallest_detectable(400, 0.5)
    assert gain is not None
    generator = np.random.default_rng(0)
    before, after = (generator.binomial(rows, share, 20_000) / rows for share in (0.5 - gain / 2, 0.5 + gain / 2))
    pooled = (before + after) / 2
    z = (after - before) / np.sqrt(2 * pooled * (1 - pooled) / rows)
    assert np.mean(z > 1.96) == pytest.approx(0.8, abs=0.02)
