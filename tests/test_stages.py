"""Stages: each starts from what the one before left; one run, one report, gates between, and what was forgotten."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from test_pipeline import Screen, house, lines, losses, rows, weights
from tunesmith import api
from tunesmith.adapt.lora import LoRA
from tunesmith.batch import IGNORED
from tunesmith.cli.app import main
from tunesmith.contracts import Record
from tunesmith.errors import CheckFailed, UserError
from tunesmith.gate import judged
from tunesmith.recipe import Recipe, load_recipe, recipe_from
from tunesmith.recipe_schema import json_schema
from tunesmith.recipe_stages import SECTIONS, Gate, Stage
from tunesmith.run import OtherRecipe, Run, final
from tunesmith.select.foundation import open_foundation
from tunesmith.select.options import ModelOptions
from tunesmith.stages import links

__all__ = ["house"]
FAST: dict[str, Any] = {"epochs": 2, "batch_size": 4, "learning_rate": 2e-3, "dropout": 0.1, "precision": "float32"}
DOMAIN: dict[str, Any] = {"name": "domain", "task": {"kind": "language", "share": 0.3}}
INTENT: dict[str, Any] = {"name": "intent", "task": "classification", "method": {"kind": "lora", "rank": 4}}
MOOD: dict[str, Any] = {"name": "mood", "task": {"kind": "classification", "label": "mood", "metric": "log_loss"}}


class Unplugged(Exception):
    """Whoever ran it is gone."""


class Cable(Screen):
    """A screen that is unplugged at one step of one stage. at: (number of the stage, step)."""

    def __init__(self, at: tuple[int, int]) -> None:
        super().__init__()
        self.at = at

    def step(self, step: Any, of: int) -> None:
        if (self.stages.count("stage"), step.step) == self.at:
            raise Unplugged


class Between(Screen):
    """A screen that is unplugged when a stage of this name begins for so many times."""

    def __init__(self, name: str, count: int) -> None:
        super().__init__()
        self.name, self.count = name, count

    def stage(self, name: str, what: str) -> None:
        super().stage(name, what)
        if self.stages.count(self.name) == self.count:
            raise Unplugged


@pytest.fixture(scope="module")
def place(house: Path) -> Path:
    """The house with rows that serve every stage."""
    found = [{**row, "mood": "good" if number % 2 else "bad"} for number, row in enumerate(rows(48))]
    lines(house / "moody.jsonl", found)
    talk = [
        {
            "prompt": row["text"],
            "completion": {"late": "it is late", "broken": "send it", "praise": "thank you"}[row["label"]],
        }
        for row in found
    ]
    lines(house / "talk.jsonl", talk)
    return house


def staged(place: Path, *stages: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    data = {"train": str(place / "moody.jsonl"), "validation": 0.2, "test": 0.2, "cache": False}
    whole = {"data": data, "train": FAST, "evaluate": {"resamples": 100}, "deploy": {"verify": False}}
    return {"model": str(place / "bert"), **whole, "stages": list(stages), **more}


def stage(run: Run, number: int) -> Run:
    (folder,) = (run.folder / "stages").glob(f"{number}-*")
    return Run.open(folder)


def times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name[0] != "."}


@pytest.fixture(scope="module")
def done(place: Path) -> tuple[Run, Screen]:
    """Text of the domain, then the intent with LoRA, then another label."""
    screen = Screen()
    return api.run(staged(place, DOMAIN, INTENT, MOOD), folder=place / "staged", screen=screen), screen


# what a run in stages leaves


def test_each_stage_is_a_run_that_starts_from_what_the_one_before_left(done: tuple[Run, Screen], place: Path) -> None:
    run, screen = done
    assert run.state == "complete"
    assert screen.stages.count("stage") == 3
    shas = [open_foundation(ModelOptions(name=str(place / "bert")), place).card.weights_sha256]
    for number in (1, 2, 3):
        one = stage(run, number)
        assert one.state == "complete"
        assert one.read_json("model.json")["card"]["weights_sha256"] == shas[-1]
        where = "artifact/safetensors" if number == 2 else "artifact"
        shas.append(open_foundation(ModelOptions(name=str(one.folder / where)), place).card.weights_sha256)
    assert len(set(shas)) == 4


def test_a_head_that_the_next_task_cannot_use_is_drawn_anew_and_this_is_said(done: tuple[Run, Screen]) -> None:
    _, screen = done
    assert any(line.startswith("new, drawn at random:") and "classifier" in line for line in screen.said)
    assert "of another size in the pre-trained file, drawn anew: classifier.bias, classifier.weight" in screen.said


def test_an_adapter_is_merged_for_the_next_stage_and_kept(done: tuple[Run, Screen]) -> None:
    kinds = [[one["kind"] for one in stage(done[0], number).read_json("deploy.json")] for number in (1, 2, 3)]
    assert kinds == [["safetensors"], ["adapter", "safetensors"], ["safetensors"]]


def test_the_whole_run_answers_as_its_last_stage(done: tuple[Run, Screen], tmp_path: Path) -> None:
    run, _ = done
    last = stage(run, 3)
    assert final(run.folder) == last.folder
    texts = ["where is my parcel", "thank you"]
    ours, theirs = api.ask(run, texts), api.ask(last, texts)
    assert [(one.value, one.scores) for one in ours] == [(one.value, one.scores) for one in theirs]
    assert {one.value for one in ours} <= {"good", "bad"}
    assert api.evaluate(run) == last.read_json("evaluation.json")
    assert api.evaluate(run, Path(run.folder).parent / "moody.jsonl")["rows"] == 48
    assert api.export(run, out=tmp_path / "out").folder == tmp_path / "out"
    assert api.open_predictor(run).name == run.folder.name


def test_the_table_of_stages_tells_what_each_did(done: tuple[Run, Screen]) -> None:
    run, _ = done
    table = run.read_json("stages.json")
    assert table["stopped"] is None
    assert [(row["name"], row["task"], row["method"], row["metric"]) for row in table["stages"]] == [
        ("domain", "language", "full", "perplexity"),
        ("intent", "classification", "lora", "accuracy"),
        ("mood", "classification", "full", "log_loss"),
    ]
    for number, row in enumerate(table["stages"], 1):
        own = stage(run, number)
        assert row["folder"] == f"stages/{own.folder.name}"
        assert row["value"] == own.read_json("evaluation.json")["metrics"][row["metric"]]["value"]
        assert row["tokens"] == own.read_json("cost.json")["tokens"] > 0
        assert row["rows"] == 28
    assert [row["moved"] < 0.5 for row in table["stages"]] == [False, True, False]


def test_the_report_leads_to_those_of_the_stages_and_names_no_place_outside(done: tuple[Run, Screen]) -> None:
    run, _ = done
    page = run.report.read_text()
    assert [found for found in re.findall(r'href="([^"]+)"', page) if not (run.folder / found).is_file()] == []
    assert len(re.findall(r'href="stages/', page)) == 3
    assert "What the stages did to one another" in page
    assert str(run.folder.parent) not in page + (run.folder / "run.json").read_text() + run.recipe_file.read_text()


def test_show_and_list_tell_of_the_whole_run(done: tuple[Run, Screen], capsys: pytest.CaptureFixture[str]) -> None:
    run, _ = done
    assert main(["show", str(run.folder)]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("domain", "intent", "mood", "stages/3-mood/artifact"))
    assert main(["list", str(run.folder.parent), "--json"]) == 0
    (row,) = [one for one in json.loads(capsys.readouterr().out) if one["run"] == "staged"]
    assert (row["metric"], row["score"]) == (
        "log_loss",
        stage(run, 3).read_json("evaluation.json")["metrics"]["log_loss"]["value"],
    )


def test_the_stored_recipe_gives_the_same_bytes_again(done: tuple[Run, Screen], place: Path) -> None:
    run, _ = done
    again = api.run(run.recipe_file, folder=place / "again")
    for number in (1, 2, 3):
        assert weights(stage(again, number)) == weights(stage(run, number))
    assert again.read_json("transfer.json") == run.read_json("transfer.json")


def test_a_complete_run_is_left_as_it_is(done: tuple[Run, Screen], place: Path) -> None:
    run, _ = done
    before, screen = times(run.folder), Screen()
    api.run(staged(place, DOMAIN, INTENT, MOOD), folder=run.folder, screen=screen)
    assert screen.said[-1].endswith("staged is complete; nothing is left to do")
    assert times(run.folder) == before


def test_a_decoder_learns_a_domain_and_then_to_reply(place: Path, tmp_path: Path) -> None:
    replies = {"kind": "chat", "form": "prompt", "decoding": {"max_new_tokens": 4}}
    talk = {"train": str(place / "talk.jsonl")}
    chain = ({**DOMAIN, "train": {"layer_decay": 0.9}}, {"name": "reply", "task": replies, "data": talk})
    run = api.run(staged(place, *chain, model=str(place / "gpt2")), folder=tmp_path / "run")
    (answer,) = api.ask(run, ["where is my parcel"])
    assert isinstance(answer.value, str)
    cells = run.read_json("transfer.json")["cells"]
    assert cells[0][0]["value"] > cells[1][0]["value"], "the model before the first stage, and after it"
    assert set(cells[2][0]) == {"value", "low", "high", "change"}
    plain = {"model": str(final(run.folder) / "artifact"), "task": DOMAIN["task"]}
    untuned = {**staged(place), **plain, "train": {"max_steps": 0, "precision": "float32"}}
    asked = api.run({key: value for key, value in untuned.items() if key != "stages"}, folder=tmp_path / "plain")
    whole = api.evaluate(asked)["metrics"]["perplexity"]["value"]
    assert cells[2][0]["value"] == pytest.approx(whole, rel=1e-4), "a head over the vocabulary travels with its model"


@pytest.mark.parametrize(
    "task", [{"kind": "classification"}, {"kind": "generation", "source": "text", "target": "label"}]
)
def test_an_encoder_decoder_goes_from_spans_to_any_task(task: dict[str, Any], place: Path, tmp_path: Path) -> None:
    more = {"decoding": {"max_new_tokens": 3}} if task["kind"] == "generation" else {}
    chain = ({**DOMAIN, "train": {"max_steps": 3}}, {"name": "last", "task": {**task, **more}})
    run = api.run(staged(place, *chain, model=str(place / "t5")), folder=tmp_path / "run")
    assert run.state == "complete"
    cell = run.read_json("transfer.json")["cells"][2][0]
    assert cell["change"]["value"] != 0, "the later weights are not those that the stage left"


def test_a_head_over_the_same_labels_is_kept_and_a_moved_run_answers(place: Path, tmp_path: Path) -> None:
    few, screen = {"train": {"max_steps": 2}}, Screen()
    first = {**MOOD, **few}
    again = {"name": "again", "task": {"kind": "classification", "label": "mood"}, "method": {"kind": "lora"}, **few}
    run = api.run(staged(place, first, again), folder=tmp_path / "run", screen=screen)
    assert "classifier came with the model and knows the labels bad, good" in screen.said
    assert [one["kind"] for one in stage(run, 2).read_json("deploy.json")] == ["adapter"]
    answers = api.ask(run, ["so late"])
    moved = run.folder.rename(tmp_path / "elsewhere")
    assert [(one.value, one.scores) for one in api.ask(moved, ["so late"])] == [
        (one.value, one.scores) for one in answers
    ]
    assert api.run(moved / "recipe.yaml", folder=moved).state == "complete"


def test_several_tasks_pass_on_what_they_share(place: Path, tmp_path: Path) -> None:
    both = {
        "kind": "multi_task",
        "tasks": {"a": {"kind": "classification"}, "b": {"kind": "classification", "label": "mood"}},
    }
    few = {"train": {"max_steps": 2}}
    run = api.run(staged(place, {"name": "both", "task": both, **few}, {**MOOD, **few}), folder=tmp_path / "run")
    assert (stage(run, 1).folder / "artifact/a/model.safetensors").is_file()
    assert api.ask(run, ["so late"])[0].value in ("good", "bad")


# transfer


def mixed_by_hand(own: Path, later: Path, head: list[str], known: list[dict[str, Any]]) -> float:
    """The share of rows, each with a text and its gold label, that one artefact's head gets right on the backbone of
    another."""
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (own, later))
    mixed = {name: ours[name] if name.startswith(tuple(head)) else theirs[name] for name in ours}
    assert any(not torch.equal(mixed[name], ours[name]) for name in ours)
    model = AutoModelForSequenceClassification.from_pretrained(own).eval()
    model.load_state_dict(mixed)
    tokenizer = AutoTokenizer.from_pretrained(own)
    with torch.no_grad():
        texts = [row["text"] for row in known]
        logits = model(**tokenizer(texts, return_tensors="pt", padding=True, truncation=True, max_length=64)).logits
    answers = [model.config.id2label[place] for place in logits.argmax(dim=1).tolist()]
    return float(np.mean([answer == row["gold"] for answer, row in zip(answers, known, strict=True)]))


def predicted(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.predictions.read_text().splitlines()]


def test_backward_transfer_is_the_later_model_with_the_earlier_head(done: tuple[Run, Screen]) -> None:
    """Put together by hand: the intent's classifier on the last stage's backbone."""
    run, _ = done
    own, later = stage(run, 2), stage(run, 3)
    head = own.read_json("parameters.json")["head"]
    assert head == ["classifier", "bert.pooler.dense"]
    accuracy = mixed_by_hand(own.folder / "artifact/safetensors", later.artifact, head, predicted(own))
    table = run.read_json("transfer.json")
    assert [(one["name"], one["stage"], one["metric"]) for one in table["columns"]] == [
        ("domain", 1, "perplexity"), ("intent", 2, "accuracy"), ("mood", 3, "log_loss"),
    ]  # fmt: skip
    cell = table["cells"][3][1]
    assert cell["value"] == accuracy
    before = own.read_json("evaluation.json")["metrics"]["accuracy"]["value"]
    assert cell["change"]["value"] == pytest.approx(accuracy - before)


def test_each_of_several_tasks_is_judged_again(place: Path, tmp_path: Path) -> None:
    both = {
        "kind": "multi_task",
        "tasks": {"a": {"kind": "classification"}, "b": {"kind": "classification", "label": "mood"}},
    }
    chain = ({"name": "both", "task": both}, {**MOOD, "train": {"epochs": 4, "learning_rate": 5e-3}})
    run = api.run(staged(place, *chain), folder=tmp_path / "run")
    own, later, table = stage(run, 1), stage(run, 2), run.read_json("transfer.json")
    assert [(one["name"], one["stage"]) for one in table["columns"]] == [("both, a", 1), ("both, b", 1), ("mood", 2)]
    found = own.read_json("evaluation.json")["parts"]
    for number, part in enumerate("ab"):
        known = [line for line in predicted(own) if line["part"] == part]
        value = mixed_by_hand(own.artifact / part, later.artifact, own.read_json("parameters.json")["head"], known)
        assert table["cells"][1][number]["value"] == found[part]["metrics"]["accuracy"]["value"]
        assert table["cells"][2][number]["value"] == value
        assert table["cells"][2][number]["change"]["value"] == pytest.approx(
            value - found[part]["metrics"]["accuracy"]["value"]
        )
    assert [line.partition(":")[0] for line in table["said"]] == ["both, a", "both, b"]
    assert "both, b<br>" in run.report.read_text()


def test_a_task_that_compares_with_its_base_is_judged_again_beside_that_of_its_own_stage(
    place: Path, tmp_path: Path
) -> None:
    """By hand: how much more the last model has gained over the first one for the chosen reply than for the other."""
    pairs = [
        {
            "prompt": f"order {n}",
            "chosen": "thank you",
            "rejected": "never",
            "text": f"order {n}",
            "label": "abc"[n % 3],
        }
        for n in range(30)
    ]
    data = {"train": str(lines(place / "pairs.jsonl", pairs)), "validation": 0.2, "test": 0.2, "cache": False}
    liked = {"name": "liked", "task": {"kind": "preference", "metric": "reward_margin"}}
    hated = {"name": "hated", "task": {"kind": "preference", "chosen": "rejected", "rejected": "chosen"}}
    hated["train"] = {"max_steps": 16}
    only = {"name": "only", "task": {"kind": "classification"}, "method": "head"}
    few = {"data": data, "train": {**FAST, "max_steps": 4}, "model": str(place / "gpt2")}
    run = api.run(staged(place, liked, hated, only, **few), folder=tmp_path / "run")
    own, cells = stage(run, 1), run.read_json("transfer.json")["cells"]
    task = own.recipe().task
    records = [
        Record(n, "", n, *task.read(pairs[line - 1])) for n, (_, line) in enumerate(own.read_json("split.json")["test"])
    ]
    codec = api.open_predictor(own).codec
    sums = []
    for folder in (place / "gpt2", stage(run, 2).artifact):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        sums.append([likelihood(model, one) for one in task.encode(records, codec, 64)])
    gain = np.array(sums[1]) - np.array(sums[0])
    value = task.beta * float((gain[:, 0] - gain[:, 1]).mean())
    assert cells[2][0]["value"] == pytest.approx(value, rel=1e-4)
    assert cells[2][0]["change"]["value"] == pytest.approx(value - cells[1][0]["value"], rel=1e-4)
    assert cells[2][0]["value"] < 0 < cells[1][0]["value"], "what was learned was unlearned"
    assert cells[3][0] == cells[2][0], "a stage of a head alone leaves it all"


def likelihood(model: Any, pair: Any) -> list[float]:
    """Of both replies of an encoded pair the log-likelihood of their tokens; a label is the token that follows."""
    ids, labels, lengths = (list(pair.columns[key]) for key in ("input_ids", "labels", "pieces"))
    found = []
    for length in lengths:
        line, wanted, ids, labels = ids[:length], labels[:length], ids[length:], labels[length:]
        with torch.no_grad():
            chances = model(input_ids=torch.tensor([line])).logits[0].log_softmax(dim=-1)
        found.append(sum(float(chances[at, token]) for at, token in enumerate(wanted) if token != IGNORED))
    return found


def test_a_stage_that_leaves_the_backbone_takes_nothing_from_the_earlier_one(place: Path, tmp_path: Path) -> None:
    only = {**MOOD, "method": "head"}
    run = api.run(staged(place, {**INTENT, "method": "full"}, only), folder=tmp_path / "run")
    cells = run.read_json("transfer.json")["cells"]
    assert cells[2][0]["change"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert cells[2][0]["value"] == cells[1][0]["value"]
    assert cells[0] == [None, None], "no label is known untaught"


# going on


@pytest.mark.parametrize("at", [(1, 9), (2, 3), (2, 13), (3, 2)])
def test_unplugged_in_any_stage_the_same_command_ends_in_the_same_bytes(
    at: tuple[int, int], done: tuple[Run, Screen], place: Path, tmp_path: Path
) -> None:
    whole, _ = done
    asked = staged(place, DOMAIN, INTENT, MOOD)
    with pytest.raises(Unplugged):
        api.run(asked, folder=tmp_path / "run", screen=Cable(at))
    assert Run.open(tmp_path / "run").state == "started"
    complete = [folder for folder in (tmp_path / "run/stages").iterdir() if Run.open(folder).state == "complete"]
    assert len(complete) == at[0] - 1
    before = {folder: times(folder) for folder in complete}
    run = api.run(asked, folder=tmp_path / "run")
    assert {folder: times(folder) for folder in complete} == before
    for number in (1, 2, 3):
        assert weights(stage(run, number)) == weights(stage(whole, number))
        assert losses(stage(run, number)) == losses(stage(whole, number))
    assert run.read_json("transfer.json") == whole.read_json("transfer.json")


@pytest.mark.parametrize("event", ["stage 2", "transfer", "report 3"])
def test_unplugged_between_two_stages_or_at_the_end_nothing_is_lost(event: str, place: Path, tmp_path: Path) -> None:
    few = {"train": {"max_steps": 2}}
    asked, name, count = staged(place, {**DOMAIN, **few}, {**MOOD, **few}), *(f"{event} 1".split()[:2])
    cable = Between(name, int(count))
    with pytest.raises(Unplugged):
        api.run(asked, folder=tmp_path / "run", screen=cable)
    before = times(tmp_path / "run/stages")
    run = api.run(asked, folder=tmp_path / "run")
    assert run.state == "complete"
    after = times(tmp_path / "run/stages")
    assert {path: after[path] for path in before} == before
    assert len(run.read_json("transfer.json")["stages"]) == len(run.read_json("stages.json")["stages"]) == 2
    assert run.report.is_file()


def test_killed_in_a_later_stage_the_same_command_ends_in_the_same_bytes(place: Path, tmp_path: Path) -> None:
    long = {**MOOD, "train": {"epochs": 30, "save_every": 1, "stop": {"patience": None}}}
    asked = staged(place, {**DOMAIN, "train": {"max_steps": 2}}, long)
    (tmp_path / "recipe.yaml").write_text(json.dumps(asked))
    command = [sys.executable, "-m", "tunesmith", "run", "recipe.yaml", "--run", "cut"]
    with subprocess.Popen(command, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}) as child:
        journal, waited = tmp_path / "cut/stages/2-mood/journal.jsonl", time.monotonic() + 240
        while not (journal.exists() and journal.read_text().count('"step"') > 20):
            assert time.monotonic() < waited
            assert child.poll() is None
            time.sleep(0.01)
        child.kill()
    assert Run.open(tmp_path / "cut").state == "started"
    cut, whole = api.run(asked, folder=tmp_path / "cut"), api.run(asked, folder=tmp_path / "whole")
    assert weights(stage(cut, 2)) == weights(stage(whole, 2))
    assert stage(cut, 2).journal.read_bytes() == stage(whole, 2).journal.read_bytes()
    assert cut.read_json("transfer.json") == whole.read_json("transfer.json")


def test_two_processes_walk_the_same_stages_and_stop_at_the_same_gate(place: Path, tmp_path: Path) -> None:
    few: dict[str, Any] = {"max_steps": 4, "dropout": 0.0}
    last = {**MOOD, "train": {**few, "unfreeze": {"every": 1}}, "gate": {"metric": "loss", "at_most": 0.0}}
    asked = staged(place, {**DOMAIN, "train": few}, last)
    (tmp_path / "recipe.yaml").write_text(json.dumps(asked))
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "tunesmith"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, "-m", *launcher, "run", "recipe.yaml", "name=two"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert "stage mood did not pass its gate: loss is" in ended.stderr, ended.stderr[-3000:]
    run = Run.open(tmp_path / "runs" / "two")
    assert run.state == "stopped"
    assert [row["state"] for row in run.read_json("stages.json")["stages"]] == ["complete", "complete"]
    with pytest.raises(CheckFailed):
        api.run(asked, folder=tmp_path / "one")
    one = Run.open(tmp_path / "one")
    for number in (1, 2):
        assert np.allclose(losses(stage(run, number)), losses(stage(one, number)), rtol=1e-3)


def test_an_interrupted_stage_keeps_its_unfreezing(place: Path, tmp_path: Path) -> None:
    slow = {"unfreeze": {"every": 3}, "schedule": "slanted", "warmup": 0.1, "save_every": 2}
    asked = staged(place, {**DOMAIN, "train": {"max_steps": 2}}, {**MOOD, "train": slow})
    with pytest.raises(Unplugged):
        api.run(asked, folder=tmp_path / "cut", screen=Cable((2, 7)))
    screen = Screen()
    cut, whole = api.run(asked, folder=tmp_path / "cut", screen=screen), api.run(asked, folder=tmp_path / "whole")
    assert any(line.startswith("going on after step 6") for line in screen.said)
    assert weights(stage(cut, 2)) == weights(stage(whole, 2))


def test_what_a_stage_learned_by_cannot_be_changed_and_what_is_to_come_can(place: Path, tmp_path: Path) -> None:
    with pytest.raises(Unplugged):
        api.run(staged(place, DOMAIN, MOOD), folder=tmp_path / "run", screen=Cable((2, 1)))
    before = times(tmp_path / "run")
    other = {**DOMAIN, "task": {"kind": "language", "share": 0.2}}
    with pytest.raises(OtherRecipe, match=r"task.share +0.3 +0.2 +refused"):
        api.run(staged(place, other, MOOD), folder=tmp_path / "run")
    with pytest.raises(OtherRecipe, match="another recipe"):
        api.run({**staged(place), "task": MOOD["task"]}, folder=tmp_path / "run")
    assert times(tmp_path / "run") == before
    shorter = {**MOOD, "train": {"epochs": 1}}
    run = api.run(staged(place, DOMAIN, shorter), folder=tmp_path / "run")
    assert len(losses(stage(run, 2))) == 7
    assert run.recipe().stages[1].train.epochs == 1


def test_a_stage_can_be_added_to_a_complete_run(place: Path, tmp_path: Path) -> None:
    few = {"train": {"max_steps": 2}}
    api.run(staged(place, {**DOMAIN, **few}), folder=tmp_path / "run")
    before = times(tmp_path / "run/stages/1-domain")
    run = api.run(staged(place, {**DOMAIN, **few}, {**MOOD, **few}), folder=tmp_path / "run")
    assert times(tmp_path / "run/stages/1-domain") == before
    assert final(run.folder).name == "2-mood"


def test_a_stage_that_started_from_other_weights_is_refused(place: Path, tmp_path: Path) -> None:
    few = {"train": {"max_steps": 2}}
    api.run(staged(place, {**DOMAIN, **few}, {**MOOD, **few}), folder=tmp_path / "run")
    (tmp_path / "run/stages/1-domain").rename(tmp_path / "gone")
    more = {"train": {"max_steps": 3}}
    with pytest.raises(
        UserError, match=r"2-mood: started from weights \w{12}, and the stage before has left \w{12} since"
    ):
        api.run(staged(place, {**DOMAIN, **more}, {**MOOD, **few}), folder=tmp_path / "run")


def test_a_run_without_stages_is_no_place_for_one_with_them(place: Path, tmp_path: Path) -> None:
    plain = {**staged(place), **{key: MOOD[key] for key in ("task",)}, "train": {"max_steps": 1}, "stages": []}
    api.run(plain, folder=tmp_path / "run")
    with pytest.raises(UserError, match="holds a run without stages; name another folder"):
        api.run(staged(place, DOMAIN, MOOD), folder=tmp_path / "run")


# gates


@pytest.fixture(scope="module")
def stopped(place: Path) -> Run:
    gate = {"metric": "perplexity", "at_most": 1.5}
    with pytest.raises(
        CheckFailed, match=r"stage domain did not pass its gate: perplexity is .* at most 1.5 is wanted"
    ):
        api.run(staged(place, {**DOMAIN, "gate": gate}, MOOD), folder=place / "stopped")
    return Run.open(place / "stopped")


def test_a_gate_that_is_not_passed_ends_the_run_with_everything_reported(stopped: Run, place: Path) -> None:
    assert stopped.state == "stopped"
    table = stopped.read_json("stages.json")
    assert table["stages"][0]["gate"]["passed"] is False
    assert table["stages"][1]["state"] is None
    assert not (stopped.folder / "stages" / "2-mood").exists()
    page = stopped.report.read_text()
    assert table["stopped"] in page
    assert "not started" in page
    with pytest.raises(UserError, match="has no model yet"):
        api.ask(stopped, ["so late"])
    assert main(["run", str(stopped.folder)]) == 4, "the same command finds the same"


def test_a_gate_is_judged_on_validation_rows_of_the_final_weights(stopped: Run) -> None:
    own = stage(stopped, 1)
    events = [json.loads(line) for line in own.journal.read_text().splitlines()]
    seen = {event["step"]: event["metrics"]["perplexity"] for event in events if event["event"] == "evaluation"}
    found = judged(Gate(at_least=0.0), own)
    assert found.value == seen[events[-1]["weights_of"]]
    assert found.value != own.read_json("evaluation.json")["metrics"]["perplexity"]["value"], "that is of test rows"


def test_a_gate_that_is_opened_lets_the_run_go_on_where_it_was(stopped: Run, place: Path) -> None:
    before = times(stopped.folder / "stages/1-domain")
    gate = {"metric": "perplexity", "at_most": 1e9}
    run = api.run(staged(place, {**DOMAIN, "gate": gate}, MOOD), folder=stopped.folder)
    assert run.state == "complete"
    assert times(stopped.folder / "stages/1-domain") == before
    assert run.read_json("stages.json")["stages"][0]["gate"]["passed"] is True


@pytest.mark.parametrize(
    ("gate", "passed"),
    [
        (Gate(at_least=0.0), True), (Gate(at_least=1e6), False), (Gate(at_most=1e6), True), (Gate(at_most=0.0), False),
        (Gate(metric="loss", at_most=1e6), True), (Gate(metric="loss", at_most=0.0), False),
        (Gate(gain=-1e9), True), (Gate(gain=1e9), False), (Gate(at_least=0.0, at_most=0.0), False),
    ],
)  # fmt: skip
def test_each_bound_of_a_gate_decides(gate: Gate, passed: bool, done: tuple[Run, Screen]) -> None:
    assert judged(gate, stage(done[0], 1)).passed is passed


def test_a_gain_is_over_the_model_before_the_stage_where_that_knows_the_task(
    done: tuple[Run, Screen], place: Path
) -> None:
    """The language model before the first step: a run of no steps judges it on the same rows."""
    found = judged(Gate(gain=0.0), stage(done[0], 1))
    assert "better than the same model before it was tuned" in found.said
    data = {"train": str(place / "moody.jsonl"), "validation": 0.2, "test": 0.2, "cache": False}
    plain = {**staged(place), "task": DOMAIN["task"], "train": {"max_steps": 0}, "data": data, "stages": []}
    before = api.run(plain, folder=place / "before")
    rows_of = {number for _, number in stage(done[0], 1).read_json("split.json")["validation"]}
    assert rows_of == {number for _, number in before.read_json("split.json")["validation"]}
    kept = [json.loads(line) for line in (place / "moody.jsonl").read_text().splitlines()]
    lines(place / "watched.jsonl", [kept[number - 1] for number in sorted(rows_of)])
    asked = api.evaluate(before, place / "watched.jsonl")["metrics"]["perplexity"]["value"]
    assert found.baseline == pytest.approx(asked, rel=1e-4)
    assert found.passed is (found.value <= found.baseline)


def test_a_gain_is_over_the_best_simple_model_elsewhere(done: tuple[Run, Screen]) -> None:
    found = judged(Gate(gain=0.0), stage(done[0], 2))
    assert "TF-IDF" in found.said
    assert found.baseline is not None
    assert found.baseline > 0.8, "words alone tell the intents apart"
    assert not found.passed


def test_a_gate_can_look_at_general_texts(place: Path, tmp_path: Path) -> None:
    lines(place / "general.jsonl", [{"text": f"good morning kind shop {n}"} for n in range(6)])
    measured = {"resamples": 100, "general": str(place / "general.jsonl")}
    gate = {"metric": "general/perplexity", "at_most": 1.01}
    with pytest.raises(CheckFailed, match=r"general/perplexity is .* on the general texts; at most 1.01 is wanted"):
        api.run(
            staged(place, {**DOMAIN, "gate": gate, "evaluate": measured, "train": {"max_steps": 1}}),
            folder=tmp_path / "run",
        )


@pytest.fixture(scope="module")
def probed(place: Path) -> Run:
    """A stage of two steps with probes of every kind that a gate can look at; the next one is let through by one."""
    lines(place / "texts.jsonl", [{"text": f"good morning kind shop {n}"} for n in range(6)])
    source = str(place / "texts.jsonl")
    probes = [{"name": "states"}, {"name": "a text", "kind": "general", "source": source}]
    kept = {"resamples": 100, "general": source, "probes": probes}
    few = {"model": str(place / "gpt2"), "train": {**FAST, "max_steps": 2}}
    first = {**DOMAIN, "evaluate": kept, "gate": {"metric": "probe/states", "most_lost": 1.0}}
    unknown = {"name": "old rows", "kind": "own", "source": str(place / "moody.jsonl")}
    second = {**INTENT, "evaluate": {"resamples": 100, "probes": [unknown]}}
    return api.run(staged(place, first, second, **few), folder=place / "probed")


@pytest.mark.parametrize(
    ("metric", "higher"), [("probe/states", True), ("probe/a text", False), ("general/perplexity", False)]
)
def test_a_gate_bounds_what_a_stage_has_lost(metric: str, higher: bool, probed: Run) -> None:
    own = stage(probed, 1)
    found = own.read_json("evaluation.json")
    drift, texts = found["retention"]
    one = {"probe/a text": texts, "general/perplexity": found["general"]}.get(metric, drift)
    before, after = 1.0, drift["cka"]
    if one is not drift:
        before, after = (one["metrics"]["perplexity"][when]["value"] for when in ("before", "after"))
    lost = before - after if higher else after - before
    assert abs(lost) > 1e-6, "two steps of this rate leave nothing as it was"
    known = judged(Gate(metric=metric, most_lost=1e9), own)
    assert (known.value, known.baseline) == (after, before)
    assert ("worse than before" in known.said) is (lost > 0)
    assert judged(Gate(metric=metric, most_lost=0.0), own).passed is (lost <= 0)
    for bound, passed in ((abs(lost) * 1.01, True), (abs(lost) * 0.99, lost < 0)):
        assert judged(Gate(metric=metric, most_lost=bound), own).passed is passed
    assert judged(Gate(metric=metric, at_least=after), own).passed
    assert not judged(Gate(metric=metric, at_least=after * 1.01), own).passed
    assert judged(Gate(metric=metric, at_most=after), own).passed
    assert not judged(Gate(metric=metric, at_most=after * 0.99), own).passed


def test_a_chain_goes_on_past_a_probe_that_is_kept_and_stops_at_one_that_is_not(
    probed: Run, place: Path, tmp_path: Path
) -> None:
    assert probed.state == "complete"
    gate = probed.read_json("stages.json")["stages"][0]["gate"]
    assert (gate["metric"], gate["passed"], gate["baseline"]) == ("probe/states", True, 1.0)
    strict = {**MOOD, "evaluate": {"resamples": 100, "probes": [{"name": "states"}]}, "train": {"max_steps": 2}}
    strict["gate"] = {"metric": "probe/states", "at_least": 1.0, "most_lost": 0.0}
    said = r"stage mood did not pass its gate: probe/states is 0\.\d+ on \d+ tokens, .* worse than before the stage; "
    with pytest.raises(CheckFailed, match=rf"{said}at least 1 is wanted; at most 0 may be lost"):
        api.run(staged(place, strict, INTENT), folder=tmp_path / "run")
    assert Run.open(tmp_path / "run").state == "stopped"
    assert not (tmp_path / "run/stages/2-intent").exists()


def test_a_probe_that_the_model_could_not_answer_before_has_nothing_to_lose(probed: Run) -> None:
    own = stage(probed, 2)
    assert judged(Gate(metric="probe/old rows", at_least=0.0), own).passed
    with pytest.raises(UserError, match=r"what probe/old rows was before this stage: the model did not know"):
        judged(Gate(metric="probe/old rows", most_lost=1.0), own)


def test_a_gate_judges_the_weights_that_interpolation_took(place: Path, tmp_path: Path) -> None:
    back = {**MOOD, "task": {**MOOD["task"], "metric": None}, "retain": {"interpolate": {"steps": 2, "margin": 1.0}}}
    run = api.run(staged(place, {**back, "train": {"max_steps": 4}}), folder=tmp_path / "run")
    own = stage(run, 1)
    curve = own.read_json("interpolation.json")
    assert curve["taken"] == 0, "any score is near enough"
    assert judged(Gate(at_least=0.0), own).value == curve["curve"][0]["score"]
    with pytest.raises(UserError, match=r"were judged by accuracy alone; judge the stage by accuracy, or leave"):
        judged(Gate(metric="loss", at_most=1e9), own)


# what is refused before anything starts


def test_a_stage_has_every_section_of_a_recipe() -> None:
    assert set(SECTIONS) == set(Recipe.model_fields) - {"name", "model", "stages"}
    for section in SECTIONS:
        assert Stage.model_fields[section].annotation == Recipe.model_fields[section].annotation


TEXT = """\
model: ./bert
data: {train: moody.jsonl, validation: 0.2}
train: {epochs: 2, batch_size: 4}
stages:
  - name: domain
    task: language
    gate: {metric: perplexity, at_most: 10}
  - name: intent
    task: {kind: classification, label: label}
    method: {kind: lora, rank: 4}
    train: {epochs: 5}
