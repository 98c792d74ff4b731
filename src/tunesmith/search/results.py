"""What the trials of a comparison show: one row a method, which of them stand the test, and one sentence."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.evaluate.intervals import plain
from tunesmith.figures import figures, interval
from tunesmith.recipe import Recipe
from tunesmith.run import Run
from tunesmith.search.choice import Rules, Scored, Standing, best_of, cheapest, fewest_rows, standings
from tunesmith.search.options import CompareOptions, Cost
from tunesmith.search.plan import Ground
from tunesmith.search.scores import Judged, common, read_judged, scored
from tunesmith.search.variants import Variant

FORMAT = 1
COST_KEYS: Mapping[Cost, str] = {
    "parameters": "trainable",
    "time": "train_seconds",
    "memory": "peak_memory_bytes",
    "size": "artifact_bytes",
}
"""Where a method's row has what it costs."""


@dataclass(frozen=True)
class Trial:
    """One run of a comparison. method: its folder name. failed: why there is no result."""

    method: str
    seed: int
    folder: Path
    failed: str | None


def results(
    recipe: Recipe,
    options: CompareOptions,
    ground: Ground,
    variants: Sequence[Variant],
    refused: Mapping[str, str],
    rates: Mapping[str, Mapping[str, Any]],
    trials: Sequence[Trial],
) -> dict[str, Any]:
    """What comparison.json holds."""
    done = [trial for trial in trials if trial.failed is None]
    judged = common({(trial.method, trial.seed): read_judged(Run.open(trial.folder)) for trial in done})
    whole = {variant.name for variant in variants} - {trial.method for trial in trials if trial.failed} - set(refused)
    rows = []
    for variant in variants:
        own = [trial for trial in trials if trial.method == variant.name]
        rows.append(_row(variant, refused.get(variant.name), rates.get(variant.name), own, judged))
    found: dict[str, Any] = {
        "format": FORMAT,
        "recipe": recipe.as_mapping(),
        "options": options.model_dump(mode="json"),
        "budget": {**asdict(ground), "batch_size": recipe.train.batch_size},
        "methods": rows,
    }
    ruled = _rules(recipe, options, judged)
    by_method = {
        name: scored(
            [judged[trial.method, trial.seed] for trial in done if trial.method == name],
            draws=recipe.evaluate.resamples,
            seed=recipe.seed,
        )
        for name in (variant.name for variant in variants)
        if name in whole
    }
    return found | _shown(found, by_method, ruled, options, judged)


def _rules(recipe: Recipe, options: CompareOptions, judged: Mapping[Any, Judged]) -> Rules:
    """What the tests go by. A score of one row that is to be high is taken to reach from 0 to 1 at least."""
    trials = list(judged.values())
    higher = trials[0].metric.higher_is_better if trials else True
    reaches = [one.reach() for one in trials]
    low, high = min((low for low, _ in reaches), default=0.0), max((high for _, high in reaches), default=0.0)
    share = higher and low >= 0 and high <= 1 and all(one.tallies is not None for one in trials)
    return Rules(
        margin=options.margin,
        level=recipe.evaluate.level,
        rows=len(trials[0].rows) if trials else 0,
        span=max(1.0, high - low) if higher else high - low,
        higher_is_better=higher,
        seed=recipe.seed,
        limits=(0.0, 1.0) if share else (-math.inf, math.inf),
    )


def _row(
    variant: Variant,
    refused: str | None,
    rate: Mapping[str, Any] | None,
    trials: Sequence[Trial],
    judged: Mapping[Any, Judged],
) -> dict[str, Any]:
    """A method with what its trials cost; what they are worth is added when all are known."""
    done = [trial for trial in trials if trial.failed is None]
    runs = [_facts(trial, judged[trial.method, trial.seed].value) for trial in done]

    def over(key: str, join: Any) -> Any:
        return join([run[key] for run in runs]) if runs else None

    parameters = Run.open(done[0].folder).read_json("parameters.json") if done else {}
    return {
        "method": variant.text,
        "name": variant.name,
        "settings": dict(variant.settings),
        "refused": refused,
        "failed": [{"seed": trial.seed, "reason": trial.failed} for trial in trials if trial.failed is not None],
        "rate": rate["rate"] if rate else None,
        "probes": rate["probes"] if rate else [],
        "trials": runs,
        "trainable": parameters.get("trainable"),
        "parameters": parameters.get("total"),
        "train_seconds": over("train_seconds", np.mean),
        "peak_memory_bytes": over("peak_memory_bytes", max),
        "artifact_bytes": over("artifact_bytes", max),
        "retention": _retention(done),
        "quality": None,
        "gap": None,
        "p_within": None,
        "p_worse": None,
        "status": "refused" if refused else "failed" if len(done) < len(trials) else "unknown",
    }


def _facts(trial: Trial, value: float) -> dict[str, Any]:
    """What a finished trial cost, and its score."""
    run = Run.open(trial.folder)
    cost, deployed = run.read_json("cost.json"), run.read_json("deploy.json")
    kept = ("steps", "tokens", "train_seconds", "peak_memory_bytes")
    return {
        "seed": trial.seed,
        "folder": f"{trial.folder.parent.name}/{trial.folder.name}",
        "value": value if math.isfinite(value) else None,
        **{key: cost[key] for key in kept},
        "artifact_bytes": sum(artifact["bytes"] for artifact in deployed),
    }


