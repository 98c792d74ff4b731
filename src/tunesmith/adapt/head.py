"""The linear probe: the pre-trained model stays as it is, and only the task's new head learns."""

from collections.abc import Sequence
from typing import ClassVar

from transformers import PreTrainedModel

from tunesmith.adapt.base import MethodOptions
from tunesmith.contracts import VOCABULARY_HEADS, Adapted, Codec, Family
from tunesmith.errors import UserError


class Head(MethodOptions):
    """Only the new head moves."""

    learning_rate: ClassVar[float] = 1e-2
    artifact: ClassVar[str] = "safetensors"
    narrow: ClassVar[bool] = True

    def check(self, model: PreTrainedModel, family: Family, auto_class: str) -> None:
        if auto_class in VOCABULARY_HEADS:
            raise UserError("method", "this task adds no head to the model, so nothing would learn", "use full or lora")

    def require_tokens(self, model: PreTrainedModel, family: Family) -> None:
        raise UserError("model.new_tokens", "only the head learns, so they never would", "use full or lora")

    def adapt(
        self, model: PreTrainedModel, codec: Codec, head: Sequence[str], seed: int, rows: Sequence[int] = ()
    ) -> Adapted:
        if not head:
            raise UserError("method", "the model has this task's head already", "use full, partial or lora")
        moving = tuple(name for name, _ in model.named_parameters() if any(f".{part}." in f".{name}" for part in head))
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in moving)
        return Adapted(model, moving, tuple(head), (f"only the head moves: {', '.join(head)}",))
