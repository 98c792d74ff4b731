"""Measured numbers as people read them."""

import math

LARGE, TINY = 1e7, 1e-5
"""Outside these, an exponent is easier to read than the digits."""


def figures(*values: float | None) -> tuple[str, ...]:
    """The values with as many decimals as the largest of them needs to be told apart from 0; "–" for none."""
    size = max((abs(value) for value in values if value is not None and math.isfinite(value)), default=0.0)
    if size and not TINY <= size < LARGE:
        return tuple("–" if value is None else f"{value:.3g}" for value in values)
    exponent = math.floor(math.log10(size)) if size else 0
    decimals = 2 - exponent if exponent < -2 else max(0, min(3, 4 - exponent))
    return tuple("–" if value is None else f"{value:,.{decimals}f}" for value in values)


def interval(value: float | None, low: float | None, high: float | None) -> str:
    """`value [low, high]`, or what of it there is."""
    if value is None:
        return "not defined"
    shown, below, above = figures(value, low, high)
    return shown if low is None or high is None else f"{shown} [{below}, {above}]"
