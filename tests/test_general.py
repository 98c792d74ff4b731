"""Perplexity on general text before and after: the numbers are the model's own, and a harmful run shows."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tiny import model_folder
from tunesmith import api
from tunesmith.errors import UserError

GENERAL = [f"the red lamp and the blue chair arrived {when}" for when in ("now", "late", "yesterday", "again")] * 3


@pytest.fixture
def place(tmp_path: Path) -> Path:
    model_folder("llama", tmp_path / "llama")
    rows = [{"text": f"never again {n} terrible", "label": "ab"[n % 2]} for n in range(20)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "general.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in GENERAL))
    return tmp_path


def recipe(rate: float, task: str = "language") -> dict[str, Any]:
    return {
        "model": {"name": "./llama"},
        "task": {"kind": task},
        "data": {"train": "rows.jsonl", "validation": 0.2, "cache": False},
        "method": {"kind": "full"},
        "train": {"epochs": 4, "batch_size": 4, "learning_rate": rate, "precision": "float32"},
        "evaluate": {"general": "general.jsonl", "resamples": 100},
    }


def own(folder: Path) -> float:
    """The perplexity of the general texts by the model's own logits."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    loss, count = 0.0, 0
    for text in GENERAL:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        if ids[0, -1] != tokenizer.eos_token_id:
            ids = torch.cat([ids, torch.tensor([[tokenizer.eos_token_id]])], dim=1)
        with torch.inference_mode():
            loss += float(model(ids, labels=ids).loss) * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    return math.exp(loss / count)


def test_before_and_after_are_the_perplexities_of_base_and_artefact(place: Path) -> None:
    run = api.run(recipe(1e-3), folder=place / "run", base=place)
    found = run.read_json("evaluation.json")["general"]
    one = found["metrics"]["perplexity"]
    assert found["rows"] == len(GENERAL)
    assert one["before"]["value"] == pytest.approx(own(place / "llama"), rel=1e-4)
    assert one["after"]["value"] == pytest.approx(own(run.folder / "artifact"), rel=1e-4)
    assert one["difference"]["value"] == pytest.approx(one["after"]["value"] - one["before"]["value"])
    page = run.report.read_text()
    assert "General text, before and after" in page
    assert "what the model forgot" not in page


def test_a_harmful_run_is_seen(place: Path) -> None:
    run = api.run(recipe(5e-2), folder=place / "run", base=place)
    gap = run.read_json("evaluation.json")["general"]["metrics"]["bits_per_byte"]["difference"]
    assert gap["low"] > 0


def test_a_head_over_labels_cannot_read_general_text(place: Path) -> None:
    with pytest.raises(UserError, match="needs the head of a language model"):
        api.run(recipe(1e-3, "classification"), folder=place / "run", base=place)


def test_a_recipe_that_moves_takes_the_file_along(place: Path) -> None:
    from tunesmith.recipe import recipe_from

    moved = recipe_from(recipe(1e-3)).moved(place, place / "deep" / "down")
    assert moved.evaluate.general == "../../general.jsonl"
