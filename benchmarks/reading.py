"""Questions about texts: SQuAD beside the reference trainer, SubjQA with questions that have no answer.

TUNESMITH_BENCH_DATA=FOLDER python benchmarks/reading.py [squad] [subjqa] [--seeds 1] [--rows N] [--epochs E] [--rate R]

squad: MiniLM on 4,000 questions, judged on 500 of the same make and on 1,062 with several references each (some of
their texts are among the 500 and the development rows, too). Windows, stride, epochs, batch, peak rate, schedule,
warm-up, decay, no dropout, number format (bfloat16 where the processor has it) and the new layer's weights are the same
on both sides, which alternate, each in a process of its own:

  trainer  transformers.Trainer, with the windows, targets and span search of transformers' run_qa example, its scaling
           of the loss mended
  ours     tunesmith run

Both answer in float32. Time is that of the updates, without saving. EM and F1 are those of SQuAD's script;
sides are compared question by question: the difference of the means over the seeds, with a bootstrap interval over
questions.

subjqa: MiniLM on reviews of electronics, groceries and restaurants, beside never giving an answer. Most questions were
put to two readers, each a row of its own in the files, and half of the rows have no answer. Here a question is one row
with every reader's answer, as in SQuAD: it has none where no reader found one. The answers to the test questions are
judged once against all readers together, as SQuAD's script does (the best reference counts), and once reader by reader,
as the files are. Intervals are over questions.

--dev judges on the development rows, by which SQuAD's peak rate was chosen; SubjQA takes it over. SubjQA's threshold
for no answer and the epoch whose weights are kept come from its development rows in each run. No test row chose
anything.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _bench import data, fresh, read, table

from tunesmith.evaluate.answers import exact_matches, f1s

Rows = list[dict[str, Any]]
SIDES = ("trainer", "ours")
SUBJECTS = ("electronics", "grocery", "restaurants")
TESTS = {"test": "test_sub.jsonl.gz", "official": "dev_official_1062.jsonl.gz"}
BATCH, DECAY, WARMUP = 16, 0.01, 0.06
TOKENS, STRIDE, LONGEST, BEST = 256, 64, 30, 20
DROPOUT = 0.0
"""Without it a step takes well under half the time on a CPU, whose fast attention knows no dropout."""
RESAMPLES = 5000


@dataclass(frozen=True)
class Setting:
    """What a run is made with. rows: most training rows; None: all. dev: judged on the development rows."""

    epochs: float
    rate: float
    seed: int
    rows: int | None
    dev: bool

    def arguments(self) -> list[str]:
        said = ["--epochs", str(self.epochs), "--rate", str(self.rate), "--seed", str(self.seed)]
        said += ["--rows", str(self.rows)] if self.rows else []
        return said + (["--dev"] if self.dev else [])


CHOSEN = {"squad": (2.0, 2e-4), "subjqa": (3.0, 2e-4)}
"""Epochs and peak rate of each part."""


def write(rows: Rows, path: Path) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def squad_tests(place: Path, dev: bool) -> dict[str, Rows]:
    names = {"dev": "dev.jsonl.gz"} if dev else TESTS
    return {name: read(place / file) for name, file in names.items()}


def recipe(setting: Setting, files: dict[str, Any], **task: Any) -> dict[str, Any]:
    return {
        "model": "builtin:minilm",
        "task": {"kind": "span_qa", "stride": STRIDE, "longest": LONGEST, **task},
        "data": {**files, "max_tokens": TOKENS, "cache": False},
        "method": "full",
        "train": {
            "epochs": setting.epochs,
            "learning_rate": setting.rate,
            "batch_size": BATCH,
            "weight_decay": DECAY,
            "warmup": WARMUP,
            "dropout": DROPOUT,
        },
        "deploy": {"verify": False},
        "seed": setting.seed,
    }


def ours(place: Path, setting: Setting, folder: Path) -> dict[str, Any]:
    """The answers of one run of tunesmith, and how long it trained."""
    from tunesmith import api

    tests = [row for rows in squad_tests(place, setting.dev).values() for row in rows]
    train = read(place / "train.jsonl.gz", setting.rows)
    files = {
        "train": write(train, folder / "train.jsonl"),
        "validation": 0,
        "test": write(tests, folder / "test.jsonl"),
    }
    run = api.run(recipe(setting, files), folder=folder / "run")
    lines = [json.loads(line) for line in run.predictions.read_text(encoding="utf-8").splitlines()]
    return {
        "seconds": run.read_json("cost.json")["train_seconds"],
        "answers": [line["answer"]["text"] for line in lines],
    }


def trainer(place: Path, setting: Setting, folder: Path) -> dict[str, Any]:
    """The answers of one run of transformers.Trainer, and how long it trained."""
    import torch
    from transformers import (
        AutoModelForQuestionAnswering,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    from tunesmith.select.options import ModelOptions
    from tunesmith.select.source import find_source
    from tunesmith.train.plan import choose_precision

    base = find_source(ModelOptions(name="builtin:minilm"), Path()).folder
    tokenizer = AutoTokenizer.from_pretrained(base)
    train = read(place / "train.jsonl.gz", setting.rows)
    windows = [{**window["inputs"], **targets(window, train[window["row"]])} for window in windows_of(train, tokenizer)]
    set_seed(setting.seed)
    model = AutoModelForQuestionAnswering.from_pretrained(
        base, dtype=torch.float32, hidden_dropout_prob=DROPOUT, attention_probs_dropout_prob=DROPOUT
    )
    model.accepts_loss_kwargs = False
    steps = round(setting.epochs * -(-len(windows) // BATCH))
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=setting.epochs,
        per_device_train_batch_size=BATCH,
        learning_rate=setting.rate,
        weight_decay=DECAY,
        warmup_steps=round(WARMUP * steps),
        bf16=choose_precision("auto", model.config.model_type, torch.device("cpu")) == "bfloat16",
        seed=setting.seed,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    loop = Trainer(model, arguments, DataCollatorWithPadding(tokenizer), windows, processing_class=tokenizer)
    began = time.perf_counter()
    loop.train()
    seconds = time.perf_counter() - began
    tests = [row for rows in squad_tests(place, setting.dev).values() for row in rows]
    return {"seconds": seconds, "answers": best_answers(model, tokenizer, tests)}


def windows_of(rows: Rows, tokenizer: Any) -> list[dict[str, Any]]:
    """Each text in windows, the question before each. offsets: characters of its tokens, None outside the text."""
    found = tokenizer(
        [row["question"].lstrip() for row in rows],
        [row["context"] for row in rows],
        truncation="only_second",
        max_length=TOKENS,
        stride=STRIDE,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    windows = []
    for place, row in enumerate(found["overflow_to_sample_mapping"]):
        inside = [sequence == 1 for sequence in found.sequence_ids(place)]
        offsets = [pair if kept else None for pair, kept in zip(found["offset_mapping"][place], inside, strict=True)]
        inputs = {name: found[name][place] for name in ("input_ids", "token_type_ids", "attention_mask")}
        windows.append({"row": row, "inputs": inputs, "offsets": offsets})
    return windows


def targets(window: dict[str, Any], row: dict[str, Any]) -> dict[str, int]:
    """The first and last token of the answer, or the first token of all where the window lacks some of it."""
    begin = row["answers"]["start"][0]
    end = begin + len(row["answers"]["text"][0])
    inside = [place for place, pair in enumerate(window["offsets"]) if pair is not None]
    first, last = window["offsets"][inside[0]], window["offsets"][inside[-1]]
    if first[0] > begin or last[1] < end:
        return {"start_positions": 0, "end_positions": 0}
    return {
        "start_positions": max(place for place in inside if window["offsets"][place][0] <= begin),
        "end_positions": min(place for place in inside if window["offsets"][place][1] >= end),
    }


def best_answers(model: Any, tokenizer: Any, rows: Rows) -> list[str]:
    """Of each row the span of the highest sum of scores, made of the best starts and ends of every window."""
    import torch

    model.eval()
    windows = windows_of(rows, tokenizer)
    best: list[tuple[float, str]] = [(-np.inf, "")] * len(rows)
    for first in range(0, len(windows), BATCH):
        some = windows[first : first + BATCH]
        with torch.inference_mode():
            out = model(**tokenizer.pad([window["inputs"] for window in some], return_tensors="pt"))
        for window, starts, ends in zip(some, out.start_logits.numpy(), out.end_logits.numpy(), strict=True):
            row = window["row"]
            found = best_span(starts, ends, window["offsets"], rows[row]["context"])
            best[row] = max(best[row], found, key=lambda one: one[0])
    return [text for _, text in best]


def best_span(starts: Any, ends: Any, offsets: Sequence[Any], context: str) -> tuple[float, str]:
    """The best legal span of a window and its score, as run_qa looks for it."""
    best = (-np.inf, "")
    for start in np.argsort(-starts)[:BEST].tolist():
        for end in np.argsort(-ends)[:BEST].tolist():
            inside = max(start, end) < len(offsets) and offsets[start] is not None and offsets[end] is not None
            if inside and start <= end < start + LONGEST and starts[start] + ends[end] > best[0]:
                best = (float(starts[start] + ends[end]), context[offsets[start][0] : offsets[end][1]])
    return best


def interval(values: Any, sign: str = "+") -> str:
    """The mean [low, high] of values, over resampled questions."""
    values = np.asarray(values)
    drawn = np.random.default_rng(0).integers(0, len(values), size=(RESAMPLES, len(values)))
    low, high = np.quantile(values[drawn].mean(axis=1), [0.025, 0.975])
    return f"{values.mean():{sign}.4f} [{low:{sign}.4f}, {high:{sign}.4f}]"


def squad(place: Path, settings: Sequence[Setting]) -> None:
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in SIDES}
    for number, setting in enumerate(settings):
        for name in SIDES if number % 2 == 0 else SIDES[::-1]:
            runs[name].append(fresh(__file__, "--side", name, *setting.arguments()))
            print(f"squad, seed {setting.seed}, {name}: {runs[name][-1]['seconds']:.0f} s", flush=True)
    tests = squad_tests(place, settings[0].dev)
    lines, gaps, first = [], [], 0
    for test, rows in tests.items():
        gold = [row["answers"]["text"] for row in rows]
        scores: dict[str, Any] = {}
        for name in SIDES:
            answers = [one["answers"][first : first + len(rows)] for one in runs[name]]
            scores[name] = [np.mean([score(gold, said) for said in answers], axis=0) for score in (exact_matches, f1s)]
            by_seed = " ".join(f"{f1s(gold, said).mean():.4f}" for said in answers)
            seconds = statistics.median(one["seconds"] for one in runs[name])
            means = [f"{values.mean():.4f}" for values in scores[name]]
            lines.append((test, len(rows), name, *means, by_seed, f"{seconds:.0f} s"))
        pairs = zip(("EM", "F1"), scores["ours"], scores["trainer"], strict=True)
        gaps += [(test, metric, interval(mine - theirs)) for metric, mine, theirs in pairs]
        first += len(rows)
    table(("rows", "questions", "side", "EM", "F1", "F1 by seed", "training"), lines)
    table(("rows", "metric", "ours - trainer"), gaps)


def together(rows: Rows) -> list[Rows]:
    """The rows of each question about a text: what several readers answered."""
    found: dict[tuple[str, str], Rows] = {}
    for row in rows:
        found.setdefault((row["question"], row["context"]), []).append(row)
    return list(found.values())


def joined(questions: Sequence[Rows]) -> Rows:
    """A row for each question, with the answers of every reader; none where no reader found one."""
    rows = []
    for readers in questions:
        answers = {name: [value for row in readers for value in row["answers"][name]] for name in ("text", "start")}
        rows.append({**readers[0], "answers": answers, "is_impossible": not answers["text"]})
    return rows


def subjqa(place: Path, settings: Sequence[Setting]) -> None:
    from tunesmith import api

    def questions(split: str) -> list[Rows]:
        return together([row for subject in SUBJECTS for row in read(place / f"{subject}.{split}.jsonl.gz")])

    lines = []
    for setting in settings:
        asked = questions("dev" if setting.dev else "test")
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            files = {
                "train": write(joined(questions("train")[: setting.rows]), folder / "train.jsonl"),
                "validation": write(joined(questions("dev")), folder / "dev.jsonl"),
                "test": 0 if setting.dev else write(joined(asked), folder / "test.jsonl"),
            }
            run = api.run(recipe(setting, files), folder=folder / "run")
            judged, seconds = run.read_json("evaluation.json"), run.read_json("cost.json")["train_seconds"]
            said = [json.loads(line)["answer"]["text"] for line in run.predictions.read_text("utf-8").splitlines()]
        print(f"subjqa, seed {setting.seed}: {seconds:.0f} s; {judged['verdict']}", flush=True)
        lines += subjqa_lines(setting.seed, asked, said, judged)
    header = ("seed", "judged", "rows", "answered", "EM", "F1", "no answer's F1", "F1 - no answer's", "p")
    table(header, lines)


def subjqa_lines(seed: int, questions: list[Rows], said: list[str], judged: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Two lines of the table: all references of a question together, and reader by reader."""
    answered = f"{np.mean([bool(text) for text in said]):.3f}"
    exact, main = (judged["metrics"][name]["value"] for name in ("answer_exact", "answer_f1"))
    baseline = judged["baselines"][0]
    gap = "{value:+.4f} [{low:+.4f}, {high:+.4f}]".format(**baseline["difference"])
    never, p_value = f"{baseline['metrics']['answer_f1']['value']:.4f}", f"{baseline['p_value']:.2g}"
    first = (seed, "together", len(said), answered, f"{exact:.4f}", f"{main:.4f}", never, gap, p_value)
    gold = [row["answers"]["text"] for readers in questions for row in readers]
    of_question = np.repeat(np.arange(len(questions)), [len(readers) for readers in questions])
    told = [said[number] for number in of_question]
    exact, main, never = exact_matches(gold, told).mean(), f1s(gold, told), f1s(gold, [""] * len(gold))
    # Readers of a question are drawn together; the mean over rows is a ratio of two sums over questions.
    sums = np.bincount(of_question, weights=main - never)
    counts = np.bincount(of_question)
    drawn = np.random.default_rng(0).integers(0, len(counts), size=(RESAMPLES, len(counts)))
    low, high = np.quantile(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1), [0.025, 0.975])
    gap = f"{(main - never).mean():+.4f} [{low:+.4f}, {high:+.4f}]"
    row = (f"{exact:.4f}", f"{main.mean():.4f}", f"{never.mean():.4f}", gap, "")
    return [first, (seed, "by reader", len(gold), answered, *row)]


PARTS = {"squad": ("squad_v1", squad), "subjqa": ("subjqa", subjqa)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=" or ".join(PARTS))
    parser.add_argument("--epochs", type=float)
    parser.add_argument("--rate", type=float, help="the peak of the learning rate")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rows", type=int, help="of the training rows, for a short trial")
    parser.add_argument("--dev", action="store_true", help="judge on the development rows")
    parser.add_argument("--side", choices=SIDES)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.side:
        place = data("squad_v1")
        assert place is not None
        setting = Setting(options.epochs, options.rate, options.seed, options.rows, options.dev)
        with tempfile.TemporaryDirectory() as folder:
            one_side = ours if options.side == "ours" else trainer
            print(json.dumps(one_side(place / "squad_v1", setting, Path(folder))))
        return
    for name in options.parts or PARTS:
        folder_name, measured = PARTS[name]
        found = data(folder_name)
        if found is not None:
            epochs, rate = options.epochs or CHOSEN[name][0], options.rate or CHOSEN[name][1]
            settings = [Setting(epochs, rate, seed, options.rows, options.dev) for seed in range(options.seeds)]
            measured(found / folder_name, settings)


if __name__ == "__main__":
    main()
