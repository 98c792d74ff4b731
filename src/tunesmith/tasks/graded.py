"""Tokens that are graded one by one: the loss of language models, masked, causal or behind an encoder."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from tunesmith.batch import IGNORED, Batch
from tunesmith.tasks.head import wide

NLL, TARGETS, RIGHT = 0, 1, 2
"""The columns of what `token_sums` gives."""


def token_sums(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Of each line the negative log-likelihood of its graded tokens, their (weighted) number, and how many would be
    chosen: [B, 3] in float32 or wider.

    logits: [B, T, V]. labels: [B, T], what each position is to give, IGNORED where nothing is graded.
    weights: [B, T]; None: each token counts 1.
    """
    graded = labels != IGNORED
    lines = graded.nonzero()[:, 0]
    found, wanted = wide(logits[graded]), labels[graded]
    loss = functional.cross_entropy(found, wanted, reduction="none") if len(wanted) else found.new_zeros(0)
    counts = torch.ones_like(loss) if weights is None else weights[graded].to(loss.dtype)
    right = (found.detach().argmax(dim=-1) == wanted).to(loss.dtype) if len(wanted) else loss
    kept = torch.stack([loss * counts, counts, right], dim=1)
    # The zero ties a line of nothing graded to the graph, so that its gradient is zero and not missing.
    empty = kept.new_zeros(len(labels), 3) + wide(logits[:, 0, :1]).sum() * 0.0
    return empty.index_add(0, lines, kept)


def next_tokens(ids: Sequence[int], graded: Sequence[bool] | Sequence[int]) -> list[int]:
    """The label of each position of a causal model: the token behind it where that one is graded, else IGNORED.

    So labels stand where they are given, and rows can be padded on either side or laid behind one another.
    """
    return [token if mark else IGNORED for token, mark in zip(ids[1:], graded[1:], strict=True)] + [IGNORED]


def targets_of(batch: Batch) -> float:
    """The (weighted) number of graded tokens."""
    graded = batch.targets["labels"] != IGNORED
    weights = batch.targets.get("weights")
    return float(graded.sum()) if weights is None else float(weights[graded].sum(dtype=torch.float64))


def shifted_right(labels: Sequence[int], start: int) -> list[int]:
    """What a decoder behind an encoder reads to give `labels`: the same tokens one place later."""
    return [start, *labels[:-1]]
