"""Crash-safe writes: whatever fails, and whenever, the last good folder is there and no other pretends to be one."""

import errno
import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tunesmith import commit
from tunesmith.commit import Broken, clean, commit_folder, locked, newest, require_space, rotate, verify, write_file
from tunesmith.errors import RunBusy, UserError


def fill(text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "a.bin").write_bytes(text.encode() * 40)
        (folder / "inner").mkdir()
        (folder / "inner" / "b.json").write_text(json.dumps({"text": text}))

    return write


def step(parent: Path, number: int, run_id: str = "run", text: str | None = None) -> Path:
    target = parent / f"step-{number:04d}"
    commit_folder(target, fill(text or f"state {number} "), step=number, run_id=run_id, replace=True)
    return target


def test_a_committed_folder_verifies_and_says_what_it_holds(tmp_path: Path) -> None:
    manifest = commit_folder(tmp_path / "x", fill("hello"), step=3, run_id="r", facts={"data": "d", "list": [1, 2]})
    assert verify(tmp_path / "x") == manifest
    assert (manifest.step, manifest.run_id, manifest.facts) == (3, "r", {"data": "d", "list": [1, 2]})
    assert sorted(manifest.files) == ["a.bin", "inner/b.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_the_same_content_gives_the_same_manifest_bytes(tmp_path: Path) -> None:
    for name in ("x", "y"):
        commit_folder(tmp_path / name, fill("hello"), step=3, run_id="r", facts={"b": 1, "a": 2})
    assert (tmp_path / "x" / "manifest.json").read_bytes() == (tmp_path / "y" / "manifest.json").read_bytes()


def test_an_existing_target_stays_unless_it_may_be_replaced(tmp_path: Path) -> None:
    commit_folder(tmp_path / "x", fill("old"))
    with pytest.raises(UserError, match="exists already"):
        commit_folder(tmp_path / "x", fill("new"))
    assert b"old" in (tmp_path / "x" / "a.bin").read_bytes()
    commit_folder(tmp_path / "x", fill("new"), replace=True)
    assert b"new" in (tmp_path / "x" / "a.bin").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_any_flipped_bit_is_found(tmp_path: Path) -> None:
    folder = step(tmp_path, 1)
    files = [path for path in folder.rglob("*") if path.is_file()]
    chance = random.Random(0)
    for _ in range(200):
        path = chance.choice(files)
        before = path.read_bytes()
        spoiled = bytearray(before)
        spoiled[chance.randrange(len(spoiled))] ^= 1 << chance.randrange(8)
        path.write_bytes(spoiled)
        with pytest.raises(Broken):
            verify(folder)
        path.write_bytes(before)
    verify(folder)


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda f: (f / "a.bin").write_bytes(b"state"), "a.bin has 5 bytes"),
        (lambda f: (f / "a.bin").unlink(), "a.bin is missing"),
        (lambda f: (f / "more.bin").write_bytes(b"x"), r"more.bin does not belong"),
        (lambda f: (f / "manifest.json").unlink(), "has no manifest"),
        (lambda f: (f / "manifest.json").write_text("{"), "not JSON"),
        (lambda f: (f / "manifest.json").write_text('{"body": {"format": 99}, "sha256": "0"}'), "was changed"),
    ],
)
def test_what_is_wrong_is_named(harm: Callable[[Path], Any], reason: str, tmp_path: Path) -> None:
    folder = step(tmp_path, 1)
    harm(folder)
    with pytest.raises(Broken, match=reason):
        verify(folder)


def test_files_swapped_between_two_checkpoints_are_found(tmp_path: Path) -> None:
    one, two = step(tmp_path, 1, text="aaaa"), step(tmp_path, 2, text="bbbb")
    first, second = (one / "a.bin").read_bytes(), (two / "a.bin").read_bytes()
    (one / "a.bin").write_bytes(second)
    (two / "a.bin").write_bytes(first)
    assert newest(tmp_path, run_id="run")[0] is None


def test_newest_counts_steps_and_not_names_times_or_other_runs(tmp_path: Path) -> None:
    commit_folder(tmp_path / "step-zz", fill("x"), step=5, run_id="run")
    commit_folder(tmp_path / "step-aa", fill("x"), step=12, run_id="run")
    commit_folder(tmp_path / "step-99999", fill("x"), step=99999, run_id="another run")
    os.utime(tmp_path / "step-aa", (0, 0))
    assert newest(tmp_path, run_id="run")[0] == tmp_path / "step-aa"


def test_a_broken_newest_is_set_aside_and_the_one_before_is_used(tmp_path: Path) -> None:
    step(tmp_path, 1)
    (step(tmp_path, 2) / "a.bin").write_bytes(b"")
    folder, manifest, broken = newest(tmp_path, run_id="run")
    assert folder == tmp_path / "step-0001"
    assert manifest is not None
    assert manifest.step == 1
    assert [error.folder.name for error in broken] == ["step-0002"]
    assert (tmp_path / "refused" / "step-0002").is_dir()
    assert newest(tmp_path, run_id="run")[2] == []


