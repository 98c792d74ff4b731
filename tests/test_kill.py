"""Killed at any instant, training ends in the same bytes: weights, optimiser and journal."""

import hashlib
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tunesmith import commit
from tunesmith.contracts import Corpus, Ledger, Step, Task
from tunesmith.errors import Interrupted, UserError
from tunesmith.given import Outputs
from tunesmith.run import Run
from tunesmith.train.journal import read_journal
from tunesmith.train.signals import Wish, stop_wish
from tunesmith.training import Outcome, Session, train
from workshop import Bench, bench

SETTINGS: dict[str, Any] = {"epochs": 8, "evaluate_every": 5, "save_every": 2, "keep": 2, "batch_size": 4}
Fault = Callable[[], None]


class Listener:
    """Collects what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def step(self, step: Step, of: int) -> None:
        pass

    def say(self, line: str) -> None:
        self.said.append(line)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return bench(tmp_path_factory.mktemp("base") / "bert", "bert", "classification", "full", dropout=0.1)


@pytest.fixture(scope="module")
def start(one: Bench) -> dict[str, Any]:
    return {name: tensor.clone() for name, tensor in one.adapted.model.state_dict().items()}


def accuracy_of(task: Task) -> Any:
    def accuracy(model: Any, outputs: Outputs, records: Any) -> dict[str, float | None]:
        predictions = task.predictions(outputs, records)
        return {"accuracy": float(np.mean(predictions.gold == predictions.answers))}

    return accuracy


def session(one: Bench, folder: Path, data: str = "same data", **settings: Any) -> Session:
    folder.mkdir(exist_ok=True)
    records = one.records
    corpus = Corpus(one.task, {"train": records, "validation": records}, Ledger({}, {}), (), {}, data)
    encoded = {"train": one.data, "validation": one.data}
    course = one.course(**{**SETTINGS, **settings})
    run = Run(folder, "a-run")
    return Session(run, corpus, one.adapted, encoded, course, accuracy_of(one.task), "accuracy", True, {"data": data})


def tuned(one: Bench, start: dict[str, Any], folder: Path, **settings: Any) -> tuple[Outcome, list[str]]:
    one.adapted.model.load_state_dict(start)
    listener = Listener()
    return train(session(one, folder, **settings), Wish(), listener), listener.said


def digest(folder: Path, model: Any = None) -> dict[str, str]:
    """Hashes of the journal and of every file of the last checkpoint but its manifest."""
    last = sorted((folder / "checkpoints").glob("step-*"))[-1]
    files = [folder / "journal.jsonl", *sorted(path for path in last.iterdir() if path.name != commit.MANIFEST)]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def child(one: Bench, start: dict[str, Any], folder: Path, fault: Fault | None = None) -> int:
    """A forked process that trains in `folder`; it ends with 0 when training ended."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        if fault is not None:
            fault()
        tuned(one, start, folder)
        code = 0
    finally:
        os._exit(code)


def survive(one: Bench, start: dict[str, Any], folder: Path, faults: list[float | Fault]) -> int:
    """Trains in `folder`, killed once per fault (after so many seconds, or by itself); how many kills struck."""
    struck = 0
    for fault in [*faults, None]:
        pid = child(one, start, folder, fault if callable(fault) else None)
        if isinstance(fault, float):
            time.sleep(fault)
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        struck += os.WIFSIGNALED(status)
        if not os.WIFSIGNALED(status):
            assert os.WEXITSTATUS(status) == 0, "a start after a kill failed by itself"
    return struck


