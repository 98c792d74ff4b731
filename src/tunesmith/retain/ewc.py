"""Elastic weight consolidation (arXiv:1612.00796): weights are held by how much the base's answers depend on them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from tunesmith.batch import IGNORED, Batch, Encoded, Padding
from tunesmith.contracts import Task
from tunesmith.forward import batch_of, called
from tunesmith.retain.pull import Pull
from tunesmith.seeds import mix


@dataclass(frozen=True)
class Fisher:
    """The diagonal of a Fisher information, by parameter. rows: that it was estimated on.

    sampled: whether labels were drawn from the model's own outputs, as the Fisher information has them; else they were
    those of the rows (the empirical Fisher information, see arXiv:1905.12558).
    """

    diagonal: Mapping[str, Tensor]
    rows: int
    sampled: bool

    @property
    def mean(self) -> float:
        """Over all weights."""
        total = sum(float(one.sum(dtype=torch.float64)) for one in self.diagonal.values())
        return total / sum(one.numel() for one in self.diagonal.values())


def ewc(weight: float, anchors: Mapping[str, Tensor], fisher: Fisher) -> Pull:
    """The penalty ½ · weight · Σ F · (w − w₀)² of section 2.1, equation 3."""
    return Pull("ewc", weight, anchors, importance=fisher.diagonal)


@dataclass(frozen=True)
class Asked:
    """The rows on which a model is asked how much its answers depend on its weights, as their task encodes them."""

    task: Task
    data: Encoded
    padding: Padding
    device: torch.device


def fisher(model: nn.Module, asked: Asked, names: Mapping[str, Tensor], rows: int, seed: int) -> Fisher:
    """The mean over at most `rows` rows, drawn from the seed, of the squared gradient of each row's log-likelihood.

    One backward pass a row, since the square of a sum over rows would be something else. Where the outputs are classes
    (of a row or of its tokens) the labels are drawn from them; elsewhere, and for tasks whose rows are several
    sequences, they are the rows' own. Dropout is off, and the model is left as it was.
    """
    was_training, parameters = model.training, dict(model.named_parameters())
    moving = [parameters[name] for name in names]
    sums = [torch.zeros_like(parameter) for parameter in moving]
    places = np.sort(np.random.default_rng(seed).permutation(len(asked.data))[:rows]).tolist()
    chance = torch.Generator().manual_seed(seed)
    drawn = 0
    model.eval()
    for place in places:
        batch = batch_of(asked.task, asked.data, [place], asked.padding, mix(seed, place)).to(asked.device)
        given = called(model, asked.task, batch)
        own = sampled(getattr(given, "logits", None), batch, chance)
        drawn += own is not None
        loss = asked.task.loss(asked.task.outputs(given, own or batch), own or batch)
        for total, found in zip(sums, torch.autograd.grad(loss, moving, allow_unused=True), strict=True):
            if found is not None:
                total.add_(found.square())
    model.train(was_training)
    diagonal = {name: total / len(places) for name, total in zip(names, sums, strict=True)}
    return Fisher(diagonal, len(places), drawn == len(places))


def sampled(logits: Tensor | None, batch: Batch, chance: torch.Generator) -> Batch | None:
    """The batch with labels drawn from the model's own outputs; None where these are not classes.

    logits: [B, L] for labels [B, 1], or [B, T, L] for labels [B, T], of which those that are not graded stay so.
    """
    labels = batch.targets.get("labels")
    if logits is None or labels is None or labels.is_floating_point() or batch.pieces or logits.shape[-1] < 2:
        return None
    if logits.ndim == labels.ndim + 1 and logits.shape[:-1] == labels.shape:
        graded = labels != IGNORED
    elif logits.ndim == labels.ndim == 2 and labels.shape == (len(logits), 1):
        graded = torch.ones_like(labels, dtype=torch.bool)
        logits = logits[:, None, :]
    else:
        return None
    chances = logits.detach()[graded].double().softmax(dim=-1).cpu()
    found = labels.clone()
    if len(chances):
        found[graded] = torch.multinomial(chances, 1, generator=chance)[:, 0].to(labels)
    return replace(batch, targets={**batch.targets, "labels": found})
