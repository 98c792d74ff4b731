"""A model of every head leaves the house whole: it loads with nothing of ours, and answers as it did before."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import PeftModel

from test_deploy import opened, parcel
from tunesmith import commit
from tunesmith.batch import encoded
from tunesmith.contracts import Artifact, Record, Task
from tunesmith.deploy.export import export
from tunesmith.deploy.parcel import Parcel
from tunesmith.deploy.parity import LIMIT
from tunesmith.deploy.parity_child import reduced
from tunesmith.forward import Inference, all_outputs
from tunesmith.generate import Speaker, with_replies
from tunesmith.given import Answer, Decoding, Outputs
from tunesmith.quiet import quiet
from tunesmith.train.loop import steps
from workshop import CPU, Bench, bench

HEADS = [
    ("bert", "ner"),
    ("roberta", "span_qa"),
    ("distilbert", "multiple_choice"),
    ("bert", "language"),
    ("gpt2", "language"),
    ("t5", "language"),
    ("t5", "generation"),
    ("llama", "generation"),
    ("llama", "chat"),
    ("bart", "chat"),
    ("gpt2", "preference"),
]
WRITES = [cell for cell in HEADS if cell[1] in ("generation", "chat")]
METHODS = {"full": "safetensors", "lora": "adapter"}
SHORT = {"decoding": {"max_new_tokens": 5}}
QUESTIONS = [{"prompt": "kettle"}, {"prompt": "where is my order, it is late"}, {"prompt": "lamp"}]
"""What a chat is asked: its rows hold whole conversations."""


@dataclass(frozen=True)
class Left:
    """A tuned model that has left, and what it said before it did."""

    base: Path
    made: Parcel
    artifact: Artifact
    rows: Sequence[Mapping[str, Any]]
    answers: Sequence[Answer]


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Gives the artefact of a cell, which is made when it is first asked for."""
    root, known = tmp_path_factory.mktemp("house"), {}

    def of(family: str, task: str, method: str) -> Left:
        key = (family, task, method)
        if key not in known:
            known[key] = depart(root / family, *key, root / "-".join(key))
        return known[key]

    return of


def depart(base: Path, family: str, task: str, method: str, target: Path) -> Left:
    more = {"task": SHORT} if (family, task) in WRITES else {}
    one = bench(base, family, task, method, **more)
    course = one.course(epochs=15, learning_rate=1e-2)
    for _ in steps(one.state(course), course):
        pass
    made = parcel(one, task)
    rows = QUESTIONS
    if task != "chat":
        raw = type(one.task).specimens[0].rows
        rows = [{name: row[name] for name in one.task.inputs} for row in raw]
    answers = said(one, made.task, rows)
    return Left(base, made, export(METHODS[method], made, target), rows, answers)


def said(one: Bench, task: Task, rows: Sequence[Mapping[str, Any]]) -> list[Answer]:
    """What the tuned model answers in this process."""
    records = [Record(n, "here", n + 1, task.read(row, with_target=False)[0], None) for n, row in enumerate(rows)]
    codec, model, run = one.foundation.codec, one.adapted.model, Inference(CPU)
    if task.decoding_for(codec) is not None:
        outputs = Outputs([], encoded(task.prompts(records, codec, 64)))
    else:
        outputs = all_outputs(model, task, encoded(task.encode(records, codec, 64)), one.padding, run).outputs
    return task.answers(with_replies(model, task, outputs, records, Speaker(codec, 64, run)), records)


def plainly(found: Left) -> Any:
    """The artefact's model, loaded as its card says with `transformers` and `peft` alone."""
    auto, folder = getattr(transformers, found.made.auto_class), str(found.artifact.folder)
    with quiet():
        if found.artifact.kind == "safetensors":
            return auto.from_pretrained(folder).eval()
        config = transformers.AutoConfig.from_pretrained(folder)
        model = auto.from_pretrained(found.base, config=config)
        if (found.artifact.folder / "generation_config.json").exists():
            model.generation_config = transformers.GenerationConfig.from_pretrained(folder)
        return PeftModel.from_pretrained(model, folder).eval()


