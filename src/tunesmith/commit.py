"""The one module that writes what must survive: a file or a folder is there whole and verified, or not at all.

A folder is written beside its place, synced, closed by a manifest of hashes, renamed, and read again before anything
older is deleted. A reader trusts only folders whose manifest verifies.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tunesmith.errors import RunBusy, TunesmithError, UserError

FORMAT = 1
MANIFEST = "manifest.json"
NOTE = "tunesmith.json"
"""The file of an exported model that says what tunesmith needs to load it again."""
TEMPORARY, ASIDE, DOOMED = ".tmp-", ".old-", ".del-"
"""Beginnings of the names of folders that are being written, swapped out and deleted."""
REFUSED = "refused"
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG)


@dataclass(frozen=True)
class Manifest:
    """What a committed folder says of itself. files: name to {"sha256", "size"}. facts: JSON of the writer's choice."""

    step: int
    run_id: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    format: int = FORMAT


class Broken(TunesmithError):
    """A committed folder is not what its manifest says."""

    exit_code = 4

    def __init__(self, folder: Path, reason: str) -> None:
        self.folder, self.reason = folder, reason
        super().__init__(f"{folder.name}: {reason}")


def write_file(path: Path, data: bytes | str) -> None:
    """Replaces `path` by `data`, at once or not at all. Raises UserError when the disk does not take it."""
    content = data.encode() if isinstance(data, str) else data
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync(path.parent)
    except OSError as error:
        _forget(temporary)
        _explain(error, path, len(content))
        raise


