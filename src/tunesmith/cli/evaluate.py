"""`tunesmith evaluate`: how good a trained model is."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tunesmith.cli.screen import emit, heading, say, say_table
from tunesmith.cli.show import say_scores


def evaluate(
    run: Annotated[Path, typer.Argument(help="Folder of a run, or of an exported model.")],
    data: Annotated[
        Path | None, typer.Option("--data", "-d", help="Rows with answers; those of the run when left out.")
    ] = None,
    base: Annotated[
        str | None, typer.Option("--base", help="Base of an exported adapter, where it is not found.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Judge a trained model on new rows, or repeat what its run found.

    \b
    tunesmith evaluate runs/tickets
    tunesmith evaluate runs/tickets --data next_month.csv --json
    """
    from tunesmith import api

    judged = api.evaluate(run, data, base=base)
    emit(judged) if as_json else _say(judged)


def _say(judged: dict[str, Any]) -> None:
    say(judged.get("verdict", ""), "bold")
    say_scores(judged)
    if judged.get("per_class"):
        heading("by label")
        columns = ("label", "precision", "recall", "f1", "support")
        say_table(columns, ([entry[column] for column in columns] for entry in judged["per_class"]))
