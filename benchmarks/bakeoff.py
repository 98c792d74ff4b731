"""Which way of tuning is good enough: ten methods on four public sets, each with three seeds and a rate of its own.

TUNESMITH_BENCH_DATA=FOLDER python benchmarks/bakeoff.py [NAME …] [--kept FOLDER] [--seeds N] [--jobs N]

With --kept the comparisons (`tunesmith compare`) stay in a folder, and the same command goes on where it was stopped.
Each trial of a set takes the same number of steps of 32 rows. Rates are found on development rows; test rows are only
judged.
"""

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _bench import data, table

from tunesmith import api
from tunesmith.figures import interval

METHODS = (
    "full",
    "lora",
    "adapter",
    "adapter(places=pfeiffer)",
    "prefix",
    "prompt",
    "p_tuning",
    "bitfit",
    "ia3",
    "head",
)
SENTENCES = {
    "train": "sst2/train_sentences.jsonl.gz",
    "validation": "sst2/dev.jsonl.gz",
    "test": "sst2/test.jsonl.gz",
}
PAIRS = {"text": "text_a", "text_b": "text_b", "target": "score", "metric": "spearman"}


@dataclass(frozen=True)
class Field:
    """A set, and how long each trial on it takes. margin: what still counts as not worse."""

    task: dict[str, Any]
    data: dict[str, Any]
    steps: int
    margin: float = 0.015


def files(name: str) -> dict[str, str]:
    return {
        "train": f"{name}/train.jsonl.gz",
        "validation": f"{name}/dev.jsonl.gz",
        "test": f"{name}/test.jsonl.gz",
    }


FIELDS = {
    "sst2": Field({"kind": "classification"}, SENTENCES, 430),
    "banking77": Field({"kind": "classification"}, {**files("banking77"), "validation": 0.05}, 940),
    "conll2003": Field({"kind": "ner", "valid": True, "scheme": "any"}, files("conll2003"), 880),
    "stsb": Field({"kind": "regression", **PAIRS}, files("stsb"), 540),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(FIELDS))
    parser.add_argument("--kept", type=Path, help="a folder that the comparisons are kept in")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=None)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as passing:
        compared(asked, asked.kept or Path(passing))


def compared(asked: argparse.Namespace, kept: Path) -> None:
    for name in asked.names or FIELDS:
        field, place = FIELDS[name], data(name)
        if place is None:
            continue
        recipe = {
            "model": "builtin:minilm",
            "task": field.task,
            "data": {**field.data, "cache": True},
            "method": "full",
            "train": {"max_steps": field.steps, "batch_size": 32, "stop": {"restore_best": False}},
        }
        found = api.compare(
            recipe,
            methods=METHODS,
            seeds=asked.seeds,
            margin=field.margin,
            jobs=asked.jobs,
            folder=kept / name,
            base=place,
        )
        print(f"{name}: {found['sentence']}", flush=True)
        shown(found)


def shown(found: dict[str, Any]) -> None:
    header = (
        "method",
        "rate",
        found["metric"],
        "beside the best",
        "verdict",
        "moves",
        "training",
        "memory",
        "artefact",
    )
    rows = []
    for row in found["methods"]:
        if row["quality"] is None:
            failed = row["refused"] or "; ".join(one["reason"] for one in row["failed"])
            rows.append((row["method"], "", "", "", f"{row['status']}: {failed}", "", "", "", ""))
            continue
        share = row["trainable"] / row["parameters"]
        costs = f"{row['train_seconds']:.0f} s", f"{row['peak_memory_bytes'] / 1e6:.0f} MB"
        size = f"{row['artifact_bytes'] / 1e6:.2f} MB"
        gap = "" if row["gap"] is None else interval(**{key: row["gap"][key] for key in ("value", "low", "high")})
        quality = interval(**{key: row["quality"][key] for key in ("value", "low", "high")})
        rows.append((row["method"], f"{row['rate']:.2g}", quality, gap, row["status"], f"{share:.2%}", *costs, size))
    table(header, rows)


if __name__ == "__main__":
    main()
