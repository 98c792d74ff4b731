"""AdamW over groups of parameters: with or without decay, and slower the deeper a layer lies."""

import re
from collections.abc import Container, Mapping, Sequence

import torch
from torch import nn

from tunesmith.contracts import Adapted
from tunesmith.errors import UserError
from tunesmith.train.options import TrainOptions

BLOCK = re.compile(r"^(.*?\.\d+)\.")


def make_optimiser(
    model: nn.Module, adapted: Adapted, options: TrainOptions, undecayed: Container[str] = ()
) -> torch.optim.AdamW:
    """AdamW (arXiv:1711.05101) over the parameters of `model` that move, at the rates that the method gives them.

    Vectors (biases, norms) and `undecayed` parameters are not decayed. With `layer_decay` f, block k of n from below
    learns at f^(n - k) times the rate, embeddings at f^(n + 1), the head at the rate itself (arXiv:1801.06146, section
    3.2). Each group keeps its factor under "factor", its parameters' names under "names", and under "turn" for how many
    periods of gradual unfreezing it waits (the same, section 3.3). Raises UserError where no block would wait.
    """
    parameters = dict(model.named_parameters())
    depths = layer_depths(list(parameters), adapted.head)
    deepest = max(depths.values())
    turns = _turns(adapted.trainable, depths) if options.unfreeze is not None else dict.fromkeys(adapted.trainable, 0)
    groups: dict[tuple[float, float, int], list[str]] = {}
    for name in adapted.trainable:
        decay = options.weight_decay if parameters[name].ndim >= 2 and name not in undecayed else 0.0
        factor = options.layer_decay ** (deepest - depths[name]) * adapted.rates.get(name, 1.0)
        groups.setdefault((decay, factor, turns[name]), []).append(name)
    return torch.optim.AdamW(
        [
            {
                "params": [parameters[name] for name in names],
                "names": names,
                "weight_decay": decay,
                "factor": factor,
                "turn": turn,
            }
            for (decay, factor, turn), names in groups.items()
        ],
        lr=0.0,
        betas=options.betas,
        eps=options.epsilon,
        fused=True,
    )


def _turns(trainable: Sequence[str], depths: Mapping[str, int]) -> dict[str, int]:
    """How many periods each parameter waits: the topmost layer of those that move none, the next one, and so on."""
    if not any(BLOCK.match(name) for name in trainable):
        raise UserError("train.unfreeze", "no block of the model moves", "leave the key out, or use method: full")
    order = sorted({depths[name] for name in trainable}, reverse=True)
    return {name: order.index(depths[name]) for name in trainable}


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
