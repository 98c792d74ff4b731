"""What an export is made of, and what it must answer to be shipped."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from tunesmith.contracts import Foundation, Method, Record, Task

FEW_BITS = (
    "load_in_4bit",
    "load_in_8bit",
    "bnb_4bit_quant_type",
    "bnb_4bit_use_double_quant",
    "bnb_4bit_compute_dtype",
    "llm_int8_skip_modules",
)
"""What of `BitsAndBytesConfig` decides which numbers a base in few bits stands for."""


@dataclass(frozen=True)
class Golden:
    """Batches of encoded rows, with the outputs by name that every export must give again.

    places: of each batch, the number in `records` of each of its lines.
    """

    batches: Sequence[Mapping[str, Tensor]]
    outputs: Sequence[Mapping[str, Tensor]]
    places: Sequence[Sequence[int]]
    records: Sequence[Record]


@dataclass(frozen=True)
class Parcel:
    """A tuned model whose outputs are in the user's units, with all that must travel along.

    task_spec: the task's kind and options, as a recipe writes them. facts: what the model card tells of the run.
    shares: whether other models hold the same weights, so that they must not be changed.
    """

    model: nn.Module
    method: Method
    foundation: Foundation
    task: Task
    task_spec: Mapping[str, Any]
    max_tokens: int
    golden: Golden
    facts: Mapping[str, Any]
    shares: bool = False

    @property
    def auto_class(self) -> str:
        return self.task.auto_class(self.foundation.family)

    @property
    def other_head(self) -> bool:
        """Whether the base may have a head of another size than the one that the adapter brings."""
        model: Any = self.model
        return bool(self.foundation.config.num_labels != model.config.num_labels)

    @property
    def quantised(self) -> dict[str, Any] | None:
        """What `BitsAndBytesConfig` is told where an adapter's base is loaded, in plain values; None for a base that is
        held as it is."""
        model: Any = self.model
        found = getattr(model.config, "quantization_config", None)
        if found is None:
            return None
        told = found.to_dict()
        return {key: told[key] for key in FEW_BITS if key in told}

    @property
    def loader(self) -> str:
        """The function that puts the adapter on its base, as `module:name`; none where PEFT does it alone."""
        foundation = self.foundation
        plain = self.method.loads_plainly(foundation.family, self.auto_class, foundation.config)
        return "" if plain else self.method.loader
