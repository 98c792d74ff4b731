"""The command `tunesmith`: its verbs, and how each of them ends."""

import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Sequence
from typing import Annotated

import typer

from tunesmith.cli import ask, audit, compare, doctor, evaluate, export, merge, new, run, runs, schema, serve, show
from tunesmith.cli.screen import complain
from tunesmith.errors import TunesmithError, UserError, shown

EXIT_CODES = "\n\n".join(
    (
        "Exit codes: 0 done; 1 a fault of tunesmith; 2 the input, the recipe or the machine does not allow it;",
        "3 training stopped because its numbers broke; 4 a check failed, such as the parity of an exported model;",
        "5 another process works in the run; 130 or 143 stopped by Ctrl-C or SIGTERM after saving.",
    )
)
PIPE_CLOSED = 141

app = typer.Typer(
    name="tunesmith",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

for name, verb in (
    ("new", new.new),
    ("run", run.run),
    ("compare", compare.compare),
    ("audit", audit.audit),
    ("show", show.show),
    ("list", runs.list_runs),
    ("evaluate", evaluate.evaluate),
    ("ask", ask.ask),
    ("export", export.export),
    ("merge", merge.merge),
    ("serve", serve.serve),
    ("doctor", doctor.doctor),
    ("schema", schema.schema),
):
    app.command(name)(verb)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"tunesmith {version('tunesmith')}")
        raise typer.Exit


@app.callback()
def tunesmith(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the whole traceback of an error; works after a verb, too.")
    ] = False,
) -> None:
    """Fine-tune any pre-trained language model, and see whether it is really better.

    \b
    tunesmith new tickets.csv          look at the data and write recipe.yaml
    tunesmith run recipe.yaml          train, judge, report and save
    tunesmith ask runs/recipe "text"   use what was trained
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code of the command that `arguments` (those of the process) ask for."""
    # Two busy processes whose idle threads spin wait for each other: 50 times slower here than with a short spin.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    given = list(sys.argv[1:] if arguments is None else arguments)
    ours, rest = (given[: given.index("--")], given[given.index("--") :]) if "--" in given else (given, [])
    debug = "--debug" in ours
    if arguments is None and not debug and not sys.warnoptions:
        warnings.simplefilter("ignore")  # what libraries tell their developers is no help to ours
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a stream that a host program put there may have no encoding to set
            stream.reconfigure(errors="backslashreplace")
    try:
        app(args=[word for word in ours if word != "--debug"] + rest, prog_name="tunesmith")
    except SystemExit as end:
        return _flushed(end.code if isinstance(end.code, int) else 1 if end.code else 0)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return _flushed(PIPE_CLOSED)
    except TunesmithError as error:
        if debug:
            traceback.print_exc()
        complain(str(error))
        return error.exit_code
    except OSError as error:
        if debug:
            traceback.print_exc()
        if error.filename is None:
            return _fault(error)
        complain(f"{shown(str(error.filename), 200)[1:-1]}: {error.strerror}; may it be read and written by you?")
        return UserError.exit_code
    except Exception as error:  # noqa: BLE001  the last resort: any other end becomes one line and a file
        if debug:
            traceback.print_exc()
        return _fault(error)
    return 0


def _fault(error: Exception) -> int:
    """Says that something is wrong with us, in one line, and keeps the traceback."""
    complain(f"this is a fault of tunesmith: {type(error).__name__}: {shown(str(error), 200)[1:-1]}; {_kept(error)}")
    return 1


def _flushed(code: int) -> int:
    """`code`, or that of a closed pipe, after which nothing more is written."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    return code


def _kept(error: Exception) -> str:
    """Where the traceback was written."""
    text = "".join(traceback.format_exception(error))
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="tunesmith-", suffix=".log", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            file.write(text)
    except OSError as problem:
        return f"details could not be written ({problem.strerror}); show them with --debug"
    return f"details in {file.name}"
