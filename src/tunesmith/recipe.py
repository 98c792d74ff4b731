"""The whole run as frozen data: read from YAML and the command line, complete before any weight is read."""

import hashlib
import json
import os
import re
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from tunesmith.adapt import METHODS
from tunesmith.contracts import Method, Task
from tunesmith.deploy.options import DeployOptions
from tunesmith.errors import UserError, named, shown
from tunesmith.evaluate.options import EvaluateOptions
from tunesmith.options import Options, path_fields, path_keys, with_paths
from tunesmith.parts import Part
from tunesmith.prepare.options import DataOptions
from tunesmith.recipe_conflicts import conflicts_of
from tunesmith.recipe_errors import dotted, refusal
from tunesmith.recipe_stages import SECTIONS, Stage, holders, unfold
from tunesmith.recipe_yaml import Document, Place, read_text, read_value, read_yaml, write_yaml
from tunesmith.retain.options import RetainOptions
from tunesmith.select.options import ModelOptions
from tunesmith.tasks import TASKS
from tunesmith.train.options import TrainOptions

SHORT = {"model": "name", "task": "kind", "data": "train", "method": "kind", "deploy": "formats"}
"""The key that a plain text or list stands for, by section."""
PLAIN_NAME = re.compile(r"[^\W_][\w.+-]{0,99}")


