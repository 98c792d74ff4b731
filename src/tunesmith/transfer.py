"""What stages do to one another: each stage's task, judged again after every later stage (backward transfer), and what
the model before a stage could do of its task already (forward transfer). Terms: Lopez-Paz and Ranzato 2017,
arXiv:1706.08840, section 2."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from tunesmith.contracts import VOCABULARY_HEADS, Record
from tunesmith.deploy.predictor import Predictor, Predictors
from tunesmith.errors import UserError
from tunesmith.evaluate.intervals import bootstrap, difference, plain
from tunesmith.evaluate.metrics import Metric, find
from tunesmith.figures import figures
from tunesmith.given import Predictions
from tunesmith.prepare.corpus import read_corpus
from tunesmith.run import Run
from tunesmith.trained import open_predictor

BACKBONE = re.compile(r"(?:^|\.)\d+\.|embed")
"""Names of weights that two models of one build both have, whatever their heads are."""


def transferred(chain: Sequence[tuple[str, Run]]) -> dict[str, Any]:
    """What `transfer.json` holds of complete stages, each a name and its run, in order.

    `cells[r][i]`: the main metric of stage i's task after r stages: its own value where r is i + 1; that of the model
    before it where r is i and that was asked; and further on the later model's with the head of stage i. A cell has a
    value with its limits and, after later stages, the `change` since its own; or it says `why` not; or it is null.
    """
    count = len(chain)
    cells: list[list[dict[str, Any] | None]] = [[None] * count for _ in range(count + 1)]
    said = []
    for place, (name, run) in enumerate(chain):
        found = run.read_json("evaluation.json")
        untuned = next((one for one in found["baselines"] if one["name"] == "untuned"), None)
        if untuned is not None:
            cells[place][place] = {"value": untuned["metrics"][found["main"]]["value"]}
        cells[place + 1][place] = dict(found["metrics"][found["main"]])
        later = _later(run, [other for _, other in chain[place + 1 :]])
        for after, cell in enumerate(later, place + 2):
            cells[after][place] = cell
        if later:
            said.append(f"{name}: {_told(found, later[-1])}")
    evaluations = [run.read_json("evaluation.json") for _, run in chain]
    return {
        "stages": [name for name, _ in chain],
        "metrics": [found["main"] for found in evaluations],
        "higher_is_better": [found["higher_is_better"] for found in evaluations],
        "splits": [found["split"] for found in evaluations],
        "cells": cells,
        "said": said,
    }


def _told(found: Mapping[str, Any], last: Mapping[str, Any]) -> str:
    main = found["main"]
    if "why" in last:
        return f"not judged again: {last['why']}"
    change = last["change"]
    limits = "" if change["low"] is None else f" [{change['low']:+.3g}, {change['high']:+.3g}]"
    own, end = figures(found["metrics"][main]["value"])[0], figures(last["value"])[0]
    gap = "not defined" if change["value"] is None else f"{change['value']:+.3g}"
    return f"{main} {own} after its own stage, {end} at the end, {gap}{limits}"


def _later(run: Run, others: Sequence[Run]) -> list[dict[str, Any]]:
    """A cell for each later run: the task of `run`, answered by the later model with the head that `run` left."""
    if not others:
        return []
    predictor = open_predictor(run.folder)
    if isinstance(predictor, Predictors):
        return [{"why": "it is made of several tasks"} for _ in others]
    if predictor.task.compares:
        return [{"why": "its loss compares with the model that it started from"} for _ in others]
    records = _judged_rows(run)
    if records is None:
        return [{"why": "its rows are not there as they were"} for _ in others]
    metric, own = find(run.read_json("evaluation.json")["main"]), _predictions(predictor, records)
    cells = []
    for other in others:
        why = _take_over(predictor, run.read_json("parameters.json")["head"], other)
        cells.append({"why": why} if why else _cell(_predictions(predictor, records), own, metric, run))
    return cells


def _cell(now: Predictions, own: Predictions, metric: Metric, run: Run) -> dict[str, Any]:
    recipe = run.recipe()
    drawn: dict[str, Any] = {
        "resamples": recipe.evaluate.resamples,
        "level": recipe.evaluate.level,
        "seed": recipe.seed,
    }
    return {**plain(bootstrap(now, metric, **drawn)), "change": plain(difference(now, own, metric, **drawn))}


def _judged_rows(run: Run) -> Sequence[Record] | None:
    """The rows that a run was judged on; None where they cannot be read any more, or are not what they were."""
    recipe = run.recipe()
    try:
        corpus = read_corpus(recipe.data, recipe.task, base=run.folder, seed=recipe.seed)
    except UserError:
        return None
    same = corpus.fingerprint == run.read_json("audit.json")["fingerprint"]
    return corpus.splits[run.read_json("evaluation.json")["split"]] if same else None


def _predictions(predictor: Predictor, records: Sequence[Record]) -> Predictions:
    data = predictor.read(records)
    known = [record for record in records if record.row not in data.refused]
    return predictor.task.predictions(predictor.outputs(data, known), known)


def _take_over(predictor: Predictor, head: Sequence[str], other: Run) -> str | None:
    """Gives a predictor's model the weights of another run's, but for its own head; why not, where that cannot be.

    A head over the vocabulary is part of what travels, where the other has one too.
    """
    later, mine = _plain_model(other), predictor.model
    if later is None:
        return "no plain model holds what the later stage learned"
    assert isinstance(mine, PreTrainedModel)
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


def _plain_model(run: Run) -> PreTrainedModel | None:
    """The model that a run left, without additions; of several tasks, which share their backbone, the first."""
    method, opened = run.recipe().method, open_predictor(run.folder)
    predictor = next(iter(opened.parts.values())) if isinstance(opened, Predictors) else opened
    if isinstance(predictor.model, PreTrainedModel):
        return predictor.model
    return method.merge(predictor.model) if method.merges else None
