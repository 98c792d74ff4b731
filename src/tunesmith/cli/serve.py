"""`tunesmith serve`: trained models behind HTTP."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli.screen import hint

NAME = re.compile(r"[\w.-]+")
"""What a model may be called in an address."""


def serve(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Folders of runs or exported models; several may have NAME=.")
    ],
    host: Annotated[
        str, typer.Option(help="Address to listen on; other than this machine's own needs a key.")
    ] = "127.0.0.1",
    base: Annotated[
        str | None, typer.Option("--base", help="Base of an exported adapter, where it is not found.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for any that is free.")] = 8000,
) -> None:
    """Serve trained models over HTTP, adapters over one base. A key is read from the variable TUNESMITH_API_KEY.

    \b
    tunesmith serve runs/tickets
    curl localhost:8000/v1/predict -H 'content-type: application/json' -d '{"inputs": ["text"]}'
    tunesmith serve runs/intent urgency=runs/urgency-2
    curl localhost:8000/v1/models/urgency/predict -H 'content-type: application/json' -d '{"inputs": ["text"]}'
    """
    from tunesmith import api

    models = by_name(runs)
    alone = len(runs) == 1 and Path(runs[0]) in models.values()
    path = "predict" if alone else f"models/{next(iter(models))}/predict"

    def tell(address: str) -> None:
        hint(f"answering on {address}/v1/{path}; stop with Ctrl-C")

    api.serve(Path(runs[0]) if alone else models, host=host, port=port, base=base, tell=tell)


def by_name(runs: Sequence[str]) -> dict[str, Path]:
    """The folders by the names that they are served under: those given, else the folders' own. Raises UserError."""
    from tunesmith.errors import UserError, shown

    found: dict[str, Path] = {}
    for given in runs:
        name, divides, folder = given.partition("=")
        if not divides or Path(given).exists():
            name, folder = Path(given).resolve().name, given
        if (len(runs) > 1 or folder != given) and not NAME.fullmatch(name):
            fix = "name it with letters, digits, _ . and -: NAME=RUN"
            raise UserError(shown(given), f"would be called {shown(name)}, which no address can hold", fix)
        if name in found:
            raise UserError(shown(given), f"is called {shown(name)}, as another is", "name it otherwise: NAME=RUN")
        found[name] = Path(folder)
    return found
