"""What the shipped defaults and a few settings reach on public data and on the support desk, with intervals.

TUNESMITH_BENCH_DATA=FOLDER python benchmarks/quality.py [NAME …]

Rates, batches and epochs were chosen on development rows, for the support desk by cross-validation of its training
tickets (folds.py); test rows chose nothing. The public sets are only measured where the folder holds them.
"""

import argparse
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _bench import ROOT, data, table

from tunesmith import api
from tunesmith.run import Run


@dataclass(frozen=True)
class Case:
    """recipe: plain values, or a file of recipes/. sets: data sets that it needs. least: what it should reach."""

    recipe: dict[str, Any] | str
    sets: tuple[str, ...] = ()
    least: str = ""


SST2 = {"train": "sst2/train_sentences.jsonl.gz", "validation": "sst2/dev.jsonl.gz", "test": "sst2/test.jsonl.gz"}
LIKE_TRAINER = {"epochs": 3, "batch_size": 8, "learning_rate": 5e-5, "warmup": 0, "weight_decay": 0}
"""The defaults of transformers.Trainer."""
TAGGED = {"epochs": 6, "learning_rate": 3e-4, "batch_size": 16, "warmup": 0.1}
"""Chosen on the development rows of conll2003, and taken for all other sets with tags."""


def tagged(name: str, part: str = "", least: str = "", **data: Any) -> Case:
    """Named entities of one set; `part` stands before the names of its files."""
    files = {
        "train": f"{name}/{part}train.jsonl.gz",
        "validation": f"{name}/{part}dev.jsonl.gz",
        "test": f"{name}/{part}test.jsonl.gz",
    }
    task = {"kind": "ner", "valid": True, "scheme": "any"}
    return Case({"task": task, "data": {**files, **data}, "train": TAGGED}, (name,), least)


CASES = {
    "sst2-full": Case(
        {"task": {"kind": "classification"}, "data": SST2, "train": LIKE_TRAINER},
        ("sst2",),
        "accuracy 0.885",
    ),
    "sst2-lora": Case(
        {
            "task": {"kind": "classification"},
            "data": SST2,
            "method": {"kind": "lora", "rank": 8},
            "train": {"epochs": 3, "learning_rate": 1e-3},
        },
        ("sst2",),
        "within 0.015 of full",
    ),
    "stsb": Case(
        {
            "task": {
                "kind": "regression",
                "text": "text_a",
                "text_b": "text_b",
                "target": "score",
                "metric": "spearman",
            },
            "data": {"train": "stsb/train.jsonl.gz", "validation": "stsb/dev.jsonl.gz", "test": "stsb/test.jsonl.gz"},
            "train": {"epochs": 6, "learning_rate": 3e-4, "layer_decay": 0.8},
        },
        ("stsb",),
        "spearman 0.85",
    ),
    "banking77": Case(
        {
            "task": {"kind": "classification"},
            "data": {"train": "banking77/train.jsonl.gz", "validation": 0.05, "test": "banking77/test.jsonl.gz"},
            "train": {"epochs": 5, "learning_rate": 4e-4, "batch_size": 32},
        },
        ("banking77",),
        "accuracy 0.90",
    ),
    "conll2003": tagged("conll2003", least="entity_f1 0.88"),
    "ncbi-disease": tagged("ncbi_disease", least="entity_f1 0.80"),
    "wikiann-de": tagged("wikiann", "de."),
    "wikiann-nl": tagged("wikiann", "nl."),
    "wikiann-fr": tagged("wikiann", "fr."),
    "germeval14": tagged("germeval14", train="germeval14/dev.jsonl.gz", validation=0.1),
    "support-desk-intent": Case("support-desk-intent.yaml", least="above TF-IDF"),
    "support-desk-intent-lora": Case("support-desk-intent-lora.yaml", least="above TF-IDF"),
    "support-desk-urgency": Case("support-desk-urgency.yaml", least="below TF-IDF"),
    "support-desk-entities": Case("support-desk-entities.yaml", least="above looked-up phrases"),
    "support-desk-handbook": Case("support-desk-handbook.yaml", least="above never an answer"),
    "support-desk-tickets": Case("support-desk-tickets.yaml"),
}


def run(name: str, case: Case, folder: Path) -> Run | None:
    """The finished run of a case, or None where its data are not there."""
    if isinstance(case.recipe, str):
        return api.run(ROOT / "recipes" / case.recipe, folder=folder / name)
    place = data(*case.sets)
    if place is None:
        return None
    whole = {"model": "builtin:minilm", "method": "full", "deploy": {"verify": False}, **case.recipe}
    return api.run(whole, folder=folder / name, base=place)


def shown(name: str, case: Case, done: Run) -> tuple[str, ...]:
    found, spent = done.read_json("evaluation.json"), done.read_json("cost.json")
    main = found["metrics"][found["main"]]
    better = next((row for row in found["baselines"] if row["name"] == found["better_baseline"]), None)
    beside = "" if better is None else f"{better['metrics'][found['main']]['value']:.3f}"
    gap = "" if better is None else "{value:+.3f} [{low:+.3f}, {high:+.3f}]".format(**better["difference"])
    p_value = "" if better is None else f"{better['p_value']:.2g}"
    score = f"{main['value']:.3f} [{main['low']:.3f}, {main['high']:.3f}]"
    seconds = f"{spent['train_seconds']:.0f} s"
    return name, found["main"], held_out(done, found["main"]), score, case.least, beside, gap, p_value, seconds


def held_out(done: Run, metric: str) -> str:
    """What the weights that were kept reached on the rows by which they were chosen."""
    events = [json.loads(line) for line in done.journal.read_text(encoding="utf-8").splitlines()]
    kept = events[-1]["weights_of"]
    return next((f"{e['metrics'][metric]:.3f}" for e in events if e["event"] == "evaluation" and e["step"] == kept), "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(CASES))
    names = parser.parse_args().names or list(CASES)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            done = run(name, CASES[name], Path(folder))
            if done is not None:
                rows.append(shown(name, CASES[name], done))
                print(*rows[-1], flush=True)
    print()
    header = ("case", "metric", "validation", "test", "wanted", "baseline", "model - baseline", "p", "training")
    table(header, rows)


if __name__ == "__main__":
    main()
