"""Trackers are fed from the journal: the same numbers at the same steps, also after a stop."""

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tunesmith.errors import MissingExtra
from tunesmith.train.trackers import Tracked, open_trackers, values

STEP = {"event": "step", "step": 3, "loss": 0.5, "learning_rate": 1e-4, "gradient_norm": 2.0, "epoch": 0.3, "rows": 4}
JUDGED = {"event": "evaluation", "step": 3, "loss": 0.7, "metrics": {"accuracy": 0.9, "roc_auc": None}, "best": True}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Stand-ins for wandb and mlflow, with their published signatures, that write down what they are told."""
    told: list[Any] = []
    run = SimpleNamespace(
        log=lambda data, step=None: told.append(("log", data, step)), finish=lambda: told.append("finish")
    )
    wandb, mlflow = ModuleType("wandb"), ModuleType("mlflow")
    wandb.init = lambda **words: (told.append(("init", words)), run)[1]  # type: ignore[attr-defined]
    mlflow.start_run = lambda **words: told.append(("start", words))  # type: ignore[attr-defined]
    mlflow.log_metrics = lambda metrics, step=None: told.append(("log", metrics, step))  # type: ignore[attr-defined]
    mlflow.end_run = lambda: told.append("finish")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    return told


def test_events_become_numbers_by_name() -> None:
    assert values(STEP) == {
        "train/loss": 0.5, "train/learning_rate": 1e-4, "train/gradient_norm": 2.0, "train/epoch": 0.3,
    }  # fmt: skip
    assert values(JUDGED) == {"validation/loss": 0.7, "validation/accuracy": 0.9}
    assert values({"event": "end", "step": 9}) == {}


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_tracker_is_told_each_step_and_the_end(name: str, calls: list[Any], tmp_path: Path) -> None:
    (tracker,) = open_trackers([name], Tracked(tmp_path / "fine-run", "abc", 0))
    tracker.write(3, values(STEP))
    tracker.close()
    assert "fine-run" in json.dumps(calls[0])
    assert "abc" in json.dumps(calls[0])
    assert calls[1:] == [("log", values(STEP), 3), "finish"]


def test_tensorboard_keeps_each_step_once_after_a_stop(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for first, last, start in ((1, 6, 0), (4, 9, 3)):  # stopped after step 5, taken up again after step 3
        (tracker,) = open_trackers(["tensorboard"], Tracked(tmp_path, "abc", start))
        for step in range(first, last):
            tracker.write(step, {"train/loss": first + step / 10})
        tracker.close()
    found = EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    seen = {event.step: round(event.value, 3) for event in found.Scalars("train/loss")}
    assert seen == {1: 1.1, 2: 1.2, 3: 1.3, 4: 4.4, 5: 4.5, 6: 4.6, 7: 4.7, 8: 4.8}
    assert len(found.Scalars("train/loss")) == 8


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_tracker_that_is_not_installed_names_its_extra(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = [module for module in sys.modules if name in module.split(".")]
    for module in hidden:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtra, match=rf"tunesmith\[{name}\]"):
        open_trackers([name], Tracked(tmp_path, "abc", 0))
