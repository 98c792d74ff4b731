"""`tunesmith run`: the whole way from a recipe to a judged, saved model."""

import os
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from tunesmith.cli.screen import say

if TYPE_CHECKING:
    from tunesmith.recipe import Recipe


def run(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RECIPE] [key=value ...]", help="A recipe or the folder of a run, and settings that go over it."
        ),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--run", "-r", help="Folder of the run; runs/NAME when left out.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="A hub id, a folder, or builtin:minilm.")] = None,
    data: Annotated[str | None, typer.Option("--data", "-d", help="Data to learn from.")] = None,
    task: Annotated[str | None, typer.Option("--task", "-t", help="Kind of task.")] = None,
    method: Annotated[str | None, typer.Option("--method", help="Kind of method.")] = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch the model if it is not on this machine.")] = False,
) -> None:
    """Train, judge, report and save, as a recipe says. The same command goes on where a stopped run was.

    \b
    tunesmith run recipe.yaml
    tunesmith run recipe.yaml train.epochs=5 method=lora --run runs/lora
    tunesmith run --model builtin:minilm --data tickets.csv --task classification
    tunesmith run runs/recipe            # go on with a run
    torchrun --nproc-per-node 2 -m tunesmith run recipe.yaml
    """
    from tunesmith import api
    from tunesmith.cli.progress import RunProgress
    from tunesmith.recipe_yaml import write_value

    flags = {"model.name": model, "data.train": data, "task.kind": task, "method": method}
    path, settings = _recipe_and_settings(words or [])
    if path is None:
        settings = ([f"method={write_value(method)}"] if method else []) + settings
        recipe, name = _from_flags(data, model, task, settings)
        base = Path()
    else:
        settings = [f"{key}={write_value(value)}" for key, value in flags.items() if value is not None] + settings
        path = api.recipe_path(path)
        recipe, base, name = api.load_recipe(path, settings), path.parent, path.stem
    if download:
        recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"download": True})})
    place = folder or api.run_folder(recipe, base, name)
    if int(os.environ.get("RANK", "0")) > 0:  # of the processes that torchrun starts the first one speaks
        api.run(recipe, folder=place, base=base)
        return
    with RunProgress() as screen:
        api.run(recipe, folder=place, base=base, screen=screen)
    shell = quote(str(place))
    say(f"next: tunesmith show {shell}, tunesmith ask {shell}, or open {place / 'report.html'}")


def _recipe_and_settings(words: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The recipe's path, if the first word is one, and the settings."""
    if words and ("=" not in words[0] or Path(words[0]).exists()):
        return Path(words[0]), list(words[1:])
    return None, list(words)


def _from_flags(data: str | None, model: str | None, task: str | None, settings: Sequence[str]) -> "tuple[Recipe, str]":
    """A recipe made from what the data look like, and a name for it."""
    from tunesmith.cli.starter import look
    from tunesmith.errors import UserError
    from tunesmith.recipe import recipe_from

    if data is None:
        raise UserError(
            "command line", "there is no recipe", "give a recipe.yaml, or --data FILE (and --model, --task)"
        )
    starter = look(Path(data), model=model, task=task)
    for line in starter.notes:
        say(line)
    return recipe_from(starter.values(), "command line", settings), Path(data).stem