def commit_folder(
    target: Path,
    write: Callable[[Path], None],
    *,
    step: int = 0,
    run_id: str = "",
    facts: Mapping[str, Any] | None = None,
    replace: bool = False,
) -> Manifest:
    """The manifest of `target`, which holds what `write` put into the folder that it was given.

    With `replace`, what stood there is swapped out and deleted only after the new folder has verified; without, an
    existing target is an error. Whatever fails, the old target stays. Raises UserError when the disk does not take it.
    """
    if target.exists() and not replace:
        raise UserError(str(target), "exists already", "choose another place, or remove it")
    temporary = target.with_name(f"{TEMPORARY}{os.getpid()}-{target.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        os.mkdir(temporary)
        write(temporary)
        files = {}
        for path in _files(temporary):
            _sync(path)
            files[path.relative_to(temporary).as_posix()] = {"sha256": _sha256(path), "size": path.stat().st_size}
        manifest = Manifest(step, run_id, dict(facts or {}), files)
        _write_synced(temporary / MANIFEST, _text(manifest))
        for folder in _folders(temporary):
            _sync(folder)
        _swap_in(temporary, target)
        return verify(target)
    except OSError as error:
        size = sum(path.stat().st_size for path in _files(temporary)) if temporary.is_dir() else 0
        shutil.rmtree(temporary, ignore_errors=True)
        with suppress(OSError):  # `clean` does it later
            _recover(target)
        _explain(error, target, size)
        raise
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _swap_in(temporary: Path, target: Path) -> None:
    """Renames `temporary` to `target`; what stood there is moved aside first and deleted last."""
    aside = target.with_name(ASIDE + target.name)
    shutil.rmtree(aside, ignore_errors=True)
    if target.exists():
        os.rename(target, aside)
    os.rename(temporary, target)
    _sync(target.parent)
    if aside.exists():
        verify(target)
        shutil.rmtree(aside, ignore_errors=True)


def _recover(target: Path) -> None:
    """Brings back what was moved aside for a target that did not arrive whole."""
    aside = target.with_name(ASIDE + target.name)
    if not aside.is_dir():
        return
    try:
        verify(target)
    except Broken:
        if target.exists():
            shutil.rmtree(target, ignore_errors=True)
        if not target.exists():
            os.rename(aside, target)
        return
    shutil.rmtree(aside, ignore_errors=True)


def verify(folder: Path) -> Manifest:
    """The manifest of a folder that holds exactly the files it names, to the bit. Raises Broken with the reason."""
    try:
        found = json.loads((folder / MANIFEST).read_bytes())
    except OSError:
        raise Broken(folder, f"has no {MANIFEST}") from None
    except ValueError:
        raise Broken(folder, f"its {MANIFEST} is not JSON") from None
    body = found.get("body") if isinstance(found, dict) else None
    if not isinstance(body, dict) or found.get("sha256") != _digest(body):
        raise Broken(folder, f"its {MANIFEST} was changed")
    if body.get("format") != FORMAT:
        raise Broken(folder, f"its format is {body.get('format')}, this version reads {FORMAT}")
    manifest = Manifest(**body)
    present = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
    del present[MANIFEST]
    for name in sorted(set(manifest.files) - set(present)):
        raise Broken(folder, f"{name} is missing")
    for name in sorted(set(present) - set(manifest.files)):
        raise Broken(folder, f"{name} does not belong there")
    for name, said in sorted(manifest.files.items()):
        if present[name].stat().st_size != said["size"]:
            raise Broken(folder, f"{name} has {present[name].stat().st_size} bytes instead of {said['size']}")
        if _sha256(present[name]) != said["sha256"]:
            raise Broken(folder, f"the checksum of {name} is wrong")
    return manifest


def newest(parent: Path, *, run_id: str, prefix: str = "step-") -> tuple[Path | None, Manifest | None, list[Broken]]:
    """The valid folder of this run with the highest step in its manifest, and those that are broken.

    Broken ones are moved into `parent/refused`, so that they are named once. Folders of other runs are left alone.
    """
    best: tuple[Path | None, Manifest | None] = (None, None)
    broken = []
    for folder in sorted(parent.glob(f"{prefix}*")) if parent.is_dir() else []:
        try:
            manifest = verify(folder)
        except Broken as error:
            broken.append(error)
            _set_aside(folder)
            continue
        if manifest.run_id == run_id and (best[1] is None or manifest.step > best[1].step):
            best = (folder, manifest)
    return (*best, broken)


def _set_aside(folder: Path) -> None:
    refused = folder.parent / REFUSED
    refused.mkdir(exist_ok=True)
    place, number = refused / folder.name, 1
    while place.exists():
        place, number = refused / f"{folder.name}-{number}", number + 1
    os.rename(folder, place)


def rotate(parent: Path, keep: Collection[Path], prefix: str = "step-") -> list[str]:
    """Deletes the committed folders of `parent` that are not in `keep`; a line for each that could not be deleted.

    A folder is renamed before it is emptied, so that none is ever found half deleted under its own name.
    """
    kept = {path.name for path in keep}
    warnings = []
    for folder in sorted(parent.glob(f"{prefix}*")):
        if folder.name in kept:
            continue
        doomed = folder.with_name(DOOMED + folder.name)
        try:
            os.rename(folder, doomed)
            shutil.rmtree(doomed)
        except OSError as error:
            warnings.append(f"{folder.name} could not be deleted: {error.strerror}")
    return warnings


def clean(parent: Path) -> None:
    """Ends what a killed writer left half done: temporary folders go, interrupted swaps are finished or undone."""
    if not parent.is_dir():
        return
    for path in sorted(parent.iterdir()):
        if path.name.startswith(ASIDE):
            _recover(path.with_name(path.name.removeprefix(ASIDE)))
    for path in sorted(parent.iterdir()):
        if path.name.startswith((TEMPORARY, DOOMED)) and not _alive(path.name):
            _forget(path)


def _alive(name: str) -> bool:
    """Whether the other process that owns a temporary name is still running."""
    owner = name.removeprefix(TEMPORARY).partition("-")[0]
    if not name.startswith(TEMPORARY) or not owner.isdigit() or int(owner) == os.getpid():
        return False
    try:
        os.kill(int(owner), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other processes out of `folder` while it is open; a dead process holds no lock. Raises RunBusy."""
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RunBusy(f"{folder}: another process is working here; wait for it, or name another folder") from None
    try:
        yield
    finally:
        lock.release()


def free_bytes(path: Path) -> int:
    """Bytes that can still be written where `path` lies or will lie."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def require_space(path: Path, bytes_needed: int) -> None:
    """Raises UserError when fewer than `bytes_needed` bytes are free there."""
    free = free_bytes(path)
    if free < bytes_needed:
        raise UserError(
            str(path),
            f"needs {bytes_needed / 1e6:,.0f} MB and {free / 1e6:,.0f} MB are free",
            "make room, or write elsewhere",
        )


def _explain(error: OSError, path: Path, size: int) -> None:
    if error.errno in DISK_ERRORS:
        found = f"cannot be written ({error.strerror}; {size:,} bytes so far, {free_bytes(path):,} free)"
        raise UserError(str(path), found, "make room, or write elsewhere") from error


def _text(manifest: Manifest) -> str:
    body = {name: getattr(manifest, name) for name in manifest.__dataclass_fields__}
    return json.dumps({"sha256": _digest(body), "body": body}, sort_keys=True, indent=1) + "\n"


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if not path.is_dir())


def _folders(folder: Path) -> list[Path]:
    return [*sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True), folder]


def _write_synced(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync(path: Path) -> None:
    """Returns when the content of a file, or the names in a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _forget(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
