"""AdaLoRA: low-rank changes that share a budget of ranks, spent where it matters (arXiv:2303.10512), on PEFT's layers.

Each change is P diag(λ) Q, and a rank is taken away by setting its λ to 0. What is left in the end is a plain LoRA with
a rank of its own in each layer, and is written as one.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from peft import AdaLoraConfig, LoraConfig, PeftModel
from peft.tuners.adalora import AdaLoraLayer
from pydantic import Field, model_validator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunesmith.adapt.base import TargetedMethod, changed_layers, require_rank, said_of
from tunesmith.adapt.layers import pattern_of, transposed
from tunesmith.adapt.merging import CONFIG, WEIGHTS
from tunesmith.contracts import Adapted, Codec, Family

KEEP = 0.85
"""Of the averages of a weight's importance and of how much that varies, the share that an update keeps."""
NAME = "default"


class AdaLoRA(TargetedMethod):
    """A low-rank change whose ranks are taken away from the layers that need them least, while training.

    Weights of an update before the last ranks are gone, where these are the best on the validation rows, have more.
    """

    learning_rate: ClassVar[float] = 2e-3

    rank: int = Field(8, ge=1, description="Ranks that a layer keeps, on average over the layers.")
    begin: int | None = Field(None, ge=1, description="Ranks that each layer begins with; None: half as many again.")
    alpha: float | None = Field(
        None, gt=0, description="The change is scaled by alpha / begin; None: twice what it begins with."
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the input of the change.")
    wait: float = Field(0.1, ge=0, lt=1, description="Share of all updates before the first rank is taken away.")
    rest: float = Field(0.4, ge=0, lt=1, description="Share of all updates, at the end, with the final ranks.")
    every: int = Field(10, ge=1, description="Updates from one allocation to the next.")
    orthogonal: float = Field(0.5, ge=0, description="Weight of the penalty that keeps P and Q near to orthogonal.")

    @model_validator(mode="after")
    def _shrinks(self) -> Self:
        if self.begin is not None and self.begin < self.rank:
            raise ValueError(f"begin: {self.begin} is less than rank {self.rank}; ranks are only taken away")
        if self.wait + self.rest >= 1:
            raise ValueError("wait and rest leave no updates in which ranks are taken away; their sum must be below 1")
        return self

    @property
    def begins(self) -> int:
        """Ranks of each layer before the first update."""
        return self.begin or self.rank + (self.rank + 1) // 2

    def configuration(self, model: PreTrainedModel, family: Family, common: Mapping[str, Any]) -> AdaLoraConfig:
        layers = self.layers_of(model)
        require_rank(self.begins, layers)
        return AdaLoraConfig(
            **common,
            target_r=self.rank,
            init_r=self.begins,
            lora_alpha=self.alpha if self.alpha is not None else 2.0 * self.begins,  # type: ignore[arg-type]
            lora_dropout=self.dropout,
            target_modules=pattern_of(layers),
            orth_reg_weight=self.orthogonal,
            total_step=1,  # PEFT asks for it; the schedule is `tend`'s
            fan_in_fan_out=transposed(layers.values()),
        )

    def note(self, tuned: PeftModel, layers: Sequence[str]) -> str:
        return f"AdaLoRA of rank {self.begins}, {self.rank} in the end, on {said_of(layers)}"

    def adapt(
        self, model: PreTrainedModel, codec: Codec, head: Sequence[str], seed: int, rows: Sequence[int] = ()
    ) -> Adapted:
        adapted = super().adapt(model, codec, head, seed, rows)
        penalties = (Orthogonal(self.orthogonal),) if self.orthogonal else ()
        return replace(adapted, penalties=penalties, tend=self.tend)

    @torch.no_grad()
    def tend(self, model: nn.Module, optimiser: torch.optim.Optimizer, step: int, steps: int) -> None:
        """Averages the importance of each weight after update `step` of `steps`, and takes ranks away when it is time.

        Section 3.2 of the paper, formulas 7 to 10 and algorithm 1. The averages, and the ranks that are left in the
        end, are kept in the state of the optimiser.
        """
        layers = adalora_layers(model)
        final = steps - int(self.rest * steps)
        if step > final:
            for layer in layers:
                singular = layer.lora_E[NAME]
                kept = optimiser.state[singular].get("kept")
                if kept is not None:
                    singular.mul_(kept)
            return
        for layer in layers:
            for factor in (layer.lora_A[NAME], layer.lora_E[NAME], layer.lora_B[NAME]):
                _average(factor, optimiser)
        budget = self.budget(step, steps)
        if budget is None:
            return
        worth = [_worth(layer, optimiser) for layer in layers]
        left = _best(worth, budget * len(layers))
        for layer, kept in zip(layers, left, strict=True):
            singular = layer.lora_E[NAME]
            singular.mul_(kept[:, None])
            if step == final and "step" in optimiser.state[singular]:
                optimiser.state[singular]["kept"] = kept[:, None].to(singular.dtype)

    def budget(self, step: int, steps: int) -> float | None:
        """Ranks of a layer, on average, after update `step` of `steps`; None where nothing is taken away."""
        first, final = int(self.wait * steps), steps - int(self.rest * steps)
        if step == final:
            return float(self.rank)
        if step <= first or step % self.every:
            return None
        share = 1 - (step - first) / (final - first)
        return self.rank + (self.begins - self.rank) * share**3

    def save(self, model: nn.Module, folder: Path) -> None:
        """The ranks that are left, as PEFT writes a LoRA with a rank of its own for each layer."""
        super().save(model, folder)
        assert isinstance(model, PeftModel)
        weights, ranks, alphas = load_file(folder / WEIGHTS), {}, {}
        for name in changed_layers(model):
            place = f"base_model.model.{name}"
            inner, singular, outer = (weights.pop(f"{place}.lora_{part}") for part in "AEB")
            kept = singular[:, 0].nonzero()[:, 0]
            kept = kept if len(kept) else torch.zeros(1, dtype=torch.long)  # PEFT has no LoRA of rank 0
            weights[f"{place}.lora_A.weight"] = (inner * singular)[kept].contiguous()
            weights[f"{place}.lora_B.weight"] = outer[:, kept].contiguous()
            layer: Any = model.get_base_model().get_submodule(name)
            ranks[name] = len(kept)
            alphas[name] = len(kept) * layer.scaling[NAME] / float(layer.ranknum[NAME] + 1e-5)
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
        written = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        plain = {key: value for key, value in written.items() if key in LoraConfig.__dataclass_fields__}
        plain |= {"r": self.rank, "peft_type": "LORA", "rank_pattern": ranks, "alpha_pattern": alphas}
        (folder / CONFIG).write_text(json.dumps(plain, indent=2, sort_keys=True), encoding="utf-8")


@dataclass(frozen=True)
class Orthogonal:
    """weight · the mean over all factors of ‖Q Qᵀ − 1‖ and ‖Pᵀ P − 1‖ (Frobenius; the paper has their squares)."""

    weight: float
    name: str = "orthogonal"
    undecayed: frozenset[str] = frozenset()

    def pull(self, model: nn.Module) -> float:
        """Adds its gradient to that of the factors; the value of the penalty."""
        layers = adalora_layers(model)
        factors = [factor for layer in layers for factor in (layer.lora_A[NAME], layer.lora_B[NAME].T)]
        with torch.enable_grad():
            gaps = [torch.linalg.norm(factor @ factor.T - torch.eye(len(factor)).to(factor)) for factor in factors]
            penalty = self.weight * torch.stack(gaps).mean()
            penalty.backward()  # type: ignore[no-untyped-call]
        return float(penalty.detach())


def adalora_layers(model: nn.Module) -> list[Any]:
    """The changed layers, in order; of models that share what they change, the first one's."""
    found = [module for module in model.modules() if isinstance(module, AdaLoraLayer)]
    return list({id(layer.lora_E[NAME]): layer for layer in reversed(found)}.values())[::-1]


def _average(factor: nn.Parameter, optimiser: torch.optim.Optimizer) -> None:
    """Formulas 9 and 10, for weights that were moved; the sensitivity is |w · ∂loss/∂w|."""
    if factor.grad is None:
        return
    state, now = optimiser.state[factor], (factor * factor.grad).abs()
    sensitivity = state.get("sensitivity", torch.zeros_like(now)).lerp(now, 1 - KEEP)
    state["sensitivity"] = sensitivity
    state["variation"] = state.get("variation", torch.zeros_like(now)).lerp((now - sensitivity).abs(), 1 - KEEP)


def _worth(layer: Any, optimiser: torch.optim.Optimizer) -> Tensor:
    """How important each rank of a layer is, [R]: that of its λ, and the mean over its row of Q and column of P
    (formula 8)."""

    def score(factor: nn.Parameter) -> Tensor:
        state = optimiser.state[factor]
        if "variation" not in state:  # an expert that no token has reached
            return torch.zeros_like(factor)
        product: Tensor = state["sensitivity"] * state["variation"]
        return product

    inner, singular, outer = (score(getattr(layer, f"lora_{part}")[NAME]) for part in "AEB")
    return singular[:, 0] + inner.mean(dim=1) + outer.mean(dim=0)


def _best(worth: Sequence[Tensor], budget: float) -> list[Tensor]:
    """Of each layer which ranks are kept, [R]: the most important ones of all layers together."""
    together = torch.cat(list(worth))
    last = together.sort(descending=True, stable=True).indices[int(budget) :]
    kept = torch.ones_like(together, dtype=torch.bool)
    kept[last] = False
    return list(torch.split(kept, [len(one) for one in worth]))
