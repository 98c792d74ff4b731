"""The page of a comparison of methods, made only from its comparison.json."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, NullFormatter

from tunesmith.commit import write_file
from tunesmith.report.page import render, visible
from tunesmith.report.plots import FIRST, INK, LINE, SECOND, draw

COSTS: Mapping[str, tuple[str, str, float]] = {
    "parameters": ("trainable", "parameters that move", 1),
    "time": ("train_seconds", "seconds of training", 1),
    "memory": ("peak_memory_bytes", "peak memory in MB", 1e6),
    "size": ("artifact_bytes", "size of the artefact in MB", 1e6),
}
"""What a method's cost is called in its row and below the picture, and what it is divided by there."""


def write(folder: Path) -> Path:
    """Writes comparison.html beside comparison.json and returns its path."""
    found = json.loads((folder / "comparison.json").read_bytes())
    path = folder / "comparison.html"
    tried = [row for row in found["methods"] if row["status"] != "refused"]
    facts = {
        **found,
        "tried": tried,
        "refused": [row for row in found["methods"] if row["status"] == "refused"],
        "failed": [row for row in tried if row["failed"]],
        "probed": [row for row in tried if row["probes"]],
        "picture": picture(found),
        "data": found["recipe"]["data"]["train"],
    }
    write_file(path, render("comparison.html.j2", facts))
    return path


def picture(found: Mapping[str, Any]) -> Markup | None:
    """Each method's quality with its interval over its cost; None where no method has a score."""
    rows = [row for row in found["methods"] if row["quality"] is not None]
    return draw(lambda axes: _frontier(axes, rows, found), width=7.5, height=3.6) if rows else None


def _frontier(axes: Axes, rows: Sequence[Mapping[str, Any]], found: Mapping[str, Any]) -> None:
    key, called, unit = COSTS[found["options"]["cheapest_by"]]
    best = next((row for row in rows if row["name"] == found["best"]), None)
    if best is not None:
        sign = -1 if found["higher_is_better"] else 1
        limit = best["quality"]["value"] + sign * found["margin"]
        axes.axhline(limit, color=INK, linewidth=0.8, linestyle=":", label="the best, less the margin")
    for number, row in enumerate(sorted(rows, key=lambda row: float(row[key]))):
        quality, colour = row["quality"], SECOND if row["name"] == found["chosen"] else FIRST
        cost, value = row[key] / unit, quality["value"]
        if quality["low"] is not None:
            axes.plot([cost, cost], [quality["low"], quality["high"]], color=colour, linewidth=1.6, alpha=0.6)
        axes.plot(
            [cost] * len(row["trials"]), [trial["value"] for trial in row["trials"]], ".", color=LINE, markersize=5
        )
        axes.plot([cost], [value], "o", color=colour, markersize=6)
        above = 5 if number % 2 == 0 else -13  # neighbours' names would lie on one another
        axes.annotate(visible(row["method"]), (cost, value), xytext=(6, above), textcoords="offset points")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # the usual one writes mathematics, which is off here
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.18)
    axes.set_xlabel(called)
    axes.set_ylabel(visible(found["metric"]))
    axes.legend(loc="best")