class Recipe(Options):
    """Everything that decides a run. Sections are keys; each has its own options."""

    name: str | None = Field(None, description="Name of the run and its folder; None: that of the recipe's file.")
    model: ModelOptions
    task: Annotated[Task, Part(TASKS)] = Field(description="What is learned: a kind and its options.")
    data: DataOptions
    method: Annotated[Method, Part(METHODS)] = Field(
        default_factory=lambda: METHODS.load("full")(),
        description="How weights may move: a kind and its options.",
    )
    train: TrainOptions = Field(TrainOptions(), description="How the weights are moved.")
    retain: RetainOptions = Field(RetainOptions(), description="What holds the model to what its base can do.")
    evaluate: EvaluateOptions = Field(EvaluateOptions(), description="How the tuned model is judged.")
    deploy: DeployOptions = Field(DeployOptions(), description="What is written for use elsewhere.")
    seed: int = Field(
        0, ge=0, lt=2**63, description="Decides every random choice: the split, new weights, order, dropout."
    )

    stages: tuple[Stage, ...] = Field(
        (), description="Stages that follow one another, each a `name` and sections that differ from these."
    )

    @field_validator("name")
    @classmethod
    def _plain(cls, name: str | None) -> str | None:
        if name is not None and not PLAIN_NAME.fullmatch(name):
            raise ValueError(f"{shown(name)} cannot name a folder; use letters, digits and . + - _")
        return name

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        problems = conflicts_of(self)
        if problems:
            raise ValidationError.from_exception_data("Recipe", problems)
        return self

    def as_mapping(self) -> dict[str, Any]:
        """All keys with their values, as they stand in a recipe file."""
        return self.model_dump(mode="json", by_alias=True)

    def dump(self) -> str:
        """The recipe as YAML with every default written; reading it gives an equal recipe."""
        return write_yaml(self.as_mapping())

    def digest(self) -> str:
        """sha256 over all keys and values, whatever their order in the file."""
        text = json.dumps(self.as_mapping(), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def moved(self, old: Path, new: Path) -> Self:
        """The same recipe for a file in `new` instead of `old`: its relative paths lead to the same places."""

        def moved_source(source: str) -> str:
            return source if source.startswith("hub:") else moved_path(source, old, new)

        data, model = self.data, self.model
        train = moved_source(data.train) if isinstance(data.train, str) else tuple(map(moved_source, data.train))
        held = {
            key: moved_source(value)
            for key, value in (("validation", data.validation), ("test", data.test))
            if isinstance(value, str)
        }
        if is_folder(model.name, old):
            name = moved_path(model.name, old, new)
            model = model.model_copy(update={"name": name if name.startswith(".") else f"./{name}"})
        evaluate = self.evaluate
        if evaluate.general is not None:
            evaluate = evaluate.model_copy(update={"general": moved_source(evaluate.general)})
        probes = tuple(with_paths(probe, moved_source) for probe in evaluate.probes)
        evaluate = evaluate.model_copy(update={"probes": probes})
        task = with_paths(self.task, lambda path: moved_path(path, old, new))
        data = data.model_copy(update={"train": train, **held})
        stages = tuple(
            stage.model_copy(update=self.of_stage(stage, self.model).moved(old, new).sections())
            for stage in self.stages
        )
        parts = {"data": data, "model": model, "task": task, "evaluate": evaluate, "stages": stages}
        return self.model_copy(update={**parts, "retain": with_paths(self.retain, moved_source)})

    def sections(self) -> dict[str, Any]:
        """What a stage can set otherwise."""
        return {section: getattr(self, section) for section in SECTIONS}

    def of_stage(self, stage: Stage, model: ModelOptions) -> Self:
        """The recipe of one stage by itself, with the model that it starts from."""
        sections = {section: getattr(stage, section) for section in SECTIONS}
        return self.model_copy(update={"name": None, "model": model, "stages": (), **sections})


def in_full(values: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping with each section's short form (`method: lora`) written out."""
    full = dict(values)
    for section, key in SHORT.items():
        if isinstance(full.get(section), str | list | tuple):
            full[section] = {key: full[section]}
    if isinstance(full.get("stages"), list):
        full["stages"] = [in_full(stage) if isinstance(stage, Mapping) else stage for stage in full["stages"]]
    return full


def is_folder(name: str, base: Path) -> bool:
    """Whether a model's name means a folder, seen from `base`."""
    return not name.startswith("builtin:") and (name.startswith((".", "/", "~")) or (base / name).is_dir())


def moved_path(path: str, old: Path, new: Path) -> str:
    """`path` as seen from the folder `new` instead of `old`; links to files and data sets stay links."""
    place = (old / Path(path).expanduser()).absolute()
    return os.path.relpath(place.parent.resolve() / place.name, new.resolve())


def load_recipe(path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a file, with `key=value` texts set over it.

    Paths in the file are relative to its folder; paths in overrides are relative to the working directory.
    Raises UserError that lists everything wrong with it.
    """
    path = Path(path)
    document = read_yaml(read_text(path), named(path))
    return _recipe(_overridden(document, overrides, path.parent))


def recipe_from(values: Mapping[str, Any], where: str = "recipe", overrides: Sequence[str] = ()) -> Recipe:
    """The recipe that plain values describe, relative to the working directory.

    Raises UserError that lists everything wrong with them.
    """

    def plain(value: object) -> str:
        if isinstance(value, os.PathLike):
            return str(os.fspath(value))
        raise UserError(where, f"holds {shown(value)}, a {type(value).__name__}", "use plain values, or Recipe(...)")

    return _recipe(_overridden(Document(where, json.loads(json.dumps(values, default=plain))), overrides, Path()))


def _recipe(document: Document) -> Recipe:
    if document.values.get("stages"):
        unfold(document, list(Recipe.model_fields), lambda stage: _checked(stage).as_mapping())
    return _checked(document)


def _checked(document: Document) -> Recipe:
    try:
        return Recipe.model_validate_json(json.dumps(document.values), strict=True)
    except ValidationError as error:
        raise refusal(error, document, Recipe) from error


SOURCES: tuple[Place, ...] = (
    ("data",),
    ("data", "train"),
    ("data", "validation"),
    ("data", "test"),
    ("evaluate", "general"),
    ("retain", "replay", "source"),
    ("retain", "ewc", "source"),
)
"""The keys that name sources of rows or texts."""


def _overridden(document: Document, overrides: Sequence[str], base: Path) -> Document:
    document.values = in_full(document.values)
    for text in overrides:
        key, equals, value_text = text.partition("=")
        if not equals or not key:
            raise UserError(f"command line, {shown(text)}", "is not a `key=value` setting", "write train.epochs=3, say")
        place = tuple(key.strip().split("."))
        value = read_value(value_text, f"command line, {shown(text)[1:-1]}")
        if isinstance(value, str) and _is_path(place, document.values):
            value = moved_path(value, Path(), base)
        found = holders(document, place, text)
        value = _from_here(found[0][2], value, base)
        for before, values, inside in found:
            _set(values, inside, value, text)
            document.overrides[*before, *inside] = text
        document.values = in_full(document.values)
    return document


def _set(values: dict[Any, Any], place: Place, value: Any, text: str) -> None:
    for end, key in enumerate(place[:-1], 1):
        inner = values.get(key)
        if inner is None:
            inner = {}
        if not isinstance(inner, dict):
            raise UserError(f"command line, {shown(text)[1:-1]}", f"{dotted(place[:end])} has no keys below it", "")
        values[key] = inner = dict(inner)
        values = inner
    values[place[-1]] = value


def _is_path(place: Place, values: Mapping[str, Any]) -> bool:
    """Whether a key of a task holds a path."""
    holder: Any = values
    for key in place[:-1]:
        holder = holder.get(key) if isinstance(holder, Mapping) else None
    kind = holder.get("kind") if isinstance(holder, Mapping) else None
    return place[0] == "task" and kind in list(TASKS) and place[-1] in path_fields(TASKS.load(kind))


def _from_here(place: Place, value: Any, base: Path) -> Any:
    """Sources that the command line names are found from the working directory; the recipe's folder is `base`."""
    if place in SOURCES:
        if isinstance(value, str) and not value.startswith("hub:"):
            return moved_path(value, Path(), base)
        if isinstance(value, list):
            return [_from_here(place, item, base) for item in value]
    if place in (("model",), ("model", "name")) and isinstance(value, str) and is_folder(value, Path()):
        name = moved_path(value, Path(), base)
        return name if name.startswith(".") else f"./{name}"
    return value


class Change(NamedTuple):
    """A key that two recipes set differently. allowed: whether a run may go on with the new value."""

    key: str
    old: Any
    new: Any
    allowed: bool


FREE = (
    "name",
    "deploy.",
    "evaluate.",
    "retain.interpolate",
    "retain.interpolate.",
    "train.keep",
    "train.save_every",
    "train.trackers",
    "data.cache",
    "model.download",
)
"""Keys that do not touch training; a run goes on with their new values."""
CONTENTS = ("data.train", "data.validation", "data.test", "model.name", "retain.replay.source", "retain.ewc.source")
"""Keys that name what may lie elsewhere, as long as it holds the same."""
DECODING = re.compile(r"task\.(?:tasks\.[^.]+\.)?decoding\.")
"""How texts are generated, which touches training only where it is watched."""


def changed(old: Recipe, new: Recipe) -> list[Change]:
    """What differs between two recipes, by dotted key, in the order of the keys.

    A source or model that only lies in another folder is allowed: its content is compared before training goes on.
    """
    before, after = flat(old.as_mapping()), flat(new.as_mapping())
    keys = [*before, *(key for key in after if key not in before)]
    paths = {f"task.{key}" for key in path_keys(new.task)}  # type: ignore[arg-type]  # tasks are options
    heard = old.evaluate.validation_replies or new.evaluate.validation_replies

    def allowed(key: str) -> bool:
        return _allowed(key, before.get(key), after.get(key), paths) or bool(DECODING.match(key) and not heard)

    return [
        Change(key, before.get(key), after.get(key), allowed(key)) for key in keys if before.get(key) != after.get(key)
    ]


def _allowed(key: str, old: Any, new: Any, paths: Container[str]) -> bool:
    if key in CONTENTS or key in paths:
        return bool(_file_names(old, key) == _file_names(new, key))
    return any(key == free or (free.endswith(".") and key.startswith(free)) for free in FREE)


def _file_names(source: Any, key: str) -> Any:
    """Sources without their folders; anything else as it is."""
    if isinstance(source, list):
        return [_file_names(item, key) for item in source]
    if not isinstance(source, str) or source.startswith("hub:"):
        return source
    return source if key == "model.name" and not source.startswith((".", "/")) else Path(source).name


def flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """The leaves of nested mappings by dotted key; a list is one leaf."""
    leaves: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            leaves |= flat(value, f"{before}{key}.")
        else:
            leaves[f"{before}{key}"] = value
    return leaves
