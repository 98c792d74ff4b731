"""Several tasks learned together: one backbone, a head for each, and of each its own losses, metrics and model.

Source: Caruana 1997, "Multitask Learning"; how often each is drawn as in Raffel et al. 2020, arXiv:1910.10683,
section 3.5.2, whose T is 1 / `temperature` here.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from tunesmith.batch import PART, SHARED, Batch, Column, Example
from tunesmith.contracts import Codec, Family, Record, Specimen
from tunesmith.errors import BadRow, UserError, nearest, shown
from tunesmith.given import Answer, Outputs, Predictions, Worth, answers_together, objects
from tunesmith.options import Options
from tunesmith.parts import Part
from tunesmith.tasks import TASKS
from tunesmith.tasks.base import TaskOptions, in_front, numbers_of

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
SINGLE = TASKS.without("multi_task")


class MultiTask(TaskOptions):
    """Several tasks over one backbone, with a head each."""

    families: ClassVar[frozenset[Family]] = frozenset(Family)
    version: ClassVar[int] = 1
    specimens: ClassVar[tuple[Specimen, ...]] = (
        Specimen(
            {
                "tasks": {
                    "mood": {"kind": "classification", "label": "mood"},
                    "stars": {"kind": "regression", "target": "stars"},
                }
            },
            (
                {"text": "good morning, my kettle is quick", "mood": "good", "stars": 5},
                {"text": "my lamp is broken", "mood": "bad", "stars": 1},
                {"text": "the red chair arrived now", "mood": "good"},
                {"text": "never again", "stars": 2},
            ),
        ),
        Specimen(
            {
                "tasks": {"topic": {"kind": "classification"}, "tone": {"kind": "classification"}},
                "column": "what",
                "shares": {"topic": 3, "tone": 1},
            },
            (
                {"text": "my kettle is late", "label": "kettle", "what": "topic"},
                {"text": "the red lamp", "label": "lamp", "what": "topic"},
                {"text": "my kettle is late", "label": "bad", "what": "tone"},
                {"text": "thank you kind shop", "label": "good", "what": "tone"},
            ),
        ),
    )

    tasks: dict[str, Annotated[Any, Part(SINGLE)]] = Field(
        min_length=2, description="The tasks by name, each as `task` takes it; at least two."
    )
    column: str | None = Field(
        None,
        description="Column that names the task a row is for, or lists several; None: a row is for every task whose "
        "columns it has.",
    )
    temperature: float = Field(
        1.0, ge=0, description="A task of n rows is drawn as often as n to this power says; 1: each row once an epoch."
    )
    shares: dict[str, float] | None = Field(
        None, description="Of each task the share of the rows drawn, in place of `temperature`."
    )
    metric: str | None = Field(
        None, description="Metric that stands first, as NAME/METRIC; None: the main metric of the first task."
    )

    @field_validator("tasks")
    @classmethod
    def _fits(cls, tasks: dict[str, Options]) -> dict[str, Options]:
        for name, task in tasks.items():
            if not NAME.fullmatch(name):
                raise ValueError(f"{shown(name)} cannot name a task; use letters, digits, _ and -")
            if getattr(task, "compares", False):
                raise ValueError(f"{shown(name)} compares with the base model, which several tasks cannot share")
            if getattr(task, "variants", None):
                raise ValueError(f"{shown(name)} has several templates, which are compared for a task by itself only")
        return tasks

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        for name, share in (self.shares or {}).items():
            if name not in self.tasks:
                raise ValueError(f"shares: no task is called {shown(name)}; {nearest(name, self.tasks)}")
            if share < 0:
                raise ValueError(f"shares: {name} is below 0")
        if self.shares is not None and (set(self.shares) != set(self.tasks) or not sum(self.shares.values())):
            raise ValueError("shares: say one for every task, not all 0")
        return self

    @property
    def parts(self) -> Mapping[str, Any]:
        return self.tasks

    @property
    def fields(self) -> tuple[str, ...]:
        return () if self.column is None else (self.column,)

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(chain.from_iterable(part.inputs for part in self.tasks.values())))

    @property
    def metrics(self) -> tuple[str, ...]:
        known = [f"{name}/{metric}" for name, part in self.tasks.items() for metric in part.metrics]
        return in_front(self.metric, known)

    @property
    def baselines(self) -> tuple[str, ...]:
        return ()

    def auto_class(self, family: Family) -> str:
        raise TypeError("each part of several tasks has a class of its own")

    def head(self) -> Mapping[str, Any]:
        return {}

    def read(self, row: Mapping[str, Any], *, with_target: bool = True) -> tuple[Mapping[str, Any], Any]:
        inputs: dict[str, Any] = {}
        target: dict[str, Any] = {}
        for name in self._wanted(row):
            part = self.tasks[name]
            columns = part.fields if with_target or not part.fields else part.inputs
            if not all(_given(row.get(column)) for column in columns):
                if self.column is not None and with_target and _given(row.get(self.column)):
                    lacking = next(column for column in columns if not _given(row.get(column)))
                    raise BadRow(lacking, "nothing", f"a value for task {shown(name)}", "empty")
                continue
            try:
                own, right = part.read(row, with_target=with_target)
            except BadRow:
                if columns or self.column is not None:
                    raise
                continue  # a task that finds out itself which columns are there, and finds none of its own
            inputs |= {f"{name}.{key}": value for key, value in own.items()}
            if with_target:
                target[name] = right
        if not inputs:
            wanted = "; ".join(f"{name}: {', '.join(part.fields)}" for name, part in self.tasks.items())
            raise BadRow("row", f"the columns {', '.join(map(shown, row))}", f"those of a task ({wanted})", "no_task")
        return inputs, target or None

    def _wanted(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """The tasks that a row says it is for; all, where rows say nothing of it."""
        said = None if self.column is None else row.get(self.column)
        if self.column is None or not _given(said):
            return tuple(self.tasks)
        names = said if isinstance(said, list) else [said]
        for name in names:
            if not isinstance(name, str) or name not in self.tasks:
                raise BadRow(self.column, shown(name), f"one of {', '.join(self.tasks)}", "unknown_task")
        return tuple(names)

    def of_part(self, name: str, records: Sequence[Record]) -> list[Record]:
        prefix, found = f"{name}.", []
        for record in records:
            inputs = {key.removeprefix(prefix): v for key, v in record.inputs.items() if key.startswith(prefix)}
            if inputs:
                target = None if record.target is None else record.target[name]
                found.append(replace(record, inputs=inputs, target=target))
        return found

    def _main_first(self) -> dict[str, Any]:
        """The tasks, the one whose metric is the main one with that metric in front."""
        name, _, metric = (self.metric or "").partition("/")
        return {
            key: part.model_copy(update={"metric": metric}) if key == name else part for key, part in self.tasks.items()
        }

    def learn(self, records: Sequence[Record]) -> Self:
        learned = {}
        for name, part in self._main_first().items():
            own = self.of_part(name, records)
            if not own:
                wanted = f"rows with the columns {', '.join(part.fields)}"
                raise UserError(f"task.tasks.{name}", "no training row is for it", f"add {wanted}")
            learned[name] = part.learn(own)
        return self.model_copy(update={"tasks": learned})

    def _each(self, made: Mapping[str, Any]) -> Self:
        return self.model_copy(update={"tasks": dict(made)})

    def suit(self, model: nn.Module) -> Self:
        return self._each({name: part.suit(model[name]) for name, part in self.tasks.items()})  # type: ignore[index]

    def fold(self, model: nn.Module) -> Self:
        return self._each({name: part.fold(model[name]) for name, part in self.tasks.items()})  # type: ignore[index]

    def settle(self, outputs: Outputs, records: Sequence[Record], worth: Worth) -> Self:
        made = {}
        for number, name, part in self._parts:
            own, asked = self._own(number, name, outputs, records)
            made[name] = part.settle(own, asked, worth) if part.settles and asked else part
        return self._each(made)

    @property
    def _parts(self) -> Sequence[tuple[int, str, Any]]:
        return [(number, name, part) for number, (name, part) in enumerate(self.tasks.items())]

    def _own(self, number: int, name: str, outputs: Outputs, records: Sequence[Record]) -> tuple[Outputs, list[Record]]:
        """What a part's model gave, and the records that it gave it for."""
        own = outputs.part(number, name)
        known = set(own.data.rows.tolist())
        return own, [record for record in self.of_part(name, records) if record.row in known]

    def check(self, record: Record) -> None:
        for name, part in self.tasks.items():
            for own in self.of_part(name, [record]):
                part.check(own)

    def stratum(self, record: Record) -> str | None:
        for name, part in self.tasks.items():
            for own in self.of_part(name, [record]):
                if (found := part.stratum(own)) is not None:
                    return f"{name} {found}"
        return None

    def draws(self, rows: Mapping[str, int]) -> Mapping[str, float] | None:
        if self.shares is not None:
            return self.shares
        return None if self.temperature == 1 else {name: count**self.temperature for name, count in rows.items()}

    def columns(self) -> Mapping[str, Column]:
        own = {f"{name}.{key}": column for name, part in self.tasks.items() for key, column in part.columns().items()}
        return {**own, PART: Column(0, per="row", role="note")}

    def encode(self, records: Sequence[Record], codec: Codec, max_tokens: int) -> Sequence[Example]:
        """Each row for each of its tasks. A row is refused where every one of its tasks refuses it."""
        made: list[Example] = []
        refused: dict[int, str] = {}
        for number, name, part in self._parts:
            own = self.of_part(name, records)
            for example in part.encode(own, codec, max_tokens) if own else ():
                if example.refused:
                    refused[example.row] = example.refused
                    continue
                columns = {key if key in SHARED else f"{name}.{key}": v for key, v in example.columns.items()}
                made.append(replace(example, columns={**columns, PART: [number]}))
        kept = {example.row for example in made}
        keys = dict.fromkeys(chain.from_iterable(example.columns for example in made))
        whole = [replace(example, columns={key: example.columns.get(key, ()) for key in keys}) for example in made]
        return [*whole, *(Example(row, {}, refused=why) for row, why in refused.items() if row not in kept)]

    def arguments(self, batch: Batch) -> Mapping[str, Tensor]:
        given: dict[str, Any] = {**self.tasks[batch.part].arguments(batch), "part": batch.part}
        return given

    def graded(self, batch: Batch) -> bool:
        return bool(self.tasks[batch.part].graded(batch))

    def count(self, batch: Batch) -> float:
        return float(self.tasks[batch.part].count(batch))

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        found: Tensor = self.tasks[batch.part].loss(outputs, batch)
        return found

    def outputs(self, model_output: Any, batch: Batch) -> Tensor:
        found: Tensor = self.tasks[batch.part].outputs(model_output, batch)
        return found

    def gold(self, records: Sequence[Record]) -> Predictions:
        served = {name: self.of_part(name, records) for name in self.tasks}
        parts = {name: self.tasks[name].gold(own) for name, own in served.items() if own}
        nothing = objects([None] * len(records))
        return Predictions(
            numbers_of(records), objects([r.target for r in records]), nothing, None, (), "parts", parts=parts
        )

    def predictions(self, outputs: Outputs, records: Sequence[Record]) -> Predictions:
        """Of every part that some of the records serve."""
        parts = {}
        for number, name, part in self._parts:
            own, asked = self._own(number, name, outputs, records)
            if asked:
                parts[name] = part.predictions(own, asked)
        return replace(self.gold(records), parts=parts)

    def answers(self, outputs: Outputs, records: Sequence[Record]) -> list[Answer]:
        found = {}
        for number, name, part in self._parts:
            own, asked = self._own(number, name, outputs, records)
            found[name] = (asked, part.answers(own, asked) if asked else [])
        return answers_together(records, found)


def _given(value: Any) -> bool:
    return value is not None and value != ""
