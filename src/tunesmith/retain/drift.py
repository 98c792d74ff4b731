"""How far the hidden states of a tuned model have drifted from those of its base: linear CKA (arXiv:1905.00414)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.batch import IGNORED, REPLY, Batch, Encoded, Padding
from tunesmith.contracts import Task
from tunesmith.forward import JUDGED, batch_of, called

MOST_TOKENS = 2048
"""Tokens whose hidden states are compared."""
STATES = ("hidden_states", "encoder_hidden_states", "decoder_hidden_states")
"""What models call the hidden states of their layers, of the embeddings first."""


@dataclass(frozen=True)
class Texts:
    """The rows whose hidden states are looked at, as their task encodes them."""

    task: Task
    data: Encoded
    padding: Padding
    device: torch.device


def hidden_states(model: nn.Module, texts: Texts) -> dict[str, Tensor]:
    """The hidden states of the first tokens of the rows, of every layer by its name: [tokens, D] in float32.

    Padding is left out. Dropout is off, nothing is drawn that the seed does not fix, and the model is left as it was.
    Raises ValueError for a model that shows no hidden states.
    """
    was_training = model.training
    model.eval()
    found: dict[str, list[Tensor]] = {}
    room = MOST_TOKENS
    with torch.inference_mode():
        for place in range(len(texts.data)):
            if room <= 0:
                break
            batch = batch_of(texts.task, texts.data, [place], texts.padding, JUDGED).to(texts.device)
            layers = _layers(called(model, texts.task, batch, output_hidden_states=True), batch)
            for name, states in layers.items():
                found.setdefault(name, []).append(states[:room].float().cpu())
            room -= max(len(states) for states in layers.values())
    model.train(was_training)
    return {name: torch.cat(parts) for name, parts in found.items()}


def _layers(given: Any, batch: Batch) -> dict[str, Tensor]:
    """Of one batch the states of its tokens by layer: [tokens, D]."""
    layers = {}
    for kind in STATES:
        states = getattr(given, kind, None)
        if not states:
            continue
        mask = _mask(batch, decoder=kind.startswith("decoder"))
        prefix = kind.removesuffix("hidden_states").removesuffix("_")
        for number, one in enumerate(states):
            name = f"{prefix} {number}".strip()
            layers[name] = one.flatten(0, 1) if mask is None else one[mask]
    if not layers:
        raise ValueError(f"{type(given).__name__} holds no hidden states")
    return layers


def _mask(batch: Batch, *, decoder: bool) -> Tensor | None:
    """Which tokens are no padding, [B, T]; None where that is not known."""
    if not decoder:
        return batch.inputs["attention_mask"].bool() if "attention_mask" in batch.inputs else None
    labels = batch.targets.get("labels")
    reply = batch.inputs.get(REPLY)
    return None if labels is None or reply is None or labels.shape != reply.shape else labels != IGNORED


def cka(x: Tensor, y: Tensor) -> float:
    """Linear centred kernel alignment of two sets of states of the same tokens: 1 where one is the other but for a
    rotation and a scale, near 0 where they have nothing in common (section 3, equation 4 with HSIC of linear kernels).

    x, y: [tokens, D], of any two widths. NaN where one of them is the same for all tokens.
    """
    x, y = (part.double() - part.double().mean(dim=0, keepdim=True) for part in (x, y))
    if len(x) < min(x.shape[1], y.shape[1]):  # the Gram matrices are the smaller ones
        a, b = x @ x.T, y @ y.T
        together, own, other = (a * b).sum(), (a * a).sum(), (b * b).sum()
    else:
        together, own, other = (y.T @ x).square().sum(), (x.T @ x).square().sum(), (y.T @ y).square().sum()
    return float((together / (own.sqrt() * other.sqrt())).clamp(max=1))  # what rounding adds is no likeness


def drift(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, float]:
    """Of each layer how alike its states are, before and after."""
    return {name: cka(before[name], after[name]) for name in before}
