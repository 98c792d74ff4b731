"""Distillation from the frozen base on the batch's own rows (Learning without Forgetting, arXiv:1606.09282)."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.nn import functional

from tunesmith.batch import IGNORED, Batch
from tunesmith.contracts import VOCABULARY_HEADS, Adapted, Family, Task
from tunesmith.forward import called

Compared = Literal["tokens", "classes", "labels", "states"]


@dataclass(frozen=True)
class Distil:
    """Holds what the tuned model gives for a batch to what the base gives.

    Of a head that the base has too it is the outputs: weight · T² · KL(base ‖ tuned) of the softmax over the outputs
    divided by the temperature T (arXiv:1503.02531, section 2), over graded `tokens` or over rows with `classes`; for
    rows with any number of `labels` the sum over each label's two outcomes. Under a new head it is the last hidden
    `states`: weight · the mean square of what they differ by, over tokens and width.
    base: a frozen copy of the base; None: the model itself with its adapter switched off.
    """

    name: ClassVar[str] = "distil"

    weight: float
    temperature: float
    compared: Compared
    base: nn.Module | None = None

    @property
    def asks(self) -> Mapping[str, bool]:
        return {"output_hidden_states": True} if self.compared == "states" else {}

    def shown(self, model: nn.Module, task: Task, batch: Batch) -> Tensor:
        with torch.no_grad(), base_of(model, self.base) as base:
            return self._kept(called(base, task, batch, **self.asks), batch)

    def count(self, task: Task, batch: Batch) -> float:
        if self.compared == "tokens":
            return float((batch.targets["labels"] != IGNORED).sum())
        if self.compared == "states":
            return float(batch.inputs["attention_mask"].sum())
        return float(len(batch.targets["labels"]))

    def loss(self, given: Any, shown: Tensor, batch: Batch) -> Tensor:
        found = _wide(self._kept(given, batch))
        shown = shown.to(found.dtype)
        if self.compared == "states":
            return self.weight * (found - shown).square().mean(dim=-1).sum()
        found, shown = found / self.temperature, shown / self.temperature
        if self.compared == "labels":  # each label is a choice between two
            found, shown = (torch.stack([part, torch.zeros_like(part)], dim=-1) for part in (found, shown))
        gap = functional.kl_div(found.log_softmax(dim=-1), shown.log_softmax(dim=-1), reduction="sum", log_target=True)
        return self.weight * self.temperature**2 * gap

    def _kept(self, given: Any, batch: Batch) -> Tensor:
        """[n, L] outputs, or [n, D] states, of what is compared."""
        if self.compared == "tokens":
            logits: Tensor = given.logits
            return logits[batch.targets["labels"] != IGNORED]
        if self.compared != "states":
            rows: Tensor = given.logits
            return rows
        mask = batch.inputs["attention_mask"].bool()
        return _last_states(given, mask)[mask]


def _wide(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def _last_states(given: Any, mask: Tensor) -> Tensor:
    """The last hidden states of the tokens that `mask` is for: [B, T, D]. Behind an encoder those of the decoder, where
    it reads the same tokens."""
    for kind in ("hidden_states", "decoder_hidden_states", "encoder_hidden_states"):
        states = getattr(given, kind, None)
        if states and states[-1].shape[:2] == mask.shape:
            last: Tensor = states[-1]
            return last
    raise ValueError(f"{type(given).__name__} holds no hidden states")


def what_is_compared(task: Task, adapted: Adapted, family: Family) -> Compared:
    """What base and tuned model have in common: outputs where the base's head means what the task's does."""
    column = task.columns().get("labels")
    vocabulary = task.auto_class(family) in VOCABULARY_HEADS
    if column is None or not (vocabulary or adapted.knows):
        return "states"
    if column.per != "row":
        return "tokens"
    if vocabulary:
        return "states"
    return "labels" if task.head().get("problem_type") == "multi_label_classification" else "classes"


def frozen(model: nn.Module) -> nn.Module | None:
    """A copy of the model as it is, which nothing changes; None for one with an adapter that can be switched off."""
    if isinstance(model, PeftModel):
        return None
    return copy.deepcopy(model).eval().requires_grad_(False)


@contextmanager
def base_of(model: nn.Module, base: nn.Module | None) -> Iterator[nn.Module]:
    """The base, without dropout: a frozen copy, or the model with its adapter off, which is on again afterwards."""
    if base is not None:
        yield base
        return
    assert isinstance(model, PeftModel)
    moves = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    was_training = model.training
    model.eval()
    try:
        with model.disable_adapter():
            yield model
    finally:
        model.train(was_training)
        for name, parameter in model.named_parameters():  # switching on again would let all of an adapter move
            parameter.requires_grad_(moves[name])
