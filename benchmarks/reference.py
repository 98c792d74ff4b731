"""The same full fine-tuning by the reference trainer and by us: quality, speed, memory.

TUNESMITH_BENCH_DATA=FOLDER python benchmarks/reference.py [--epochs 3] [--seeds 3] [--rows N]

MiniLM on the 6,920 sentences of SST-2, judged on its 1,821 test rows. Same rows, epochs, batch, peak rate, schedule
(linear, no warm-up, no decay) and seeds. Sides alternate in one run, each in a process of its own:

  defaults  transformers.Trainer as it comes
  best      transformers.Trainer with bfloat16 and rows grouped by length, its scaling of the loss mended
  ours      tunesmith run, its checkpoints included

Time is from the first step to the end of training, with what each side saves on the way. Quality is compared row by
row: the difference of mean accuracy over the seeds, with a bootstrap interval over test rows.
"""

import argparse
import json
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from _bench import data, fresh, read, table

SIDES = ("defaults", "best", "ours")
BATCH, RATE = 16, 5e-5


def reference(best: bool, place: Path, seed: int, epochs: float, limit: int | None, folder: Path) -> dict[str, Any]:
    """One run of transformers.Trainer."""
    import torch
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    from tunesmith.select.options import ModelOptions
    from tunesmith.select.source import find_source

    base = find_source(ModelOptions(name="builtin:minilm"), Path()).folder
    train, test = read(place / "train_sentences.jsonl.gz", limit), read(place / "test.jsonl.gz", None)
    names = sorted({row["label"] for row in train})
    tokenizer = AutoTokenizer.from_pretrained(base)
    set_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=len(names), dtype=torch.float32)
    more: dict[str, Any] = {"bf16": True, "train_sampling_strategy": "group_by_length"} if best else {}
    if best:
        model.accepts_loss_kwargs = False
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=epochs,
        per_device_train_batch_size=BATCH,
        learning_rate=RATE,
        seed=seed,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        **more,
    )

    def encoded(rows: list[dict[str, str]]) -> list[dict[str, Any]]:
        tokens = tokenizer([row["text"] for row in rows], truncation=True, max_length=512)
        return [
            {**{key: tokens[key][place] for key in tokens}, "labels": names.index(row["label"])}
            for place, row in enumerate(rows)
        ]

    trainer = Trainer(model, arguments, DataCollatorWithPadding(tokenizer), encoded(train), processing_class=tokenizer)
    began = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    trainer.args.train_sampling_strategy = "random"  # its grouping by length would shuffle the answers as well
    answers = trainer.predict(encoded(test)).predictions.argmax(-1)  # type: ignore[union-attr]
    right = [names[answer] == row["label"] for answer, row in zip(answers, test, strict=True)]
    return {"seconds": seconds, "megabytes": peak / 1024, "right": [int(value) for value in right]}


def ours(place: Path, seed: int, epochs: float, limit: int | None, folder: Path) -> dict[str, Any]:
    """One run of tunesmith."""
    from tunesmith import api

    class Clock(api.Silent):
        began = ended = 0.0
        peak = 0

        def stage(self, name: str, what: str) -> None:
            if name == "train":
                self.began = time.perf_counter()
            elif name == "evaluate":
                self.ended = time.perf_counter()
                self.peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    clock = Clock()
    train = read(place / "train_sentences.jsonl.gz", limit)
    rows = folder / "train.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in train))
    recipe = {
        "model": "builtin:minilm",
        "task": {"kind": "classification"},
        "data": {"train": str(rows), "test": str(place / "test.jsonl.gz"), "validation": 0, "cache": False},
        "method": "full",
        "train": {"epochs": epochs, "batch_size": BATCH, "learning_rate": RATE, "warmup": 0, "weight_decay": 0},
        "evaluate": {"baselines": False},
        "deploy": {"verify": False},
        "seed": seed,
    }
    run = api.run(recipe, folder=folder / "run", screen=clock)
    lines = run.predictions.read_text().splitlines()
    right = [int(json.loads(line)["correct"]) for line in lines]
    return {"seconds": clock.ended - clock.began, "megabytes": clock.peak / 1024, "right": right}


def side(name: str, place: Path, seed: int, epochs: float, limit: int | None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        if name == "ours":
            return ours(place, seed, epochs, limit, Path(folder))
        return reference(name == "best", place, seed, epochs, limit, Path(folder))


def gap(first: Any, second: Any) -> str:
    """Difference of mean accuracy [low, high] over resampled test rows; [seeds, rows] of 0 and 1 each."""
    difference = np.mean(first, axis=0) - np.mean(second, axis=0)
    chance = np.random.default_rng(0)
    means = [chance.choice(difference, len(difference)).mean() for _ in range(5000)]
    low, high = np.quantile(means, [0.025, 0.975])
    return f"{difference.mean():+.4f} [{low:+.4f}, {high:+.4f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, help="of the training rows, for a short trial")
    parser.add_argument("--side", choices=SIDES)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found = data("sst2")
    if found is None:
        return
    place = found / "sst2"
    if options.side:
        print(json.dumps(side(options.side, place, options.seed, options.epochs, options.rows)))
        return
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in SIDES}
    limit = ("--rows", str(options.rows)) if options.rows else ()
    for seed in range(options.seeds):
        for name in SIDES if seed % 2 == 0 else SIDES[::-1]:
            one = fresh(__file__, "--side", name, "--seed", str(seed), "--epochs", str(options.epochs), *limit)
            runs[name].append(one)
            print(f"seed {seed} {name}: {np.mean(one['right']):.4f} in {one['seconds']:.0f} s", flush=True)
    right = {name: [one["right"] for one in runs[name]] for name in SIDES}
    rows = []
    for name in SIDES:
        seconds = [one["seconds"] for one in runs[name]]
        ratio = statistics.median(a / b for a, b in zip(seconds, [o["seconds"] for o in runs["ours"]], strict=True))
        rows.append(
            (
                name,
                " ".join(f"{np.mean(one):.4f}" for one in right[name]),
                f"{np.mean(right[name]):.4f}",
                f"{statistics.median(seconds):.0f} s",
                f"{ratio:.2f}",
                f"{max(one['megabytes'] for one in runs[name]):.0f} MB",
            )
        )
    table(("side", "accuracy by seed", "mean", "training", "time / ours", "peak memory"), rows)
    for name in ("defaults", "best"):
        print(f"ours - {name}: accuracy {gap(right['ours'], right[name])}")


if __name__ == "__main__":
    main()
