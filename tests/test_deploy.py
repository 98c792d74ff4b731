"""What leaves the house answers like what was tuned, in a process without tunesmith, or it does not leave."""

import json
import math
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from tunesmith import commit
from tunesmith.contracts import Task
from tunesmith.deploy.card import inert, model_card
from tunesmith.deploy.export import export
from tunesmith.deploy.parcel import Parcel
from tunesmith.deploy.parity import golden
from tunesmith.deploy.predictor import Predictor
from tunesmith.errors import CheckFailed, UserError
from tunesmith.forward import Inference, all_outputs
from tunesmith.tasks import TASKS
from tunesmith.train.loop import steps
from workshop import CPU, Bench, bench

EVALUATION: dict[str, Any] = {
    "main": "accuracy",
    "level": 0.95,
    "split": "test",
    "rows": 12,
    "metrics": {"accuracy": {"value": 0.9, "low": 0.8, "high": 1.0}, "mcc": {"value": 0.8}, "roc_auc": {"value": None}},
    "baselines": [
        {
            "label": "most frequent label",
            "metrics": {"accuracy": {"value": 0.3, "low": 0.2, "high": 0.4}},
            "difference": {"value": 0.6, "low": 0.5, "high": 0.7},
            "p_value": 0.001,
        }
    ],
    "verdict": "accuracy 0.900 [0.800, 1.000] on 12 test rows",
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bases")


def parcel(one: Bench, task_kind: str) -> Parcel:
    """The bench's model after a little training, folded."""
    course = one.course(epochs=2)
    for _ in steps(one.state(course), course):
        pass
    task = one.task.fold(one.adapted.model)
    spec = {**task.model_dump(mode="json"), "kind": task_kind}  # type: ignore[attr-defined]
    facts = {
        "name": "a run",
        "method": {"kind": "lora"},
        "licence": None,
        "files": {"tickets.jsonl": "ab" * 32},
        "ways": {"train": 12},
        "evaluation": EVALUATION,
        "packages": {"torch": "2"},
        "recipe_sha256": "cd" * 32,
    }
    kept = golden(one.adapted.model, task, one.data, one.padding, one.records)
    return Parcel(one.adapted.model, one.method, one.foundation, task, spec, 64, kept, facts)


def read_task(spec: Mapping[str, Any]) -> Task:
    task: Task = TASKS.load(spec["kind"])(**{key: value for key, value in spec.items() if key != "kind"})
    return task


def opened(folder: Path, base: Path) -> Predictor:
    return Predictor.open(folder, read_task=read_task, find_base=lambda name, revision: base)


@pytest.mark.parametrize(
    ("family", "task", "method", "kind"),
    [
        ("bert", "classification", "full", "safetensors"),
        ("gpt2", "regression", "full", "safetensors"),
        ("llama", "classification", "lora", "adapter"),
        ("t5", "regression", "lora", "safetensors"),
        ("bart", "classification", "lora", "adapter"),
        ("bert", "classification", "adapter", "adapter"),
        ("gpt2", "regression", "ia3", "safetensors"),
        ("bert", "classification", "prompt", "adapter"),  # of the last four, PEFT alone serves the first
        ("llama", "classification", "p_tuning", "adapter"),
        ("bert", "classification", "prefix", "adapter"),
        ("t5", "classification", "prefix", "adapter"),
    ],
)
def test_an_artefact_gives_the_same_outputs_in_a_fresh_process_and_in_ours(
    family: str, task: str, method: str, kind: str, bases: Path, tmp_path: Path
) -> None:
    one = bench(bases / family, family, task, method)
    made = parcel(one, task)
    tuned = all_outputs(one.adapted.model, made.task, one.data, one.padding, Inference(CPU)).outputs
    artifact = export(kind, made, tmp_path / "artifact")
    assert artifact.parity["passed"]
    assert artifact.parity["rows"] == len(one.records)
    commit.verify(artifact.folder)
    predictor = opened(artifact.folder, bases / family)
    found = predictor.outputs(predictor.read(one.records), one.records)
    assert np.abs(np.stack(found.values) - np.stack(tuned.values)).max() < 1e-4
    answers = predictor.ask(
        [dict(zip(made.task.inputs, record.inputs.values(), strict=True)) for record in one.records]
    )
    wanted = made.task.answers(tuned, one.records)
    if task == "classification":
        assert [answer.value for answer in answers] == [answer.value for answer in wanted]
    else:
        assert [a.value for a in answers] == pytest.approx([a.value for a in wanted], abs=1e-3)
        assert 0 < np.mean([a.value for a in answers]) < 7, "answers are in the user's units"
    config = json.loads((artifact.folder / "config.json").read_text())
    assert list(config["id2label"].values()) == list(made.task.head()["id2label"].values())
    everything = b"".join(path.read_bytes() for path in artifact.folder.iterdir() if path.suffix in (".json", ".md"))
    assert str(bases).encode() not in everything, "a path of this machine leaves with the model"


def test_an_adapter_brings_its_head_over_a_base_with_one_of_another_size(bases: Path, tmp_path: Path) -> None:
    """Of a model that was tuned on other labels before; the card's code loads it, too."""
    first = bench(bases / "bert", "bert", "classification", "full")
    export("safetensors", parcel(first, "classification"), tmp_path / "first", verify=False)
    more = {"task": {"labels": ["a", "b", "c", "d", "e", *first.task.head()["id2label"].values()]}}
    one = bench(tmp_path / "first", "bert", "classification", "lora", **more)
    artifact = export("adapter", parcel(one, "classification"), tmp_path / "second")
    assert artifact.parity["passed"]
    assert "ignore_mismatched_sizes=True" in (artifact.folder / "README.md").read_text()
    predictor = opened(artifact.folder, tmp_path / "first")
    found = predictor.outputs(predictor.read(one.records), one.records)
    tuned = all_outputs(one.adapted.model, one.task, one.data, one.padding, Inference(CPU)).outputs
    assert all(np.allclose(a, b, atol=1e-5) for a, b in zip(found.values, tuned.values, strict=True))


def test_an_adapter_says_its_base_by_name_and_holds_only_what_moved(bases: Path, tmp_path: Path) -> None:
    one = bench(bases / "bert", "bert", "classification", "lora")
    export("adapter", parcel(one, "classification"), tmp_path / "artifact", verify=False)
    config = json.loads((tmp_path / "artifact" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "bert"
    from safetensors.torch import load_file

    held = sum(tensor.numel() for tensor in load_file(tmp_path / "artifact" / "adapter_model.safetensors").values())
    assert held == sum(p.numel() for p in one.adapted.model.parameters() if p.requires_grad)


def test_an_artefact_that_answers_otherwise_does_not_leave(
    bases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = bench(bases / "bert", "bert", "classification", "full")
    made = parcel(one, "classification")
    export("safetensors", made, tmp_path / "artifact", verify=False)
    before = (tmp_path / "artifact" / "model.safetensors").read_bytes()
    shifted = [{name: values.clone() for name, values in batch.items()} for batch in made.golden.outputs]
    shifted[0]["logits"][3] += 0.01
    wrong = replace(made, golden=replace(made.golden, outputs=shifted))
    with pytest.raises(CheckFailed, match="specimen, line 4 differs by"):
        export("safetensors", wrong, tmp_path / "artifact")
    commit.verify(tmp_path / "artifact")
    assert (tmp_path / "artifact" / "model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["artifact"]


def test_weights_that_are_not_finite_do_not_leave(bases: Path, tmp_path: Path) -> None:
    one = bench(bases / "bert", "bert", "classification", "full")
    made = parcel(one, "classification")
    with torch.no_grad():
        one.adapted.model.get_parameter("classifier.bias")[0] = math.nan
    with pytest.raises(CheckFailed, match=r"classifier\.bias"):
        export("safetensors", made, tmp_path / "artifact")
    assert not (tmp_path / "artifact").exists()


def test_an_adapter_of_a_full_model_is_refused(bases: Path, tmp_path: Path) -> None:
    one = bench(bases / "bert", "bert", "classification", "full")
    with pytest.raises(UserError, match="no adapter"):
        export("adapter", parcel(one, "classification"), tmp_path / "artifact")


def test_a_damaged_artefact_is_refused_and_so_is_a_folder_of_something_else(bases: Path, tmp_path: Path) -> None:
    one = bench(bases / "bert", "bert", "classification", "full")
    export("safetensors", parcel(one, "classification"), tmp_path / "artifact", verify=False)
    config = tmp_path / "artifact" / "config.json"
    config.write_text(config.read_text() + " ")
    with pytest.raises(commit.Broken, match=r"config\.json"):
        opened(tmp_path / "artifact", bases)
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="no model made by tunesmith"):
        opened(tmp_path / "other", bases)


def test_plain_transformers_loads_the_model_with_nothing_of_ours(bases: Path, tmp_path: Path) -> None:
    one = bench(bases / "bert", "bert", "classification", "full")
    export("safetensors", parcel(one, "classification"), tmp_path / "artifact", verify=False)
    code = (
        "import sys; from transformers import pipeline\n"
        f"found = pipeline('text-classification', {str(tmp_path / 'artifact')!r}, top_k=None)('the lamp is broken')\n"
        "rows = found[0] if isinstance(found[0], list) else found\n"
        "print(sorted(row['label'] for row in rows))\n"
        "assert 'tunesmith' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip().splitlines()[-1] == "['broken', 'late', 'thanks']", done.stderr


def test_the_card_tells_scores_data_and_use_and_has_a_valid_head(bases: Path) -> None:
    one = bench(bases / "bert", "bert", "classification", "full")
    card = model_card("safetensors", parcel(one, "classification"))
    head = yaml.safe_load(card.split("---")[1])
    assert (head["pipeline_tag"], head["base_model"], head["library_name"]) == (
        "text-classification",
        "bert",
        "transformers",
    )
    for told in ("0.900 [0.800, 1.000]", "most frequent label", "ab" * 32, "from_pretrained", "Not measured"):
        assert told in card


def test_text_from_data_is_inert_on_the_card(bases: Path) -> None:
    one = bench(bases / "bert", "bert", "classification", "full")
    made = parcel(one, "classification")
    evil = "<script>x</script> [click](http://evil) `code` \x1b[31m\nnew | cell"
    made = replace(made, facts={**made.facts, "name": evil, "files": {evil: "0"}})
    card = model_card("safetensors", made)
    body = card.split("---\n", 2)[2]
    assert "<script>" not in body.replace("`<script>", "")
    assert "\x1b" not in card
    assert "\n# \\" in body or "&lt;script" in body
    assert inert("[a](b) <i>|`") == "\\[a\\]\\(b\\) &lt;i&gt;\\|\\`"