@pytest.fixture(scope="module")
def whole(one: Bench, start: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], float]:
    """What an uninterrupted run leaves, and how long it took."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    began = time.monotonic()
    survive(one, start, folder, [])
    return digest(folder), time.monotonic() - began


def kill_many(one: Bench, start: dict[str, Any], whole: tuple[dict[str, str], float], tmp: Path, kills: int) -> None:
    expected, seconds = whole
    chance = random.Random(kills)
    struck = run = 0
    while struck < kills:
        folder = tmp / f"run {run}"
        times = chance.choice([1, 2, 3])
        struck += survive(one, start, folder, [chance.uniform(0.02, seconds) for _ in range(times)])
        assert digest(folder) == expected, f"run {run} of seed {kills}"
        shutil.rmtree(folder)
        run += 1
        assert run < 4 * kills


def test_sigkill_at_30_random_instants_changes_no_byte(
    one: Bench, start: dict[str, Any], whole: tuple[dict[str, str], float], tmp_path: Path
) -> None:
    kill_many(one, start, whole, tmp_path, 30)


@pytest.mark.slow
def test_sigkill_at_200_random_instants_changes_no_byte(
    one: Bench, start: dict[str, Any], whole: tuple[dict[str, str], float], tmp_path: Path
) -> None:
    kill_many(one, start, whole, tmp_path, 200)


def killing_at(call: int) -> Fault:
    """Kills the process at its `call`-th sync of a file or folder: inside a save."""

    def arm() -> None:
        count = 0
        sync = commit._sync

        def counted(path: Path) -> None:
            nonlocal count
            count += 1
            if count == call:
                os.kill(os.getpid(), signal.SIGKILL)
            sync(path)

        commit._sync = counted

    return arm


@pytest.mark.parametrize("call", [1, 3, 4, 5, 6, 11, 17, 40])
def test_sigkill_inside_a_save_changes_no_byte(
    call: int, one: Bench, start: dict[str, Any], whole: tuple[dict[str, str], float], tmp_path: Path
) -> None:
    struck = survive(one, start, tmp_path / "run", [killing_at(call), killing_at(call)])
    assert struck >= 1
    assert digest(tmp_path / "run") == whole[0]


def test_a_run_is_the_same_to_the_byte_when_made_again(
    one: Bench, start: dict[str, Any], whole: tuple[dict[str, str], float], tmp_path: Path
) -> None:
    tuned(one, start, tmp_path / "run")
    assert digest(tmp_path / "run") == whole[0]


@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_a_spoiled_checkpoint_is_refused_by_name_and_the_one_before_is_used(
    harm: str, one: Bench, start: dict[str, Any], whole: tuple[dict[str, str], float], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    wish = Wish()

    class Stopper(Listener):
        def step(self, step: Step, of: int) -> None:
            if step.step == 13:
                wish.signal = signal.SIGTERM

    one.adapted.model.load_state_dict(start)
    with pytest.raises(Interrupted) as stopped:
        train(session(one, folder), wish, Stopper())
    assert stopped.value.exit_code == 128 + signal.SIGTERM
    last = folder / "checkpoints" / "step-00000013" / "weights.safetensors"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 8
    last.write_bytes({"flip": bytes(content), "cut": bytes(content[:-5]), "remove": b""}[harm])
    if harm == "remove":
        last.unlink()
    _, said = tuned(one, start, folder)
    assert any("step-00000013" in line and "refused" in line for line in said)
    assert any("going on after step 12" in line for line in said)
    assert digest(folder) == whole[0]


def test_a_signal_saves_and_the_same_command_goes_on(
    one: Bench, start: dict[str, Any], whole: tuple[dict[str, str], float], tmp_path: Path
) -> None:
    folder = tmp_path / "run"

    class Presser(Listener):
        def step(self, step: Step, of: int) -> None:
            if step.step == 9:
                os.kill(os.getpid(), signal.SIGINT)

    one.adapted.model.load_state_dict(start)
    with stop_wish() as wish, pytest.raises(Interrupted, match="step 9") as stopped:
        train(session(one, folder), wish, Presser())
    assert stopped.value.exit_code == 130
    _, said = tuned(one, start, folder)
    assert "going on after step 9 (step-00000009)" in said
    assert digest(folder) == whole[0]


def test_other_data_is_refused_on_resume_with_both_hashes(one: Bench, start: dict[str, Any], tmp_path: Path) -> None:
    tuned(one, start, tmp_path / "run")
    with pytest.raises(UserError, match=r"same data.*other data"):
        tuned(one, start, tmp_path / "run", data="other data")


def test_latest_and_best_survive_rotation_and_the_model_ends_with_the_best(
    one: Bench, start: dict[str, Any], tmp_path: Path
) -> None:
    outcome, _ = tuned(one, start, tmp_path / "run", keep=1)
    events = read_journal(tmp_path / "run" / "journal.jsonl")
    best = [event["step"] for event in events if event["event"] == "evaluation" and event["best"]][-1]
    left = sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("step-*"))
    assert left == sorted({f"step-{best:08d}", f"step-{outcome.steps:08d}"})
    assert outcome.weights_of == best


def test_early_stopping_ends_training_after_patience_and_says_so(
    one: Bench, start: dict[str, Any], tmp_path: Path
) -> None:
    stop = {"patience": 1}
    outcome, _ = tuned(one, start, tmp_path / "run", stop=stop, learning_rate=1e-9, evaluate_every=3)
    assert outcome.reason == "early stop"
    assert (outcome.weights_of, outcome.steps) == (3, 6)
    end = read_journal(tmp_path / "run" / "journal.jsonl")[-1]
    assert end == {"event": "end", "step": 6, "reason": "early stop", "weights_of": 3}


def test_the_last_weights_stay_where_the_best_are_not_wanted(one: Bench, start: dict[str, Any], tmp_path: Path) -> None:
    stop = {"patience": 1, "min_change": 0.99, "restore_best": False}
    outcome, _ = tuned(one, start, tmp_path / "run", evaluate_every=3, stop=stop)
    end = read_journal(tmp_path / "run" / "journal.jsonl")[-1]
    assert (outcome.weights_of, end["weights_of"]) == (outcome.steps, outcome.steps)


def test_too_little_space_is_said_before_the_first_step(
    one: Bench, start: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned(one, start, tmp_path / "whole", keep=1)
    kept = list((tmp_path / "whole" / "checkpoints").glob("step-*"))
    each = max(sum(path.stat().st_size for path in folder.iterdir()) for folder in kept)
    monkeypatch.setattr(commit, "free_bytes", lambda path: int(2.5 * each))
    with pytest.raises(UserError, match="MB are free"):
        tuned(one, start, tmp_path / "full", keep=1)
    assert not (tmp_path / "full" / "journal.jsonl").read_text()
    monkeypatch.setattr(commit, "free_bytes", lambda path: int(3.2 * each))
    tuned(one, start, tmp_path / "enough", keep=1)
