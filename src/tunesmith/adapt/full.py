"""Full fine-tuning: every weight moves."""

from collections.abc import Sequence
from typing import ClassVar

from torch import nn
from transformers import PreTrainedModel

from tunesmith.contracts import Adapted, Family
from tunesmith.options import Options


class Full(Options):
    """All weights move."""

    moves_base: ClassVar[bool] = True
    learning_rate: ClassVar[float] = 5e-5
    artifact: ClassVar[str] = "safetensors"

    def adapt(self, model: PreTrainedModel, family: Family, head: Sequence[str], seed: int) -> Adapted:
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        return Adapted(model, tuple(name for name, _ in model.named_parameters()), tuple(head))

    def merge(self, model: nn.Module) -> PreTrainedModel:
        if not isinstance(model, PreTrainedModel):
            raise TypeError(f"{type(model).__name__} is not a transformers model")
        return model
