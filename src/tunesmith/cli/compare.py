"""`tunesmith compare`: several methods on one recipe's data, and the cheapest that is good enough."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tunesmith.cli.screen import emit, heading, say, say_table

STATUS = {"within": "not worse", "worse": "worse", "unknown": "cannot tell", "refused": "refused", "failed": "failed"}


def compare(
    recipe: Annotated[Path, typer.Argument(help="A recipe, or the folder of a run.")],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[key=value ...]", help="Settings that go over the recipe.")
    ] = None,
    methods: Annotated[
        str, typer.Option("--methods", help="Methods with commas between them, options in brackets.")
    ] = "full,lora,adapter,bitfit,head",
    seeds: Annotated[int, typer.Option("--seeds", help="Trials of each method, one seed after the other.")] = 3,
    margin: Annotated[
        float, typer.Option("--margin", help="How much worse than the best still counts as not worse.")
    ] = 0.01,
    cheapest_by: Annotated[
        str, typer.Option("--cheapest-by", help="What cheap means: parameters, time, memory or size.")
    ] = "parameters",
    rates: Annotated[
        str, typer.Option("--rates", help="probe: find each method's rate in short trials. default: its own.")
    ] = "probe",
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", help="Trials at a time; half as many as cores when left out.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--run", "-r", help="Folder of the comparison; runs/NAME-compare when left out.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare methods on a recipe's data with equal budgets, and name the cheapest that is not worse than the best.

    \b
    tunesmith compare recipe.yaml
    tunesmith compare recipe.yaml --methods 'full,lora(rank=4),lora(rank=16),head' --seeds 5
    tunesmith compare recipe.yaml train.epochs=5 --margin 0.02 --cheapest-by size
    The same command goes on where a stopped comparison was.
    """
    from tunesmith import api
    from tunesmith.cli.progress import RunProgress

    wanted: dict[str, Any] = {
        "seeds": seeds,
        "margin": margin,
        "cheapest_by": cheapest_by,
        "rates": rates,
        "jobs": jobs,
    }
    wanted |= {"methods": methods, "overrides": settings or (), "folder": folder}
    if as_json:
        emit(api.compare(recipe, **wanted))
        return
    with RunProgress() as screen:
        found = api.compare(recipe, **wanted, screen=screen)
    say_comparison(found)
    place = folder or Path("runs") / found["name"]
    say(f"next: open {place / 'comparison.html'}; each trial is a run: tunesmith list {place / 'trials'}")


def say_comparison(found: dict[str, Any]) -> None:
    """Prints the table of a comparison, and what it shows."""
    heading(f"{found['metric'] or 'score'} on {found['rows']} {found['split']} rows")
    columns = ("method", "score", "from", "to", "within margin", "p", "general text", "trained", "memory MB", "seconds")
    say_table((*columns, "size MB", "rate"), [_cells(row) for row in found["methods"]])
    for row in found["methods"]:
        if row["refused"]:
            say(f"{row['method']} was refused: {row['refused']}")
        for one in row["failed"]:
            say(f"{row['method']} with seed {one['seed']} failed: {one['reason']}")
    for note in found["notes"]:
        say(f"note: {note}")
    say(found["sentence"], "bold")


def _cells(row: dict[str, Any]) -> list[object]:
    quality, kept = row["quality"] or {}, row["retention"]
    trained = f"{row['trainable'] / row['parameters']:.2%}" if row["parameters"] else None
    return [
        row["method"],
        *(quality.get(key) for key in ("value", "low", "high")),
        STATUS[row["status"]],
        row["p_within"],
        f"{kept['before']:.2f} to {kept['after']:.2f}" if kept else "not measured",
        trained,
        row["peak_memory_bytes"] and round(row["peak_memory_bytes"] / 1e6),
        row["train_seconds"] and round(row["train_seconds"], 1),
        row["artifact_bytes"] and round(row["artifact_bytes"] / 1e6, 1),
        row["rate"],
    ]
