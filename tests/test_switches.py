"""No key of a recipe is dead: each one, set to another value, changes what it says that it changes."""

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from test_pipeline import house, losses, recipe, weights
from tiny import model_folder
from tunesmith import api
from tunesmith.adapt import METHODS
from tunesmith.errors import UserError
from tunesmith.recipe import Recipe, recipe_from
from tunesmith.retain.options import RetainOptions
from tunesmith.run import Run
from tunesmith.tasks import TASKS

__all__ = ["house"]
UNEVEN = "data.train=uneven.jsonl"
PAIRS = "data.train=pairs.jsonl"
NUMBERS = ("data.train=numbers.jsonl", "task={kind: regression, text: said, target: much}")
LORA = "method={kind: lora, rank: 4}"
ADALORA = "method={kind: adalora, rank: 4}"
FEW = ("train.max_steps=2", "evaluate.baselines=false")
FAST = ("train.learning_rate=0.01", "train.precision=float32", "evaluate.baselines=false")
TWO_TEXTS = "task.template='{text} {text_b} {label}'"
WORDED = ("task={kind: prompted}", *FEW)
SEVERAL = (
    "data.train=[rows.jsonl, numbers.jsonl]",
    "data.on_bad_row=skip",
    "task={kind: multi_task, tasks: {a: {kind: classification}, b: {kind: regression, text: said, target: much}}}",
    *FEW,
)
TWO = "{a: {kind: classification}, b: {kind: classification, text: said, label: meant}}"
NER = ("data.train=told.jsonl", "task={kind: ner}", *FEW)
SPAN_QA = ("data.train=asked.jsonl", "task={kind: span_qa}", *FEW)
CHOICE = ("data.train=chosen.jsonl", "task={kind: multiple_choice}", "model=./gpt2", *FEW)
PREFERENCE = ("data.train=judged.jsonl", "task={kind: preference}", "model=./gpt2", *FEW)
KTO = (*PREFERENCE, "task.criterion=kto", "task.completion=chosen", "task.label=good")
LANGUAGE = ("data.train=rows.jsonl", "data.limit=12", "task={kind: language}", *FEW)
TALKS = "decoding: {max_new_tokens: 8}"
GENERATION = (
    "data.train=written.jsonl",
    f"task={{kind: generation, {TALKS}}}",
    "model=./gpt2",
    "train.epochs=2",
    *FAST,
)
CODE = (
    "data.train=code.jsonl",
    f"task={{kind: code, language: sql, {TALKS}}}",
    "model=./gpt2",
    "train.epochs=2",
    *FAST,
)
PYTHON = (*CODE, "task.language=python", "task.test=test", "task.prompt=comment", "task.solution=function")
TRANSLATION = (*GENERATION, "model=./mbart", "task.source_language=en_XX", "task.target_language=de_DE")
CHAT = ("data.train=spoken.jsonl", f"task={{kind: chat, {TALKS}}}", "model=./gpt2", "train.epochs=4", *FAST)
PROMPTED = (*CHAT, "task.form=prompt")
LOUD = "{% for message in messages %}{{ 'LOUD ' if loud else '' }}{{ message.content + eos_token }}{% endfor %}"
STERN = "{% if messages[0].role == 'system' %}{{ raise_exception('none here') }}{% endif %}" + LOUD
Shown = Callable[[Run], Any]


def events(run: Run, kind: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in run.journal.read_text().splitlines()]
    return [event for event in found if event["event"] == kind]


def rates(run: Run) -> list[float]:
    return [event["learning_rate"] for event in events(run, "step")]


def of(name: str, *path: str) -> Shown:
    """A value in one of the run's JSON files."""

    def found(run: Run) -> Any:
        value = run.read_json(name)
        for part in path:
            value = value[int(part)] if isinstance(value, list) else value[part]
        return value

    return found


def checkpoints(run: Run) -> list[str]:
    return sorted(path.name for path in run.checkpoints.glob("step-*"))


def steps(run: Run) -> int:
    return len(events(run, "step"))


def bests(run: Run) -> list[bool]:
    return [event["best"] for event in events(run, "evaluation")]


def answers(run: Run) -> str:
    return run.predictions.read_text()


def main(run: Run) -> Any:
    return run.read_json("evaluation.json")["main"]


def measured(run: Run) -> list[str]:
    return list(run.read_json("evaluation.json")["metrics"])


