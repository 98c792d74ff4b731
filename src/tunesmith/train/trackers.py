"""The journal's events, also sent to the trackers that people already use."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tunesmith.errors import MissingExtra


@dataclass(frozen=True)
class Tracker:
    """write takes a step and the values measured after it; close is called once, however training ends."""

    write: Callable[[int, Mapping[str, float]], None]
    close: Callable[[], object]


@dataclass(frozen=True)
class Tracked:
    """The run that is tracked: its folder, its id, and the step after which it goes on."""

    folder: Path
    run_id: str
    step: int


def open_trackers(names: Sequence[str], run: Tracked) -> list[Tracker]:
    """A writer for each tracker named.

    Raises MissingExtra when a tracker's package is not installed.
    """
    openers = {"tensorboard": _tensorboard, "wandb": _wandb, "mlflow": _mlflow}
    try:
        return [openers[name](run) for name in names]
    except ModuleNotFoundError as error:
        missing = next((name for name in names if error.name and name in error.name), names[0])
        raise MissingExtra(f"train.trackers: {missing}", missing) from error


def require_trackers(names: Sequence[str]) -> None:
    """Raises MissingExtra for the first tracker whose package is not installed."""
    for name in names:
        if find_spec(name) is None:
            raise MissingExtra(f"train.trackers: {name}", name)


def values(event: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a journal event, evaluation metrics by `validation/name`."""
    if event["event"] == "step":
        found = {f"train/{name}": float(event[name]) for name in ("loss", "learning_rate", "gradient_norm", "epoch")}
        return found | {f"train/penalty/{name}": value for name, value in event.get("penalties", {}).items()}
    found = {f"validation/{name}": value for name, value in event.get("metrics", {}).items() if value is not None}
    return {"validation/loss": event["loss"], **found} if "loss" in event else found


def _tensorboard(run: Tracked) -> Tracker:
    from torch.utils.tensorboard.writer import SummaryWriter

    writer = SummaryWriter(str(run.folder / "tensorboard"), purge_step=run.step + 1 if run.step else None)

    def write(at: int, found: Mapping[str, float]) -> None:
        for name, value in found.items():
            writer.add_scalar(name, value, at)
        writer.flush()

    return Tracker(write, writer.close)


def _wandb(run: Tracked) -> Tracker:
    import wandb

    there = wandb.init(dir=str(run.folder), name=run.folder.name, project="tunesmith", id=run.run_id, resume="allow")

    def write(at: int, found: Mapping[str, float]) -> None:
        there.log(dict(found), step=at)

    return Tracker(write, there.finish)


def _mlflow(run: Tracked) -> Tracker:
    import mlflow

    mlflow.start_run(run_name=run.folder.name, tags={"tunesmith_run": run.run_id})

    def write(at: int, found: Mapping[str, float]) -> None:
        mlflow.log_metrics(dict(found), step=at)

    return Tracker(write, mlflow.end_run)
