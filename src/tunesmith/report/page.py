"""The report of a run: one page, made only from the files in its folder, that needs nothing else to be looked at."""

import json
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tunesmith.commit import write_file
from tunesmith.figures import figures
from tunesmith.report.plots import curves, histogram, scatter
from tunesmith.report.rows import texts, worst

JOINERS = "\u200c\u200d"
"""Parts of how Persian, Hindi or emoji are written, though they show nothing by themselves."""
LONG_TEXT = 280
MOST_LABELS_IN_FULL = 40
MOST_LABELS_DRAWN = 200
"""The page grows with the square of the labels that the confusion is drawn of."""
FORGOTTEN = "what the model forgot of what it could do before"
NOT_MEASURED = (
    FORGOTTEN,
    "whether groups of people are treated differently",
    "how it bears typing errors, noise and attacks",
    "whether its probabilities can be believed (calibration)",
    "how it does on rows of another kind than these files hold",
)


def write(folder: Path) -> Path:
    """Writes report.html into a run's folder and returns its path. Files that are missing leave their part out."""
    path = folder / "report.html"
    write_file(path, render("page.html.j2", _facts(folder)))
    return path


def render(template: str, facts: Mapping[str, Any]) -> str:
    """A page of this room with these facts; texts among them cannot become marks."""
    environment = Environment(
        loader=PackageLoader("tunesmith.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, count=count, share=share, size=size, duration=duration)
    return environment.get_template(template).render(**facts)


def visible(value: Any) -> Any:
    """Texts with control characters and direction marks written out; everything else as it is."""
    if not isinstance(value, str) or isinstance(value, Markup) or value.isprintable():
        return value
    return "".join(c if _shows(c) else f"⟨U+{ord(c):04X}⟩" for c in value)


def _shows(character: str) -> bool:
    return character.isprintable() or character in f"\n\t{JOINERS}" or unicodedata.category(character) == "Zs"


def _facts(folder: Path) -> dict[str, Any]:
    """Everything the template shows, by name; None for what the run has no file of."""
    recipe_file = folder / "recipe.yaml"
    recipe = recipe_file.read_text(encoding="utf-8") if recipe_file.is_file() else None
    evaluation, audit = _json(folder, "evaluation.json"), _json(folder, "audit.json")
    journal, predictions = _lines(folder, "journal.jsonl"), _lines(folder, "predictions.jsonl")
    main = evaluation["main"] if evaluation else None
    ends = [event for event in journal if event["event"] == "end"]
    return {
        "name": folder.name,
        "recipe": recipe,
        "recipe_values": yaml.safe_load(recipe) if recipe else None,
        "model": _json(folder, "model.json"),
        "parameters": _json(folder, "parameters.json"),
        "environment": _json(folder, "environment.json"),
        "audit": audit,
        "search": _json(folder, "search.json"),
        "interpolation": _json(folder, "interpolation.json"),
        "evaluation": evaluation,
        "cost": _json(folder, "cost.json"),
        "deploy": _json(folder, "deploy.json"),
        "curves": curves(journal, main),
        "results": _results(evaluation, predictions),
        "end": ends[-1] if ends else None,
        "lengths": _lengths(audit),
        "not_measured": [what for what in NOT_MEASURED if what != FORGOTTEN or not _remembered(evaluation)],
        "long_text": LONG_TEXT,
    }


def _remembered(evaluation: Mapping[str, Any] | None) -> bool:
    """Whether the run measured what the model could do before."""
    return any(key in (evaluation or {}) for key in ("general", "retention"))


def _results(evaluation: Mapping[str, Any] | None, predictions: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What was measured, and rows to look at; of several tasks, of each under its name."""
    parts = (evaluation or {}).get("parts") or {"": evaluation}
    found = []
    for name, judged in parts.items():
        rows = [row for row in predictions if row.get("part", "") == name]
        found.append(
            {
                "title": f"{name}: " if name else "",
                "evaluation": judged,
                "ranges": _ranges(judged),
                "confusion": _heat(judged),
                "fits": _fits(rows, judged),
                "texts": texts(rows),
                "worst": worst(rows),
            }
        )
    return found


def _json(folder: Path, name: str) -> Any:
    path = folder / name
    return json.loads(path.read_bytes()) if path.is_file() else None


def _lines(folder: Path, name: str) -> list[dict[str, Any]]:
    path = folder / name
    return [json.loads(line) for line in path.read_bytes().splitlines() if line.strip()] if path.is_file() else []


def _lengths(audit: Mapping[str, Any] | None) -> Markup | None:
    """The lengths of the training rows."""
    tokens = ((audit or {}).get("splits", {}).get("train") or {}).get("tokens")
    if not tokens:
        return None
    return histogram(tokens["histogram"]["edges"], tokens["histogram"]["counts"], "tokens in a training row")


def _ranges(evaluation: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The model and the baselines on one axis: name, value and limits, and where they lie in percent."""
    if not evaluation:
        return []
    main = evaluation["main"]
    rows = [{"label": "this model", **evaluation["metrics"][main], "ours": True}]
    rows += [{"label": b["label"], **b["metrics"][main], "ours": False} for b in evaluation["baselines"]]
    rows = [
        {"low": row["value"], "high": row["value"], **{k: v for k, v in row.items() if v is not None}}
        for row in rows
        if row["value"] is not None
    ]
    if not rows:
        return []
    low = min([0.0, *(row["low"] for row in rows)])
    high = max([row["high"] for row in rows] + ([1.0] if evaluation["higher_is_better"] else []))
    width = (high - low) or 1.0
    for row in rows:
        row["at"], row["from"], row["to"] = (100 * (row[key] - low) / width for key in ("value", "low", "high"))
    return rows


def _heat(evaluation: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The confusion matrix with each cell's share of its row, and the label pairs that are most often confused."""
    table = evaluation.get("confusion") if evaluation else None
    if not table:
        return None
    counts = np.array(table["counts"])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    pairs = [
        {"gold": table["labels"][i], "answer": table["labels"][j], "count": int(counts[i, j])}
        for i, j in np.argwhere(counts > 0)
        if i != j
    ]
    pairs.sort(key=lambda pair: -pair["count"])
    return {
        "labels": table["labels"],
        "rows": [list(zip(row, part, strict=True)) for row, part in zip(counts.tolist(), shares.tolist(), strict=True)],
        "pairs": pairs[:12],
        "dense": len(table["labels"]) > MOST_LABELS_IN_FULL,
        "drawn": len(table["labels"]) <= MOST_LABELS_DRAWN,
    }


def _fits(predictions: Sequence[Mapping[str, Any]], evaluation: Mapping[str, Any] | None) -> list[Markup]:
    """For numbers: answers over gold of each target, and how the errors are spread."""
    rows = [row for row in predictions if row.get("error") is not None]
    if not rows:
        return []
    gold, given = (np.array([_values(row[key]) for row in rows], dtype=np.float64) for key in ("gold", "answer"))
    answer = rows[0]["answer"]
    names = list(answer) if isinstance(answer, Mapping) else (evaluation or {}).get("targets") or ["answer"]
    plots = [scatter(right, own, visible(name)) for right, own, name in zip(gold.T, given.T, names, strict=True)]
    errors = given - gold
    counts, edges = np.histogram(errors, bins=21)
    return [*plots, histogram(edges.tolist(), counts.tolist(), "answered minus right")]


def _values(found: Any) -> list[float]:
    """The numbers that a row has as its answer or as what is right: by target, in a list, or one alone."""
    return list(found.values()) if isinstance(found, Mapping) else found if isinstance(found, list) else [found]


def number(value: float | None) -> str:
    """A value to as many decimals as it needs; a dash for none."""
    return figures(value)[0]


def count(value: float | None) -> str:
    """A whole number with separators."""
    return "–" if value is None else f"{value:,.0f}"


def share(value: float | None) -> str:
    """A part of one in percent."""
    if value is None:
        return "–"
    return f"{100 * value:.1f} %" if value == 0 or value >= 0.001 else f"{100 * value:.2g} %"


def size(value: float | None) -> str:
    """Bytes in MB or GB."""
    if value is None:
        return "–"
    return f"{value / 1e9:.2f} GB" if value >= 1e9 else f"{value / 1e6:.1f} MB"


def duration(value: float | None) -> str:
    """Seconds as minutes and seconds, or hours."""
    if value is None:
        return "–"
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{value:.1f} s"
