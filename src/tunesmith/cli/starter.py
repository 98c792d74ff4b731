"""A recipe made by looking at a data file, and the recipe that a path on the command line stands for."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from tunesmith.commit import NOTE
from tunesmith.errors import UserError, named, nearest, shown
from tunesmith.prepare.detect import detect
from tunesmith.recipe_yaml import write_value

if TYPE_CHECKING:
    from tunesmith.recipe import Recipe

MODEL = "builtin:minilm"
ABOUT_MODEL = "a hub id such as org/name, a folder, or builtin:minilm"
RECIPE_ENDINGS = (".yaml", ".yml")
ENOUGH_TO_TEST = 50
"""Rows from which a part is kept back for the final score."""
TEXT = """\
# yaml-language-server: $schema=recipe.schema.json
# Made by looking at {data}:
{notes}
# Everything not written here has a default; `tunesmith schema` lists all keys, and the run keeps them resolved.

model: {model}  # {about_model}

task:
  kind: {kind}
{options}

data:
  train: {train}  # a file, a folder, hub:NAME, or a list of these
  validation: 0.1  # share held out to watch training, or a file of its own
  test: {test}  # share held out for the final score, or a file of its own
  # group: customer_id  # rows with equal values here never cross a split
  # on_bad_row: skip  # leave out rows that cannot be used, and count them

method: full  # or {{kind: lora, rank: 8}}: small files, less memory

train:
  epochs: 3
  # batch_size: 16
  # learning_rate: 5e-5  # the method's own when left out

deploy: [auto]  # what suits the method; or safetensors, adapter

# seed: 0
"""


@dataclass(frozen=True)
class Starter:
    """What a recipe for a data file says. options: the task's. notes: what was seen and why it was read so.

    missing: what kind of model has still to be named, where the one named cannot learn the task.
    """

    data: Path
    model: str
    kind: str
    options: Mapping[str, Any]
    rows: int
    notes: tuple[str, ...]
    missing: str | None = None

    @property
    def test(self) -> float:
        return 0.2 if self.rows >= ENOUGH_TO_TEST else 0.0

    def values(self, *, divided: bool = True) -> dict[str, Any]:
        """The recipe as plain values, for the working directory. divided: whether rows are held out."""
        shares = {"validation": 0.1, "test": self.test} if divided else {"validation": 0.0, "test": 0.0}
        task = {"kind": self.kind, **self.options}
        return {"model": self.model, "task": task, "data": {"train": str(self.data), **shares}}

    def text(self, out: Path) -> str:
        """The recipe as commented YAML, for the file `out`."""
        from tunesmith.recipe import moved_path

        return TEXT.format(
            data=named(self.data.name),
            notes="\n".join(f"#   {note}" for note in self.notes),
            model=write_value(self.model),
            about_model=ABOUT_MODEL if self.missing is None else f"an encoder: {self.missing}",
            kind=self.kind,
            options="\n".join(f"  {key}: {write_value(value)}" for key, value in self.options.items()),
            train=write_value(moved_path(str(self.data), Path(), out.parent)),
            test=f"{self.test:g}",
        )


def look(data: Path, *, model: str | None = None, task: str | None = None) -> Starter:
    """A starter for the rows in `data`. Raises UserError for data that cannot be read or learned from."""
    from tunesmith.tasks import TASKS

    if task is not None and task not in TASKS and ":" not in task:
        raise UserError(f"--task {shown(task)}", "is not known", nearest(task, TASKS))
    if data.suffix in RECIPE_ENDINGS:
        raise UserError(named(data), "is a recipe, not data", f"run it: tunesmith run {named(data)}")
    found = detect(data, task)
    options, notes = dict(found.options), found.notes
    if task is not None:
        fields = _fields(task)
        options = _as_fields(options, fields)
        needed = ", ".join(name for name, field in fields.items() if field.is_required() and name not in options)
        if needed:
            notes = (*notes, f"still to be written under task: {needed}")
    missing = _missing(found.kind) if model is None else None
    if missing is not None:
        notes = (*notes, f"model: {MODEL} is an encoder; {missing}")
    return Starter(data, model or MODEL, found.kind, options, found.rows, notes, missing)


def _missing(kind: str) -> str | None:
    """What to name instead of the model that is used when none is named, if that one cannot learn the task."""
    from tunesmith.contracts import Family
    from tunesmith.prepare.detect import KINDS
    from tunesmith.tasks import TASKS

    if kind in KINDS or kind not in TASKS:  # the latter may be of any shape
        return None
    families = TASKS.load(kind).families
    if Family.ENCODER in families:
        return None
    other = ", or an encoder-decoder such as a T5 or BART" if Family.ENCODER_DECODER in families else ""
    return f"name a decoder such as a Llama or GPT folder for this task{other}"


def _fields(task: str) -> Mapping[str, Any]:
    """The options of a task, by name. Raises UserError for what is no task."""
    from pydantic import BaseModel

    from tunesmith.tasks import TASKS

    part = TASKS.load(task)
    if not (isinstance(part, type) and issubclass(part, BaseModel)):
        raise UserError(f"--task {shown(task)}", "is no task", "see CONTRIBUTING.md for what one is")
    return {field.alias or name: field for name, field in part.model_fields.items()}


def _as_fields(options: Mapping[str, Any], fields: Container[str]) -> dict[str, Any]:
    """The same columns under the names that another task has for them, as far as it has them."""
    answer = options.get("label", options.get("target"))
    named_so = {**options, "label": answer, "target": answer}
    return {key: value for key, value in named_so.items() if key in fields and value is not None}


def recipe_of(what: Path, settings: Sequence[str] = (), *, model: str | None = None) -> "tuple[Recipe, Path]":
    """The recipe that a run's folder, a recipe or a data file stands for, and where its relative paths start.

    settings: `key=value` texts that go over it. Raises UserError for an exported model, which holds no recipe.
    """
    from tunesmith.recipe import load_recipe, recipe_from
    from tunesmith.run import is_run

    path = what / "recipe.yaml" if is_run(what) else what
    if (path / NOTE).is_file():
        fix = f"give the folder of its run, or a data file; to ask it: tunesmith ask {quote(named(what))}"
        raise UserError(named(what), "is an exported model, which holds neither a recipe nor rows", fix)
    if path.suffix in RECIPE_ENDINGS:
        named_so = [] if model is None else [f"model.name={write_value(model)}"]
        return load_recipe(path, [*named_so, *settings]), path.parent
    return recipe_from(look(what, model=model).values(divided=False), named(what), settings), Path()
