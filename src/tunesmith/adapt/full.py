"""Full fine-tuning: every weight moves."""

from collections.abc import Sequence
from typing import ClassVar

from transformers import PreTrainedModel

from tunesmith.adapt.base import MethodOptions
from tunesmith.adapt.layers import computed_weights
from tunesmith.contracts import Adapted, Codec


class Full(MethodOptions):
    """All weights move."""

    moves_base: ClassVar[bool] = True
    learning_rate: ClassVar[float] = 5e-5
    artifact: ClassVar[str] = "safetensors"

    def adapt(
        self, model: PreTrainedModel, codec: Codec, head: Sequence[str], seed: int, rows: Sequence[int] = ()
    ) -> Adapted:
        computed = computed_weights(model)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name not in computed)
        moving = tuple(name for name, _ in model.named_parameters() if name not in computed)
        notes = (f"computed, not learned: {', '.join(computed)}",) if computed else ()
        return Adapted(model, moving, tuple(head), notes)
