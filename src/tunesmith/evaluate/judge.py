"""The verdict on a tuned model: its scores with intervals, beside simple models on the same rows."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.contracts import Record, Task
from tunesmith.evaluate import BASELINES, METRICS
from tunesmith.evaluate.intervals import bootstrap, difference, paired_test, plain, smallest_detectable
from tunesmith.evaluate.metrics import Metric, measure
from tunesmith.evaluate.options import EvaluateOptions
from tunesmith.evaluate.tables import tables
from tunesmith.figures import figures, interval
from tunesmith.given import Predictions

FEW_ROWS = 30
"""Below this an interval from resampling says little."""
SIGNIFICANT = 0.05
STOP = ("when to stop",)
NAMES = {
    "untuned": "the same model before it was tuned",
    "no_answer": "never an answer",
    "phrase_lookup": "phrases of the training rows",
    "copy": "the beginning of the text itself",
    "nearest_text": "the answer to the most similar training row",
    "majority": "most frequent label",
    "mean": "mean of the training rows",
    "tfidf_logistic": "TF-IDF + logistic regression",
    "tfidf_ridge": "TF-IDF + ridge regression",
}


def judge(
    predictions: Predictions,
    task: Task,
    *,
    splits: Mapping[str, Sequence[Record]],
    split: str,
    options: EvaluateOptions,
    seed: int,
    remarks: Sequence[str] = (),
    untuned: Predictions | None = None,
    chosen: Sequence[str] = STOP,
) -> dict[str, Any]:
    """What `evaluation.json` holds: every metric, the main one's interval, tables, baselines and a verdict.

    remarks: what must be known of the rows to read the score rightly; they end the verdict. untuned: what the model
    answered before it was tuned. chosen: what validation rows decided.
    """
    metric: Metric = METRICS.load(task.metrics[0])
    main = bootstrap(predictions, metric, resamples=options.resamples, level=options.level, seed=seed)
    metrics: dict[str, dict[str, Any]] = {
        name: {"value": value} for name, value in measure(predictions, task.metrics).items()
    }
    metrics[metric.name] = plain(main)
    for name in task.metrics:
        one: Metric = METRICS.load(name)
        if one.note is not None and metrics[one.name]["value"] is not None:
            metrics[one.name]["note"] = one.note(predictions)
    judged = baselines(predictions, task, splits=splits, split=split, options=options, seed=seed, untuned=untuned)
    found: dict[str, Any] = {
        "split": split,
        "rows": len(predictions),
        "main": metric.name,
        "level": options.level,
        "higher_is_better": metric.higher_is_better,
        "metrics": metrics,
        **tables(predictions),
        "targets": list(predictions.labels) if predictions.kind == "numbers" else None,
        "baselines": judged,
        "better_baseline": _best(judged, metric),
        "detectable": smallest_detectable(len(predictions), main.value) if metric.name == "accuracy" else None,
    }
    return {**found, "verdict": "; ".join([verdict(found, chosen), *remarks])}


def together(parts: Mapping[str, Mapping[str, Any]], task: Task, rows: int) -> dict[str, Any]:
    """What `evaluation.json` holds of a task of several parts: every part's own, and all their metrics by PART/METRIC.

    The main metric is one part's; there is no one number for tasks that measure different things. rows: judged in all.
    """
    wanted = task.metrics[0].partition("/")[0]
    name = wanted if wanted in parts else next(iter(parts))
    first = parts[name]
    return {
        "split": first["split"],
        "rows": rows,
        "main": f"{name}/{first['main']}",
        "level": first["level"],
        "higher_is_better": first["higher_is_better"],
        "metrics": {f"{part}/{key}": value for part, one in parts.items() for key, value in one["metrics"].items()},
        "baselines": [],
        "better_baseline": None,
        "detectable": None,
        "parts": dict(parts),
        "verdict": ". ".join(f"{part}: {one['verdict']}" for part, one in parts.items()),
    }


def baselines(
    predictions: Predictions,
    task: Task,
    *,
    splits: Mapping[str, Sequence[Record]],
    split: str,
    options: EvaluateOptions,
    seed: int,
    untuned: Predictions | None = None,
) -> list[dict[str, Any]]:
    """The untuned model, if it was asked, and each of the task's baselines, trained on the training rows; all judged
    on the same rows as the model."""
    if not options.baselines or split == "train":
        return []
    train, rows = splits["train"], splits[split]
    known = task.gold(train)
    texts, asked = [record.text for record in train], [record.text for record in rows]
    metric: Metric = METRICS.load(task.metrics[0])
    judged = []
    others = {} if untuned is None else {"untuned": untuned}
    others |= {name: BASELINES.load(name)(texts, known, asked, predictions) for name in task.baselines}
    for name, theirs in others.items():
        gap = difference(predictions, theirs, metric, resamples=options.resamples, level=options.level, seed=seed)
        p_value = paired_test(predictions, theirs, metric, permutations=options.resamples, seed=seed)
        judged.append(
            {
                "name": name,
                "label": NAMES.get(name, name),
                "metrics": {
                    **{key: {"value": value} for key, value in measure(theirs, task.metrics).items()},
                    metric.name: plain(
                        bootstrap(theirs, metric, resamples=options.resamples, level=options.level, seed=seed)
                    ),
                },
                "difference": plain(gap),
                "p_value": _number(p_value),
            }
        )
    return judged


def verdict(found: Mapping[str, Any], chosen: Sequence[str] = STOP) -> str:
    """One honest sentence: the score, how sure it is, and whether it beats the better baseline.

    chosen: what validation rows decided.
    """
    name, main = found["main"], found["metrics"][found["main"]]
    if main["value"] is None:
        return f"{name} is not defined on these {found['rows']} rows"
    said = f"{name} {interval(main['value'], main['low'], main['high'])} on {found['rows']} {found['split']} rows"
    better = next((row for row in found["baselines"] if row["name"] == found["better_baseline"]), None)
    if better is not None and better["difference"]["value"] is not None:
        gap, p = better["difference"], better["p_value"]
        gain = gap["value"] if found["higher_is_better"] else -gap["value"]
        limits = [value if found["higher_is_better"] else -value for value in (gap["low"], gap["high"])]
        shown = interval(abs(gain), min(limits), max(limits))
        if gain > 0 and p is not None and p < SIGNIFICANT:
            said += f"; better than {better['label']} by {shown} (p = {p:.3g})"
        elif gain < 0 and p is not None and p < SIGNIFICANT:
            said += f"; WORSE than {better['label']} by {figures(abs(gain))[0]} (p = {p:.3g})"
        else:
            said += (
                f"; not shown to be better than {better['label']} (p = {'not defined' if p is None else f'{p:.2g}'})"
            )
    if found["split"] == "validation" and chosen:
        said += f"; these rows also chose {' and '.join(chosen)}, so the score is a little too good"
    if found["split"] == "train":
        said += "; these are the training rows, so the score says nothing about new ones"
    if found["rows"] < FEW_ROWS:
        said += f"; fewer than {FEW_ROWS} rows, so the interval itself is unsure"
    return said


def _best(judged: Sequence[Mapping[str, Any]], metric: Metric) -> str | None:
    sign = 1 if metric.higher_is_better else -1
    scored = [
        (sign * row["metrics"][metric.name]["value"], row["name"])
        for row in judged
        if row["metrics"][metric.name]["value"] is not None
    ]
    return max(scored)[1] if scored else (judged[0]["name"] if judged else None)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