def test_rotation_keeps_what_it_is_told_and_warns_of_what_it_cannot_delete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [step(tmp_path, number) for number in range(4)]

    def refuse(path: Path, **_: Any) -> None:
        raise OSError(errno.EBUSY, "busy")

    with monkeypatch.context() as patch:
        patch.setattr(commit.shutil, "rmtree", refuse)
        warnings = rotate(tmp_path, [folders[1], folders[3]])
    assert len(warnings) == 2
    assert all("busy" in warning for warning in warnings)
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-0001", "step-0003"]
    clean(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-0001", "step-0003"]


def test_a_run_that_was_moved_still_verifies(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    step(tmp_path / "old", 1)
    moved = tmp_path / "neu und schön 🙂"
    shutil.move(tmp_path / "old", moved)
    assert newest(moved, run_id="run")[0] == moved / "step-0001"


CALLS = ("fsync", "rename", "mkdir", "open")


class Faults:
    """Lets the `at`-th of the calls that change the disk fail, once or from then on."""

    def __init__(self, at: int, code: int, *, forever: bool) -> None:
        self.at, self.code, self.forever, self.count = at, code, forever, 0

    def before(self) -> None:
        self.count += 1
        if self.count == self.at or (self.forever and self.count > self.at):
            raise OSError(self.code, os.strerror(self.code))

    def arm(self, patch: pytest.MonkeyPatch) -> None:
        for name in CALLS:
            real = getattr(os, name)

            def call(*given: Any, real: Callable[..., Any] = real, **named: Any) -> Any:
                self.before()
                return real(*given, **named)

            patch.setattr(commit.os, name, call)


@pytest.mark.parametrize("forever", [False, True], ids=["once", "for ever"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_every_failing_call_leaves_the_last_good_folder(
    code: int, forever: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = 0
    while True:
        at += 1
        parent = tmp_path / f"{at}"
        parent.mkdir()
        target = step(parent, 1, text="old")
        faults = Faults(at, code, forever=forever)
        failure: Exception | None = None
        with monkeypatch.context() as patch:
            faults.arm(patch)
            try:
                commit_folder(target, fill("new"), step=1, run_id="run", replace=True)
            except (OSError, UserError, Broken) as error:
                failure = error
        if code == errno.ENOSPC and failure is not None:
            assert "free" in str(failure) or isinstance(failure, Broken)
        clean(parent)
        verify(target)
        content = (target / "a.bin").read_bytes()
        assert content in (b"old" * 40, b"new" * 40)
        assert [path.name for path in parent.iterdir()] == ["step-0001"], f"call {at} left a husk"
        if failure is None and faults.count < at:
            break
    assert at > 8


def test_killed_at_every_call_the_newest_is_the_old_or_the_new(tmp_path: Path) -> None:
    at, survived = 0, False
    while not survived:
        at += 1
        parent = tmp_path / f"{at}"
        parent.mkdir()
        step(parent, 1, text="old")
        pid = os.fork()
        if pid == 0:
            try:
                faults = Faults(at, 0, forever=False)
                faults.before = functools.partial(_die_at, faults)  # type: ignore[method-assign]
                faults.arm(pytest.MonkeyPatch())
                step(parent, 1, text="new")
                step(parent, 2, text="next")
                rotate(parent, [parent / "step-0002"])
            finally:
                os._exit(0)
        _, status = os.waitpid(pid, 0)
        survived = not os.WIFSIGNALED(status)
        clean(parent)
        folder, _, broken = newest(parent, run_id="run")
        assert folder is not None, f"killed at call {at}: nothing is left"
        assert broken == []
        assert not [path.name for path in parent.iterdir() if path.name.startswith(".")]
    assert at > 15


def _die_at(faults: Faults) -> None:
    faults.count += 1
    if faults.count == faults.at:
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    write_file(path, "old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(commit.os, "fsync", full)
        with pytest.raises(UserError, match="3 bytes so far"):
            write_file(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.json"]


def test_a_second_process_is_kept_out_and_a_dead_one_is_not_waited_for(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from tunesmith.commit import locked\n"
        "with locked(Path(sys.argv[1])):\n print('in', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"in\n"
        with pytest.raises(RunBusy, match="another process"), locked(tmp_path):
            pass
        other.kill()
    with locked(tmp_path):
        pass


def test_too_little_space_is_said_before_work_begins(tmp_path: Path) -> None:
    require_space(tmp_path / "not" / "there", 1)
    with pytest.raises(UserError, match="MB are free"):
        require_space(tmp_path, 10**18)
