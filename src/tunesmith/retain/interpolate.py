"""Weights between base and tuned model (WiSE-FT, arXiv:2109.01903): most of the gain for less of the loss."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Point:
    """A place on the way from the base, at 0, to the tuned model, at 1. score: on the validation rows; lost:
    what is forgotten there, of which less is better; None where these are not defined."""

    alpha: float
    score: float | None
    lost: float | None


@torch.no_grad()
def blend(model: nn.Module, base: Mapping[str, Tensor], tuned: Mapping[str, Tensor], alpha: float) -> None:
    """Sets the weights that have a beginning to (1 − α) · base + α · tuned (section 3); all others stay."""
    parameters = dict(model.named_parameters())
    for name, beginning in base.items():
        parameters[name].copy_((1 - alpha) * beginning + alpha * tuned[name])


def choose(points: Sequence[Point], margin: float, *, higher_is_better: bool) -> Point:
    """The point that forgets least of those whose score is at most `margin` worse than the best of all; of several the
    one with the best score, then the one nearest to the tuned model. Where no score is defined: the tuned model."""
    sign = 1 if higher_is_better else -1
    known = [(sign * point.score, point) for point in points if point.score is not None]
    if not known:
        return max(points, key=lambda point: point.alpha)
    best = max(score for score, _ in known)
    near = [(score, point) for score, point in known if score >= best - margin]

    def rank(pair: tuple[float, Point]) -> tuple[float, float, float]:
        score, point = pair
        return math.inf if point.lost is None else point.lost, -score, -point.alpha

    return min(near, key=rank)[1]