"""


def test_what_a_stage_leaves_out_stands_in_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(TEXT)
    recipe = load_recipe(tmp_path / "recipe.yaml")
    assert [(one.train.epochs, one.train.batch_size) for one in recipe.stages] == [(2, 4), (5, 4)]
    assert [type(one.method).__name__ for one in recipe.stages] == ["Full", "LoRA"]
    assert (recipe.task, recipe.method, recipe.train) == (recipe.stages[1].task, LoRA(rank=4), recipe.stages[1].train)
    assert recipe_from(recipe.as_mapping()) == recipe


def test_a_setting_goes_over_every_stage_or_over_the_one_that_it_names(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(TEXT)
    settings = ["train.epochs=7", "stages.intent.train.batch_size=9", "data.limit=3", "stages.domain.gate.at_most=99"]
    recipe = load_recipe(tmp_path / "recipe.yaml", settings)
    found = [(one.train.epochs, one.train.batch_size, one.data.limit) for one in recipe.stages]
    assert found == [(7, 4, 3), (7, 9, 3)]
    assert recipe.stages[0].gate == Gate(metric="perplexity", at_most=99)
    called = load_recipe(tmp_path / "recipe.yaml", ["name=two"])
    assert [called.name, *(one.name for one in called.stages)] == ["two", "domain", "intent"]
    with pytest.raises(
        UserError, match=r"command line, stages.domein.train.epochs=3: no stage is called 'domein'; did you"
    ):
        load_recipe(tmp_path / "recipe.yaml", ["stages.domein.train.epochs=3"])
    with pytest.raises(UserError, match="names a stage and no key of it"):
        load_recipe(tmp_path / "recipe.yaml", ["stages.domain=3"])


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("epochs: 5", "epoch: 5", "line 11, stages.intent.train: unknown key 'epoch'; did you mean 'epochs'?"),
        ("rank: 4", "rnak: 4", "line 10, stages.intent.method: unknown key 'rnak'; did you mean 'rank'?"),
        ("label: label", "lable: x", "line 9, stages.intent.task: unknown key 'lable'; did you mean 'label'?"),
        ("at_most: 10", "at_mst: 10", "line 7, stages.domain.gate: unknown key 'at_mst'; did you mean 'at_most'?"),
        ("at_most: 10", "at_most: ten", "line 7, stages.domain.gate.at_most: found 'ten', expected a number or null"),
        (", at_most: 10", "", "line 7, stages.domain.gate: lets everything through; write at_least, at_most, gain or"),
        ("perplexity", "f1", "line 7, stages.domain.gate: metric 'f1' is not measured; known: bits_per_byte, loss"),
        ("perplexity", "general/perplexity", "stages.domain.gate: general/perplexity needs texts; name them with"),
        (
            "perplexity",
            "probe/states",
            "line 7, stages.domain.gate: 'probe/states' needs a probe of this stage; name it",
        ),
        (
            "perplexity, at_most: 10}",
            "probe/sates, most_lost: 0}\n    evaluate: {probes: [{name: states}]}",
            "line 7, stages.domain.gate: this stage has no probe 'sates'; did you mean 'states'?",
        ),
        (
            "perplexity, at_most: 10}",
            "probe/a, gain: 0}\n    evaluate: {probes: [{name: a}]}",
            "line 7, stages.domain.gate: gain is for metrics of the task; probes take at_least, at_most or most_lost",
        ),
        (
            "perplexity, at_most: 10}",
            "probe/a, at_most: 1}\n    evaluate: {probes: [{name: a}]}\n    data: {validation: 0, test: 0.2}",
            "line 7, stages.domain.gate: probe 'a' would look at rows that judge; give it a source, or set data",
        ),
        ("at_most: 10", "most_lost: 10", "line 7, stages.domain.gate: most_lost is for general texts and probes;"),
        ("validation: 0.2", "validation: 0", "stages.domain.gate: is judged on the validation rows while training"),
        ("batch_size: 4", "batch_sze: 4", "line 3, train: unknown key 'batch_sze'; did you mean 'batch_size'?"),
        ("    task: language\n", "", "line 5, stages.domain: key 'task' is missing"),
        ("name: domain", "nme: domain", "line 5, stages.0: key 'name' is missing; write a text"),
        ("name: domain", "name: a/b", "line 5, stages.a/b.name: 'a/b' cannot name a stage"),
        ("name: intent", "name: domain", "line 8, stages.domain.name: 'domain' is the name of two stages"),
        ("    train: {epochs: 5}", "    trian: {epochs: 5}", "line 11, stages.intent: unknown key 'trian'"),
        ("    train: {epochs: 5}", "    model: ./bert", "line 11, stages.intent: has a model of its own"),
        ("model: ./bert", "modl: ./bert", "line 1: unknown key 'modl'; did you mean 'model'?"),
        ("    task: language\n", "    task: language\n    data: {train: 3}\n", "stages.domain.data.train: found 3"),
        (
            "    train: {epochs: 5}",
            "    train: {unfreeze: {}}",
            "line 11, stages.intent.train.unfreeze: the blocks stay",
        ),
    ],
)
def test_what_is_wrong_in_any_stage_is_said_at_once(old: str, new: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(TEXT.replace(old, new, 1))
    with pytest.raises(UserError) as caught:
        load_recipe(tmp_path / "recipe.yaml")
    assert said in str(caught.value)


def test_everything_that_is_wrong_in_several_stages_is_listed(tmp_path: Path) -> None:
    wrong = (
        TEXT.replace("epochs: 5", "epoch: 5")
        .replace("at_most: 10", "at_mst: 10")
        .replace("task: language", "task: lnguage")
    )
    (tmp_path / "recipe.yaml").write_text(wrong)
    with pytest.raises(UserError) as caught:
        load_recipe(tmp_path / "recipe.yaml")
    assert [found.partition(",")[2][:8] for found in str(caught.value).splitlines()] == [" line 6,", " line 11"]


@pytest.mark.parametrize(
    ("section", "value"),
    [
        ("task", "language"), ("data", {"limit": 30}), ("method", "lora"), ("train", {"epochs": 9}),
        ("retain", {"l2_sp": 0.1}), ("evaluate", {"level": 0.9}), ("deploy", {"licence": "mit"}), ("seed", 5),
    ],
)  # fmt: skip
def test_a_section_of_a_stage_changes_this_stage_and_no_other(section: str, value: Any, tmp_path: Path) -> None:
    plain = {"model": "./bert", "task": "classification", "data": "rows.jsonl"}

    def walked(**own: Any) -> list[Any]:
        recipe = recipe_from({**plain, "stages": [{"name": "a"}, {"name": "b", **own}, {"name": "c"}]})
        return links(recipe, tmp_path / "run", tmp_path)

    before, after = walked(), walked(**{section: value})
    assert [
        one.name for one, other in zip(before, after, strict=True) if one.recipe.sections() != other.recipe.sections()
    ] == ["b"]
    assert [key for key in SECTIONS if getattr(before[1].recipe, key) != getattr(after[1].recipe, key)] in (
        [section], ["method", "deploy"],
    )  # fmt: skip
    assert len({one.recipe.model.name for one in after}) == 3


class Unmerged(LoRA):
    """What it learns stays beside the model."""

    merges = False


def test_a_method_that_cannot_be_merged_stands_last() -> None:
    own = {"kind": "test_stages:Unmerged"}
    stages = [{**INTENT, "method": own}, MOOD]
    whole = {"model": "./bert", "data": "moody.jsonl", "stages": stages}
    with pytest.raises(
        UserError, match=r"stages.intent.method: no plain model can hold .*; put it last, or use method"
    ):
        recipe_from(whole)
    assert len(recipe_from({**whole, "stages": stages[::-1]}).stages) == 2


@pytest.mark.parametrize(
    ("last", "said"),
    [
        ({"name": "x", "task": "classification", "data": {"train": "nowhere.jsonl"}}, "stages.x: .*nowhere.jsonl"),
        ({"name": "x", "task": "chat"}, "stages.x: task: cannot use encoder models"),
        (
            {"name": "x", "task": "classification", "method": {"kind": "partial", "top": 9}},
            "stages.x: method.top: 9 blocks",
        ),
        ({"name": "x", "task": "classification", "train": {"packing": True}}, "stages.x: train.packing"),
        (
            {"name": "x", "task": "classification", "retain": {"replay": {"source": "nowhere.jsonl"}}},
            "stages.x: .*nowhere.jsonl",
        ),
        (
            {"name": "x", "task": "classification", "evaluate": {"probes": [{"name": "a", "source": "nowhere.jsonl"}]}},
            "stages.x: .*nowhere.jsonl",
        ),
    ],
)
def test_what_a_later_stage_cannot_do_is_said_before_the_first_starts(
    last: dict[str, Any], said: str, place: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=said):
        api.run(staged(place, DOMAIN, last), folder=tmp_path / "run", base=place)
    assert not (tmp_path / "run/stages").exists()


def test_the_schema_lets_a_stage_leave_out_what_the_recipe_has() -> None:
    schema = json_schema()
    own = schema["$defs"]["Stage"]
    assert own["required"] == ["name"]
    assert set(own["properties"]) == {"name", "gate", *SECTIONS}
    assert all("required" not in schema["$defs"][part["$ref"].rpartition("/")[2]]
               for part in own["properties"]["data"]["anyOf"] if "$ref" in part)  # fmt: skip
    assert schema["anyOf"] == [{"required": ["task", "data"]}, {"required": ["stages"]}]
