"""What stages do to one another: each stage's task, judged again after every later stage (backward transfer), and what
the model before a stage could do of its task already (forward transfer). Terms: Lopez-Paz and Ranzato 2017,
arXiv:1706.08840, section 2."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from tunesmith.batch import Encoded
from tunesmith.contracts import VOCABULARY_HEADS, Record, Task
from tunesmith.deploy.predictor import Predictor, Predictors
from tunesmith.errors import UserError
from tunesmith.evaluate.intervals import bootstrap, difference, plain
from tunesmith.evaluate.metrics import Metric, find
from tunesmith.figures import figures
from tunesmith.given import Predictions
from tunesmith.prepare.corpus import read_corpus
from tunesmith.run import Run
from tunesmith.select.foundation import open_foundation
from tunesmith.trained import open_predictor, referred

BACKBONE = re.compile(r"(?:^|\.)\d+\.|embed")
"""Names of weights that two models of one build both have, whatever their heads are."""


@dataclass(frozen=True)
class Column:
    """What is judged after every stage: the task of the stage at `place`, or of several one part.

    found: what the stage's own evaluation says of it.
    """

    place: int
    name: str
    part: str
    run: Run
    found: Mapping[str, Any]


def transferred(chain: Sequence[tuple[str, Run]]) -> dict[str, Any]:
    """What `transfer.json` holds of complete stages, each a name and its run, in order.

    `columns`: the tasks of all stages, each with the number of its stage; of several at once every one that was judged.
    `cells[r][c]`: the main metric of column c's task after r stages: its own value where r is the number of its stage;
    that of the model before it where r is one less and that was asked; and further on the later model's with the head
    that the stage left. A cell has a value with its limits and, after later stages, the `change` since its own; or it
    says `why` not; or it is null.
    """
    columns = [column for place, (name, run) in enumerate(chain) for column in _columns(place, name, run)]
    cells: list[list[dict[str, Any] | None]] = [[None] * len(columns) for _ in range(len(chain) + 1)]
    said = []
    for number, column in enumerate(columns):
        place, found = column.place, column.found
        untuned = next((one for one in found["baselines"] if one["name"] == "untuned"), None)
        if untuned is not None:
            cells[place][number] = {"value": untuned["metrics"][found["main"]]["value"]}
        cells[place + 1][number] = dict(found["metrics"][found["main"]])
        later = _later(column, [other for _, other in chain[place + 1 :]])
        for after, cell in enumerate(later, place + 2):
            cells[after][number] = cell
        if later:
            said.append(f"{column.name}: {_told(found, later[-1])}")
    return {
        "stages": [name for name, _ in chain],
        "columns": [_heading(column) for column in columns],
        "cells": cells,
        "said": said,
    }


def _columns(place: int, name: str, run: Run) -> list[Column]:
    found = run.read_json("evaluation.json")
    if "parts" not in found:
        return [Column(place, name, "", run, found)]
    return [Column(place, f"{name}, {part}", part, run, one) for part, one in found["parts"].items()]


def _heading(column: Column) -> dict[str, Any]:
    facts = {key: column.found[key] for key in ("higher_is_better", "split")}
    return {"name": column.name, "stage": column.place + 1, "metric": column.found["main"], **facts}


def _told(found: Mapping[str, Any], last: Mapping[str, Any]) -> str:
    main = found["main"]
    if "why" in last:
        return f"not judged again: {last['why']}"
    change = last["change"]
    limits = "" if change["low"] is None else f" [{change['low']:+.3g}, {change['high']:+.3g}]"
    own, end = figures(found["metrics"][main]["value"])[0], figures(last["value"])[0]
    gap = "not defined" if change["value"] is None else f"{change['value']:+.3g}"
    return f"{main} {own} after its own stage, {end} at the end, {gap}{limits}"


def _later(column: Column, others: Sequence[Run]) -> list[dict[str, Any]]:
    """A cell for each later run: the column's task, answered by the later model with the head that its stage left.

    A task that compares with its base is compared with the one that its own stage started from.
    """
    if not others:
        return []
    run, opened = column.run, open_predictor(column.run.folder)
    predictor = opened.parts[column.part] if isinstance(opened, Predictors) else opened
    asked = _judged_rows(column, opened.task)
    if asked is None:
        return [{"why": "its rows are not there as they were"} for _ in others]
    data = predictor.read(asked)
    records = [record for record in asked if record.row not in data.refused]
    data = referred(lambda: open_foundation(run.recipe().model, run.folder), predictor, data)
    metric, own = find(column.found["main"]), _predictions(predictor, data, records)
    cells = []
    for other in others:
        why = _take_over(predictor, run.read_json("parameters.json")["head"], other)
        cells.append({"why": why} if why else _cell(_predictions(predictor, data, records), own, metric, run))
    return cells


def _cell(now: Predictions, own: Predictions, metric: Metric, run: Run) -> dict[str, Any]:
    recipe = run.recipe()
    drawn: dict[str, Any] = {
        "resamples": recipe.evaluate.resamples,
        "level": recipe.evaluate.level,
        "seed": recipe.seed,
    }
    return {**plain(bootstrap(now, metric, **drawn)), "change": plain(difference(now, own, metric, **drawn))}


def _judged_rows(column: Column, task: Task) -> Sequence[Record] | None:
    """The rows that a column was judged on; None where they cannot be read any more, or are not what they were."""
    run, recipe = column.run, column.run.recipe()
    try:
        corpus = read_corpus(recipe.data, recipe.task, base=run.folder, seed=recipe.seed)
    except UserError:
        return None
    if corpus.fingerprint != run.read_json("audit.json")["fingerprint"]:
        return None
    records = corpus.splits[column.found["split"]]
    return task.of_part(column.part, records) if column.part else records


def _predictions(predictor: Predictor, data: Encoded, records: Sequence[Record]) -> Predictions:
    return predictor.task.predictions(predictor.outputs(data, records), records)


def _take_over(predictor: Predictor, head: Sequence[str], other: Run) -> str | None:
    """Gives a predictor's model the weights of another run's, but for its own head; why not, where that cannot be.

    A head over the vocabulary is part of what travels, where the other has one too.
    """
    mine = predictor.model
    assert isinstance(mine, PreTrainedModel)
    later = _plain_model(other, like=mine)
    if later is None:
        return "no plain model holds what the later stage learned"
    spoken = type(mine) is type(later) and predictor.task.auto_class(predictor.codec.family) in VOCABULARY_HEADS
    own = dict((mine if spoken else mine.base_model).named_parameters())
    new = dict((later if spoken else later.base_model).named_parameters())
    kept = {
        id(parameter) for name, parameter in mine.named_parameters() if any(f".{part}." in f".{name}" for part in head)
    }
    moving = {name: parameter for name, parameter in own.items() if spoken or id(parameter) not in kept}
    shared = {name: new[name] for name, one in moving.items() if name in new and new[name].shape == one.shape}
    if any(BACKBONE.search(name) and name not in shared for name in moving):
        return "the later model is of another build"
    with torch.no_grad():
        for name, parameter in shared.items():
            moving[name].copy_(parameter)
    return None


def _plain_model(run: Run, like: PreTrainedModel) -> PreTrainedModel | None:
    """The model that a run left, without additions; of several tasks, which share their backbone, one with the head of
    another model where there is one."""
    method, opened = run.recipe().method, open_predictor(run.folder)
    found = list(opened.parts.values()) if isinstance(opened, Predictors) else [opened]
    if not all(isinstance(predictor.model, PreTrainedModel) for predictor in found) and not method.merges:
        return None
    plain = [one.model if isinstance(one.model, PreTrainedModel) else method.merge(one.model) for one in found]
    return next((model for model in plain if type(model) is type(like)), plain[0])
