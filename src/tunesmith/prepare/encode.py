"""Rows as the model sees them, kept on disk under a key that covers everything that shapes them."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from tunesmith import commit
from tunesmith.batch import IGNORED, Encoded, Ragged, concatenated, encoded
from tunesmith.contracts import Codec, Corpus, Record, Task
from tunesmith.options import with_paths
from tunesmith.world import World

CHUNK = 2000
BINS = 24
WIDENED = "widened"
"""The column that counts a row's spans that end inside a token, and are taken to its end."""
READ_BY_TASKS = ("model_type", "decoder_start_token_id", "forced_bos_token_id")
"""What of a model's configuration the encoding of a row may depend on."""


def encode_corpus(
    corpus: Corpus, codec: Codec, max_tokens: int, *, cache: Path | None, world: World
) -> dict[str, Encoded]:
    """Every split encoded, from the cache where it holds them. Only the main process writes there."""
    if cache is None:
        return {name: _encode(rows, corpus.task, codec, max_tokens) for name, rows in corpus.splits.items()}
    folder = cache / cache_key(corpus, codec, max_tokens)
    found = _load(folder) if world.main else None
    if world.main and found is None:
        found = {name: _encode(rows, corpus.task, codec, max_tokens) for name, rows in corpus.splits.items()}
        cache.mkdir(parents=True, exist_ok=True)
        commit.clean(cache)
        _store(folder, found)
    world.barrier()
    found = found or _load(folder)
    if found is None:
        found = {name: _encode(rows, corpus.task, codec, max_tokens) for name, rows in corpus.splits.items()}
    return found


def cache_key(corpus: Corpus, codec: Codec, max_tokens: int) -> str:
    """A name that changes whenever the encoded rows could: data, tokenizer, template, task, length or version."""
    tokenizer = codec.tokenizer
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    parts = [
        corpus.fingerprint,
        {name: part for name, part in backend.items() if name not in ("truncation", "padding")},  # set by each call
        tokenizer.truncation_side,
        {name: str(value) for name, value in tokenizer.special_tokens_map.items()},
        tokenizer.model_input_names,
        tokenizer.chat_template,
        with_paths(corpus.task, lambda path: "").model_dump(mode="json"),  # type: ignore[attr-defined]  # tasks are options
        [_identity(corpus.task), *({name: _identity(part)} for name, part in corpus.task.parts.items())],
        max_tokens,
        str(codec.family),
        {name: getattr(codec.config, name, None) for name in READ_BY_TASKS},
        version("tunesmith"),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _identity(task: Task) -> tuple[str, str, int]:
    """Which code encodes the rows of a task: two packages may call theirs the same."""
    return type(task).__module__, type(task).__qualname__, task.version


def _encode(records: Sequence[Record], task: Task, codec: Codec, max_tokens: int) -> Encoded:
    found = [
        encoded(task.encode(records[start : start + CHUNK], codec, max_tokens))
        for start in range(0, len(records), CHUNK)
    ]
    return concatenated(found)


def _store(folder: Path, splits: Mapping[str, Encoded]) -> None:
    arrays: dict[str, Any] = {}
    for split, rows in splits.items():
        arrays |= {f"{split}/rows": rows.rows, f"{split}/cut": rows.cut}
        for name, ragged in rows.columns.items():
            arrays |= {f"{split}/column/{name}/values": ragged.values, f"{split}/column/{name}/offsets": ragged.offsets}

    def write(place: Path) -> None:
        save_file(arrays, place / "rows.safetensors")
        refused = {split: [[row, reason] for row, reason in rows.refused.items()] for split, rows in splits.items()}
        (place / "refused.json").write_text(json.dumps(refused), encoding="utf-8")

    commit.commit_folder(folder, write, replace=True)


def _load(folder: Path) -> dict[str, Encoded] | None:
    """What a cache folder holds; None when it is not there or not whole."""
    if not folder.is_dir():
        return None
    try:
        commit.verify(folder)
    except commit.Broken:
        return None
    arrays = load_file(folder / "rows.safetensors")
    refused = json.loads((folder / "refused.json").read_text(encoding="utf-8"))
    splits = {}
    for split in sorted({name.split("/")[0] for name in arrays}):
        names = [
            name.split("/")[2] for name in arrays if name.startswith(f"{split}/column/") and name.endswith("/values")
        ]
        columns = {
            name: Ragged(arrays[f"{split}/column/{name}/values"], arrays[f"{split}/column/{name}/offsets"])
            for name in names
        }
        left_out = {int(row): str(reason) for row, reason in refused[split]}
        splits[split] = Encoded(columns, arrays[f"{split}/rows"], arrays[f"{split}/cut"], left_out)
    return splits


def lengths(splits: Mapping[str, Encoded]) -> dict[str, dict[str, Any]]:
    """Of each split, in tokens a row: min, median, p95, max, a histogram, and how many rows and tokens were cut."""
    found = {}
    for split, rows in splits.items():
        sizes = rows.lengths
        counts, edges = np.histogram(sizes, bins=min(BINS, int(np.ptp(sizes)) + 1))
        found[split] = {
            "min": int(sizes.min()),
            "median": float(np.median(sizes)),
            "p95": float(np.quantile(sizes, 0.95)),
            "max": int(sizes.max()),
            "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
            "cut_rows": len({row for row, cut in zip(rows.rows.tolist(), rows.cut.tolist(), strict=True) if cut}),
            "cut_tokens": int(rows.cut.sum()),
            **_graded(rows),
            **_widened(rows),
        }
    return found


def _widened(rows: Encoded) -> dict[str, int]:
    """How many spans are learned longer than they are, where rows have spans; of any part of a task."""
    counted = [rows.columns[name].values.sum() for name in rows.columns if name.rpartition(".")[2] == WIDENED]
    return {WIDENED: int(sum(counted))} if counted else {}


def _graded(rows: Encoded) -> dict[str, Any]:
    """Of rows whose tokens are graded: how many are, in all, and in a row at least, in the middle and at most."""
    labels = rows.columns.get("labels")
    if labels is None or (labels.lengths != rows.columns["input_ids"].lengths).any():
        return {}
    counts = np.array([int((labels[place] != IGNORED).sum()) for place in range(len(rows))])
    middle = float(np.median(counts))
    return {"graded": {"all": int(counts.sum()), "min": int(counts.min()), "median": middle, "max": int(counts.max())}}
