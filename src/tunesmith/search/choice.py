"""Which methods are shown to be within a margin of the best, and which are shown to be worse.

A method is *within* the margin when it is not worse by more than that than any other: one-sided tests against each
other method, of which the largest p value counts (an intersection-union test: Berger 1982, Technometrics 24:295), so
that it does not matter which one happens to look best. It is *worse* when it is worse by more than the margin than some
other: the smallest p value counts, times the number of others. Over the methods both are corrected by Holm's procedure
(1979, Scandinavian Journal of Statistics 6:65).

The p values come from one bootstrap with two levels. Rows are drawn anew, the same for all methods and seeds. Seeds are
so few that resampling them would claim too much, so their luck is a t-distributed error with the standard deviation
over the seeds of the difference between two methods trained from the same seed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tunesmith.contracts import Interval
from tunesmith.evaluate.intervals import percentiles
from tunesmith.seeds import mix

Status = Literal["within", "worse", "unknown"]
ROUNDING = 1e-12
FEW_ROWS = 30
"""Below this nothing is shown: resampling so few rows says too little."""


@dataclass(frozen=True)
class Scored:
    """What a method reached. points: [S], of each seed. drawn: [S, R], on resampled rows, the same for every method."""

    points: NDArray[np.float64]
    drawn: NDArray[np.float64]


@dataclass(frozen=True)
class Rules:
    """What the tests go by. margin: in units of the metric. rows: that were judged.

    span: how far two scores of one row can lie apart. limits: that no score can leave.
    """

    margin: float
    level: float
    rows: int
    span: float
    higher_is_better: bool
    seed: int
    limits: tuple[float, float] = (-math.inf, math.inf)

    @property
    def risk(self) -> float:
        """How often a claim may be false."""
        return 1 - self.level


@dataclass(frozen=True)
class Standing:
    """A method among the others. quality: mean over seeds. gap: its quality less that of the best; None of the best.

    p_within, p_worse: corrected for the number of methods. status: what is shown at the level asked for.
    """

    quality: Interval
    gap: Interval | None
    p_within: float
    p_worse: float
    status: Status


def standings(scored: Mapping[str, Scored], rules: Rules) -> dict[str, Standing]:
    """Where each method stands; empty where there is none. Methods whose quality is not defined are left out."""
    known = {name: one for name, one in scored.items() if len(one.points) and not np.isnan(one.points).any()}
    if not known:
        return {}
    best = best_of(known, rules)
    within, worse = {}, {}
    for name, one in known.items():
        others = [leads(one, other, rules) for other_name, other in known.items() if other_name != name]
        within[name] = max((p_within(lead, rules) for lead in others), default=1.0)
        worse[name] = min([1.0, *(len(others) * p_worse(lead, rules) for lead in others)])
    within, worse = holm(within), holm(worse)
    found = {}
    for name, one in known.items():
        shown = within[name] <= rules.risk
        status: Status = "within" if shown else "worse" if worse[name] <= rules.risk else "unknown"
        gap = None if name == best else _gap(one, known[best], rules)
        found[name] = Standing(_quality(one, rules), gap, within[name], worse[name], status)
    return found


def best_of(scored: Mapping[str, Scored], rules: Rules) -> str:
    """The name of the method with the best mean over its seeds; the first of equals."""
    sign = 1 if rules.higher_is_better else -1
    return max(scored, key=lambda name: sign * float(scored[name].points.mean()))


def leads(a: Scored, b: Scored, rules: Rules) -> NDArray[np.float64]:
    """[R] how much better a is than b, as often as rows and seeds are drawn; draws where it is not defined left out."""
    sign = 1 if rules.higher_is_better else -1
    drawn: NDArray[np.float64] = sign * (a.drawn - b.drawn).mean(axis=0) + luck(
        a.points - b.points, len(a.drawn.T), rules.seed
    )
    known: NDArray[np.float64] = drawn[~np.isnan(drawn)]
    return known


def luck(points: NDArray[np.float64], draws: int, seed: int) -> NDArray[np.float64]:
    """[draws] of what the mean over seeds may be off by: 0 for one seed, of which nothing can be told."""
    seeds = len(points)
    if seeds < 2:
        return np.zeros(draws)
    error = float(points.std(ddof=1)) / math.sqrt(seeds)
    return error * np.random.default_rng(mix(seed, seeds)).standard_t(seeds - 1, size=draws)


def p_within(leads: NDArray[np.float64], rules: Rules) -> float:
    """p value of being worse by at least the margin.

    Never below the chance that so many rows hold none of those by which a method could be that much worse: rows as far
    apart as `span` that are a share margin / span of all.
    """
    if rules.rows < FEW_ROWS:
        return 1.0
    hidden = (1 - min(1.0, rules.margin / rules.span)) ** rules.rows if rules.span else 0.0
    return max(hidden, _share(leads <= -rules.margin + ROUNDING))


def p_worse(leads: NDArray[np.float64], rules: Rules) -> float:
    """p value of not being worse by more than the margin."""
    if rules.rows < FEW_ROWS:
        return 1.0
    return _share(leads >= -rules.margin - ROUNDING)


def _share(extreme: NDArray[np.bool_]) -> float:
    return float((extreme.sum() + 1) / (len(extreme) + 1))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p values: the k-th smallest of n times n - k + 1, none below the one before it, none above 1."""
    adjusted: dict[str, float] = {}
    least = 0.0
    for place, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        least = max(least, min(1.0, (len(p_values) - place) * p_values[name]))
        adjusted[name] = least
    return {name: adjusted[name] for name in p_values}


def fewest_rows(methods: int, rules: Rules) -> int:
    """The smallest number of rows on which a method could be shown to be within the margin."""
    if not rules.span or rules.margin >= rules.span:
        return FEW_ROWS
    needed = math.ceil(math.log(rules.risk / max(1, methods)) / math.log(1 - rules.margin / rules.span))
    return max(FEW_ROWS, needed)


def cheapest(standings: Mapping[str, Standing], costs: Mapping[str, float], rules: Rules) -> str | None:
    """The cheapest method that is shown to be within the margin, of equally cheap ones the better; None without one."""
    sign = 1 if rules.higher_is_better else -1
    shown: Sequence[str] = [name for name, one in standings.items() if one.status == "within"]
    return min(shown, key=lambda name: (costs[name], -sign * standings[name].quality.value), default=None)


def _quality(one: Scored, rules: Rules) -> Interval:
    drawn = one.drawn.mean(axis=0) + luck(one.points, len(one.drawn.T), rules.seed)
    return percentiles(float(one.points.mean()), drawn.clip(*rules.limits), rules.level)


def _gap(one: Scored, best: Scored, rules: Rules) -> Interval:
    drawn = (one.drawn - best.drawn).mean(axis=0) + luck(one.points - best.points, len(one.drawn.T), rules.seed)
    return percentiles(float((one.points - best.points).mean()), drawn, rules.level)