def _retention(trials: Sequence[Trial]) -> dict[str, Any] | None:
    """What became of general text, mean over the seeds; None where the recipe measures nothing of the kind."""
    found = [Run.open(trial.folder).read_json("evaluation.json").get("general") for trial in trials]
    measured = [one["metrics"]["perplexity"] for one in found if one]
    values = {
        key: [one[key]["value"] for one in measured if one[key]["value"] is not None]
        for key in ("before", "after", "difference")
    }
    if not all(values.values()):
        return None
    return {"what": "perplexity of general text", **{key: float(np.mean(each)) for key, each in values.items()}}


def _shown(
    found: Mapping[str, Any],
    by_method: Mapping[str, Scored],
    rules: Rules,
    options: CompareOptions,
    judged: Mapping[Any, Judged],
) -> dict[str, Any]:
    """What is shown of the methods; their rows are filled in."""
    standing = standings(by_method, rules)
    rows = {row["name"]: row for row in found["methods"]}
    for name, one in standing.items():
        rows[name] |= {
            "quality": plain(one.quality),
            "gap": None if one.gap is None else plain(one.gap),
            "p_within": one.p_within,
            "p_worse": one.p_worse,
            "status": one.status,
        }
    costs = {name: float(rows[name][COST_KEYS[options.cheapest_by]]) for name in standing}
    split = found["budget"]["judged"]
    learned = split == "train"
    chosen = None if learned else cheapest(standing, costs, rules)
    if learned:
        for name in standing:
            rows[name]["status"] = "unknown"
    first = next(iter(judged.values()), None)
    metric = first.metric.name if first else ""
    best = best_of({name: by_method[name] for name in standing}, rules) if standing else None
    told = {
        "metric": metric,
        "higher_is_better": rules.higher_is_better,
        "split": split,
        "rows": rules.rows,
        "level": rules.level,
        "margin": rules.margin,
        "best": best,
        "chosen": chosen,
        "notes": _notes(found, options),
    }
    return told | {"sentence": sentence(rows, standing, told, rules, options)}


def sentence(
    rows: Mapping[str, Mapping[str, Any]],
    standing: Mapping[str, Standing],
    told: Mapping[str, Any],
    rules: Rules,
    options: CompareOptions,
) -> str:
    """The cheapest method that is not worse than the best by more than the margin, or that none is shown to be that."""
    seeds = f"{options.seeds} seed{'s' if options.seeds > 1 else ''}"
    ground = f"{rules.rows} {told['split']} rows and {seeds}"
    margin = f"{options.margin:g} {told['metric']}"
    if not standing:
        return f"no method has a score to compare on {ground}"
    best = rows[told["best"]]["method"]
    top = standing[told["best"]].quality
    reached = f"{best}, {told['metric']} {interval(top.value, top.low, top.high)}"
    if len(standing) == 1:
        return f"only {best} has a score ({reached} on {ground}), so there is nothing to compare"
    if told["split"] == "train":
        return f"the data cannot tell: the only rows to judge by are those that were learned from (best is {reached})"
    if told["chosen"] is None:
        few = fewest_rows(len(standing), rules)
        why = f"; that takes at least {few} rows" if rules.rows < few else ""
        return (
            f"the data cannot tell: on {ground} no method is shown to be not worse than all others by more than "
            f"{margin} (best is {reached}){why}"
        )
    row, one = rows[told["chosen"]], standing[told["chosen"]]
    share = f"{row['trainable'] / row['parameters']:.2%} of the parameters"
    said = (
        f"{row['method']} is the cheapest by {options.cheapest_by} ({share}) that is not worse than the best by more "
    )
    said += f"than {margin}: {interval(one.quality.value, one.quality.low, one.quality.high)} on {ground}"
    said += f" (p = {one.p_within:.2g}, corrected for {len(standing)} methods)"
    if one.gap is not None:
        gap = interval(one.gap.value, one.gap.low, one.gap.high)
        said += f"; the best is {best}, {figures(top.value)[0]}, and the difference {gap}"
    return said


def _notes(found: Mapping[str, Any], options: CompareOptions) -> list[str]:
    """What must be known to read the table rightly."""
    budget, notes = found["budget"], list[str]()
    notes.append(
        f"every trial takes {budget['steps']} steps of {budget['batch_size']} rows from the same "
        f"{budget['rows']['train']} training rows, without early stopping; of one seed they come in the same order"
    )
    tokens = {
        len({run["tokens"] for row in found["methods"] for run in row["trials"] if run["seed"] == seed}) > 1
        for seed in {run["seed"] for row in found["methods"] for run in row["trials"]}
    }
    if any(tokens):
        notes.append("the methods did not see equally many tokens: their texts are put in different ways")
    if budget["judged"] == "validation":
        notes.append("these rows also chose the rates and the best weights, so all scores are a little too good")
    if options.seeds == 1:
        notes.append("one seed: how much of a difference is luck of the seed is not known, and not in the intervals")
    if any(row["failed"] for row in found["methods"]):
        notes.append("a method of which a trial failed takes no part in the tests")
    return notes
