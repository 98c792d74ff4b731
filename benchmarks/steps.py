"""Our losses beside those of the reference trainers, step by step, from the same weights on the same rows.

TUNESMITH_BENCH_DATA=FOLDER python benchmarks/steps.py [NAME …]

  chat         a tiny Llama on Alpaca, beside trl.SFTTrainer
  preference   a tiny Llama on harmless replies (DPO), beside trl.DPOTrainer
  summaries    a tiny T5 on SAMSum, beside transformers.Seq2SeqTrainer
  translation  a tiny BART on Multi30k, English to German, beside transformers.Seq2SeqTrainer

Our side is `tunesmith run` and its journal. The other side has the rows that the run kept, in the order that it drew
them, and makes its own tokens of their text; AdamW, clipping and linear rate are the same, in float32 without dropout.
The second half of the steps sees the rows again, in another order. Exits with 1 where a loss, or the gradients' norm in
the middle of all steps, differs in proportion by more than rounding does. (A norm may leap in one step, where T5's ReLU
opens on one side alone.) trl is no dependency of ours: without it its two comparisons are left out.

What the two sides see alike only because something was chosen:

- What ends a reply. A model is to learn the token that stops a turn, and nothing that a template writes behind it: a
  line break here, which no model gets to write. trl's rows of prompt and completion grade that line break as well.
  Its rows of messages grade what the template marks as `generation`: the marks here end where ours do. (We need none,
  and read past them.)
- Where a prompt ends. We make tokens of a prompt and of its replies separately, so that it is the same whatever comes;
  DPOTrainer makes them of both together, and leaves out the end of a prompt that joins a reply's first token. The
  prompts here end with a line break, which joins nothing; one that ends with a space would differ.
- What is decayed. transformers.Trainer spares whatever has `bias` in its name, T5's table of relative positions among
  it; we decay every matrix. Here the reference does, too.
- What a loss is divided by. All sides take the mean over graded tokens (DPO: over pairs) of a whole batch. With
  accumulated gradients transformers.Trainer does not (huggingface/transformers#47688); here it accumulates none.
"""

import argparse
import gzip
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"  # trl reports its use otherwise

import torch
from _bench import data, table
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BartConfig,
    DataCollatorForSeq2Seq,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    PrinterCallback,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    T5Config,
    Trainer,
)

from tunesmith import api
from tunesmith.quiet import quiet
from tunesmith.train.order import Order

STEPS, BATCH, SEED = 20, 4, 11
ROWS = STEPS * BATCH // 2
CHARACTERS = 400
"""Of a row's texts together, so that nothing has to be cut."""
RATE, DECAY, BETAS, EPSILON, NORM = 1e-3, 0.01, (0.9, 0.999), 1e-8, 1.0
BETA = 0.1
LIMIT = 1e-4
"""The largest relative difference that passes for rounding."""
VOCABULARY = 600
CHAT = (
    "{{ bos_token }}{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' }}"
    "{% if message.role == 'assistant' %}{% generation %}{{ message.content + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message.content + '<|im_end|>' }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Base:
    """A family: its configuration, its tokenizer's control tokens, and those that it puts around a text."""

    config: PretrainedConfig
    auto: type
    roles: Mapping[str, str]
    around: str
    more: tuple[str, ...] = ()
    chat: str | None = None


LLAMA = Base(
    LlamaConfig(
        initializer_range=0.1,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=48,
        max_position_embeddings=512,
    ),
    AutoModelForCausalLM,
    {"bos": "<|begin|>", "eos": "<|im_end|>"},  # none to pad with, as in most Llamas
    "<|begin|> $A",
    ("<|im_start|>",),
    CHAT,
)
T5 = Base(
    T5Config(d_model=32, d_kv=16, num_layers=2, num_heads=2, d_ff=48, dropout_rate=0.0, decoder_start_token_id=0),
    AutoModelForSeq2SeqLM,
    {"pad": "<pad>", "eos": "</s>"},
    "$A </s>",
)
BART = Base(
    BartConfig(
        init_std=0.1,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_position_embeddings=512,
        dropout=0.0,
        decoder_start_token_id=2,
        forced_eos_token_id=None,
    ),
    AutoModelForSeq2SeqLM,
    {"bos": "<s>", "pad": "<pad>", "eos": "</s>"},
    "<s> $A </s>",
)


def write_base(base: Base, texts: Sequence[str], folder: Path) -> None:
    """A random model in `folder`, with a tokenizer trained on `texts`."""
    controls = [*base.roles.values(), *base.more]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=controls, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    used = [(name, tokenizer.token_to_id(name)) for name in controls if name in base.around]
    tokenizer.post_processor = processors.TemplateProcessing(single=base.around, special_tokens=used)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=512,
        extra_special_tokens=list(base.more),
        chat_template=base.chat,
        **{f"{role}_token": name for role, name in base.roles.items()},
    )
    config = type(base.config).from_dict(base.config.to_dict())
    config.vocab_size = len(fast)
    for role in ("bos", "eos", "pad"):
        setattr(config, f"{role}_token_id", getattr(fast, f"{role}_token_id"))
    torch.manual_seed(SEED)
    base.auto.from_config(config).save_pretrained(folder)
    fast.save_pretrained(folder)


