"""LoRA: a trained low-rank product beside each frozen weight matrix (arXiv:2106.09685), through PEFT."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from pydantic import Field, model_validator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunesmith.adapt.base import TargetedMethod, require_rank, said_of
from tunesmith.adapt.layers import leaf_names, pattern_of, transposed
from tunesmith.adapt.merging import CONFIG, WEIGHTS, Mix, Stored, merged_changes, require_changes
from tunesmith.contracts import Adapted, Codec, Family
from tunesmith.errors import UserError, nearest

START = "tunesmith_start"
"""Where a model whose base was changed by the beginning keeps what its adapter began with."""
INIT: Mapping[str, Any] = {"zero": True, "gaussian": "gaussian", "orthogonal": "orthogonal", "pissa": "pissa"}
"""What PEFT calls the ways to begin."""


class LoRA(TargetedMethod):
    """A low-rank change beside frozen weights, also those of experts that have the names of changed layers."""

    learning_rate: ClassVar[float] = 5e-4

    rank: int = Field(8, ge=1, description="Rank of the change.")
    alpha: float | None = Field(None, gt=0, description="The change is scaled by alpha / rank; None: twice the rank.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the input of the change.")
    ranks: Mapping[str, int] = Field(
        default_factory=dict, description="Other ranks, by the last parts of layers' names: `{value: 16}`."
    )
    alphas: Mapping[str, float] = Field(default_factory=dict, description="Other alphas, in the same way.")
    rslora: bool = Field(False, description="Scale by alpha / sqrt(rank) (arXiv:2312.03732).")
    dora: bool = Field(
        False, description="Train the size of each weight column apart from its direction (arXiv:2402.09353)."
    )
    init: Literal["zero", "gaussian", "orthogonal", "pissa"] = Field(
        "zero",
        description="How the change begins. zero, gaussian: one factor random, the other 0. orthogonal: both random, "
        "their product 0. pissa: the largest singular values of the weight, taken out of it (arXiv:2404.02948).",
    )
    plus: float = Field(1.0, ge=1, description="How much faster the second factor learns (LoRA+, arXiv:2402.12354).")

    @model_validator(mode="after")
    def _convertible(self) -> Self:
        if self.init == "orthogonal" and any(rank % 2 for rank in (self.rank, *self.ranks.values())):
            raise ValueError("init: orthogonal needs even ranks")
        if self.init == "pissa" and self.rslora and (self.ranks or self.alphas):
            raise ValueError("init: pissa with rslora cannot be saved with ranks or alphas of single layers")
        if self.init == "pissa" and self.dora:
            raise ValueError("init: pissa changes the weights whose sizes dora would train; choose one of them")
        return self

    def configuration(self, model: PreTrainedModel, family: Family, common: Mapping[str, Any]) -> LoraConfig:
        layers = self.layers_of(model)
        own = {place: chosen_by(place, layers) for place in {*self.ranks, *self.alphas}}
        for place, rank in {"": self.rank, **self.ranks}.items():
            require_rank(rank, own.get(place, {n: v for n, v in layers.items() if not _has_own(n, self.ranks)}))
        return LoraConfig(
            **common,
            r=self.rank,
            lora_alpha=self.alpha if self.alpha is not None else 2.0 * self.rank,  # type: ignore[arg-type]
            lora_dropout=self.dropout,
            target_modules=pattern_of(layers),
            rank_pattern=dict(self.ranks),
            alpha_pattern={**{place: 2.0 * rank for place, rank in self.ranks.items()}, **self.alphas}
            if self.alpha is None
            else dict(self.alphas),
            use_rslora=self.rslora,
            use_dora=self.dora,
            init_lora_weights=INIT[self.init],
            fan_in_fan_out=transposed(layers.values()),
        )

    def note(self, tuned: PeftModel, layers: Sequence[str]) -> str:
        return f"LoRA of rank {self.rank} on {said_of(layers)}"

    def adapt(
        self, model: PreTrainedModel, codec: Codec, head: Sequence[str], seed: int, rows: Sequence[int] = ()
    ) -> Adapted:
        adapted = super().adapt(model, codec, head, seed, rows)
        if self.init == "pissa":
            began = get_peft_model_state_dict(adapted.model, save_embedding_layers=False)
            setattr(adapted.model, START, {name: tensor.detach().clone() for name, tensor in began.items()})
        if self.plus == 1:
            return adapted
        return replace(adapted, rates={name: self.plus for name in adapted.trainable if "lora_B" in name})

    def save(self, model: nn.Module, folder: Path) -> None:
        """As PEFT writes it. What began by changing the base is written as a LoRA of twice the rank over the base."""
        super().save(model, folder)
        began: Mapping[str, Tensor] | None = getattr(model, START, None)
        if began is None:
            return
        # The change is B A - B0 A0, which is one product of factors that stand behind one another.
        weights = load_file(folder / WEIGHTS)
        for name, start in began.items():
            own = weights[name]
            if ".lora_A." in name:
                weights[name] = torch.cat([own, start.cpu()]).contiguous()
            elif ".lora_B." in name:
                weights[name] = torch.cat([own, -start.cpu()], dim=1).contiguous()
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        growth = 2**0.5 if self.rslora else 2  # of alpha, so that it is divided by the new rank as before by the old
        config |= {"init_lora_weights": True, "r": 2 * config["r"], "lora_alpha": growth * config["lora_alpha"]}
        config["rank_pattern"] = {place: 2 * rank for place, rank in config["rank_pattern"].items()}
        config["alpha_pattern"] = {place: 2 * alpha for place, alpha in config["alpha_pattern"].items()}
        (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")

    def require_mixing(self, adapters: Sequence[Stored], wanted: Mix) -> None:
        require_changes(adapters, wanted)

    def mixed(self, base: PreTrainedModel, adapters: Sequence[Stored], wanted: Mix) -> Stored:
        return merged_changes(base, adapters, wanted)


def chosen_by(place: str, layers: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """The layers whose names end so. Raises UserError where there is none."""
    found = {name: layer for name, layer in layers.items() if f".{name}".endswith(f".{place}")}
    if not found:
        raise UserError("method.ranks", f"no changed layer is called {place}", nearest(place, leaf_names(layers)))
    return found


def _has_own(name: str, ranks: Mapping[str, int]) -> bool:
    return any(f".{name}".endswith(f".{place}") for place in ranks)