def ways(run: Run) -> Any:
    return run.read_json("audit.json")["ledger"]["ways"]


def talk(*settings: str) -> tuple[str, ...]:
    return tuple(f"task.decoding.{setting}" for setting in settings)


DECODING: dict[str, tuple[tuple[str, ...], str]] = {
    "max_new_tokens": ((), "2"),
    "min_new_tokens": (("train.epochs=4",), "7"),
    "beams": ((), "3"),
    "length_penalty": (talk("beams=3"), "-9"),
    "no_repeat_ngram": ((), "1"),
    "repetition_penalty": ((), "9"),
    "temperature": ((), "2"),
    "top_p": (talk("temperature=1"), "0.01"),
    "top_k": (talk("temperature=1"), "1"),
    "stop": ((), "[a, e, o]"),
    "seed": (talk("temperature=1"), "5"),
}
"""What both tasks that have texts generated can set about it: settings of both runs, the setting of the second."""
SWITCHES: dict[str, tuple[tuple[str, ...], str, Shown]] = {
    # key: (settings of both runs, the setting of the second, what differs)
    "seed": ((), "5", weights),
    "task.classification.text": ((), "other", weights),
    "task.classification.text_b": ((PAIRS,), "other", weights),
    "task.classification.label": ((), "mood", of("evaluation.json", "per_class")),
    "task.classification.multi_label": ((), "true", of("evaluation.json", "main")),
    "task.classification.separator": (
        ("task.multi_label=true", "task.label=tags"), "' and '", of("evaluation.json", "per_class"),
    ),
    "task.classification.labels": ((), "[praise, late, broken, extra]", of("evaluation.json", "confusion", "labels")),
    "task.classification.metric": ((), "mcc", of("evaluation.json", "main")),
    "task.classification.balance": ((UNEVEN,), "weights", losses),
    "task.classification.label_smoothing": ((), "0.2", losses),
    "task.classification.threshold": (("task.multi_label=true",), "0.01", of("evaluation.json", "metrics")),
    "task.classification.weights": ((), "[1, 5, 1]", losses),
    "task.regression.text": (NUMBERS, "meant", losses),
    "task.regression.text_b": (NUMBERS, "meant", losses),
    "task.regression.target": (NUMBERS, "[much, more]", losses),
    "task.regression.metric": (NUMBERS, "rmse", of("evaluation.json", "main")),
    "task.regression.criterion": (NUMBERS, "huber", losses),
    "task.regression.means": (NUMBERS, "[50]", losses),
    "task.regression.scales": (NUMBERS, "[50]", losses),
    "task.prompted.text": (WORDED, "other", losses),
    "task.prompted.text_b": ((*WORDED, TWO_TEXTS, "task.text_b=other"), "mood", losses),
    "task.prompted.label": (WORDED, "mood", losses),
    "task.prompted.labels": (WORDED, "[late, broken, praise, more]", losses),
    "task.prompted.template": (WORDED, "'{label}: {text}'", losses),
    "task.prompted.words": (WORDED, "{late: now, broken: again, praise: thank}", losses),
    "task.prompted.shots": (WORDED, "1", losses),
    "task.prompted.demonstrations": (WORDED, "[[my kettle, late]]", losses),
    "task.prompted.normalise": ((*WORDED, "task.words={late: late now, broken: so, praise: kind}"), "none", losses),
    "task.prompted.metric": (WORDED, "macro_f1", main),
    "task.multi_task.tasks": (SEVERAL, TWO, of("parameters.json", "total")),
    "task.multi_task.column": (SEVERAL, "serves", ways),
    "task.multi_task.temperature": (SEVERAL, "0", losses),
    "task.multi_task.shares": (SEVERAL, "{a: 1, b: 9}", losses),
    "task.multi_task.metric": (SEVERAL, "b/mae", main),
    "task.ner.tokens": (NER, "words", losses),
    "task.ner.tags": (NER, "marks", losses),
    "task.ner.tag_names": (
        (*NER, "task.tags=numbers", "task.tag_names=[O, B-THING, I-THING, B-TIME]"), "[O, B-TIME, I-TIME, B-THING]",
        losses,
    ),
    "task.ner.text": (NER, "said", losses),
    "task.ner.spans": ((*NER, "task.text=said"), "spans", losses),
    "task.ner.scheme": ((*NER, "task.tags=loose", "data.on_bad_row=skip"), "any", ways),
    "task.ner.tagging": (NER, "IOBES", of("parameters.json", "total")),
    "task.ner.whole_words": ((*NER, "model=./llama", "task.tokens=odd"), "false", losses),
    "task.ner.valid": (NER, "true", answers),
    "task.ner.window": (NER, "8", losses),
    "task.ner.stride": ((*NER, "task.window=8"), "1", losses),
    "task.ner.labels": (NER, "[THING, TIME, EXTRA]", of("parameters.json", "total")),
    "task.ner.metric": (NER, "entity_recall", main),
    "task.span_qa.question": (SPAN_QA, "other", losses),
    "task.span_qa.context": (SPAN_QA, "told", losses),
    "task.span_qa.answers": (SPAN_QA, "late", losses),
    "task.span_qa.window": (SPAN_QA, "16", losses),
    "task.span_qa.stride": ((*SPAN_QA, "task.window=16"), "0", losses),
    "task.span_qa.longest": (SPAN_QA, "2", answers),
    "task.span_qa.best": (SPAN_QA, "1", answers),
    "task.span_qa.threshold": (SPAN_QA, "-1000", answers),
    "task.span_qa.metric": (SPAN_QA, "answer_exact", main),
    "task.multiple_choice.question": (CHOICE, "other", losses),
    "task.multiple_choice.context": (CHOICE, "other", losses),
    "task.multiple_choice.choices": (CHOICE, "[one, two]", losses),
    "task.multiple_choice.answer": (CHOICE, "wrong", losses),
    "task.multiple_choice.frame": (CHOICE, "'{question} now'", losses),
    "task.multiple_choice.normalise": (CHOICE, "none", losses),
    "task.multiple_choice.metric": (CHOICE, "log_loss", main),
    "task.preference.prompt": (PREFERENCE, "other", losses),
    "task.preference.chosen": (PREFERENCE, "other", losses),
    "task.preference.rejected": (PREFERENCE, "other", losses),
    "task.preference.completion": (KTO, "other", losses),
    "task.preference.label": (KTO, "late", losses),
    "task.preference.conversations": (PREFERENCE, "true", losses),
    "task.preference.criterion": (PREFERENCE, "ipo", losses),
    "task.preference.beta": (PREFERENCE, "2", losses),
    "task.preference.label_smoothing": (PREFERENCE, "0.3", losses),
    "task.preference.margin": ((*PREFERENCE, "task.criterion=simpo"), "2", losses),
    "task.preference.desirable": (KTO, "3", losses),
    "task.preference.undesirable": (KTO, "3", losses),
    "task.preference.metric": (PREFERENCE, "reward_margin", main),
    "task.language.text": (LANGUAGE, "other", losses),
    "task.language.share": (LANGUAGE, "0.5", losses),
    "task.language.whole_words": (LANGUAGE, "false", losses),
    "task.language.span": ((*LANGUAGE, "model=./flan", "task.share=0.5"), "1", losses),
    "task.language.metric": (LANGUAGE, "token_accuracy", main),
    "task.generation.source": (GENERATION, "other", losses),
    "task.generation.target": (GENERATION, "other", losses),
    "task.generation.template": (GENERATION, "'{source} now:'", losses),
    "task.generation.source_language": (TRANSLATION, "fr_XX", losses),
    "task.generation.target_language": (TRANSLATION, "fr_XX", losses),
    "task.generation.metric": (GENERATION, "chrf", main),
    "task.code.prompt": (CODE, "other", losses),
    "task.code.solution": (CODE, "wrong", losses),
    "task.code.suffix": ((*CODE, "model=./codellama"), "behind", losses),
    "task.code.language": (CODE, "other", measured),
    "task.code.test": (CODE, "test", main),
    "task.code.entry_point": (
        (*PYTHON, "evaluate.baselines=true"), "name", of("evaluation.json", "baselines"),
    ),
    "task.code.schema": (CODE, "script", main),
    "task.code.samples": ((*PYTHON, *talk("temperature=1")), "10", measured),
    "task.code.metric": (CODE, "chrf", main),
    "task.chat.form": (CHAT, "prompt", losses),
    "task.chat.messages": (CHAT, "turns", losses),
    "task.chat.prompt": (PROMPTED, "other", losses),
    "task.chat.reply": (PROMPTED, "other", losses),
    "task.chat.system": (CHAT, "kind shop", losses),
    "task.chat.template": (CHAT, f'"{LOUD}"', losses),
    "task.chat.template_values": ((*CHAT, f'task.template="{LOUD}"'), "{loud: true}", losses),
    "task.chat.fold_system": ((*PROMPTED, f'task.template="{STERN}"', "data.on_bad_row=skip"), "true", ways),
    "task.chat.on_long": ((*CHAT, "data.max_tokens=32"), "drop", ways),
    "task.chat.expect": (CHAT, "json", measured),
    "task.chat.metric": (CHAT, "chrf", main),
    **{
        f"task.{kind}.decoding.{key}": ((*common, *more), value, answers)
        for kind, common in (("generation", GENERATION), ("chat", CHAT), ("code", CODE))
        for key, (more, value) in DECODING.items()
    },
    "task.code.decoding.min_new_tokens": ((*CODE, "train.epochs=12"), "8", answers),
    "task.code.decoding.stop": (CODE, "[S, E, T, ' ']", answers),
    "data.train": ((), "uneven.jsonl", of("audit.json", "ledger")),
    "data.validation": ((), "0.4", of("audit.json", "ledger")),
    "data.test": ((), "pairs.jsonl", of("audit.json", "ledger")),
    "data.group": ((), "group", of("split.json", "train")),
    "data.max_tokens": ((), "4", of("audit.json", "splits", "train", "tokens", "cut_rows")),
    "data.limit": ((), "30", of("audit.json", "ledger")),
    "data.seed": ((), "1", of("split.json", "train")),
    "data.cache": ((), "true", lambda run: (run.folder.parent / ".cache").is_dir()),
    "method.kind": ((), "lora", weights),
    "method.lora.rank": ((LORA,), "2", of("parameters.json", "trainable")),
    "method.lora.alpha": ((LORA,), "64", weights),
    "method.lora.dropout": ((LORA,), "0.5", losses),
    "method.lora.targets": ((LORA,), "[query]", of("parameters.json", "trainable")),
    "method.lora.rslora": ((LORA,), "true", losses),
    "method.lora.dora": ((LORA,), "true", of("parameters.json", "trainable")),
    "method.lora.ranks": ((LORA,), "{value: 2}", of("parameters.json", "trainable")),
    "method.lora.alphas": ((LORA,), "{value: 64}", losses),
    "method.lora.init": ((LORA,), "orthogonal", losses),
    "method.lora.plus": ((LORA,), "16", losses),
    "method.partial.top": (("method={kind: partial}",), "2", of("parameters.json", "trainable")),
    "method.partial.biases": (("method={kind: partial, top: 1}",), "true", of("parameters.json", "trainable")),
    "method.partial.norms": (("method={kind: partial, top: 1}",), "true", of("parameters.json", "trainable")),
    "method.partial.modules": (("method={kind: partial, top: 1}",), "[embeddings]", of("parameters.json", "trainable")),
    "method.bitfit.top": (("method={kind: bitfit}",), "1", of("parameters.json", "trainable")),
    "method.bitfit.biases": (("method={kind: bitfit, norms: true}",), "false", of("parameters.json", "trainable")),
    "method.bitfit.norms": (("method={kind: bitfit}",), "true", of("parameters.json", "trainable")),
    "method.bitfit.modules": (("method={kind: bitfit}",), "[embeddings]", of("parameters.json", "trainable")),
    "method.adapter.places": (("method={kind: adapter}",), "pfeiffer", of("parameters.json", "trainable")),
    "method.adapter.reduction": (("method={kind: adapter}",), "4", of("parameters.json", "trainable")),
    "method.adapter.activation": (("method={kind: adapter}",), "relu", losses),
    "method.adapter.scale": (("method={kind: adapter}",), "3", losses),
    "method.adapter.after": (("method={kind: adapter}",), "[value]", of("parameters.json", "trainable")),
    "method.adalora.rank": ((ADALORA,), "3", of("parameters.json", "trainable")),
    "method.adalora.begin": ((ADALORA,), "8", of("parameters.json", "trainable")),
    "method.adalora.alpha": ((ADALORA,), "64", weights),
    "method.adalora.dropout": ((ADALORA,), "0.5", losses),
    "method.adalora.targets": ((ADALORA,), "[query]", of("parameters.json", "trainable")),
    "method.adalora.orthogonal": ((ADALORA,), "0", losses),
    "method.vera.rank": (("method={kind: vera}",), "8", of("parameters.json", "trainable")),
    "method.vera.dropout": (("method={kind: vera}",), "0.5", losses),
    "method.vera.initial": (("method={kind: vera}",), "1", losses),
    "method.vera.targets": (("method={kind: vera}",), "[query]", of("parameters.json", "trainable")),
    **{
        f"method.{kind}.{key}": ((f"method={{kind: {kind}, rank: 4}}",), value, shown)
        for kind in ("loha", "lokr")
        for key, value, shown in (
            ("rank", "2", of("parameters.json", "trainable")),
            ("alpha", "64", losses),
            ("dropout", "0.5", losses),
            ("targets", "[query]", of("parameters.json", "trainable")),
        )
    },
    "method.lokr.factor": (("method={kind: lokr, rank: 2}",), "4", losses),
    "method.lokr.both": (("method={kind: lokr, rank: 1}",), "true", of("parameters.json", "trainable")),
    "method.prompt.tokens": (("method={kind: prompt}",), "3", of("parameters.json", "trainable")),
    "method.prompt.init": (("method={kind: prompt}",), "labels", losses),
    "method.prompt.text": (("method={kind: prompt, init: text, text: good}",), "bad", losses),
    "method.p_tuning.tokens": (("method={kind: p_tuning}",), "3", of("parameters.json", "trainable")),
    "method.p_tuning.encoder": (("method={kind: p_tuning}",), "lstm", of("parameters.json", "trainable")),
    "method.p_tuning.width": (("method={kind: p_tuning}",), "16", of("parameters.json", "trainable")),
    "method.p_tuning.layers": (("method={kind: p_tuning, encoder: lstm}",), "1", of("parameters.json", "trainable")),
    "method.p_tuning.dropout": (("method={kind: p_tuning, encoder: lstm}",), "0.5", losses),
    "method.prefix.tokens": (("method={kind: prefix}",), "3", of("parameters.json", "trainable")),
    "method.prefix.init": (("method={kind: prefix}",), "random", losses),
    "method.prefix.text": (("method={kind: prefix}",), "good", losses),
    "method.prefix.projection": (("method={kind: prefix}",), "true", of("parameters.json", "trainable")),
    "method.prefix.width": (("method={kind: prefix, projection: true}",), "16", of("parameters.json", "trainable")),
    "method.oft.block": (("method={kind: oft}",), "8", of("parameters.json", "trainable")),
    "method.oft.targets": (("method={kind: oft}",), "[query]", of("parameters.json", "trainable")),
    "train.epochs": ((), "1", steps),
    "train.max_steps": ((), "3", steps),
    "train.batch_size": ((), "7", steps),
    "train.learning_rate": ((), "5e-4", rates),
    "train.schedule": ((), "cosine", rates),
    "train.warmup": ((), "5", rates),
    "train.weight_decay": ((), "0.5", weights),
    "train.betas": ((), "[0.5, 0.9]", weights),
    "train.epsilon": ((), "0.01", weights),
    "train.max_grad_norm": ((), "0.01", weights),
    "train.precision": (("train.precision=float32",), "bfloat16", losses),
    "train.layer_decay": ((), "0.5", weights),
    "train.unfreeze": ((), "{every: 2}", weights),
    "train.dropout": ((), "0.5", losses),
    "train.evaluate_every": ((), "2", lambda run: len(events(run, "evaluation"))),
    "train.save_every": (("train.keep=9",), "2", checkpoints),
    "train.keep": ((), "3", checkpoints),
    "train.trackers": ((), "[tensorboard]", lambda run: bool(list(run.folder.glob("tensorboard/events*")))),
    "train.stop.patience": (("train.learning_rate=1e-9", "train.epochs=9"), "1", steps),
    "train.stop.metric": (
        ("train.learning_rate=0.02", "train.epochs=6"), "loss", bests,
    ),
    "train.stop.min_change": (
        ("train.epochs=6",), "0.9", bests,
    ),
    "train.stop.restore_best": (("train.learning_rate=1e-5", "train.stop.min_change=0.9"), "false", weights),
    "evaluate.baselines": ((), "false", of("evaluation.json", "baselines")),
    "evaluate.validation_replies": (GENERATION, "2", lambda run: events(run, "evaluation")[0]["metrics"]),
    "evaluate.resamples": ((), "200", of("evaluation.json", "baselines")),
    "evaluate.level": ((), "0.6", of("evaluation.json", "metrics", "accuracy", "low")),
    "deploy.formats": ((LORA,), "[safetensors]", of("deploy.json", "0", "kind")),
    "deploy.verify": ((), "true", of("deploy.json", "0", "parity")),
    "deploy.licence": ((), "mit", lambda run: (run.artifact / "README.md").read_text()),
}  # fmt: skip
"""The micro-batch size, gradient checkpointing and determinism change nothing that a run leaves; see `SAME`."""
SAME: dict[str, tuple[tuple[str, ...], str]] = {
    # key: (settings of both runs, the setting of the second)
    "train.micro_tokens": ((), "8"),
    "train.gradient_checkpointing": ((), "true"),
    "train.deterministic": ((), "false"),
    "train.packing": ((*GENERATION, "model=./llama"), "true"),
}
ELSEWHERE = {
    "name": "the folder of a run: test_cli",
    "stages": "test_stages",
    "model.name": "test_select",
    "model.revision": "test_select",
    "model.download": "test_select",
    "model.new_tokens": "test_new_tokens",
    "model.quantise": "test_quantised",
    **dict.fromkeys((f"method.adalora.{key}" for key in ("wait", "rest", "every")), "test_adalora"),
    "evaluate.general": "test_general",
    "evaluate.probes": "test_probing",
    "evaluate.probe_every": "test_probing",
    **dict.fromkeys((f"retain.{cure}" for cure in RetainOptions.model_fields), "test_retain"),
    "task.kind": "the matrix",
    "data.on_bad_row": "test_corpus, and below",
    "task.code.database": "test_code, with a database on disk",
}


