"""(IA)³: trained factors of keys, values and what feed-forward layers pass on (arXiv:2205.05638), through PEFT."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from peft import IA3Config, PeftModel
from transformers import PreTrainedModel

from tunesmith.adapt.base import PeftMethod, linear_layers, said_of
from tunesmith.adapt.layers import of_role, pattern_of, transposed
from tunesmith.contracts import Family


class IA3(PeftMethod):
    """A factor for each key, value and inner feed-forward activation."""

    learning_rate: ClassVar[float] = 5e-3
    narrow: ClassVar[bool] = True
    averages: ClassVar[bool] = True

    def configuration(self, model: PreTrainedModel, family: Family, common: Mapping[str, Any]) -> IA3Config:
        layers = linear_layers(model)
        passed = of_role(layers, "feed_forward")
        changed = of_role(layers, "key_value") | passed
        return IA3Config(
            **common,
            target_modules=pattern_of(changed),
            feedforward_modules=pattern_of(passed),
            fan_in_fan_out=transposed(changed.values()),
        )

    def note(self, tuned: PeftModel, layers: Sequence[str]) -> str:
        return f"(IA)³ on {said_of(layers)}"
