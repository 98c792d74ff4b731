"""What an update may mind beside the task's loss: what another model gives for the same rows."""

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor
from torch.nn import Module

from tunesmith.batch import Batch
from tunesmith.contracts import Task


class Tutor(Protocol):
    """Something beside the task's loss that holds what the model gives for a batch to what another model gives."""

    @property
    def name(self) -> str:
        """What the journal calls it."""

    @property
    def asks(self) -> Mapping[str, bool]:
        """What the model must be asked for besides."""

    def shown(self, model: Module, task: Task, batch: Batch) -> Tensor:
        """What is to be kept of the batch. The model is left as it was; no random number is drawn."""

    def count(self, task: Task, batch: Batch) -> float:
        """What the summed loss is divided by, summed over the whole optimiser batch."""

    def loss(self, given: Any, shown: Tensor, batch: Batch) -> Tensor:
        """The weighted loss of what the tuned model gave, *summed*: [] in float32 or wider."""
