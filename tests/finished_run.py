"""Folders of finished runs of any task, made with the run's own writers in a moment."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.batch import Encoded, Ragged
from tunesmith.contracts import Card, Corpus, Family, Finding, Ledger, Record, Step, Task
from tunesmith.evaluate.judge import judge
from tunesmith.evaluate.lines import prediction_line
from tunesmith.evaluate.metrics import measure
from tunesmith.evaluate.options import EvaluateOptions
from tunesmith.given import Outputs
from tunesmith.prepare.audit import picture
from tunesmith.recipe import recipe_from
from tunesmith.run import Run, environment
from tunesmith.tasks.classification import Classification
from tunesmith.tasks.regression import Regression
from tunesmith.train.journal import Journal


def card(name: str = "small-encoder", **more: Any) -> Card:
    facts = Card(name, None, Family.ENCODER, "bert", 22_713_216, 512, 30_522, "apache-2.0", ("en",), "0" * 64)
    return replace(facts, **more)


def corpus(task: Task, splits: Mapping[str, Sequence[Record]], file: str, finding: str) -> Corpus:
    ways = {name: len(rows) for name, rows in splits.items()}
    ledger = Ledger({file: sum(ways.values()) + 2}, {**ways, "skipped:empty_text": 2})
    findings = (Finding("repeats", "warning", finding, 2, (f"{file}, line 3",)),)
    return Corpus(task, splits, ledger, findings, {file: "ab" * 32}, "cd" * 32)


def journal(run: Run, task: Task, metrics: Mapping[str, float | None], steps: int = 30) -> None:
    book = Journal(run.journal)
    for step in range(1, steps + 1):
        book.step(Step(step, step / 10, 2 / step, 1e-4 * (1 - step / steps), 1.5, 8, 8.0, 300, 320))
        if step % 10 == 0:
            event = {"event": "evaluation", "step": step, "epoch": step / 10, "loss": 1 / step, "best": step < 30}
            book.write({**event, "metrics": {**metrics, task.metrics[0]: 0.5 + step / 100}})
    book.write({"event": "end", "step": steps, "reason": "planned end", "weights_of": 20})
    book.close()


def finished(
    folder: Path,
    spec: Mapping[str, Any],
    task: Task,
    rows: Sequence[Mapping[str, Any]],
    *,
    file: str = "rows.jsonl",
    finding: str = "2 of 60 train rows repeat an earlier one exactly",
    model: Card | None = None,
    note: str = "the head is new",
    kind: str = "safetensors",
    bare: bool = False,
) -> Path:
    """The folder of a run of `task` on `rows`, half of them test rows, whose model is right on most of them.

    bare: without a journal and without baselines, which take the time.
    """
    records = [Record(place, file, place + 2, *task.read(row)) for place, row in enumerate(rows)]
    learned = task.learn(records)
    half = len(records) // 2
    splits = {"train": records[:half], "test": records[half:]}
    run = Run.create_or_open(
        folder, recipe_from({"model": "builtin:minilm", "task": spec, "data": "rows.jsonl"}), folder
    )
    run.write_json("environment.json", {**environment(), "started": "2024-05-01T10:00:00+00:00"})
    run.write_json("model.json", {"card": asdict(model or card()), "notes": []})
    data = corpus(learned, splits, file, finding)
    tokens: dict[str, Any] = {"min": 3, "median": 5.0, "p95": 8.0, "max": 9, "cut_rows": 1, "cut_tokens": 2}
    tokens |= {"histogram": {"edges": [3.0, 5.0, 7.0, 9.0], "counts": [4, 5, half - 9]}}
    pictures = {name: {**facts, "tokens": tokens} for name, facts in picture(data).items()}
    audit: dict[str, Any] = {"ledger": asdict(data.ledger), "findings": [asdict(each) for each in data.findings]}
    audit |= {"files": dict(data.files), "fingerprint": data.fingerprint, "splits": pictures, "max_tokens": 128}
    run.write_json("audit.json", audit)
    counts = {"total": 22_713_216, "trainable": 1_234_567, "head": ["classifier"], "notes": [note], "method": {}}
    run.write_json("parameters.json", counts)
    outputs = given(logits(learned, splits["test"]))
    predictions = learned.predictions(outputs, splits["test"])
    if not bare:
        journal(run, learned, measure(predictions, learned.metrics))
    options = EvaluateOptions(resamples=100, baselines=not bare)
    run.write_json("evaluation.json", judge(predictions, learned, splits=splits, split="test", options=options, seed=0))
    lines = [
        prediction_line(predictions, place, record, answer)
        for place, (record, answer) in enumerate(
            zip(splits["test"], learned.answers(outputs, splits["test"]), strict=True)
        )
    ]
    run.predictions.write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in lines), encoding="utf-8")
    parity = {"rows": 30, "max_difference": 1.5e-6}
    run.write_json("deploy.json", [{"kind": kind, "folder": "artifact", "bytes": 90_900_000, "parity": parity}])
    spent = {"train_seconds": 83.2, "total_seconds": 4000.0, "steps": 30, "tokens": 9000, "padded_tokens": 9600}
    run.write_json("cost.json", {**spent, "tokens_per_second": 108.2, "peak_memory_bytes": 1_500_000_000})
    return folder


def given(values: Any) -> Outputs:
    """Outputs of rows that were one example each."""
    ids = {"input_ids": Ragged(np.zeros(0, np.int32), np.zeros(len(values) + 1, np.int64))}
    return Outputs(list(values), Encoded(ids, np.arange(len(values)), np.zeros(len(values), np.int64)))


def logits(task: Task, records: Sequence[Record]) -> Any:
    """Outputs that are right on four rows of five, more or less sure."""
    generator = np.random.default_rng(5)
    gold = task.gold(records).gold
    wrong = np.arange(len(records)) % 5 == 0
    if task.head()["problem_type"] == "regression":
        return (gold - np.mean(gold, axis=0)) / np.std(gold, axis=0) + generator.normal(0, 0.3, gold.shape)
    if gold.ndim == 2:
        return np.where(gold ^ wrong[:, None], 1, -1) * generator.uniform(0.5, 4, gold.shape)
    given = np.where(wrong, (gold + 1) % len(task.head()["id2label"]), gold)
    return np.eye(len(task.head()["id2label"]))[given] * generator.uniform(1, 6, (len(records), 1))


def single(folder: Path, labels: Sequence[str] = ("late", "broken", "thanks"), rows: int = 60, **more: Any) -> Path:
    texts = more.pop("texts", ["where is my parcel", "the lamp is broken", "thank you all"])
    made = [
        {"text": f"{texts[place % len(texts)]} {place}", "label": labels[place % len(labels)]} for place in range(rows)
    ]
    return finished(folder, {"kind": "classification"}, Classification(), made, **more)


def several(folder: Path, labels: Sequence[str] = ("late", "broken"), **more: Any) -> Path:
    made = [
        {"text": f"row {place}", "labels": [name for bit, name in enumerate(labels) if place >> bit & 1]}
        for place in range(60)
    ]
    task = {"kind": "classification", "label": "labels", "multi_label": True}
    return finished(folder, task, Classification(label="labels", multi_label=True), made, **more)


def numbers(folder: Path, names: Sequence[str] = ("stars",), **more: Any) -> Path:
    made = [
        {"text": f"row {place}", **{name: float(place % 7 + 10 * bit) for bit, name in enumerate(names)}}
        for place in range(60)
    ]
    target: Any = names[0] if len(names) == 1 else list(names)
    return finished(folder, {"kind": "regression", "target": target}, Regression(target=target), made, **more)
