"""Plots as SVG text that takes its colours from the page, so that it follows light and dark."""

import io
import logging
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

INK, LINE, FIRST, SECOND = "#010203", "#040506", "#070809", "#0a0b0c"
"""Stand-ins that become the page's colours."""
COLOURS = {INK: "currentColor", LINE: "var(--line)", FIRST: "var(--first)", SECOND: "var(--second)"}
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tunesmith",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}
SMOOTHING = 0.9
MOST_POINTS = 600


def draw(paint: Callable[[Axes], None], *, width: float = 5.0, height: float = 2.6) -> Markup:
    """The SVG of one plot that `paint` puts on axes. Text stays text; nothing depends on the clock."""
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the browser writes the texts, with its own fonts
        figure = Figure(figsize=(width, height), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        paint(axes)
        out = io.StringIO()
        FigureCanvasSVG(figure).print_svg(  # type: ignore[no-untyped-call]
            out, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    for stand_in, colour in COLOURS.items():
        svg = svg.replace(f": {stand_in}", f": {colour}")
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    return Markup(svg)  # noqa: S704  # made by matplotlib, which escapes the texts that it is given


def curves(journal: Sequence[Mapping[str, Any]], main: str | None) -> dict[str, Markup]:
    """Plots of a journal by name: loss, the watched metric, rate and gradient norm; those that there is data for."""
    steps = [event for event in journal if event["event"] == "step"]
    judged = [event for event in journal if event["event"] == "evaluation"]
    best = [event for event in judged if event["best"]][-1:]
    found = {}
    if steps:
        found["Loss"] = draw(lambda axes: _loss(axes, steps, judged, best))
    for name in judged[-1].get("losses", {}) if judged else ():
        own = [{**event, "loss": event["losses"][name]} for event in steps if name in event.get("losses", {})]
        seen = [{**event, "loss": event["losses"][name]} for event in judged if name in event.get("losses", {})]
        found[f"Loss of {name}"] = draw(partial(_loss, steps=own, judged=seen, best=best))
    values = [
        (event["step"], event["metrics"][main]) for event in judged if main and event["metrics"].get(main) is not None
    ]
    if len(values) > 1 and main:
        found[f"Validation {main}"] = draw(lambda axes: _metric(axes, values, best))
    if steps:
        found["Learning rate"] = draw(lambda axes: _line(axes, steps, "learning_rate"))
        found["Gradient norm, before clipping"] = draw(lambda axes: _line(axes, steps, "gradient_norm"))
    return found


def _loss(axes: Axes, steps: Sequence[Any], judged: Sequence[Any], best: Sequence[Any]) -> None:
    smooth, kept = None, []
    for event in steps:
        smooth = event["loss"] if smooth is None else SMOOTHING * smooth + (1 - SMOOTHING) * event["loss"]
        kept.append(smooth)
    thin = max(1, len(steps) // MOST_POINTS)
    x = [event["step"] for event in steps]
    axes.plot(x[::thin], [event["loss"] for event in steps][::thin], color=FIRST, alpha=0.25, linewidth=0.8)
    axes.plot(x[::thin], kept[::thin], color=FIRST, linewidth=1.6, label="training, smoothed")
    if judged:
        axes.plot(
            [e["step"] for e in judged],
            [e["loss"] for e in judged],
            "o-",
            color=SECOND,
            markersize=3.5,
            linewidth=1.4,
            label="validation",
        )
    for event in best:
        axes.axvline(event["step"], color=INK, linewidth=0.8, linestyle=":")
    _count_steps(axes)
    axes.set_ylim(bottom=0)
    axes.legend()


def _count_steps(axes: Axes) -> None:
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _metric(axes: Axes, values: Sequence[tuple[int, float]], best: Sequence[Any]) -> None:
    axes.plot(
        [step for step, _ in values], [value for _, value in values], "o-", color=SECOND, markersize=3.5, linewidth=1.4
    )
    for event in best:
        axes.axvline(event["step"], color=INK, linewidth=0.8, linestyle=":", label=f"best, step {event['step']}")
        axes.legend()
    _count_steps(axes)


def _line(axes: Axes, steps: Sequence[Any], name: str) -> None:
    thin = max(1, len(steps) // MOST_POINTS)
    axes.plot([e["step"] for e in steps][::thin], [e[name] for e in steps][::thin], color=FIRST, linewidth=1.2)
    _count_steps(axes)
    axes.set_ylim(bottom=0)


def scatter(gold: Sequence[float], answers: Sequence[float], name: str) -> Markup:
    """Answers over gold, with the line on which both agree."""

    def paint(axes: Axes) -> None:
        low, high = min([*gold, *answers]), max([*gold, *answers])
        axes.plot([low, high], [low, high], color=INK, linewidth=0.8, linestyle=":")
        axes.scatter(gold, answers, s=14, color=FIRST, alpha=0.45, linewidths=0)
        axes.set_xlabel(f"{name}: right")
        axes.set_ylabel("answered")

    return draw(paint, height=3.4)


def histogram(edges: Sequence[float], counts: Sequence[float], label: str) -> Markup:
    """Bars of counts between edges."""

    def paint(axes: Axes) -> None:
        widths = [right - left for left, right in pairwise(edges)]
        axes.bar(edges[:-1], counts, width=widths, align="edge", color=FIRST, alpha=0.8, linewidth=0)
        axes.set_xlabel(label)
        axes.set_ylabel("rows")
        axes.grid(visible=False, axis="x")

    return draw(paint, height=2.2)
