"""What does not go together in a recipe although each key by itself can be."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic_core import InitErrorDetails

from tunesmith.catalog import Catalog
from tunesmith.deploy import EXPORTERS
from tunesmith.errors import UserError, nearest, shown
from tunesmith.evaluate import METRICS
from tunesmith.parts import said
from tunesmith.recipe_stages import GENERAL, PROBE, Stage, conflicts
from tunesmith.recipe_yaml import Place

if TYPE_CHECKING:
    from tunesmith.recipe import Recipe

SILENT = ("loss", "reply_nll", "token_accuracy")
"""What can be watched of a task that writes texts, without letting it write any."""


def conflicts_of(recipe: "Recipe") -> list[InitErrorDetails]:
    """Everything in a recipe that does not go together, each with its place."""
    data, stop = recipe.data, recipe.train.stop
    problems: list[InitErrorDetails] = []

    def add(place: Place, value: Any, message: str) -> None:
        problems.append(InitErrorDetails(type=said(message), loc=place, input=value))

    shares = {
        key: value
        for key, value in (("validation", data.validation), ("test", data.test))
        if not isinstance(value, str)
    }
    for key, share in shares.items():
        if not 0 <= share < 1:
            add(("data", key), share, f"found {share:g}, expected a share from 0 to below 1, or a source of its own")
    if not problems and sum(shares.values()) >= 1:
        add(("data", "test"), data.test, "the shares of validation and test leave no rows to learn from")
    main = recipe.task.metrics[0]
    bare = main.partition("/")[2] or main  # of a part of several tasks
    if lacking := _lacking(METRICS, bare, ("name", "higher_is_better")):
        add(("task", "metric"), main, lacking)
    own = recipe.task.model_copy(update={"metric": None}).metrics  # type: ignore[attr-defined]  # tasks are options
    if bare in METRICS and main not in own:
        add(("task", "metric"), main, f"{main} does not suit this task; known: {', '.join(own)}")
    if not recipe.deploy.formats:
        add(("deploy", "formats"), [], "a run leaves at least one artefact; use [auto]")
    for kind in recipe.deploy.formats:
        if kind != "auto" and (lacking := _lacking(EXPORTERS, kind)):
            add(("deploy", "formats"), kind, lacking)
    if "adapter" in recipe.deploy.formats and recipe.method.artifact != "adapter":
        add(("deploy", "formats"), "adapter", "this method leaves no adapter; use safetensors, or method: lora, say")
    if "safetensors" in recipe.deploy.formats and not recipe.method.merges:
        add(("deploy", "formats"), "safetensors", "no plain model can hold what this method learns; use adapter")
    if recipe.model.quantise == "int8" and "safetensors" in recipe.deploy.formats:
        found = "a base in int8 rounds what comes into its layers, and no plain model does; use adapter, or nf4"
        add(("deploy", "formats"), "safetensors", found)
    if recipe.model.quantise == "int8" and recipe.stages:
        add(("model", "quantise"), "int8", "stages hand on full models, and int8 cannot be merged into one; use nf4")
    if recipe.model.quantise is not None and getattr(recipe.method, "init", None) == "pissa":
        add(("method", "init"), "pissa", "changes the base's weights, which model.quantise holds in few bits")
    if recipe.train.unfreeze is not None and recipe.method.artifact == "adapter":
        found = "the blocks stay as they are under this method; leave the key out, or use method: full"
        add(("train", "unfreeze"), recipe.train.unfreeze, found)
    for key in recipe.retain.pulls:
        if recipe.method.artifact == "adapter":
            add(("retain", key), None, "no weight of the base moves with this method; use method: full or partial")
    if recipe.retain.interpolate is not None and not data.validation:
        add(("retain", "interpolate"), None, "is chosen on validation rows, and data.validation is 0")
    watched = (*recipe.task.metrics, "loss")
    if stop.metric is not None and stop.metric not in watched:
        add(
            ("train", "stop", "metric"),
            stop.metric,
            f"metric {shown(stop.metric)} is not measured; {nearest(stop.metric, watched)}",
        )
    if stop.metric is not None and (unheard := _unheard(recipe, stop.metric)):
        add(("train", "stop", "metric"), stop.metric, unheard)
    for number, key, message in conflicts(recipe.stages):
        add(("stages", number, key), "", message)
    for number, stage in enumerate(recipe.stages):
        gate = stage.gate
        if gate is not None and (unheard := _unheard(stage, gate.metric or stage.task.metrics[0])):
            add(("stages", number, "gate"), "", unheard)
    return problems


def _unheard(recipe: "Recipe | Stage", metric: str) -> str | None:
    """Why a metric cannot be watched while training: of texts that are not generated then."""
    watching = recipe.task.parts.get(metric.partition("/")[0], recipe.task)
    silent = metric.startswith((GENERAL, PROBE)) or metric.rpartition("/")[2] in SILENT
    if silent or not hasattr(watching, "decoding") or recipe.evaluate.validation_replies:
        return None
    return f"{metric} needs generated texts; set evaluate.validation_replies, or watch loss"


def _lacking(table: Catalog, name: str, attributes: Sequence[str] = ()) -> str | None:
    """Why a part cannot be used. One from the user's own package is imported here, before anything is spent on it."""
    if ":" not in name:
        return None if name in table else f"{table.what} {shown(name)} is not known; {nearest(name, table)}"
    try:
        part = table.load(name)
    except UserError as error:
        return f"{shown(name)} {error.found}; {error.fix}"
    if callable(part) and all(hasattr(part, attribute) for attribute in attributes):
        return None
    return f"{shown(name)} is no {table.what}; see CONTRIBUTING.md for what one is"
