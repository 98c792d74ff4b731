"""Whether a stage has reached, and kept, what the next one needs: test rows have no part in it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from tunesmith.adapting import require_heads
from tunesmith.answering import of_records
from tunesmith.batch import encoded, padding_for
from tunesmith.errors import UserError, named, shown
from tunesmith.evaluate import BASELINES
from tunesmith.evaluate.judge import NAMES
from tunesmith.evaluate.metrics import find
from tunesmith.figures import figures
from tunesmith.forward import Inference, all_outputs
from tunesmith.generate import Speaker, speaks, with_replies
from tunesmith.pipeline import window
from tunesmith.prepare.corpus import read_corpus
from tunesmith.recipe_stages import GENERAL, PROBE, Gate
from tunesmith.run import Run
from tunesmith.select.foundation import open_foundation
from tunesmith.select.load import load_model
from tunesmith.train.journal import read_journal
from tunesmith.world import alone


@dataclass(frozen=True)
class Judged:
    """What a gate found. said: in words, with what is wanted where it is not there. baseline: what a gain is over, or
    what was there before the stage."""

    metric: str
    value: float
    passed: bool
    said: str
    baseline: float | None = None


@dataclass(frozen=True)
class Measured:
    """A value that a gate looks at. on: what it was measured on. before: what it was before the stage, if known."""

    value: float
    higher_is_better: bool
    on: str
    before: float | None = None


def judged(gate: Gate, run: Run) -> Judged:
    """What the gate says of a complete run, of the weights that it ended with.

    Raises UserError where these were not measured so.
    """
    metric = gate.metric or run.recipe().task.metrics[0]
    found = _measured(run, metric)
    value, sign = found.value, 1 if found.higher_is_better else -1
    said = f"{metric} is {figures(value)[0]} on {found.on}"
    failed, baseline = [], None
    if gate.at_least is not None and not value >= gate.at_least:
        failed.append(f"at least {gate.at_least:g} is wanted")
    if gate.at_most is not None and not value <= gate.at_most:
        failed.append(f"at most {gate.at_most:g} is wanted")
    if gate.gain is not None:
        name, baseline = _baseline(run, metric)
        gained = sign * (value - baseline)
        said += f", {figures(gained)[0]} better than {NAMES.get(name, name)}"
        if not gained >= gate.gain:
            failed.append(f"a gain of {gate.gain:g} is wanted")
    if gate.most_lost is not None:
        if (baseline := found.before) is None:
            what = f"cannot tell what {metric} was before this stage: the model did not know the task yet"
            raise UserError(named(run.folder), what, "use at_least or at_most")
        lost = sign * (baseline - value)
        said += f", {figures(abs(lost))[0]} {'worse' if lost > 0 else 'better'} than before the stage"
        if not lost <= gate.most_lost:
            failed.append(f"at most {gate.most_lost:g} may be lost")
    return Judged(metric, value, not failed, "; ".join([said, *failed]), baseline)


def _measured(run: Run, metric: str) -> Measured:
    own = metric in run.recipe().task.metrics
    if not own and metric.startswith(GENERAL):
        return _general(run, metric.removeprefix(GENERAL))
    if not own and metric.startswith(PROBE):
        return _probed(run, metric.removeprefix(PROBE))
    higher = metric != "loss" and find(metric).higher_is_better
    return Measured(_validated(run, metric), higher, "the validation rows")


def _validated(run: Run, metric: str) -> float:
    """The value on the validation rows of the weights that the run ended with: as its journal has it, or where it went
    back towards its base, as that was chosen by."""
    if run.recipe().retain.interpolate is not None:
        return _interpolated(run, metric)
    events = read_journal(run.journal)
    end = next((event for event in reversed(events) if event["event"] == "end"), {"weights_of": None})
    own = [event for event in events if event["event"] == "evaluation" and event["step"] == end["weights_of"]]
    value = None if not own else own[-1]["loss"] if metric == "loss" else own[-1]["metrics"].get(find(metric).name)
    if value is None:
        found = f"has no {metric} of its final weights on validation rows"
        raise UserError(named(run.folder), found, "give it more rows, or judge the stage by another metric")
    return float(value)


def _interpolated(run: Run, metric: str) -> float:
    """The value at the place between base and tuned model that was taken."""
    found = run.read_json("interpolation.json")
    name = metric if metric == "loss" else find(metric).name
    value = next(point["score"] for point in found["curve"] if point["alpha"] == found["taken"])
    if name != found["metric"] or value is None:
        what = f"the weights that retain.interpolate took were judged by {found['metric']} alone"
        raise UserError(named(run.folder), what, f"judge the stage by {found['metric']}, or leave interpolate out")
    return float(value)


def _general(run: Run, metric: str) -> Measured:
    """What general texts have become."""
    return _compared(run, run.read_json("evaluation.json")["general"]["metrics"][metric], metric, "the general texts")


def _probed(run: Run, name: str) -> Measured:
    """What the probe of this name found."""
    entry = next(one for one in run.read_json("evaluation.json")["retention"] if one["name"] == name)
    if entry["source"] is None and not run.read_json("split.json").get("validation"):
        found = f"probe {shown(name)} had no validation rows to look at"
        raise UserError(named(run.folder), found, "give the stage more rows, or the probe a source of its own")
    if entry["kind"] == "drift":
        drifted = {"after": {"value": entry["cka"]}, "before": {"value": 1.0}}
        return _compared(run, drifted, "cka", f"{entry['tokens']} tokens")
    metric, found = next(iter(entry["metrics"].items()))
    return _compared(run, found, metric, f"{entry['rows']} rows ({metric})")


def _compared(run: Run, found: Mapping[str, Any], metric: str, on: str) -> Measured:
    """What was measured before and after tuning."""
    before, after = found.get("before", {}).get("value"), found["after"]["value"]
    if after is None:
        raise UserError(named(run.folder), f"{metric} is not defined on {on}", "judge the stage by another metric")
    return Measured(after, metric == "cka" or find(metric).higher_is_better, on, before)


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
    replies = recipe.evaluate.validation_replies
    if replies and speaks(task, foundation.codec):
        known = known[:replies]
        speaker = Speaker(foundation.codec, most, Inference(here))
        outputs = with_replies(model, task, of_records(outputs, known), known, speaker)
    return find(metric)(task.predictions(outputs, known))
