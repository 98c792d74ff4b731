"""Rows as the model sees them, kept on disk under a key that covers everything that shapes them."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file
from transformers import PreTrainedTokenizerBase

from tunesmith import commit
from tunesmith.batch import Encoded, Ragged, encoded
from tunesmith.contracts import Corpus, Record, Task
from tunesmith.world import World

CHUNK = 2000
BINS = 24


def encode_corpus(
    corpus: Corpus, tokenizer: PreTrainedTokenizerBase, max_tokens: int, *, cache: Path | None, world: World
) -> dict[str, Encoded]:
    """Every split encoded, from the cache where it holds them. Only the main process writes there."""
    if cache is None:
        return {name: _encode(rows, corpus.task, tokenizer, max_tokens) for name, rows in corpus.splits.items()}
    folder = cache / cache_key(corpus, tokenizer, max_tokens)
    found = _load(folder) if world.main else None
    if world.main and found is None:
        found = {name: _encode(rows, corpus.task, tokenizer, max_tokens) for name, rows in corpus.splits.items()}
        cache.mkdir(parents=True, exist_ok=True)
        commit.clean(cache)
        _store(folder, found)
    world.barrier()
    found = found or _load(folder)
    if found is None:
        found = {name: _encode(rows, corpus.task, tokenizer, max_tokens) for name, rows in corpus.splits.items()}
    return found


def cache_key(corpus: Corpus, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> str:
    """A name that changes whenever the encoded rows could: data, tokenizer, template, task, length or version."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    parts = [
        corpus.fingerprint,
        {name: part for name, part in backend.items() if name not in ("truncation", "padding")},  # set by each call
        tokenizer.truncation_side,
        {name: str(value) for name, value in tokenizer.special_tokens_map.items()},
        tokenizer.model_input_names,
        tokenizer.chat_template,
        corpus.task.model_dump(mode="json"),  # type: ignore[attr-defined]  # every task is a set of options
        type(corpus.task).__qualname__,
        corpus.task.version,
        max_tokens,
        version("tunesmith"),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _encode(records: Sequence[Record], task: Task, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> Encoded:
    parts = [
        encoded(task.encode(records[start : start + CHUNK], tokenizer, max_tokens))
        for start in range(0, len(records), CHUNK)
    ]
    if len(parts) == 1:
        return parts[0]
    columns = {name: _joined([part.columns[name] for part in parts]) for name in parts[0].columns}
    return Encoded(columns, np.concatenate([p.rows for p in parts]), np.concatenate([p.cut for p in parts]))


def _joined(parts: Sequence[Ragged]) -> Ragged:
    lengths = np.concatenate([part.lengths for part in parts])
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Ragged(np.concatenate([part.values for part in parts]), offsets)


def _store(folder: Path, splits: Mapping[str, Encoded]) -> None:
    arrays: dict[str, Any] = {}
    for split, rows in splits.items():
        arrays |= {f"{split}/rows": rows.rows, f"{split}/cut": rows.cut}
        for name, ragged in rows.columns.items():
            arrays |= {f"{split}/column/{name}/values": ragged.values, f"{split}/column/{name}/offsets": ragged.offsets}

    commit.commit_folder(folder, lambda place: save_file(arrays, place / "rows.safetensors"), replace=True)


def _load(folder: Path) -> dict[str, Encoded] | None:
    """What a cache folder holds; None when it is not there or not whole."""
    if not folder.is_dir():
        return None
    try:
        commit.verify(folder)
    except commit.Broken:
        return None
    arrays = load_file(folder / "rows.safetensors")
    splits = {}
    for split in sorted({name.split("/")[0] for name in arrays}):
        names = [
            name.split("/")[2] for name in arrays if name.startswith(f"{split}/column/") and name.endswith("/values")
        ]
        columns = {
            name: Ragged(arrays[f"{split}/column/{name}/values"], arrays[f"{split}/column/{name}/offsets"])
            for name in names
        }
        splits[split] = Encoded(columns, arrays[f"{split}/rows"], arrays[f"{split}/cut"])
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
            "cut_rows": int((rows.cut > 0).sum()),
            "cut_tokens": int(rows.cut.sum()),
        }
    return found
