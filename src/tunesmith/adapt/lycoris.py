"""LoHa and LoKr: changes of weights as Hadamard or Kronecker products of small factors, through PEFT.

Sources: arXiv:2108.06098 (FedPara), arXiv:2212.10650 (KronA), arXiv:2309.14859 (LyCORIS).
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from peft import LoHaConfig, LoKrConfig, PeftModel
from pydantic import Field
from torch import nn
from transformers import PreTrainedModel

from tunesmith.adapt.base import TargetedMethod, plain, require_rank, said_of
from tunesmith.adapt.layers import pattern_of
from tunesmith.contracts import Family


class _Product(TargetedMethod):
    """What both have in common."""

    learning_rate: ClassVar[float] = 1e-3
    quantises: ClassVar[bool] = False

    rank: int = Field(8, ge=1, description="Rank of the factors.")
    alpha: float | None = Field(None, gt=0, description="The change is scaled by alpha / rank; None: the rank itself.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Share of layers whose change is left out in a step.")

    def _common(self, layers: Mapping[str, nn.Module], common: Mapping[str, Any]) -> dict[str, Any]:
        return {
            **common,
            "r": self.rank,
            "alpha": self.alpha if self.alpha is not None else self.rank,
            "module_dropout": self.dropout,
            "target_modules": pattern_of(layers),
        }

    def _chosen(self, model: PreTrainedModel) -> dict[str, nn.Module]:
        return plain(self.layers_of(model), model)


class LoHa(_Product):
    """A change that is the elementwise product of two low-rank ones."""

    def configuration(self, model: PreTrainedModel, family: Family, common: Mapping[str, Any]) -> LoHaConfig:
        layers = self._chosen(model)
        require_rank(self.rank, layers)
        return LoHaConfig(**self._common(layers, common))

    def note(self, tuned: PeftModel, layers: Sequence[str]) -> str:
        return f"LoHa of rank {self.rank} on {said_of(layers)}"


class LoKr(_Product):
    """A change that is a Kronecker product of a small and a low-rank matrix."""

    factor: int = Field(-1, ge=-1, description="Size of the small matrix; -1: as near to square as it can be.")
    both: bool = Field(False, description="The small matrix is of low rank, too.")

    def configuration(self, model: PreTrainedModel, family: Family, common: Mapping[str, Any]) -> LoKrConfig:
        layers = self._chosen(model)
        return LoKrConfig(**self._common(layers, common), decompose_factor=self.factor, decompose_both=self.both)

    def note(self, tuned: PeftModel, layers: Sequence[str]) -> str:
        return f"LoKr of rank {self.rank} on {said_of(layers)}"
