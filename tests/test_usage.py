"""The code on a model card works as it stands, without tunesmith, and answers as tunesmith does."""

import contextlib
import io
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from test_deploy import opened, parcel
from tunesmith.adapt import METHODS
from tunesmith.deploy.card import model_card
from tunesmith.deploy.export import export
from tunesmith.deploy.predictor import Predictor
from tunesmith.deploy.usage import FOLDER
from workshop import bench

KINDS = [
    ("bert", "classification", "full", {}),
    ("t5", "regression", "lora", {}),
    ("bert", "ner", "full", {}),
    ("gpt2", "ner", "lora", {}),
    ("roberta", "span_qa", "full", {}),
    ("gpt2", "span_qa", "full", {}),
    ("distilbert", "multiple_choice", "lora", {}),
    ("llama", "multiple_choice", "full", {}),
    ("llama", "multiple_choice", "full", {"specimen": 1}),
    ("roberta", "language", "full", {}),
    ("bert", "classification", "adapter", {}),
    ("llama", "generation", "adapter", {"method": {"places": "parallel"}}),
    ("bert", "prompted", "full", {}),
    ("gpt2", "prompted", "lora", {}),
    ("llama", "prompted", "full", {"specimen": 1}),
    ("t5", "prompted", "full", {"specimen": 1}),
    ("bart", "prompted", "full", {}),
    ("gpt2", "language", "lora", {}),
    ("bart", "language", "full", {}),
    ("gpt2", "preference", "lora", {}),
    ("llama", "generation", "lora", {}),
    ("t5", "generation", "full", {"specimen": 1}),
    ("gpt2", "chat", "full", {}),
    ("llama", "chat", "lora", {"specimen": 1}),
    ("bart", "chat", "full", {}),
    ("gpt2", "chat", "lora", {"model": {"quantise": "nf4"}}),
    ("bert", "classification", "prompt", {"model": {"quantise": "int8"}}),
]
"""Each kind of head, as a full model and as an adapter, with each way of using it that has code of its own."""


def made(tmp_path: Path, case: tuple[str, str, str, Mapping[str, Any]]) -> tuple[str, Predictor]:
    """The card's code with the paths put in, and the same artefact opened by tunesmith."""
    family, task, method, more = case
    one = bench(tmp_path / family, family, task, method, **more)
    kind = METHODS.load(method).artifact
    export(kind, parcel(one, task), tmp_path / "artifact", verify=False)
    card = (tmp_path / "artifact" / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    code = code.replace(FOLDER, str(tmp_path / "artifact")).replace(
        f"base = {family!r}", f"base = {str(tmp_path / family)!r}"
    )
    return code, opened(tmp_path / "artifact", tmp_path / family)


def printed(code: str) -> str:
    """What the code prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # that libraries tell each other
        exec(compile(code, "card", "exec"), {})
    return out.getvalue()


@pytest.mark.parametrize("case", KINDS, ids=lambda case: " ".join(map(str, case[:3])))
def test_the_code_on_the_card_runs_as_it_stands(tmp_path: Path, case: Any) -> None:
    code, _ = made(tmp_path, case)
    ours = (
        {"from tunesmith.adapt.bottleneck import load"} if case[2] == "adapter" else set()
    )  # which peft does not have
    assert {line for line in code.replace(str(tmp_path), "").splitlines() if "tunesmith" in line} == ours
    assert printed(code).strip() or case[1] in ("generation", "chat", "language", "preference")


@pytest.mark.parametrize("case", [case for case in KINDS if case[1] in ("chat", "generation")], ids=str)
def test_a_text_is_the_one_that_tunesmith_writes(tmp_path: Path, case: Any) -> None:
    code, predictor = made(tmp_path, case)
    row = dict.fromkeys(predictor.task.inputs, "some text")
    (answer,) = predictor.ask([row])
    assert printed(code).strip() == answer.value


def test_choices_have_the_shares_that_tunesmith_gives(tmp_path: Path) -> None:
    code, predictor = made(tmp_path, ("gpt2", "multiple_choice", "full", {}))
    (answer,) = predictor.ask([{"question": "some question", "choices": ["one answer", "another answer"]}])
    assert eval(printed(code)) == pytest.approx(dict(answer.scores), abs=1e-4)


@pytest.mark.parametrize("case", [case for case in KINDS if case[1] == "prompted"], ids=str)
def test_words_have_the_shares_that_tunesmith_gives(tmp_path: Path, case: Any) -> None:
    code, predictor = made(tmp_path, case)
    (answer,) = predictor.ask([dict.fromkeys(predictor.task.inputs, "some text")])
    assert eval(printed(code)) == pytest.approx(dict(answer.scores), abs=1e-4)


def test_a_model_without_names_for_its_outputs_promises_none(tmp_path: Path) -> None:
    one = bench(tmp_path / "gpt2", "gpt2", "language", "full")
    card = model_card("safetensors", parcel(one, "language"))
    assert "id2label" not in card
    assert "Outputs in order" not in card