@pytest.fixture(scope="module")
def place(house: Path) -> Path:
    """The house with more models, and with rows whose every column tells something else."""
    for kind in ("llama", "flan", "mbart", "codellama"):
        model_folder(kind, house / kind)
    texts = [json.loads(line) for line in (house / "rows.jsonl").read_text().splitlines()]
    rows = [
        {**row, "other": row["text"][::-1], "mood": "good" if n % 2 else "bad", "group": n // 4,
         "tags": "late" if n % 2 else "late and broken", "serves": "a" if n % 3 else "c"}
        for n, row in enumerate(texts)
    ]  # fmt: skip
    numbers = [
        {"said": row["text"], "meant": row["label"], "much": float(n), "more": -n} for n, row in enumerate(texts)
    ]
    files = {"rows": rows, "uneven": [row for n, row in enumerate(rows) if n % 3 == 0 or n % 2], "numbers": numbers}
    files["pairs"] = [{**row, "text": f"again {row['text']}"} for row in rows[:20]]
    for name, found in {**files, **told(12)}.items():
        (house / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    return house


def told(count: int) -> dict[str, list[dict[str, Any]]]:
    """Rows of the tasks beyond a label or a number, by the name of their file."""
    files: dict[str, list[dict[str, Any]]] = {
        name: [] for name in ("told", "asked", "chosen", "judged", "written", "spoken", "code")
    }
    for n in range(count):
        thing, when, number = ("kettle", "lamp", "chair")[n % 3], ("now", "yesterday")[n % 2], str(n % 3 + 1)
        asked, right, wrong = f"is my {thing} late {number}", f"the {thing} arrived {when}", f"never {number} again"
        tokens = ["my", "red", thing, "arrived", when, "and", "is", "broken", "again", "and", "again", number]
        tags = ["O", "B-THING", "I-THING", "O", "B-TIME", *["O"] * 7]
        files["told"].append({
            "tokens": tokens, "words": tokens[::-1], "odd": ["xylophone", *tokens[1:]], "tags": tags,
            "marks": ["B-TIME", *tags[1:]],
            "numbers": [("O", "B-THING", "I-THING", "B-TIME").index(tag) for tag in tags],
            "loose": ["I-TIME", *tags[1:]] if n % 2 else tags,
            "said": f"my [[THING|{thing}]] is late [[TIME|{when}]]", "spans": [[0, 2, "TIME"], [3, 7, "THING"]],
        })  # fmt: skip
        context = " ".join(tokens)
        files["asked"].append({
            "question": "what is broken", "other": "what is late", "context": context, "told": f"good {context}",
            "answers": [f"red {thing}"] if n % 3 else [], "late": when,
        })  # fmt: skip
        files["chosen"].append({
            "question": asked, "other": "where", "choices": [right, wrong, "good morning"],
            "one": "slow", "two": "quick", "answer": n % 2, "wrong": 1 - n % 2,
        })  # fmt: skip
        files["judged"].append({
            "prompt": asked, "chosen": right, "rejected": wrong, "other": f"please {number}",
            "good": n % 3 > 0, "late": n % 2,
        })  # fmt: skip
        files["written"].append({"source": asked, "target": right, "other": wrong})
        files["code"].append({
            "prompt": f"{asked}: ", "comment": f"# {asked}\n", "other": f"{thing} ", "solution": f"SELECT {number}",
            "wrong": f"SELECT '{thing}'",
            "behind": f";{thing}", "script": "CREATE TABLE t (a); INSERT INTO t VALUES (1);", "test": "assert True",
            "name": "f", "function": f"def f(x):\n return {number}",
        })  # fmt: skip
        turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": right}]
        more = [{"role": "user", "content": "and"}, {"role": "assistant", "content": wrong}]
        files["spoken"].append({
            "messages": turns + more * (n % 2), "turns": more, "prompt": asked, "completion": wrong,
            "other": "thank you", "system": "slow shop" if n % 2 else None,
        })  # fmt: skip
    return files


def done(place: Path, folder: Path, *settings: str) -> Run:
    whole = {**recipe(place), "data": {"train": "rows.jsonl", "validation": 0.2, "test": 0.2, "cache": False}}
    return api.run(whole, overrides=settings, folder=folder / "run", base=place)


KNOWN: dict[tuple[str, ...], Run] = {}


@pytest.mark.parametrize("key", SWITCHES)
def test_a_key_changes_what_it_says(
    key: str, place: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    common, value, shown = SWITCHES[key]
    if common not in KNOWN:
        KNOWN[common] = done(place, tmp_path_factory.mktemp("first"), *common)
    parts = key.split(".")
    word = ".".join(parts if parts[0] not in ("task", "method") or len(parts) < 3 else (parts[0], *parts[2:]))
    other = done(place, tmp_path, *common, f"{word}={value}")
    assert shown(KNOWN[common]) != shown(other)


@pytest.mark.parametrize("key", SAME)
def test_a_key_of_cost_leaves_the_losses_as_they_are(key: str, place: Path, tmp_path: Path) -> None:
    common, value = SAME[key]
    settings = (*common, "train.dropout=0", "train.precision=float32")
    one = done(place, tmp_path / "one", *settings)
    other = done(place, tmp_path / "other", *settings, f"{key}={value}")
    assert losses(other) == pytest.approx(losses(one), rel=1e-3)


def test_bad_rows_stop_a_run_or_are_counted(place: Path, tmp_path: Path) -> None:
    with gzip.open(place / "bad.jsonl.gz", "wt") as file:
        file.write((place / "rows.jsonl").read_text() + '{"text": "no label"}\nnot json\n')
    with pytest.raises(UserError, match="line 49"):
        done(place, tmp_path / "one", "data.train=bad.jsonl.gz")
    run = done(place, tmp_path / "two", "data.train=bad.jsonl.gz", "data.on_bad_row=skip")
    ways = run.read_json("audit.json")["ledger"]["ways"]
    assert sum(count for way, count in ways.items() if way.startswith("skipped")) == 2


def keys(values: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    if not isinstance(values, dict) or not values:
        yield ".".join(path)
        return
    for name, value in values.items():
        if name == "tasks":  # whose keys are those of tasks
            yield ".".join((*path, name))
        else:
            yield from keys(value, (*path, name))


def test_every_key_of_every_part_is_here() -> None:
    known: set[str] = set()
    for task in TASKS:
        for method in METHODS:
            needed = TASKS.load(task).specimens[0].options if task == "multi_task" else {}
            asked = {"kind": task, **needed}
            whole = recipe_from({"model": "m", "task": asked, "data": "d", "method": {"kind": method}})
            for key in keys(whole.as_mapping()):
                section, _, rest = key.partition(".")
                kind = {"task": task, "method": method}.get(section)
                known.add(f"{section}.{kind}.{rest}" if kind and rest != "kind" else key)
    assert isinstance(whole, Recipe)
    assert known == {*SWITCHES, *SAME, *ELSEWHERE}
