"""The journal's events, also sent to the trackers that people already use."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.errors import MissingExtra

Tracker = Callable[[int, Mapping[str, float]], None]
"""Takes a step and the values measured after it."""


def open_trackers(names: Sequence[str], folder: Path, run_name: str) -> list[Tracker]:
    """A writer for each tracker named. Raises MissingExtra when its package is not installed."""
    openers = {"tensorboard": _tensorboard, "wandb": _wandb, "mlflow": _mlflow}
    try:
        return [openers[name](folder, run_name) for name in names]
    except ModuleNotFoundError as error:
        missing = next((name for name in names if error.name and name in error.name), names[0])
        raise MissingExtra(f"train.trackers: {missing}", missing) from error


def values(event: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a journal event, evaluation metrics by `validation/name`."""
    if event["event"] == "step":
        return {f"train/{name}": float(event[name]) for name in ("loss", "learning_rate", "gradient_norm", "epoch")}
    found = {f"validation/{name}": value for name, value in event.get("metrics", {}).items() if value is not None}
    return {"validation/loss": event["loss"], **found} if "loss" in event else found


def _tensorboard(folder: Path, run_name: str) -> Tracker:
    from torch.utils.tensorboard.writer import SummaryWriter

    writer = SummaryWriter(str(folder / "tensorboard"))

    def write(step: int, found: Mapping[str, float]) -> None:
        for name, value in found.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return write


def _wandb(folder: Path, run_name: str) -> Tracker:
    import wandb

    run = wandb.init(dir=str(folder), name=run_name, project="tunesmith")

    def write(step: int, found: Mapping[str, float]) -> None:
        run.log(dict(found), step=step)

    return write


def _mlflow(folder: Path, run_name: str) -> Tracker:
    import mlflow

    mlflow.start_run(run_name=run_name)

    def write(step: int, found: Mapping[str, float]) -> None:
        mlflow.log_metrics(dict(found), step=step)

    return write
