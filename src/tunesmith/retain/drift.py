"""How far the hidden states of a tuned model have drifted from those of its base: linear CKA (arXiv:1905.00414), from
the unbiased estimate of HSIC (Song et al. 2012), as arXiv:2010.15327 has it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor, nn

from tunesmith.batch import IGNORED, REPLY, Batch, Encoded, Padding
from tunesmith.contracts import Task
from tunesmith.forward import JUDGED, batch_of, called

MOST_TOKENS = 2048
"""Tokens whose hidden states are compared."""
MOST_GROUPS = 50
"""Groups of texts that are left out one after the other, to tell how sure a value is."""
FEWEST_TOKENS = 4
"""Fewer have no unbiased estimate."""
STATES = ("hidden_states", "encoder_hidden_states", "decoder_hidden_states")
"""What models call the hidden states of their layers, of the embeddings first."""


@dataclass(frozen=True)
class Texts:
    """The rows whose hidden states are looked at, as their task encodes them."""

    task: Task
    data: Encoded
    padding: Padding
    device: torch.device


@dataclass(frozen=True)
class States:
    """The hidden states of some tokens in a layer. values: [tokens, D] in float32. text: [tokens], the number of the
    text that each stands in."""

    values: Tensor
    text: Tensor


def hidden_states(model: nn.Module, texts: Texts) -> dict[str, States]:
    """The hidden states of the first tokens of the rows, of every layer by its name.

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
    return {name: _joined(parts) for name, parts in found.items()}


def _joined(parts: Sequence[Tensor]) -> States:
    counts = torch.tensor([len(part) for part in parts])
    return States(torch.cat(list(parts)), torch.arange(len(parts)).repeat_interleave(counts))


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


def cka(x: Tensor, y: Tensor, without: Tensor | None = None) -> Tensor:
    """Linear centred kernel alignment of two sets of states of the same tokens: 1 where one is the other but for a
    rotation, a scale and a shift, 0 on average where they have nothing in common, and never more than 1.

    x, y: [tokens, D], of any two widths. without: [tokens, G], True for what is left out of each of G values; None
    leaves out nothing, of one. [G], NaN where a set of states is the same for all tokens, or tokens are too few.

    HSIC is estimated without bias (Song et al. 2012, JMLR 13, equation 5), so that few tokens of a large width look no
    more alike than many; its factor before the bracket cancels.
    """
    a, b = (_kernel(part.double()) for part in (x, y))
    keep = torch.ones(len(x), 1, dtype=torch.float64) if without is None else (~without).double()
    count, rows = keep.sum(dim=0), (a @ keep, b @ keep)

    def hsic(first: int, second: int) -> Tensor:
        kernels = (a, b)
        together = (keep * ((kernels[first] * kernels[second]) @ keep)).sum(dim=0)
        sums = (keep * rows[first]).sum(dim=0) * (keep * rows[second]).sum(dim=0)
        crossed = (keep * rows[first] * rows[second]).sum(dim=0)
        return together + sums / ((count - 1) * (count - 2)) - 2 * crossed / (count - 2)

    own, other = hsic(0, 0), hsic(1, 1)
    value = (hsic(0, 1) / (own.sqrt() * other.sqrt())).clamp(max=1)  # what rounding adds is no likeness
    defined = (count >= FEWEST_TOKENS) & (own > _noise(a)) & (other > _noise(b))
    return torch.where(defined, value, torch.nan)


def _kernel(states: Tensor) -> Tensor:
    """[tokens, tokens] products of centred states, 0 on the diagonal."""
    states = states - states.mean(dim=0, keepdim=True)
    return (states @ states.T).fill_diagonal_(0)


def _noise(kernel: Tensor) -> float:
    """What rounding leaves of an HSIC that is 0."""
    return 1e-12 * float(kernel.square().sum())


@dataclass(frozen=True)
class Drift:
    """How alike states are, by layer, and on average; with limits where there are texts enough to tell."""

    layers: Mapping[str, float]
    mean: float
    low: float = math.nan
    high: float = math.nan


def drift(before: Mapping[str, States], after: Mapping[str, States], level: float | None = None) -> Drift:
    """How alike states are before and after, in the layers where that is defined.

    level: the confidence of the limits of the mean; None: none are wanted. They are those of the jackknife that leaves
    out each of up to MOST_GROUPS groups of texts (Arvesen 1969; drawing texts again, as a bootstrap does, would set
    tokens beside themselves, which the estimate must not see).
    """
    found = {name: _with_left_out(before[name], after[name], groups=level is not None) for name in before}
    found = {name: values for name, values in found.items() if math.isfinite(values[0])}
    layers = {name: float(values[0]) for name, values in found.items()}
    if not layers:
        return Drift({}, math.nan)
    mean = sum(layers.values()) / len(layers)
    left_out = [values[1:] for values in found.values()]
    if level is None or len({len(values) for values in left_out}) > 1 or len(left_out[0]) < 2:
        return Drift(layers, mean)
    each = np.mean(left_out, axis=0)
    count = len(each)
    error = math.sqrt((count - 1) / count * float(((each - each.mean()) ** 2).sum()))
    reach = float(stdtrit(count - 1, (1 + level) / 2)) * error
    return Drift(layers, mean, mean - reach, min(1.0, mean + reach))


def _with_left_out(before: States, after: States, *, groups: bool) -> list[float]:
    """The likeness, and with `groups` that without each group of texts in turn."""
    if not groups:
        return cka(before.values, after.values).tolist()
    group = before.text % MOST_GROUPS
    without = group[:, None] == torch.arange(int(group.max()) + 1)
    nothing = torch.zeros(len(group), 1, dtype=torch.bool)
    return cka(before.values, after.values, torch.cat([nothing, without], dim=1)).tolist()
