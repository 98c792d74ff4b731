"""What a model folder may not contain: pickled weights, configuration that runs code, names that leave the folder."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tunesmith.errors import UserError

CODE_KEYS = ("auto_map", "trust_remote_code", "_attn_implementation_internal", "custom_pipelines", "custom_generate")
ATTENTION_KEYS = ("attn_implementation", "_attn_implementation")
CONFIG_FILES = ("config.json", "tokenizer_config.json", "generation_config.json")
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".msgpack", ".h5")
HEADER_LIMIT = 100_000_000


def check_folder(folder: Path) -> None:
    """Raises UserError for a folder that is not a safe pre-trained model; nothing of it is executed to find out."""
    if not (folder / "config.json").is_file():
        raise UserError(str(folder), "has no config.json", "is this the folder of a transformers model?")
    for name in CONFIG_FILES:
        if (folder / name).is_file():
            _check_config(folder / name)


def _check_config(path: Path) -> None:
    for key, value in _pairs(read_json(path)):
        if key in CODE_KEYS and value not in (None, False, {}, []):
            raise UserError(
                str(path), f"key '{key}' names code to run", "tunesmith runs no code from models; use one without it"
            )
        if key in ATTENTION_KEYS and isinstance(value, str) and "/" in value:
            raise UserError(str(path), f"key '{key}' names a kernel to fetch", "remove it from the configuration")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises UserError when there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(str(path), f"is not JSON ({error})", "is the file complete?") from error
    if not isinstance(found, dict):
        raise UserError(str(path), "holds no JSON object", "is this the folder of a transformers model?")
    return found


def _pairs(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key of nested objects with its value."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key, inner
            yield from _pairs(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _pairs(inner)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that hold the weights. Raises UserError when there are none, or they cannot be trusted."""
    index = folder / "model.safetensors.index.json"
    names = _shards(index) if index.is_file() else ["model.safetensors"]
    files = [folder / name for name in names]
    missing = [path.name for path in files if not path.is_file()]
    if not missing:
        return files
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    if pickles:
        raise UserError(
            str(folder),
            f"holds its weights as {pickles[0]}, a format that can run code when it is read",
            "convert it to safetensors where it came from, or choose a model that has them",
        )
    raise UserError(str(folder), f"has no {missing[0]}", "is the download complete?")


def _shards(index: Path) -> list[str]:
    placed = read_json(index).get("weight_map")
    if not isinstance(placed, dict) or not placed:
        raise UserError(str(index), "does not say which file holds which weight", "is the download complete?")
    for name in placed.values():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise UserError(str(index), f"names the file {name!r}", "shards must be .safetensors files beside it")
    return sorted(set(placed.values()))


def tensor_sizes(path: Path) -> dict[str, int]:
    """Number of values of each tensor, from the header alone. Raises UserError for a file that is not safetensors."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= min(HEADER_LIMIT, size - 8):
            raise UserError(str(path), "is not a safetensors file", "is the download complete?")
        head = file.read(length)
    try:
        entries = json.loads(head)
        sizes = {}
        for name, entry in entries.items():
            if name != "__metadata__":
                count = 1
                for extent in entry["shape"]:
                    count *= int(extent)
                sizes[name] = count
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(str(path), "is not a safetensors file", "is the download complete?") from error
    return sizes
