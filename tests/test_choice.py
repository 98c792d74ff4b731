"""Which method is within a margin of the best: by hand, by brute force, and where the truth was planted."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tunesmith.evaluate.labels import ACCURACY
from tunesmith.search.choice import (
    FEW_ROWS,
    Rules,
    Scored,
    Standing,
    cheapest,
    fewest_rows,
    holm,
    leads,
    luck,
    p_within,
    p_worse,
    standings,
)
from tunesmith.search.scores import Judged, common, scored

DRAWS = 400


def rules(rows: int = 1000, **more: Any) -> Rules:
    settings: dict[str, Any] = {"margin": 0.02, "level": 0.95, "span": 1.0, "higher_is_better": True, "seed": 3}
    return Rules(rows=rows, **{**settings, **more})


def judged(right: Sequence[float]) -> Judged:
    """A trial that was right on some rows."""
    tallies = np.stack([np.array(right, dtype=np.float64), np.ones(len(right))], axis=1).reshape(-1, 2)
    value = float(np.mean(right)) if len(right) else math.nan
    return Judged(ACCURACY, tuple(range(len(right))), "test", value, tallies, None)


def methods(rows: dict[str, NDArray[np.float64]]) -> dict[str, Scored]:
    """The scores of methods from [S, N] of 0 and 1, whether each seed is right on each row."""
    return {name: scored([judged(one) for one in right], draws=DRAWS, seed=0) for name, right in rows.items()}


def planted(rows: int, seeds: int, flips: dict[str, tuple[float, float]], seed: int = 0) -> dict[str, NDArray[Any]]:
    """Methods that agree but for the share that each loses of what is easy, and the share that it wins of the rest."""
    chance = np.random.default_rng(seed)
    base = chance.random(rows) < 0.85
    made = {}
    for name, (lost, won) in flips.items():
        draws = chance.random((seeds, rows))
        made[name] = np.where(base, draws >= lost, draws < won).astype(np.float64)
    return made


def test_holm_is_as_by_hand() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})
    assert holm({"a": 0.5, "b": 0.6}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


def test_p_values_are_shares_of_draws_on_the_wrong_side_of_the_margin() -> None:
    found = np.array([-0.3, -0.1, 0.0, 0.2])
    far = rules(rows=100_000, margin=0.1)
    assert p_within(found, far) == pytest.approx(3 / 5)
    assert p_worse(found, far) == pytest.approx(4 / 5)
    assert p_worse(np.full(999, -0.3), far) == pytest.approx(1 / 1000)


def test_equal_answers_on_every_row_do_not_show_more_than_so_many_rows_can() -> None:
    same = np.zeros(999)
    assert p_within(same, rules(rows=100, margin=0.01)) == pytest.approx(0.99**100)
    assert p_within(same, rules(rows=100, margin=1.0, span=50.0)) == pytest.approx(0.98**100)
    assert p_within(same, rules(rows=100, margin=1.0)) == pytest.approx(1 / 1000)


@pytest.mark.parametrize(
    ("count", "margin", "rows"), [(5, 0.01, 459), (5, 0.05, 90), (1, 0.01, 299), (2, 0.5, FEW_ROWS)]
)
def test_the_fewest_rows_are_those_from_which_on_equal_methods_are_shown_to_be_equal(
    count: int, margin: float, rows: int
) -> None:
    assert fewest_rows(count, rules(margin=margin)) == rows
    if rows > FEW_ROWS:
        same = np.zeros(99_999)
        assert count * p_within(same, rules(rows=rows, margin=margin)) <= 0.05
        assert count * p_within(same, rules(rows=rows - 1, margin=margin)) > 0.05


def test_drawn_differences_are_those_of_brute_force() -> None:
    a, b = [1.0, 1.0, 0.0, 1.0], [1.0, 0.0, 0.0, 1.0]
    ours, theirs = (scored([judged(one)], draws=20_000, seed=1) for one in (a, b))
    drawn = leads(ours, theirs, rules())
    every = [np.mean([a[place] - b[place] for place in places]) for places in itertools.product(range(4), repeat=4)]
    for value in sorted(set(every)):
        exact = np.mean(np.isclose(every, value))
        assert np.mean(np.isclose(drawn, value)) == pytest.approx(
            exact, abs=4 * math.sqrt(exact * (1 - exact) / 20_000)
        )


def test_rows_are_drawn_alike_for_all_methods_and_seeds() -> None:
    right = planted(60, 3, {"a": (0.1, 0.1)})["a"]
    one, other = (scored([judged(seed) for seed in right], draws=50, seed=7) for _ in range(2))
    assert np.array_equal(one.drawn, other.drawn)
    assert (leads(one, other, rules()) == 0).all()


def test_the_luck_of_seeds_has_the_spread_that_so_few_show() -> None:
    points = np.array([0.80, 0.83, 0.86])
    drawn = luck(points, 200_000, seed=0)
    error = 0.03 / math.sqrt(3)
    assert np.quantile(drawn, 0.95) == pytest.approx(2.920 * error, rel=0.03)  # of Student's t with 2 degrees
    assert (luck(points[:1], 10, seed=0) == 0).all()


@pytest.mark.parametrize("higher", [True, False])
def test_a_worse_method_is_found_worse_and_an_equal_one_within_the_margin(higher: bool) -> None:
    flips = {"full": (0.01, 0.05), "same": (0.01, 0.05), "bad": (0.12, 0.05)}
    made = methods(planted(3000, 3, flips))
    if not higher:
        made = {name: Scored(1 - one.points, 1 - one.drawn) for name, one in made.items()}
    found = standings(made, rules(rows=3000, higher_is_better=higher))
    assert {name: one.status for name, one in found.items()} == {"full": "within", "same": "within", "bad": "worse"}
    costs = {"full": 100.0, "same": 10.0, "bad": 1.0}
    assert cheapest(found, costs, rules(higher_is_better=higher)) == "same"
    assert cheapest(found, {**costs, "full": 1.0}, rules(higher_is_better=higher)) == "full"
    gap = found["bad"].gap
    assert gap is not None
    assert (gap.value < -0.05) is higher
    assert gap.low <= gap.value <= gap.high


def test_with_few_rows_nothing_is_shown_either_way() -> None:
    flips = {"full": (0.01, 0.05), "same": (0.01, 0.05), "bad": (0.6, 0.0)}
    for rows in (1, 2, FEW_ROWS - 1):
        found = standings(methods(planted(rows, 3, flips)), rules(rows=rows))
        assert {one.status for one in found.values()} == {"unknown"}
        assert cheapest(found, dict.fromkeys(found, 1.0), rules()) is None


def test_without_rows_or_with_a_score_that_is_not_defined_a_method_has_no_place() -> None:
    assert standings({}, rules(rows=0)) == {}
    empty = methods({"a": np.zeros((2, 0)), "b": np.zeros((2, 0))})
    assert standings(empty, rules(rows=0)) == {}
    made = methods(planted(50, 2, {"a": (0.1, 0.1)}))
    undefined = Scored(np.array([0.5, math.nan]), np.full((2, DRAWS), math.nan))
    assert list(standings({**made, "b": undefined}, rules(rows=50))) == ["a"]


def test_one_method_alone_is_not_shown_to_be_within_anything() -> None:
    found = standings(methods(planted(2000, 3, {"a": (0.1, 0.1)})), rules(rows=2000))
    assert found["a"].status == "unknown"
    assert found["a"].gap is None


@pytest.mark.parametrize(("rows", "seeds", "luck_of_seeds"), [(400, 3, 0.0), (400, 1, 0.0), (4000, 2, 0.03)])
def test_a_method_that_is_worse_by_the_margin_is_rarely_called_good_enough(
    rows: int, seeds: int, luck_of_seeds: float
) -> None:
    """The third case is one where what seeds do is nearly all there is; resampling two seeds would err in a fifth."""
    trials, claims, margin = 250, 0, 0.02
    ruled = rules(rows=rows, margin=margin)
    chance = np.random.default_rng(11)
    for _ in range(trials):
        shifts = -margin + chance.normal(0, luck_of_seeds, seeds)
        gaps = []
        for shift in shifts:
            draws = chance.random(rows)
            up, down = 0.04 + max(shift, 0), 0.04 + max(-shift, 0)
            gaps.append(np.where(draws < up, 1.0, np.where(draws > 1 - down, -1.0, 0.0)))
        rows_of = np.array(gaps)
        weights = chance.multinomial(rows, np.full(rows, 1 / rows), size=150) / rows
        a = Scored(rows_of.mean(axis=1), rows_of @ weights.T)
        b = Scored(np.zeros(seeds), np.zeros((seeds, 150)))
        claims += p_within(leads(a, b, ruled), ruled) <= 0.05
    assert claims / trials <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / trials)


def test_trials_are_compared_on_the_rows_that_all_of_them_judged() -> None:
    one, other = judged([1.0, 0.0, 1.0]), judged([0.0, 1.0, 1.0])
    other = Judged(ACCURACY, (2, 5, 0), "test", other.value, other.tallies, None)
    found = common({"a": one, "b": other})
    assert found["a"].rows == found["b"].rows == (0, 2)
    assert found["a"].on(np.array([0, 1])) == 1.0
    assert found["b"].on(np.array([0])) == 1.0
    assert found["b"].on(np.array([1])) == 0.0
    assert common({}) == {}


def test_what_is_told_of_the_best_is_its_score() -> None:
    found = standings(methods({"a": np.ones((2, 40)), "b": np.zeros((2, 40))}), rules(rows=40, limits=(0.0, 1.0)))
    best: Standing = found["a"]
    assert (best.quality.value, best.quality.low, best.quality.high) == (1.0, 1.0, 1.0)
    assert best.gap is None
    assert found["b"].status == "worse"