def numbers(value: Any) -> Any:
    """A value with its numbers rounded to what two runs of one model agree in."""
    if isinstance(value, float):
        return pytest.approx(value, rel=1e-3, abs=1e-4)
    if isinstance(value, Mapping):
        return {name: numbers(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [numbers(part) for part in value]
    return value


CELLS = [(*cell, method) for cell in HEADS for method in METHODS]
WRITTEN = [(*cell, method) for cell in WRITES for method in METHODS]


@pytest.mark.parametrize(("family", "task", "method"), CELLS)
def test_a_fresh_process_gives_the_outputs_of_the_tuned_model(family: str, task: str, method: str, left: Any) -> None:
    found: Left = left(family, task, method)
    assert found.artifact.parity["passed"]
    assert found.artifact.parity["rows"] == len(found.made.golden.records)
    assert found.artifact.kind == METHODS[method]
    commit.verify(found.artifact.folder)


@pytest.mark.parametrize(("family", "task", "method"), CELLS)
def test_plain_libraries_load_the_model_with_the_outputs_it_had(family: str, task: str, method: str, left: Any) -> None:
    found: Left = left(family, task, method)
    model = plainly(found)
    for batch, outputs in zip(found.made.golden.batches, found.made.golden.outputs, strict=True):
        with torch.inference_mode():
            again = reduced(model(**batch), batch)
        assert again.keys() == outputs.keys()
        for name, values in outputs.items():
            assert (again[name] - values).abs().max() < LIMIT * max(1.0, float(values.abs().max()))


@pytest.mark.parametrize(("family", "task", "method"), CELLS)
def test_the_base_would_give_other_outputs(family: str, task: str, method: str, left: Any) -> None:
    """So the tests beside this one would notice a model that left untuned."""
    found: Left = left(family, task, method)
    config = transformers.AutoConfig.from_pretrained(found.artifact.folder)
    torch.manual_seed(1)
    with quiet(), torch.inference_mode():
        base = getattr(transformers, found.made.auto_class).from_pretrained(found.base, config=config).eval()
        again = reduced(base(**found.made.golden.batches[0]), found.made.golden.batches[0])
    for name, values in found.made.golden.outputs[0].items():
        assert (again[name] - values).abs().max() > 100 * LIMIT


@pytest.mark.parametrize(("family", "task", "method"), CELLS)
def test_the_predictor_answers_as_the_tuned_model_did(family: str, task: str, method: str, left: Any) -> None:
    found: Left = left(family, task, method)
    predictor = opened(found.artifact.folder, found.base)
    answers = predictor.ask(found.rows)
    assert len(answers) == len(found.rows)
    for answer, wanted in zip(answers, found.answers, strict=True):
        assert answer.value == numbers(wanted.value)
        assert dict(answer.scores) == numbers(wanted.scores)
        json.dumps({"value": answer.value, "scores": dict(answer.scores)})
    (alone,) = predictor.ask(found.rows[-1:])
    if not predictor.task.packs or predictor.task.decoding_for(predictor.codec) is not None:  # else drawn by its place
        assert alone.value == numbers(found.answers[-1].value)


@pytest.mark.parametrize(("family", "task", "method"), CELLS)
def test_the_tokenizer_travels_and_reads_as_it_did(family: str, task: str, method: str, left: Any) -> None:
    found: Left = left(family, task, method)
    again: Any = transformers.AutoTokenizer.from_pretrained(found.artifact.folder)
    before = found.made.foundation.tokenizer
    texts = ["the red kettle", "is my order late?", "späet, 🙂"]
    assert again(texts)["input_ids"] == before(texts)["input_ids"]
    assert again("is it late", "the lamp is late")["input_ids"] == before("is it late", "the lamp is late")["input_ids"]
    assert (again.pad_token_id, again.eos_token_id) == (before.pad_token_id, before.eos_token_id)
    assert again.chat_template == before.chat_template
    assert bool(again.chat_template) == (task == "chat")


@pytest.mark.parametrize(("family", "task", "method"), WRITTEN)
def test_the_ends_of_replies_travel_with_the_model(family: str, task: str, method: str, left: Any) -> None:
    found: Left = left(family, task, method)
    decoding: Decoding | None = found.made.task.decoding_for(found.made.foundation.codec)
    assert decoding is not None
    settings = transformers.GenerationConfig.from_pretrained(found.artifact.folder)
    assert settings.eos_token_id == list(decoding.stop_ids)
    assert settings.pad_token_id == found.made.foundation.tokenizer.pad_token_id


@pytest.mark.parametrize(("family", "task", "method"), WRITTEN)
def test_plain_generate_writes_what_the_predictor_answers(family: str, task: str, method: str, left: Any) -> None:
    found: Left = left(family, task, method)
    model, folder = plainly(found), found.artifact.folder
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
    assert any(answer.value for answer in found.answers)
    for row, answer in zip(found.rows, found.answers, strict=True):
        if task == "chat":
            messages = [{"role": "user", "content": row["prompt"]}]
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            ids = tokenizer(text, add_special_tokens=family == "bart", return_tensors="pt")["input_ids"]
        else:
            ids = tokenizer(row["source"] + ("\n" if family == "llama" else ""), return_tensors="pt")["input_ids"]
        with torch.inference_mode(), quiet():
            made = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False)
        reply = made[0] if model.config.is_encoder_decoder else made[0, ids.shape[1] :]
        assert tokenizer.decode(reply, skip_special_tokens=True).strip() == answer.value


@pytest.mark.parametrize(("family", "task", "method"), CELLS)
def test_nothing_in_the_artefact_names_a_folder_of_this_machine(family: str, task: str, method: str, left: Any) -> None:
    found: Left = left(family, task, method)
    texts = [path.read_bytes() for path in found.artifact.folder.iterdir() if path.suffix != ".safetensors"]
    assert len(texts) >= 4
    assert str(found.base.parent).encode() not in b"".join(texts)
