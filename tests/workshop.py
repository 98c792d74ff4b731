"""A tiny model tuned on a few rows, put together from the rooms as the pipeline does it."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tiny import model_folder
from tunesmith.adapt import METHODS
from tunesmith.adapting import Setting, adapted_model, require_heads
from tunesmith.batch import Encoded, Padding, encoded, padding_for
from tunesmith.contracts import Adapted, Family, Foundation, Method, Record, Task
from tunesmith.forward import Inference, all_outputs
from tunesmith.select.foundation import fit_tokenizer, open_foundation
from tunesmith.select.options import ModelOptions
from tunesmith.several import Several
from tunesmith.tasks import TASKS
from tunesmith.train.loop import Course, State
from tunesmith.train.optimiser import make_optimiser
from tunesmith.train.options import TrainOptions
from tunesmith.train.plan import make_plan
from tunesmith.world import World

CPU = World(0, 1, torch.device("cpu"))


@dataclass
class Bench:
    """Everything that one tuning needs, before its first step."""

    foundation: Foundation
    task: Task
    method: Method
    records: Sequence[Record]
    data: Encoded
    padding: Padding
    adapted: Adapted

    def course(self, world: World = CPU, weights: Sequence[float] | None = None, **options: Any) -> Course:
        settings = TrainOptions(**{"epochs": 1, "batch_size": 4, "learning_rate": 2e-3, "warmup": 0, **options})
        assert settings.learning_rate is not None
        plan = make_plan(settings, rows=len(self.data), seed=3, peak=settings.learning_rate, precision="float32")
        own = self.adapted
        return Course(self.task, self.data, self.padding, plan, world, weights, own.penalties, tend=own.tend)

    def state(self, course: Course) -> State:
        optimiser = make_optimiser(self.adapted.model, self.adapted, course.plan.options)
        return State(self.adapted.model, optimiser)


def records_of(task: Task, rows: Sequence[Mapping[str, Any]]) -> list[Record]:
    return [Record(place, "specimen", place + 1, *task.read(row)) for place, row in enumerate(rows)]


def opened(folder: Path, family_kind: str, auto_class: str) -> Foundation:
    """The tiny model of that kind in `folder`, made when it is not there yet, before its weights are read."""
    if not (folder / "config.json").exists():
        model_folder(family_kind, folder)
    foundation = open_foundation(ModelOptions(name=str(folder)), Path("."))
    fit_tokenizer(foundation, auto_class)
    return foundation


def bench(folder: Path, family_kind: str, task_kind: str, method_kind: str, **more: Any) -> Bench:
    """A bench in `folder`. more: `specimen` (its number), `method`, `task` and `model` options, `dropout`."""
    if not (folder / "config.json").exists():
        model_folder(family_kind, folder)
    foundation = open_foundation(ModelOptions(name=str(folder), **more.get("model", {})), Path("."))
    kind = TASKS.load(task_kind)
    specimen = kind.specimens[more.get("specimen", 0)]
    task = kind(**{**specimen.options, **more.get("task", {})})
    records = records_of(task, specimen.rows)
    task = task.learn(records)
    method = METHODS.load(method_kind)(**more.get("method", {}))
    require_heads(foundation, task, method)
    adapted = adapted_model(foundation, task, method, Setting(1, more.get("dropout", 0.0)))
    task = task.suit(adapted.model)
    data = encoded(task.encode(records, foundation.codec, 64))
    pad, positions = foundation.tokenizer.pad_token_id, foundation.family is Family.DECODER
    padding = padding_for(task.columns(), pad, positions=positions)
    if task.compares:
        data = task.refer(data, all_outputs(adapted.model, task, data, padding, Inference(CPU)).values)
    return Bench(foundation, task, method, records, data, padding, adapted)


def merged(model: nn.Module, method: Method) -> nn.Module:
    """A plain model, or several, without the method's additions. The input is used up."""
    if not isinstance(model, Several):
        return method.merge(model)
    plain = {name: method.merge(copy.deepcopy(model[name])) for name in model.names}  # or the shared would change twice
    return Several(plain, {name: [part for part, _ in one.named_modules() if part] for name, one in plain.items()})


def left(padding: Padding) -> Padding:
    return replace(padding, side="left")
