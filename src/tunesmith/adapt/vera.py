"""VeRA: trained scales of a low-rank product whose random factors all layers share (arXiv:2310.11454), through PEFT."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from peft import PeftModel, VeraConfig
from pydantic import Field
from transformers import PreTrainedModel

from tunesmith.adapt.base import TargetedMethod, said_of
from tunesmith.adapt.layers import pattern_of, transposed
from tunesmith.contracts import Family


class VeRA(TargetedMethod):
    """Scales of shared random low-rank factors."""

    learning_rate: ClassVar[float] = 5e-3
    narrow: ClassVar[bool] = True

    rank: int = Field(64, ge=1, description="Rank of the shared random factors; they cost no trained weights.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the input of the change.")
    initial: float = Field(0.1, gt=0, description="What the inner scales begin with; the outer ones begin at 0.")

    def configuration(self, model: PreTrainedModel, family: Family, common: Mapping[str, Any]) -> VeraConfig:
        layers = self.layers_of(model)
        return VeraConfig(
            **common,
            r=self.rank,
            vera_dropout=self.dropout,
            d_initial=self.initial,
            target_modules=pattern_of(layers),
            fan_in_fan_out=transposed(layers.values()),
        )

    def note(self, tuned: PeftModel, layers: Sequence[str]) -> str:
        return f"VeRA of rank {self.rank} on {said_of(layers)}"
