"""What tuning does to a language model's hold of general text: its perplexity before and after."""

from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.contracts import Adapted, Foundation, Task
from tunesmith.elsewhere import Elsewhere, read_rows, require_rows
from tunesmith.evaluate.intervals import bootstrap, difference, plain
from tunesmith.evaluate.metrics import find
from tunesmith.forward import Inference, all_outputs
from tunesmith.given import Predictions
from tunesmith.house import House, Prepared

METRICS = ("perplexity", "bits_per_byte")


def _place(house: House) -> Elsewhere | None:
    source = house.recipe.evaluate.general
    return None if source is None else Elsewhere("evaluate.general", source, "language")


def require_general(house: House, foundation: Foundation) -> None:
    """Refuses general texts for a task whose head is over labels, and a source that is not there. Raises UserError."""
    place = _place(house)
    if place is not None:
        require_rows(house, foundation, place)


def general(
    house: House, foundation: Foundation, prepared: Prepared, adapted: Adapted, task: Task
) -> Predictions | None:
    """How likely the model, as it is now, finds the texts that the recipe names; None where it names none.

    Raises UserError for a file without texts.
    """
    place = _place(house)
    if place is None:
        return None
    read = read_rows(house, foundation, prepared, task, place)
    passed = all_outputs(adapted.model, read.task, read.data, read.padding, Inference(house.world))
    return read.task.predictions(passed.outputs, read.records)


def changed(before: Predictions, after: Predictions, house: House) -> dict[str, Any]:
    """What `evaluation.json` holds of general texts."""
    source = house.recipe.evaluate.general
    return {"source": source, "rows": len(after), "metrics": beside(before, after, METRICS, house)}


def beside(before: Predictions | None, after: Predictions, names: Sequence[str], house: House) -> dict[str, Any]:
    """Each metric before and after with intervals, and how it changed; of what was not asked before, only after."""
    options = house.recipe.evaluate
    more: dict[str, Any] = {"resamples": options.resamples, "level": options.level, "seed": house.recipe.seed}
    found = {}
    for metric in map(find, names):
        found[metric.name] = {"after": plain(bootstrap(after, metric, **more))}
        if before is not None:
            found[metric.name] |= {
                "before": plain(bootstrap(before, metric, **more)),
                "difference": plain(difference(after, before, metric, **more)),
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
