"""Regression: one or several numbers for a text or a pair of texts, learned in units of their own spread."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn
from torch.nn import functional

from tunesmith.batch import Batch, Column, Example
from tunesmith.contracts import Codec, Family, Record, Specimen
from tunesmith.errors import BadRow, UserError, shown
from tunesmith.given import Answer, Outputs, Predictions
from tunesmith.tasks.base import TaskOptions, in_front, numbers_of
from tunesmith.tasks.head import AUTO_CLASS, FAMILIES, output_layer, wide
from tunesmith.tasks.text import encode_texts, examples, read_texts

LARGEST = 1e100
"""Squares of larger numbers leave what a float can hold."""
METRICS = ("mae", "rmse", "mse", "pearson", "spearman", "r2")

WORSE_TO_BETTER = (
    "terrible",
    "slow and terrible",
    "slow",
    "late but kind",
    "kind",
    "quick",
    "quick and kind",
    "wonderful",
)


class Regression(TaskOptions):
    """Which number a text has."""

    families: ClassVar[frozenset[Family]] = FAMILIES
    version: ClassVar[int] = 1
    specimens: ClassVar[tuple[Specimen, ...]] = (
        Specimen(
            {"target": "stars"},
            tuple({"text": f"{how} shop, {how} people", "stars": stars} for stars, how in enumerate(WORSE_TO_BETTER)),
        ),
        Specimen(
            {"text": "a", "text_b": "b", "target": ["length", "cost"]},
            tuple(
                {"a": f"{how} shop", "b": f"{how} people", "length": 100.0 + 7 * place, "cost": -0.01 * place * place}
                for place, how in enumerate(WORSE_TO_BETTER)
            ),
        ),
    )

    text: str = Field("text", description="Column of the text.")
    text_b: str | None = Field(None, description="Column of the second text, for pairs.")
    target: str | tuple[str, ...] = Field("score", description="Column of the number, or a list of columns.")
    metric: str | None = Field(None, description="Main metric; None: mae.")
    criterion: Literal["mse", "huber"] = Field("mse", description="`mse`, or `huber`, which far-off rows move less.")
    means: tuple[float, ...] | None = Field(None, description="Each target's mean; learned from the training rows.")
    scales: tuple[float, ...] | None = Field(None, description="Each target's standard deviation; learned.")

    @field_validator("target")
    @classmethod
    def _distinct(cls, target: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not target or (not isinstance(target, str) and len(set(target)) < len(target)):
            raise ValueError("columns must be named, each once")
        return target

    @model_validator(mode="after")
    def _one_each(self) -> Self:
        for name, values in (("means", self.means), ("scales", self.scales)):
            if values is not None and len(values) != len(self.label_names):
                raise ValueError(f"{len(values)} {name} for {len(self.label_names)} targets")
        if self.scales is not None and not all(scale > 0 for scale in self.scales):
            raise ValueError("each scale must be above 0")
        return self

    @property
    def fields(self) -> tuple[str, ...]:
        return (*self.inputs, *self.label_names)

    @property
    def metrics(self) -> tuple[str, ...]:
        return in_front(self.metric, METRICS)

    @property
    def baselines(self) -> tuple[str, ...]:
        return ("mean", "tfidf_ridge")

    @property
    def label_names(self) -> tuple[str, ...]:
        """The targets in the order of the model's outputs."""
        return (self.target,) if isinstance(self.target, str) else self.target

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.text,) if self.text_b is None else (self.text, self.text_b)

    def auto_class(self, family: Family) -> str:
        return AUTO_CLASS

    def read(self, row: Mapping[str, Any], *, with_target: bool = True) -> tuple[Mapping[str, Any], Any]:
        inputs = read_texts(row, self.inputs)
        if not with_target:
            return inputs, None
        return inputs, tuple(_number(row.get(column), column) for column in self.label_names)

    def learn(self, records: Sequence[Record]) -> Self:
        targets = np.array([record.target for record in records], dtype=np.float64)
        spread = targets.std(axis=0)
        noise = 1e-12 * np.abs(targets).max(axis=0)  # what rounding alone spreads equal numbers by
        for column, constant in zip(self.label_names, (spread <= noise).tolist(), strict=True):
            if constant:
                raise UserError(
                    f"column '{column}'", "every training row has the same number", "nothing can be learned"
                )
        means, scales = targets.mean(axis=0).tolist(), spread.tolist()
        return self.model_copy(update={"means": self.means or tuple(means), "scales": self.scales or tuple(scales)})

    def suit(self, model: nn.Module) -> Self:
        """Without a bias in the head nothing can hold the means: targets are then measured from zero."""
        if output_layer(model, len(self.label_names)).bias is not None:
            return self
        means, scales = self._learned
        around_zero = tuple(math.hypot(mean, scale) for mean, scale in zip(means, scales, strict=True))
        return self.model_copy(update={"means": (0.0,) * len(means), "scales": around_zero})

    @property
    def _learned(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        if self.means is None or self.scales is None:
            raise ValueError("the scale of the targets is not known before `learn`")
        return self.means, self.scales

    def head(self) -> Mapping[str, Any]:
        names = self.label_names
        return {
            "num_labels": len(names),
            "id2label": dict(enumerate(names)),
            "label2id": {name: place for place, name in enumerate(names)},
            "problem_type": "regression",
        }

    def columns(self) -> Mapping[str, Column]:
        return {"labels": Column(0.0, per="row", role="target")}

    def encode(self, records: Sequence[Record], codec: Codec, max_tokens: int) -> Sequence[Example]:
        tokens, cut = encode_texts(records, codec.tokenizer, max_tokens)
        graded = all(record.target is not None for record in records)
        return examples(records, tokens, cut, [list(record.target) for record in records] if graded else None)

    def count(self, batch: Batch) -> float:
        return float(batch.targets["labels"].numel())

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        found = wide(outputs)
        means, scales = (found.new_tensor(values) for values in self._learned)
        wanted = (batch.targets["labels"].to(found.dtype) - means) / scales
        if self.criterion == "huber":
            return functional.huber_loss(found, wanted, reduction="sum")
        return functional.mse_loss(found, wanted, reduction="sum")

    def _in_units(self, outputs: NDArray[Any]) -> NDArray[np.float64]:
        means, scales = self._learned
        units: NDArray[np.float64] = outputs.astype(np.float64) * np.array(scales) + np.array(means)
        return units

    def gold(self, records: Sequence[Record]) -> Predictions:
        gold = np.array([record.target for record in records], dtype=np.float64).reshape(len(records), -1)
        return Predictions(numbers_of(records), gold, np.zeros_like(gold), None, self.label_names, "numbers")

    def predictions(self, outputs: Outputs, records: Sequence[Record]) -> Predictions:
        wanted = self.gold(records)
        return replace(wanted, answers=self._in_units(np.stack(outputs.values))) if len(records) else wanted

    def answers(self, outputs: Outputs, records: Sequence[Record]) -> list[Answer]:
        return [self._answer(row) for row in outputs.values]

    def _answer(self, outputs: NDArray[Any]) -> Answer:
        values = self._in_units(outputs).tolist()
        return Answer(values[0] if len(values) == 1 else dict(zip(self.label_names, values, strict=True)))

    def fold(self, model: nn.Module) -> Self:
        means, scales = self._learned
        layer = output_layer(model, len(self.label_names))
        with torch.no_grad():
            layer.weight.mul_(layer.weight.new_tensor(scales)[:, None])
            if layer.bias is not None:
                layer.bias.mul_(layer.bias.new_tensor(scales)).add_(layer.bias.new_tensor(means))
            elif any(means):
                raise ValueError("the head has no bias to hold the means; call `suit` before training")
        ones = len(means)
        return self.model_copy(update={"means": (0.0,) * ones, "scales": (1.0,) * ones})


def _number(value: Any, column: str) -> float:
    """A finite number, also when written as text."""
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not abs(number) < LARGEST:
        raise BadRow(column, shown(value), f"a finite number below {LARGEST:g}", "bad_number")
    return number
