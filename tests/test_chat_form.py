"""Replies that must have a form: which are counted, and that a form that cannot be read is told."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from tiny import model_folder
from tunesmith import api
from tunesmith.tasks.chat import Chat, well_formed


@pytest.mark.parametrize(
    ("text", "expect", "right"),
    [
        ('{"a": 1}', "json", True),
        ("[1, 2]", "json", True),
        ('{"a": 1', "json", False),
        ("", "json", False),
        ("yes", "yes|no", True),
        ("yes!", "yes|no", False),
        ("a\nb", "a.b", True),
    ],
)
def test_a_reply_has_the_form_or_not(text: str, expect: str, right: bool) -> None:
    assert well_formed(text, expect) is right


def test_a_form_that_cannot_be_read_is_told() -> None:
    with pytest.raises(ValidationError, match="write `json` or a regular expression"):
        Chat(expect="(")


def test_the_share_of_replies_with_the_form_is_that_of_the_replies(tmp_path: Path) -> None:
    model_folder("llama", tmp_path / "llama")
    rows = [{"prompt": f"what {n}", "completion": ("late", "now")[n % 2]} for n in range(16)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "model": {"name": "./llama"},
        "task": {"kind": "chat", "expect": "late|now", "decoding": {"max_new_tokens": 6}},
        "data": {"train": "rows.jsonl", "test": 0.5, "cache": False},
        "method": {"kind": "full"},
        "train": {"epochs": 30, "batch_size": 8, "learning_rate": 5e-3},
        "evaluate": {"resamples": 100},
    }
    run = api.run(recipe, folder=tmp_path / "run", base=tmp_path)
    lines = [json.loads(line) for line in run.predictions.read_text().splitlines()]
    share = sum(line["answer"] in ("late", "now") for line in lines) / len(lines)
    assert run.read_json("evaluation.json")["metrics"]["format_valid"]["value"] == pytest.approx(share)
    assert {line["numbers"]["formed"] for line in lines} <= {0.0, 1.0}