def alpaca(row: Row) -> Row:
    return {name: row[name] for name in ("instruction", "input", "output")}


def judged_replies(row: Row) -> Row:
    """The prompt, a list of messages, as a text; it ends with what joins no token of a reply."""
    said = "".join(f"{message['role'].capitalize()}: {message['content']}\n\n" for message in row["prompt"])
    return {"prompt": f"{said}Assistant:\n", "chosen": row["chosen"], "rejected": row["rejected"]}


def summary(row: Row) -> Row:
    return {"source": row["source"], "target": row["targets"][0]}


def translated(row: Row) -> Row:
    return {"source": row["en"], "target": row["de"]}


def read(path: Path, made: Callable[[Row], Row]) -> Iterator[Row]:
    """The first rows that are short."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = (made(json.loads(line)) for line in file)
        yield from islice((row for row in rows if sum(map(len, row.values())) <= CHARACTERS), ROWS)


@dataclass(frozen=True)
class Seen:
    """What the reference is given: the base's folder, the rows, in which order they come, and a folder to work in."""

    base: Path
    rows: Sequence[Row]
    order: Sequence[int]
    folder: Path

    def model(self, auto: type) -> Any:
        return auto.from_pretrained(self.base, dtype=torch.float32)

    @property
    def arguments(self) -> dict[str, Any]:
        return {
            "output_dir": str(self.folder / "reference"),
            "max_steps": STEPS,
            "per_device_train_batch_size": BATCH,
            "learning_rate": RATE,
            "lr_scheduler_type": "linear",
            "weight_decay": DECAY,
            "adam_beta1": BETAS[0],
            "adam_beta2": BETAS[1],
            "adam_epsilon": EPSILON,
            "max_grad_norm": NORM,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "dataloader_pin_memory": False,
            "seed": SEED,
        }


def alike(trainer: Any, order: Sequence[int]) -> Any:
    """`trainer` with its rows in our order, and its decay on what we decay."""

    class Alike(trainer):
        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return order

        def get_decay_parameter_names(self, model: torch.nn.Module) -> list[str]:
            return [name for name, parameter in model.named_parameters() if parameter.ndim >= 2]

    return Alike


def sft(seen: Seen) -> Trainer:
    import datasets
    from trl import SFTConfig, SFTTrainer

    datasets.disable_progress_bars()
    asked = [row["instruction"] + (f"\n{row['input']}" if row["input"].strip() else "") for row in seen.rows]
    rows = [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": row["output"]}]}
        for text, row in zip(asked, seen.rows, strict=True)
    ]
    arguments = SFTConfig(
        **seen.arguments, bf16=False, gradient_checkpointing=False, max_length=None, assistant_only_loss=True
    )
    return alike(SFTTrainer, seen.order)(
        seen.model(AutoModelForCausalLM),
        arguments,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(seen.base),
    )


def dpo(seen: Seen) -> Trainer:
    import datasets
    from trl import DPOConfig, DPOTrainer

    datasets.disable_progress_bars()
    arguments = DPOConfig(**seen.arguments, bf16=False, gradient_checkpointing=False, max_length=None, beta=BETA)
    return alike(DPOTrainer, seen.order)(
        seen.model(AutoModelForCausalLM),
        seen.model(AutoModelForCausalLM),
        arguments,
        train_dataset=datasets.Dataset.from_list([dict(row) for row in seen.rows]),
        processing_class=AutoTokenizer.from_pretrained(seen.base),
    )


def seq2seq(seen: Seen) -> Trainer:
    tokenizer, model = AutoTokenizer.from_pretrained(seen.base), seen.model(AutoModelForSeq2SeqLM)
    model.accepts_loss_kwargs = False
    rows = [{**tokenizer(row["source"]), "labels": tokenizer(text_target=row["target"]).input_ids} for row in seen.rows]
    return alike(Seq2SeqTrainer, seen.order)(
        model,
        Seq2SeqTrainingArguments(**seen.arguments),
        DataCollatorForSeq2Seq(tokenizer, model),
        rows,
        processing_class=tokenizer,
    )


