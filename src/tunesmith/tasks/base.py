"""What most tasks do alike, so that a task's file holds only what is its own."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from tunesmith.batch import Batch, Encoded, Example
from tunesmith.contracts import Codec, Record
from tunesmith.given import Decoding, Outputs, Worth
from tunesmith.options import Options


class TaskOptions(Options):
    """The options of a task that reads answers off one forward pass, learns nothing beforehand and scales nothing."""

    outputs_per: ClassVar[Literal["row", "token"]] = "row"
    packs: ClassVar[bool] = False
    untuned: ClassVar[bool] = False
    settles: ClassVar[bool] = False

    @property
    def compares(self) -> bool:
        return False

    @property
    def parts(self) -> Mapping[str, Any]:
        return {}

    @property
    def variants(self) -> Mapping[str, Any]:
        return {}

    def draws(self, rows: Mapping[str, int]) -> Mapping[str, float] | None:
        return None

    def of_part(self, name: str, records: Sequence[Record]) -> list[Record]:
        return list(records)

    def learn(self, records: Sequence[Record]) -> Self:
        return self

    def suit(self, model: nn.Module) -> Self:
        return self

    def check(self, record: Record) -> None:
        """Any record can be graded."""

    def vary(self, columns: Mapping[str, NDArray[Any]], seed: int) -> Mapping[str, Sequence[float]]:
        return columns  # type: ignore[return-value]  # arrays of numbers are sequences of them

    def prompts(self, records: Sequence[Record], codec: Codec, max_tokens: int) -> Sequence[Example]:
        raise TypeError(f"{type(self).__name__} generates no texts")

    def decoding_for(self, codec: Codec) -> Decoding | None:
        return None

    def refer(self, data: Encoded, values: Sequence[NDArray[np.float64]]) -> Encoded:
        return data

    def stratum(self, record: Record) -> str | None:
        return None

    def weigh(self, records: Sequence[Record]) -> Sequence[float] | None:
        return None

    def arguments(self, batch: Batch) -> Mapping[str, Tensor]:
        return batch.inputs

    def graded(self, batch: Batch) -> bool:
        return bool(batch.targets)

    def outputs(self, model_output: Any, batch: Batch) -> Tensor:
        logits: Tensor = model_output.logits
        return logits

    def furnish(self, codec: Codec) -> None:
        """The tokenizer travels as it is."""

    def settle(self, outputs: Outputs, records: Sequence[Record], worth: Worth) -> Self:
        return self

    def fold(self, model: nn.Module) -> Self:
        return self


def in_front(metric: str | None, known: Sequence[str]) -> tuple[str, ...]:
    """The known metrics in their order, the one that is wanted as the main one before all others."""
    return tuple(known) if metric is None else (metric, *(name for name in known if name != metric))


def numbers_of(records: Sequence[Record]) -> NDArray[np.int64]:
    """[N] row numbers, as `Predictions.rows` holds them."""
    return np.array([record.row for record in records], dtype=np.int64)
