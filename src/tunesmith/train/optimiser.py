"""AdamW over groups of parameters: with or without decay, and slower the deeper a layer lies."""

import re
from collections.abc import Container, Sequence

import torch
from torch import nn

from tunesmith.contracts import Adapted
from tunesmith.train.options import TrainOptions

BLOCK = re.compile(r"^(.*?\.\d+)\.")


def make_optimiser(
    model: nn.Module, adapted: Adapted, options: TrainOptions, undecayed: Container[str] = ()
) -> torch.optim.AdamW:
    """AdamW (arXiv:1711.05101) over the parameters of `model` that move, at the rates that the method gives them.

    Vectors (biases, norms) and `undecayed` parameters are not decayed. With `layer_decay` f, block k of n from below
    learns at f^(n - k) times the rate, embeddings at f^(n + 1), the head at the rate itself (arXiv:1801.06146, section
    3.2).
    Each group keeps its factor under "factor" and its parameters' names under "names".
    """
    parameters = dict(model.named_parameters())
    depths = layer_depths(list(parameters), adapted.head)
    deepest = max(depths.values())
    groups: dict[tuple[float, float], list[str]] = {}
    for name in adapted.trainable:
        decay = options.weight_decay if parameters[name].ndim >= 2 and name not in undecayed else 0.0
        factor = options.layer_decay ** (deepest - depths[name]) * adapted.rates.get(name, 1.0)
        groups.setdefault((decay, factor), []).append(name)
    return torch.optim.AdamW(
        [
            {"params": [parameters[name] for name in names], "names": names, "weight_decay": decay, "factor": factor}
            for (decay, factor), names in groups.items()
        ],
        lr=0.0,
        betas=options.betas,
        eps=options.epsilon,
        fused=True,
    )


def layer_depths(names: Sequence[str], head: Sequence[str]) -> dict[str, int]:
    """How far each parameter lies from the input: embeddings 0, blocks 1 to n in order, the head n + 1."""
    blocks: dict[str, int] = {}
    for name in names:
        found = BLOCK.match(name)
        if found:
            blocks.setdefault(found[1], len(blocks) + 1)
    depths = {}
    for name in names:
        found = BLOCK.match(name)
        if any(f".{part}." in f".{name}" for part in head):
            depths[name] = len(blocks) + 1
        elif found:
            depths[name] = blocks[found[1]]
        else:
            depths[name] = 0 if "embed" in name or re.search(r"\bw[tp]e\b|shared", name) else len(blocks)
    return depths
