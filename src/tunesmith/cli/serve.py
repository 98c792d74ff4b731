"""`tunesmith serve`: a trained model behind HTTP."""

from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli.screen import hint


def serve(
    run: Annotated[Path, typer.Argument(help="Folder of a run, or of an exported model.")],
    host: Annotated[
        str, typer.Option(help="Address to listen on; other than this machine's own needs a key.")
    ] = "127.0.0.1",
    base: Annotated[
        str | None, typer.Option("--base", help="Base of an exported adapter, where it is not found.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for any that is free.")] = 8000,
) -> None:
    """Serve a trained model over HTTP. A key is read from the variable TUNESMITH_API_KEY.

    \b
    tunesmith serve runs/tickets
    curl localhost:8000/v1/predict -H 'content-type: application/json' -d '{"inputs": ["text"]}'
    """
    from tunesmith import api

    def tell(address: str) -> None:
        hint(f"answering on {address}/v1/predict; stop with Ctrl-C")

    api.serve(run, host=host, port=port, base=base, tell=tell)
