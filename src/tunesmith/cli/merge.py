"""`tunesmith merge`: several adapters over one base as one."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunesmith.cli.screen import emit, say, say_table

if TYPE_CHECKING:
    from tunesmith.merging import Merged


def merge(
    adapters: Annotated[list[Path], typer.Argument(help="Folders of runs, or of exported adapters, two or more.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write.")],
    weights: Annotated[
        str | None, typer.Option(help="A number for each, such as 0.7,0.3; equal ones when left out.")
    ] = None,
    how: Annotated[
        str, typer.Option(help="linear, or of LoRAs ties, dare_linear, dare_ties, magnitude_prune.")
    ] = "linear",
    density: Annotated[
        float | None, typer.Option(help="Share of a change's entries that is kept, but for linear; half when left out.")
    ] = None,
    rank: Annotated[int | None, typer.Option(help="Rank of a merged LoRA; the sum of the ranks when left out.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of what dare leaves out; 0 when left out.")] = None,
    data: Annotated[
        Path | None, typer.Option("--data", "-d", help="Rows with answers: all are judged, and the result proved on.")
    ] = None,
    base: Annotated[str | None, typer.Option("--base", help="Base of the adapters, where it is not found.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Merge adapters over one base into one, and prove that it answers in a fresh process as it does here.

    \b
    tunesmith merge runs/spring runs/autumn --out merged
    tunesmith merge runs/spring runs/autumn --weights 0.7,0.3 --data rows.csv --out merged
    tunesmith merge runs/spring runs/autumn --how ties --density 0.3 --out merged
    """
    from tunesmith import api

    numbers = None if weights is None else _numbers(weights)
    merged = api.merge(
        adapters, out, how=how, weights=numbers, density=density, rank=rank, seed=seed, data=data, base=base
    )
    if as_json:
        emit({"folder": str(merged.artifact.folder), "parity": merged.artifact.parity, "scores": merged.scores})
    else:
        _say(merged)


def _numbers(text: str) -> list[float]:
    from tunesmith.errors import UserError, shown

    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--weights {shown(text)}", "is no list of numbers", "write 0.7,0.3") from None


def _say(merged: "Merged") -> None:
    from tunesmith.figures import interval

    rows = []
    for name, judged in merged.scores.items():
        found = judged["metrics"][judged["main"]]
        rows.append([name, interval(found["value"], found.get("low"), found.get("high"))])
    if rows:
        judged = next(iter(merged.scores.values()))
        better = "higher" if judged["higher_is_better"] else "lower"
        say_table(("adapter", f"{judged['main']} on {judged['rows']} rows, {better} is better"), rows)
    for note in merged.notes:
        say(f"note: {note}")
    artifact = merged.artifact
    say(f"wrote {artifact.folder} ({artifact.bytes / 1e6:.1f} MB)")
    say(f"answers differ by at most {artifact.parity['max_difference']:.1e} on {artifact.parity['rows']} rows")
