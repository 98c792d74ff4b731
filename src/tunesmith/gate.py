"""Whether a stage has reached what the next one needs: judged on validation rows, and never on test rows."""

import math
from dataclasses import dataclass

import torch

from tunesmith.adapting import require_heads
from tunesmith.answering import of_records
from tunesmith.batch import encoded, padding_for
from tunesmith.errors import UserError, named
from tunesmith.evaluate import BASELINES
from tunesmith.evaluate.judge import NAMES
from tunesmith.evaluate.metrics import find
from tunesmith.figures import figures
from tunesmith.forward import Inference, all_outputs
from tunesmith.generate import Speaker, speaks, with_replies
from tunesmith.pipeline import window
from tunesmith.prepare.corpus import read_corpus
from tunesmith.recipe_stages import GENERAL, Gate
from tunesmith.run import Run
from tunesmith.select.foundation import open_foundation
from tunesmith.select.load import load_model
from tunesmith.train.journal import read_journal
from tunesmith.world import alone


@dataclass(frozen=True)
class Judged:
    """What a gate found. said: in words, with what is wanted where it is not there. baseline: what a gain is over."""

    metric: str
    value: float
    passed: bool
    said: str
    baseline: float | None = None


def judged(gate: Gate, run: Run) -> Judged:
    """What the gate says of a complete run, whose final weights were judged on validation rows while it trained.

    Raises UserError where these were not.
    """
    metric = gate.metric or run.recipe().task.metrics[0]
    value = _general(run, metric) if metric.startswith(GENERAL) else _validated(run, metric)
    better = metric != "loss" and not metric.startswith(GENERAL) and find(metric).higher_is_better
    said = (
        f"{metric} is {figures(value)[0]} on the {'general texts' if metric.startswith(GENERAL) else 'validation rows'}"
    )
    failed, baseline = [], None
    if gate.at_least is not None and not value >= gate.at_least:
        failed.append(f"at least {gate.at_least:g} is wanted")
    if gate.at_most is not None and not value <= gate.at_most:
        failed.append(f"at most {gate.at_most:g} is wanted")
    if gate.gain is not None:
        name, baseline = _baseline(run, metric)
        gained = value - baseline if better else baseline - value
        said += f", {figures(gained)[0]} better than {NAMES.get(name, name)}"
        if not gained >= gate.gain:
            failed.append(f"a gain of {gate.gain:g} is wanted")
    return Judged(metric, value, not failed, "; ".join([said, *failed]), baseline)


def _validated(run: Run, metric: str) -> float:
    """The value on the validation rows of the weights that training ended with, as its journal has it."""
    events = read_journal(run.journal)
    end = next((event for event in reversed(events) if event["event"] == "end"), {"weights_of": None})
    own = [event for event in events if event["event"] == "evaluation" and event["step"] == end["weights_of"]]
    value = None if not own else own[-1]["loss"] if metric == "loss" else own[-1]["metrics"].get(find(metric).name)
    if value is None:
        found = f"has no {metric} of its final weights on validation rows"
        raise UserError(named(run.folder), found, "give it more rows, or judge the stage by another metric")
    return float(value)


def _general(run: Run, metric: str) -> float:
    """The value on general texts after tuning."""
    measured = run.read_json("evaluation.json")["general"]["metrics"][metric.removeprefix(GENERAL)]
    return float(measured["after"]["value"])


def _baseline(run: Run, metric: str) -> tuple[str, float]:
    """What a gain is over, and its name: the model before tuning where it can do the task, else the best simple one."""
    recipe = run.recipe()
    corpus = read_corpus(recipe.data, recipe.task, base=run.folder, seed=recipe.seed)
    if recipe.task.untuned:
        return "untuned", _before(run, metric)
    train, rows, task = corpus.splits["train"], corpus.splits["validation"], corpus.task
    texts, asked = [record.text for record in train], [record.text for record in rows]
    known, wanted, one = task.gold(train), task.gold(rows), find(metric)
    values = {name: one(BASELINES.load(name)(texts, known, asked, wanted)) for name in task.baselines}
    defined = {name: value for name, value in values.items() if math.isfinite(value)}
    if not defined:
        raise UserError(named(run.folder), f"no simple model has a {metric} to gain over", "use at_least or at_most")
    name = max(defined, key=lambda name: defined[name] if one.higher_is_better else -defined[name])
    return name, defined[name]


def _before(run: Run, metric: str) -> float:
    """The value of the model that the run started from, on the validation rows that training was watched by."""
    recipe, here = run.recipe(), alone()
    corpus = read_corpus(recipe.data, recipe.task, base=run.folder, seed=recipe.seed)
    foundation = open_foundation(recipe.model, run.folder)
    require_heads(foundation, corpus.task, recipe.method)
    task, most = corpus.task, window(foundation, recipe)
    model = load_model(foundation, task.auto_class(foundation.family), task.head(), seed=recipe.seed).model
    torch.nn.Module.to(model, here.device)
    rows = corpus.splits["validation"]
    data = encoded(task.encode(rows, foundation.codec, most))
    known = [record for record in rows if record.row not in data.refused]
    padding = padding_for(task.columns(), foundation.tokenizer.pad_token_id)
    if task.compares:
        data = task.refer(data, all_outputs(model, task, data, padding, Inference(here)).values)
    outputs = all_outputs(model, task, data, padding, Inference(here)).outputs
    shown = recipe.evaluate.validation_replies
    if shown and speaks(task, foundation.codec):
        known = known[:shown]
        speaker = Speaker(foundation.codec, most, Inference(here))
        outputs = with_replies(model, task, of_records(outputs, known), known, speaker)
    return find(metric)(task.predictions(outputs, known))
