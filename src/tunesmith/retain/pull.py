"""A pull of weights to where they began, which a step adds to its gradient once."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tunesmith.contracts import Adapted


@dataclass(frozen=True)
class Pull:
    """½ · weight · Σ importance · (w − anchor)² over all the weights that have an anchor.

    importance: of each weight, shaped like its tensor; None: 1 for all. undecayed: the parameters whose decay to zero
    it takes the place of.
    """

    name: str
    weight: float
    anchors: Mapping[str, Tensor]
    importance: Mapping[str, Tensor] | None = None
    undecayed: frozenset[str] = frozenset()

    @torch.no_grad()
    def pull(self, model: nn.Module) -> float:
        """Adds weight · importance · (w − anchor) to each gradient; the value of the penalty."""
        parameters = dict(model.named_parameters())
        sums = []
        for name, anchor in self.anchors.items():
            parameter = parameters[name]
            gap = parameter - anchor
            force = gap if self.importance is None else gap * self.importance[name]
            sums.append((force * gap).sum(dtype=torch.float64))
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad.add_(force, alpha=self.weight)
        return 0.5 * self.weight * float(torch.stack(sums).sum())


def anchors(adapted: Adapted) -> dict[str, Tensor]:
    """Copies of the moving parameters that come from the base, by name; the heads that a task added are none."""
    parameters = dict(adapted.model.named_parameters())
    return {
        name: parameters[name].detach().clone()
        for name in adapted.trainable
        if not any(f".{part}." in f".{name}" for part in adapted.head)
    }