@dataclass(frozen=True)
class Case:
    """file: of the data folder. made: what both sides are given of a row. task: of the recipe."""

    file: str
    made: Callable[[Row], Row]
    base: Base
    task: Mapping[str, Any]
    reference: Callable[[Seen], Trainer]
    needs: str = "transformers"


BRIEF = {"decoding": {"max_new_tokens": 1}}
"""What is generated when the run is judged is not looked at."""
CASES = {
    "chat": Case("alpaca_raw_9k/train.jsonl.gz", alpaca, LLAMA, {"kind": "chat", **BRIEF}, sft, "trl"),
    "preference": Case(
        "hh_harmless/train.jsonl.gz", judged_replies, LLAMA, {"kind": "preference", "beta": BETA}, dpo, "trl"
    ),
    "summaries": Case("samsum/train.jsonl.gz", summary, T5, {"kind": "generation", **BRIEF}, seq2seq),
    "translation": Case("multi30k/train.jsonl.gz", translated, BART, {"kind": "generation", **BRIEF}, seq2seq),
}


def ours(case: Case, base: Path, rows: Sequence[Row], folder: Path) -> tuple[list[Row], list[Row]]:
    """The steps of our journal, and the rows that were learned from."""
    (folder / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    recipe = {
        "model": str(base),
        "task": dict(case.task),
        "data": {"train": str(folder / "rows.jsonl"), "validation": 0, "on_bad_row": "skip", "cache": False},
        "method": "full",
        "train": {
            "epochs": 1000,
            "max_steps": STEPS,
            "batch_size": BATCH,
            "learning_rate": RATE,
            "warmup": 0,
            "weight_decay": DECAY,
            "betas": list(BETAS),
            "epsilon": EPSILON,
            "max_grad_norm": NORM,
            "precision": "float32",
            "evaluate_every": STEPS,
        },
        "evaluate": {"baselines": False, "resamples": 100},
        "deploy": {"verify": False},
        "seed": SEED,
    }
    run = api.run(recipe, folder=folder / "run")
    if run.read_json("audit.json")["splits"]["train"]["tokens"]["cut_rows"]:
        raise SystemExit("rows were cut, and the reference would not cut them alike")
    kept = [rows[line - 1] for _, line in run.read_json("split.json")["train"]]
    events = [json.loads(line) for line in run.journal.read_text(encoding="utf-8").splitlines()]
    return [event for event in events if event["event"] == "step"], kept


def compared(case: Case, place: Path) -> list[tuple[Row, Row]]:
    """Each step as we did it and as the reference did."""
    rows = list(read(place / case.file, case.made))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_base(case.base, [text for row in rows for text in row.values()], folder / "base")
        steps, kept = ours(case, folder / "base", rows, folder)
        order = Order(len(kept), BATCH, SEED)
        drawn = [int(row) for step in range(STEPS) for row in order.batch(step)]
        trainer = case.reference(Seen(folder / "base", kept, drawn, folder))
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    logged = [event for event in trainer.state.log_history if "loss" in event]
    return list(zip(steps, logged, strict=True))


def relative(pairs: Sequence[tuple[float, float]]) -> list[float]:
    """How much each of ours differs, in proportion to the reference's."""
    return [abs(one - other) / abs(other) for one, other in pairs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(CASES))
    names = parser.parse_args().names or list(CASES)
    found: list[tuple[Any, ...]] = []
    worst = 0.0
    for name in names:
        case = CASES[name]
        place = data(Path(case.file).parts[0])
        if place is None:
            continue
        if find_spec(case.needs) is None:
            print(f"{name} skipped: {case.needs} is not installed", flush=True)
            continue
        with quiet():
            steps = compared(case, place)
        losses = [(one["loss"], other["loss"]) for one, other in steps]
        absolute, proportion = max(abs(a - b) for a, b in losses), max(relative(losses))
        norms = statistics.median(relative([(one["gradient_norm"], other["grad_norm"]) for one, other in steps]))
        first = [" ".join(f"{pair[side]:.6f}" for pair in losses[:3]) for side in (0, 1)]
        found.append((name, *first, f"{losses[-1][0]:.6f}", f"{absolute:.1e}", f"{proportion:.1e}", f"{norms:.1e}"))
        worst = max(worst, proportion, norms)
    header = (
        "comparison", "our losses, steps 1 to 3", "theirs", f"ours, step {STEPS}", "largest gap", "in proportion",
        "median gap of norms",
    )  # fmt: skip
    if found:
        table(header, found)
    if worst > LIMIT:
        sys.exit(f"losses or gradient norms differ by {worst:.1e} in proportion, and {LIMIT:g} passes for rounding")


if __name__ == "__main__":
    main()
