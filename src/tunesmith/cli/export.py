"""`tunesmith export`: a trained model in a standard format."""

from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli.screen import say


def export(
    run: Annotated[Path, typer.Argument(help="Folder of a run, or of an exported adapter.")],
    kind: Annotated[
        str, typer.Option("--format", "-f", help="`safetensors` (a full model) or `adapter`.")
    ] = "safetensors",
    merge: Annotated[
        bool, typer.Option("--merge", help="Merge an adapter into its base; what `safetensors` always does.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder to write; inside the run when left out.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", "-d", help="Rows to prove an exported adapter on; a run has its own.")
    ] = None,
    base: Annotated[
        str | None, typer.Option("--base", help="Base of an exported adapter, where it is not found.")
    ] = None,
) -> None:
    """Write a trained model in a standard format, and prove that it answers as it did in training.

    \b
    tunesmith export runs/tickets --format safetensors --out model/
    tunesmith export runs/tickets --format adapter
    """
    from tunesmith import api
    from tunesmith.errors import UserError

    if merge and kind == "adapter":
        raise UserError("command line, --merge", "an adapter stays apart from its base", "use --format safetensors")
    artifact = api.export(run, kind, out=out, data=data, base=base)
    say(f"wrote {artifact.folder} ({artifact.bytes / 1e6:.1f} MB)")
    if artifact.parity:
        say(f"answers differ by at most {artifact.parity['max_difference']:.1e} on {artifact.parity['rows']} rows")
