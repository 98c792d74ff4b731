"""What tuning does to a language model's hold of general text: its perplexity before and after."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tunesmith.batch import encoded
from tunesmith.contracts import Adapted, Foundation, Interval, Record, Task
from tunesmith.errors import BadRow, UserError
from tunesmith.evaluate.intervals import bootstrap, difference
from tunesmith.evaluate.metrics import Metric, find
from tunesmith.forward import Inference, all_outputs
from tunesmith.given import Predictions
from tunesmith.house import House, Prepared
from tunesmith.prepare.sources import read_source
from tunesmith.tasks.language import Language

METRICS = ("perplexity", "bits_per_byte")


def require_general(house: House, foundation: Foundation) -> None:
    """Refuses general texts for a task whose head is over labels, and a source that is not there. Raises UserError."""
    source, task = house.recipe.evaluate.general, house.recipe.task
    if source is None:
        return
    if task.parts or task.auto_class(foundation.family) != Language().auto_class(foundation.family):
        raise UserError("evaluate.general", "needs the head of a language model", "leave the key out for this task")
    next(iter(read_source(source, house.base)), None)


def general(
    house: House, foundation: Foundation, prepared: Prepared, adapted: Adapted, task: Task
) -> Predictions | None:
    """How likely the model, as it is now, finds the texts that the recipe names; None where it names none.

    Raises UserError for a file without texts.
    """
    source = house.recipe.evaluate.general
    if source is None:
        return None
    probe = Language()
    records: list[Record] = []
    for raw in read_source(source, house.base):
        try:
            inputs, target = probe.read(raw.fields)
        except BadRow as error:
            raise UserError(f"{raw.source}, line {raw.line}", str(error), "mend or leave out this row") from error
        records.append(Record(len(records), raw.source, raw.line, inputs, target))
    data = encoded(probe.encode(records, foundation.codec, prepared.max_tokens))
    known = [record for record in records if record.row not in data.refused]
    if not known:
        raise UserError("evaluate.general", "holds no texts", "name a file with a column `text`")
    padding = replace(prepared.padding, columns={**prepared.padding.columns, **probe.columns()})
    passed = all_outputs(adapted.model, probe, data, padding, Inference(house.world))
    return probe.predictions(passed.outputs, known)


def beside(before: Predictions, after: Predictions, house: House) -> dict[str, Any]:
    """What `evaluation.json` holds of it: each metric before and after with intervals, and how it changed."""
    options, seed = house.recipe.evaluate, house.recipe.seed
    more: dict[str, Any] = {"resamples": options.resamples, "level": options.level, "seed": seed}
    found: dict[str, Any] = {"source": options.general, "rows": len(after), "metrics": {}}
    for name in METRICS:
        metric: Metric = find(name)
        found["metrics"][name] = {
            "before": _plain(bootstrap(before, metric, **more)),
            "after": _plain(bootstrap(after, metric, **more)),
            "difference": _plain(difference(after, before, metric, **more)),
        }
    return found


def said(found: Mapping[str, Any]) -> str:
    """One sentence: what became of general text."""
    one = found["metrics"][METRICS[0]]
    gap = one["difference"]
    limits = "" if gap["low"] is None else f" [{gap['low']:+.2f}, {gap['high']:+.2f}]"
    return (
        f"general text: perplexity {one['before']['value']:.2f} before, {one['after']['value']:.2f} after, "
        f"{gap['value']:+.2f}{limits} on {found['rows']} texts"
    )


def _plain(found: Interval) -> dict[str, float | None]:
    values = {"value": found.value, "low": found.low, "high": found.high}
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
