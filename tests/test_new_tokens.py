"""Words that become tokens: where their rows begin, that they alone move under an adapter, and that they travel."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from tiny import model_folder
from tunesmith import api
from tunesmith.adapt import METHODS
from tunesmith.adapting import Setting, adapted_model
from tunesmith.errors import UserError
from tunesmith.select.foundation import open_foundation
from tunesmith.select.load import load_model
from tunesmith.select.options import ModelOptions
from tunesmith.tasks.language import Language

WORDS = ("xylophonist", "zebrafish")
HEADS = {"bert": "AutoModelForMaskedLM", "roberta": "AutoModelForMaskedLM", "modernbert": "AutoModelForMaskedLM",
         "gpt2": "AutoModelForCausalLM", "llama": "AutoModelForCausalLM", "qwen2": "AutoModelForCausalLM",
         "t5": "AutoModelForSeq2SeqLM", "bart": "AutoModelForSeq2SeqLM"}  # fmt: skip
ROWS = [{"text": f"the xylophonist saw {n} zebrafish and a lamp"} for n in range(24)]


@pytest.mark.parametrize("kind", HEADS)
def test_a_new_row_is_the_mean_of_what_it_stands_for(kind: str, tmp_path: Path) -> None:
    model_folder(kind, tmp_path)
    before = AutoTokenizer.from_pretrained(tmp_path)
    foundation = open_foundation(ModelOptions(name=str(tmp_path), new_tokens=WORDS), Path())
    tokenizer = foundation.tokenizer
    plain = open_foundation(ModelOptions(name=str(tmp_path)), Path())
    old = load_model(plain, HEADS[kind], {}, seed=0).model
    model = load_model(foundation, HEADS[kind], {}, seed=0).model
    for word in WORDS:
        (token,) = tokenizer(word, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        pieces = before(word, add_special_tokens=False)["input_ids"]
        assert foundation.grown[token] == tuple(pieces)
        for found, was in (
            (model.get_input_embeddings(), old.get_input_embeddings()),
            (model.get_output_embeddings(), old.get_output_embeddings()),
        ):
            assert torch.allclose(found.weight[token], was.weight[pieces].mean(dim=0))
    rows = old.get_input_embeddings().weight
    assert torch.equal(model.get_input_embeddings().weight[: len(before)], rows[: len(before)])
    text = "the xylophonist is not a zebrafishes"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert min(foundation.grown) in ids
    assert max(foundation.grown) not in ids


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
def test_an_adapter_moves_the_new_rows_and_no_others(kind: str, tmp_path: Path) -> None:
    model_folder(kind, tmp_path)
    foundation = open_foundation(ModelOptions(name=str(tmp_path), new_tokens=WORDS), Path())
    adapted = adapted_model(foundation, Language(), METHODS.load("lora")(rank=2), Setting(0))
    moving = {
        n: p
        for n, p in adapted.model.named_parameters()
        if n in adapted.trainable and "lora_" not in n and "modules_to_save" not in n
    }
    width = foundation.config.hidden_size
    assert {tuple(p.shape) for p in moving.values()} == {(len(WORDS), width)}


@pytest.mark.parametrize(
    ("kind", "method"), [("bert", "full"), ("bert", "lora"), ("llama", "lora"), ("gpt2", "lora"), ("t5", "full")]
)
def test_new_tokens_are_learned_and_travel_with_the_model(kind: str, method: str, tmp_path: Path) -> None:
    """The artefact of a run answers the same in a fresh process, and its new rows are not where they began."""
    model_folder(kind, tmp_path / kind)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    recipe: dict[str, Any] = {
        "model": {"name": f"./{kind}", "new_tokens": list(WORDS)},
        "task": {"kind": "language"},
        "data": {"train": "rows.jsonl", "validation": 0.2, "test": 0.2, "cache": False},
        "method": {"kind": method, **({"rank": 2} if method == "lora" else {})},
        "train": {"epochs": 3, "batch_size": 8, "learning_rate": 1e-2},
        "evaluate": {"resamples": 100},
    }
    run = api.run(recipe, folder=tmp_path / "run", base=tmp_path)
    (entry,) = run.read_json("deploy.json")
    assert entry["parity"]["passed"]
    folder = run.folder / entry["folder"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer("xylophonist", add_special_tokens=False)["input_ids"]) == 1
    whole = api.export(run, "safetensors", out=tmp_path / "whole")
    weights = load_file(whole.folder / "model.safetensors")
    foundation = open_foundation(ModelOptions(name=str(tmp_path / kind), new_tokens=WORDS), Path())
    begun = load_model(foundation, HEADS[kind], {}, seed=0).model.get_input_embeddings().weight
    (table,) = {tuple(t.shape): t for t in weights.values() if t.shape == begun.shape}.values()
    new = list(foundation.grown)
    assert not torch.allclose(table[new], begun[new], atol=1e-4)
    if method == "lora":
        old = [n for n in range(len(begun)) if n not in new]
        assert torch.equal(table[old], begun[old])
        assert (folder / "adapter_model.safetensors").stat().st_size < (
            whole.folder / "model.safetensors"
        ).stat().st_size
    (answer,) = api.ask(run.folder, [ROWS[0]])
    assert answer.value["perplexity"] > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lamp"], "is a token already"),
        (["a ", "b"], "begins or ends with a blank"),
        (["xylo", "xylo"], "each word once"),
    ],
)
def test_words_that_cannot_be_tokens_are_told(words: list[str], message: str, tmp_path: Path) -> None:
    from pydantic import ValidationError

    model_folder("bert", tmp_path)
    with pytest.raises((UserError, ValidationError), match=message):
        open_foundation(ModelOptions(name=str(tmp_path), new_tokens=tuple(words)), Path())


@pytest.mark.parametrize(
    ("kind", "task", "method", "said"),
    [
        ("t5", {"kind": "language"}, "lora", "encoder-decoders hold them in several; use method: full"),
        ("bert", {"kind": "language"}, "ia3", "cannot train rows of embeddings; use method: lora"),
        ("bert", {"kind": "language"}, "prompt", "cannot train rows of embeddings; use method: lora"),
        ("bert", {"kind": "language"}, "bitfit", "would leave them untrained; use full or lora"),
        ("bert", {"kind": "classification", "label": "text"}, "head", "only the head learns, so they never would"),
    ],
)
def test_a_method_that_would_leave_them_as_they_are_is_refused_before_weights_are_read(
    kind: str, task: dict[str, Any], method: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*given: Any, **more: Any) -> None:
        raise AssertionError("weights are read")

    monkeypatch.setattr("tunesmith.select.load._from_file", read)
    model_folder(kind, tmp_path / kind)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    model = {"name": f"./{kind}", "new_tokens": list(WORDS)}
    whole = {"model": model, "task": task, "data": {"train": "rows.jsonl", "cache": False}, "method": method}
    with pytest.raises(UserError, match=rf"^model\.new_tokens: .*{said}"):
        api.run(whole, folder=tmp_path / "run", base=tmp_path)
    with pytest.raises(AssertionError, match="weights are read"):
        api.run({**whole, "method": "full"}, folder=tmp_path / "other", base=tmp_path)


def test_a_later_stage_may_have_a_method_that_leaves_them(tmp_path: Path) -> None:
    model_folder("bert", tmp_path / "bert")
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps({**row, "label": "ab"[n % 2]}) + "\n" for n, row in enumerate(ROWS))
    )
    few = {"max_steps": 2, "batch_size": 4}
    stages = [
        {"name": "words", "task": {"kind": "language"}},
        {"name": "labels", "task": {"kind": "classification"}, "method": "head"},
    ]
    whole = {"model": {"name": "./bert", "new_tokens": list(WORDS)}, "data": {"train": "rows.jsonl", "cache": False}}
    more = {"train": few, "evaluate": {"resamples": 100}, "deploy": {"verify": False}, "stages": stages}
    assert api.run({**whole, **more}, folder=tmp_path / "run", base=tmp_path).state == "complete"
