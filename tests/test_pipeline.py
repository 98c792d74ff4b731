"""The whole way: from a file of rows, through six stages, to a model that answers and a report that says how well."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tiny import model_folder
from tunesmith import api
from tunesmith.cli.app import main
from tunesmith.errors import UserError
from tunesmith.run import Run

FILES = [
    "audit.json",
    "cost.json",
    "deploy.json",
    "environment.json",
    "evaluation.json",
    "journal.jsonl",
    "ledger.jsonl",
    "model.json",
    "parameters.json",
    "predictions.jsonl",
    "recipe.yaml",
    "report.html",
    "run.json",
    "split.json",
    "timing.jsonl",
]
TEXTS = {
    "late": ("where is my parcel", "my order is late", "the parcel never arrived", "still no order today"),
    "broken": ("the lamp is broken", "a broken kettle again", "the chair came broken", "my new kettle is broken"),
    "praise": ("thank you so much", "wonderful people", "what a great shop", "quick and kind, thanks"),
}
SETTINGS: dict[str, Any] = {"epochs": 3, "batch_size": 4, "learning_rate": 2e-3}


class Screen(api.Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.said: list[str] = []

    def stage(self, name: str, what: str) -> None:
        self.stages.append(name)

    def say(self, line: str) -> None:
        self.said.append(line)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny models and rows."""
    folder = tmp_path_factory.mktemp("house")
    for kind in ("bert", "gpt2", "t5"):
        model_folder(kind, folder / kind)
    lines(folder / "rows.jsonl", rows(48))
    return folder


def rows(count: int) -> list[dict[str, Any]]:
    chance = random.Random(1)
    labels = sorted(TEXTS)
    return [
        {"text": f"{chance.choice(TEXTS[label])} number {place}", "label": label}
        for place in range(count)
        for label in [labels[place % 3]]
    ]


def lines(path: Path, found: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found))
    return path


def losses(run: Run) -> list[float]:
    events = [json.loads(line) for line in run.journal.read_text().splitlines()]
    return [event["loss"] for event in events if event["event"] == "step"]


def recipe(house: Path, **more: Any) -> dict[str, Any]:
    whole: dict[str, Any] = {
        "model": str(house / "bert"),
        "task": {"kind": "classification"},
        "data": {"train": str(house / "rows.jsonl"), "validation": 0.2, "test": 0.2, "cache": False},
        "method": "full",
        "train": SETTINGS,
        "evaluate": {"resamples": 100},
        "deploy": {"verify": False},
    }
    return {**whole, **more}


def weights(run: Run) -> dict[str, str]:
    """The bytes of the artefact's tensors."""
    return {
        str(path.relative_to(run.artifact)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(run.artifact.rglob("*.safetensors"))
    }


@pytest.fixture(scope="module")
def done(house: Path) -> tuple[Run, Screen]:
    screen = Screen()
    return api.run(recipe(house), folder=house / "done", screen=screen), screen


def test_six_stages_leave_everything_that_a_run_has(done: tuple[Run, Screen]) -> None:
    run, screen = done
    assert screen.stages == ["select", "prepare", "adapt", "train", "evaluate", "deploy", "report"]
    assert [name for name in FILES if not (run.folder / name).is_file()] == []
    assert run.state == "complete"
    assert str(run.folder.parent) not in run.report.read_text()
    audit = run.read_json("audit.json")
    assert audit["ledger"]["ways"] == {"train": 28, "validation": 10, "test": 10}
    steps = [json.loads(line) for line in run.journal.read_text().splitlines()]
    assert [event["step"] for event in steps if event["event"] == "step"] == list(range(1, steps[-1]["step"] + 1))


def test_each_test_row_has_its_prediction_and_they_give_the_score(done: tuple[Run, Screen]) -> None:
    run, _ = done
    found = [json.loads(line) for line in run.predictions.read_text().splitlines()]
    judged = run.read_json("evaluation.json")
    assert len(found) == judged["rows"] == 10
    assert np.mean([row["answer"] == row["gold"] for row in found]) == judged["metrics"]["accuracy"]["value"]
    assert {row["name"] for row in judged["baselines"]} == {"majority", "tfidf_logistic"}
    (answer,) = api.ask(run, [found[0]["text"]])
    assert answer.value == found[0]["answer"]
    assert answer.scores[answer.value] == pytest.approx(found[0]["confidence"], abs=1e-5)


def test_the_stored_recipe_gives_the_same_bytes_again(done: tuple[Run, Screen], house: Path) -> None:
    run, _ = done
    again = api.run(run.recipe_file, folder=house / "again")
    assert weights(again) == weights(run)
    assert again.journal.read_bytes() == run.journal.read_bytes()
    assert again.predictions.read_bytes() == run.predictions.read_bytes()
    assert again.read_json("evaluation.json") == run.read_json("evaluation.json")


def test_another_seed_gives_other_bytes(done: tuple[Run, Screen], house: Path) -> None:
    run, _ = done
    assert weights(api.run(recipe(house, seed=1), folder=house / "seed")) != weights(run)


def test_a_complete_run_is_left_as_it_is(done: tuple[Run, Screen], house: Path) -> None:
    run, _ = done
    before = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*") if path.is_file() and path.name[0] != "."}
    screen = Screen()
    api.run(recipe(house), folder=run.folder, screen=screen)
    assert "nothing is left to do" in screen.said[0]
    assert {path: path.stat().st_mtime_ns for path in before} == before


def everything(folder: Path) -> dict[str, str]:
    """sha256 of each file of a run that tells what was learned."""
    kept = ("run.json", "recipe.yaml", "audit.json", "split.json", "ledger.jsonl", "journal.jsonl", "*.safetensors")
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for pattern in kept
        for path in sorted(folder.rglob(pattern))
    }


@pytest.mark.parametrize("complete", [True, False])
def test_other_data_are_refused_and_nothing_is_lost(house: Path, tmp_path: Path, complete: bool) -> None:
    own = lines(tmp_path / "own.jsonl", rows(30))
    whole = recipe(house, data={"train": str(own), "validation": 0.2, "cache": False})
    run = api.run(whole, folder=tmp_path / "run")
    if not complete:
        (run.folder / "artifact").rename(tmp_path / "gone")
        state = json.loads((run.folder / "run.json").read_text())
        (run.folder / "run.json").write_text(json.dumps({**state, "state": "trained"}))
    before = everything(run.folder)
    lines(own, [*rows(29), {"text": "something new", "label": "late"}])
    with pytest.raises(UserError, match="--run"):
        api.run(whole, folder=run.folder)
    (tmp_path / "elsewhere").mkdir()
    other = lines(tmp_path / "elsewhere" / "own.jsonl", rows(31))
    moved = {**whole, "data": {**whole["data"], "train": str(other)}}
    with pytest.raises(UserError, match="--run"):
        api.run(moved, folder=run.folder)
    assert everything(run.folder) == before


def test_the_same_data_elsewhere_are_the_same_run(house: Path, tmp_path: Path) -> None:
    own = lines(tmp_path / "own.jsonl", rows(30))
    whole = recipe(house, data={"train": str(own), "validation": 0.2, "cache": False})
    run = api.run(whole, folder=tmp_path / "run")
    made = weights(run)
    (tmp_path / "elsewhere").mkdir()
    moved = own.rename(tmp_path / "elsewhere" / "own.jsonl")
    screen = Screen()
    api.run({**whole, "data": {**whole["data"], "train": str(moved)}}, folder=run.folder, screen=screen)
    assert "nothing is left to do" in screen.said[-1]
    assert run.recipe().data.train == "../elsewhere/own.jsonl"
    assert weights(run) == made


def test_a_model_that_was_deleted_is_written_again_to_the_byte(house: Path, tmp_path: Path) -> None:
    run = api.run(recipe(house), folder=tmp_path / "run")
    made = weights(run)
    assert made
    shutil.rmtree(run.artifact)
    api.run(recipe(house), folder=run.folder)
    assert (weights(run), run.state) == (made, "complete")


def test_rows_of_labels_that_were_not_learned_are_told_in_the_verdict(house: Path, tmp_path: Path) -> None:
    test = lines(tmp_path / "test.jsonl", [{"text": "well", "label": "late"}, {"text": "oh", "label": "unheard of"}])
    data = {"train": str(house / "rows.jsonl"), "test": str(test), "on_bad_row": "skip", "cache": False}
    run = api.run(recipe(house, data=data), folder=tmp_path / "run")
    judged = run.read_json("evaluation.json")
    assert judged["rows"] == 1
    assert judged["verdict"].endswith("; 1 more test rows cannot be judged (the ledger says why), and are not counted")


def test_files_of_one_name_are_told_apart_without_where_they_are(house: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    train, test = lines(tmp_path / "a" / "rows.jsonl", rows(30)), lines(tmp_path / "b" / "rows.jsonl", rows(40)[30:])
    data = {"train": str(train), "test": str(test), "validation": 0, "cache": False}
    run = api.run(recipe(house, data=data), folder=tmp_path / "run", base=house)
    files = run.read_json("audit.json")["files"]
    assert sorted(files.values()) == sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in (train, test))
    assert str(tmp_path) not in (run.folder / "audit.json").read_text()


def test_the_best_evaluation_is_what_is_judged(house: Path) -> None:
    train = {**SETTINGS, "epochs": 12, "learning_rate": 0.02, "stop": {"patience": 2}}
    run = api.run(recipe(house, train=train), folder=house / "best")
    events = [json.loads(line) for line in run.journal.read_text().splitlines()]
    seen = [event for event in events if event["event"] == "evaluation"]
    best = max(seen, key=lambda event: event["metrics"]["accuracy"])  # the first of equals
    assert events[-1]["weights_of"] == best["step"]
    assert events[-1]["reason"] == "early stop"
    kept = load_file(run.checkpoints / f"step-{best['step']:08d}" / "weights.safetensors")
    saved = load_file(run.artifact / "model.safetensors")
    assert all(np.array_equal(saved[name], kept[name]) for name in kept)


def test_an_adapter_moves_nothing_of_the_base(house: Path) -> None:
    run = api.run(recipe(house, method={"kind": "lora", "rank": 4}), folder=house / "adapter")
    names = set(load_file(run.artifact / "adapter_model.safetensors"))
    assert names
    assert all("lora_" in name or "classifier" in name for name in names)
    facts = run.read_json("parameters.json")
    assert facts["trainable"] < 0.3 * facts["total"]
    assert any("query" in note for note in facts["notes"])


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_every_family_goes_the_whole_way(family: str, house: Path) -> None:
    run = api.run(recipe(house, model=str(house / family)), folder=house / f"run-{family}")
    assert run.read_json("model.json")["card"]["family"] in ("decoder", "encoder-decoder")
    (answer,) = api.ask(run, ["the lamp is broken"])
    assert answer.value in TEXTS


def test_several_numbers_come_back_in_their_own_units(house: Path) -> None:
    found = [
        {"text": f"{'very ' * (place % 5)}late", "days": 100.0 + place % 5, "cost": -0.01 * (place % 5)}
        for place in range(40)
    ]
    lines(house / "numbers.jsonl", found)
    task = {"kind": "regression", "target": ["days", "cost"]}
    data = {"train": str(house / "numbers.jsonl"), "validation": 0.2}
    train = {**SETTINGS, "epochs": 15}
    run = api.run(recipe(house, task=task, data=data, train=train), folder=house / "numbers")
    judged = run.read_json("evaluation.json")
    assert judged["main"] == "mae"
    assert "these rows also chose when to stop" in judged["verdict"]
    (answer,) = api.ask(run, ["very very late"])
    assert 95 < answer.value["days"] < 110
    assert -0.1 < answer.value["cost"] < 0.1


def test_a_row_may_have_several_labels_or_none(house: Path) -> None:
    found = [{"text": row["text"], "tags": [row["label"]] if place % 4 else []} for place, row in enumerate(rows(40))]
    lines(house / "tags.jsonl", found)
    task = {"kind": "classification", "label": "tags", "multi_label": True}
    data = {"train": str(house / "tags.jsonl"), "validation": 0, "test": 0.25}
    run = api.run(recipe(house, task=task, data=data), folder=house / "tags")
    judged = run.read_json("evaluation.json")
    assert judged["main"] == "micro_f1"
    (answer,) = api.ask(run, ["the lamp is broken"])
    assert set(answer.scores) == set(TEXTS)


# as a new user would


def command(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", **variables}
    return subprocess.run(
        [sys.executable, "-m", "tunesmith", *words], cwd=folder, env=environment, capture_output=True, text=True
    )


AWKWARD: Mapping[str, tuple[str, int, str]] = {
    "an emoji for a label and odd columns": (
        "Was sagt, man?;Gefühl (1–2)\n" + "".join(f"text {n} ja;{'😀' if n % 2 else '😡'}\n" for n in range(24)),
        0,
        "24 rows read",
    ),
    "twelve rows": ("text,label\n" + "".join(f"row {n} here,{'yes' if n % 2 else 'no'}\n" for n in range(12)), 0, "12"),
    "a class of two rows": (
        "text,label\n"
        + "".join(f"row {n} is {'good' if n % 2 else 'bad'},{'good' if n % 2 else 'bad'}\n" for n in range(20))
        + "one odd thing,rare\nanother odd thing,rare\n",
        0,
        "22 rows read",
    ),
    "an empty file": ("", 2, "is empty"),
    "a header alone": ("text,label\n", 2, "holds no readable rows"),
    "one class": ("text,label\n" + "".join(f"row {n},same\n" for n in range(12)), 2, "only the label 'same'"),
    "one column": ("text\n" + "".join(f"row {n}\n" for n in range(12)), 2, "column"),
}


@pytest.mark.parametrize("case", AWKWARD)
def test_an_awkward_file_ends_well_or_in_one_line(
    case: str, house: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    content, code, said = AWKWARD[case]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TERMINAL_WIDTH", "400")
    Path("data file.csv").write_text(content)
    words = ["--data", "data file.csv", "--model", str(house / "bert"), "--task", "classification"]
    ended = main(
        ["run", *words, "train.epochs=1", "train.batch_size=4", "deploy.verify=false", "evaluate.resamples=100"]
    )
    shown = capfd.readouterr()
    assert ended == code, shown.err
    assert said in shown.out + shown.err
    assert "Traceback" not in shown.err + shown.out
    if code:
        assert len(shown.err.strip().splitlines()) == 1, shown.err
    else:
        (report,) = Path("runs").glob("*/report.html")
        assert main(["ask", str(report.parent), "what about this"]) == 0


def test_terminated_while_training_the_same_command_ends_in_the_same_bytes(house: Path, tmp_path: Path) -> None:
    settings = ["train.epochs=20", "train.stop.patience=null", "deploy.verify=false", "evaluate.resamples=100"]
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe(house)))
    words = ["run", "recipe.yaml", *settings, "--run"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", "tunesmith", *words, "cut"], cwd=tmp_path, env=environment, stderr=subprocess.PIPE
    ) as child:
        journal = tmp_path / "cut" / "journal.jsonl"
        waited = time.monotonic() + 60
        while not (journal.exists() and journal.read_text().count('"step"') > 20):
            assert time.monotonic() < waited
            assert child.poll() is None
            time.sleep(0.01)
        child.send_signal(signal.SIGTERM)
        _, said = child.communicate(timeout=60)
    assert child.returncode == 143, said
    assert b"the same command goes on" in said
    assert Run.open(tmp_path / "cut").state == "started"
    done = command(tmp_path, *words, "cut")
    assert done.returncode == 0, done.stderr
    assert "going on after step" in done.stdout + done.stderr
    assert command(tmp_path, *words, "whole").returncode == 0
    cut, whole = Run.open(tmp_path / "cut"), Run.open(tmp_path / "whole")
    assert weights(cut) == weights(whole)
    assert cut.journal.read_bytes() == whole.journal.read_bytes()


def test_two_processes_make_one_run_like_that_of_one(house: Path, tmp_path: Path) -> None:
    settings = recipe(house, train={**SETTINGS, "epochs": 1, "dropout": 0.0, "precision": "float32"})
    (tmp_path / "recipe.yaml").write_text(json.dumps(settings))
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "tunesmith"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *launcher, "run", "recipe.yaml", "name=two"],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    two = Run.open(tmp_path / "runs" / "two")
    one = api.run(settings, folder=tmp_path / "one")
    assert two.state == "complete"
    first, second = load_file(one.artifact / "model.safetensors"), load_file(two.artifact / "model.safetensors")
    worst = max(float(np.abs(first[name] - second[name]).max()) for name in first)
    assert worst < 2e-3, "AdamW turns rounding of tiny gradients into steps, but not into more than a few of them"
    losses = [
        [json.loads(line)["loss"] for line in run.journal.read_text().splitlines() if '"loss"' in line]
        for run in (one, two)
    ]
    assert np.allclose(losses[0], losses[1], rtol=1e-4)


def test_baselines_are_left_out_where_the_training_rows_are_not_what_they_were(house: Path, tmp_path: Path) -> None:
    own = lines(tmp_path / "own.jsonl", rows(30))
    run = api.run(recipe(house, data={"train": str(own), "validation": 0.2}), folder=tmp_path / "run")
    judged = api.evaluate(run, house / "rows.jsonl")
    assert judged["baselines"]
    assert "of these rows were trained on, so the score says little about new ones" in judged["verdict"]
    new = lines(tmp_path / "new.jsonl", [{"text": f"nobody saw {place}", "label": "late"} for place in range(3)])
    assert "trained on" not in api.evaluate(run, new)["verdict"]
    lines(own, [*rows(29), {"text": "something new", "label": "unheard of"}])
    judged = api.evaluate(run, house / "rows.jsonl")
    assert judged["baselines"] == []
    assert judged["verdict"].endswith("so no baseline and no overlap was looked for")


def test_new_rows_that_are_bad_are_left_out_and_counted_where_the_run_did_so(house: Path, tmp_path: Path) -> None:
    new = lines(tmp_path / "new.jsonl", [{"text": "so late", "label": "late"}, {"text": "oh", "label": "unheard of"}])
    runs = {}
    for way in ("skip", "stop"):
        data = {"train": str(house / "rows.jsonl"), "on_bad_row": way, "cache": False}
        train = {**SETTINGS, "max_steps": 1}
        runs[way] = api.run(recipe(house, data=data, train=train), folder=tmp_path / way)
    judged = api.evaluate(runs["skip"], new)
    assert (judged["rows"], judged["verdict"].rpartition("; ")[2]) == (1, "1 bad rows were left out")
    with pytest.raises(UserError, match="line 2"):
        api.evaluate(runs["stop"], new)
    lines(new, [{"text": "oh", "label": "unheard of"}])
    with pytest.raises(UserError, match=r"holds no usable rows; 1 bad ones; the first: new.jsonl, line 1"):
        api.evaluate(runs["skip"], new)


def test_an_adapter_without_its_base_says_how_to_name_it(house: Path, tmp_path: Path) -> None:
    base = shutil.copytree(house / "bert", tmp_path / "base")
    whole = recipe(house, model=str(base), method="lora", train={**SETTINGS, "max_steps": 1})
    run = api.run(whole, folder=tmp_path / "run")
    base.rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"its base: there is no folder .*base; say where it is with --base"):
        api.ask(run, ["so late"])
    predictor = api.open_predictor(run, base=str(tmp_path / "moved"))
    assert api.ask(predictor, ["so late"])[0].value in TEXTS


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("task.metric=mae", "does not suit this task"),
        ("train.betas=[1.5, 2]", "at least 0 and below 1"),
        ("train.evaluate_every=0", "at least 1"),
        ("deploy=[]", "at least one artefact"),
        ("task.labels=[]", "labels must be named, each once"),
        ("task.labels=[a, a]", "labels must be named, each once"),
        ("task.weights=[1, 0]", "each weight must be above 0"),
        ("task={kind: regression, target: []}", "columns must be named, each once"),
        ("task={kind: regression, target: [a, a]}", "columns must be named, each once"),
        ("task={kind: regression, target: [a, b], means: [1]}", "1 means for 2 targets"),
        ("task={kind: regression, target: a, scales: [0]}", "each scale must be above 0"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_before_anything_is_read(setting: str, said: str, house: Path) -> None:
    with pytest.raises(UserError) as error:
        api.run(recipe(house), overrides=[setting], folder=house / "refused")
    assert not (house / "refused").exists()
    assert said in str(error.value)


NARROW = """
from tunesmith.contracts import Family
from tunesmith.tasks.classification import Classification

class Narrow(Classification):
    families = frozenset({Family.ENCODER})
"""


def test_a_task_refuses_a_family_before_weights_or_rows_are_read(
    house: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "narrow_task.py").write_text(NARROW)
    monkeypatch.syspath_prepend(tmp_path)
    base = shutil.copytree(house / "gpt2", tmp_path / "gpt2")
    whole = recipe(house, model=str(base), task={"kind": "narrow_task:Narrow"}, data="no_such_file.csv")
    with pytest.raises(UserError, match="task: cannot use decoder models such as gpt2; choose another model"):
        api.run(whole, folder=tmp_path / "run")


@pytest.mark.parametrize("number", ["1e308", "9" * 400, "1e400", "-1e200"])
def test_a_number_that_no_float_can_square_is_a_bad_row(number: str, house: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f'{{"text": "row {n}", "score": {number if n == 3 else n}}}\n' for n in range(12)))
    with pytest.raises(UserError, match="line 4: field 'score'"):
        api.run(recipe(house, task={"kind": "regression"}, data={"train": str(path)}), folder=tmp_path / "run")


def test_a_tokenizer_with_more_tokens_than_the_model_embeds_is_refused(house: Path, tmp_path: Path) -> None:
    folder = model_folder("bert", tmp_path / "small")
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["unheardof"] = max(vocabulary.values()) + 1
    path.write_text(json.dumps(tokenizer))
    with pytest.raises(UserError, match="the model embeds"):
        api.run(recipe(house, model=str(folder)), folder=tmp_path / "run")


def test_weights_that_are_cut_off_are_refused(house: Path, tmp_path: Path) -> None:
    folder = model_folder("bert", tmp_path / "cut")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError):
        api.run(recipe(house, model=str(folder)), folder=tmp_path / "run")


def test_spans_that_end_inside_a_token_are_said(house: Path, tmp_path: Path) -> None:
    rows = [{"text": f"the parcel number {n}", "spans": [[4, 8 if n % 2 else 10, "THING"]]} for n in range(20)]
    data = {"train": str(lines(tmp_path / "spans.jsonl", rows)), "validation": 0, "cache": False}
    task, few = {"kind": "ner", "text": "text", "spans": "spans"}, {**SETTINGS, "epochs": 1}
    screen = Screen()
    run = api.run(recipe(house, task=task, data=data, train=few), folder=tmp_path / "run", screen=screen)
    assert run.read_json("audit.json")["splits"]["train"]["tokens"]["widened"] == 10
    assert any("10 spans end inside a token" in line for line in screen.said)


def test_preferences_are_judged_on_new_rows_as_they_were_in_the_run(house: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"order {n}", "chosen": f"thank you {n}", "rejected": f"never {n}"} for n in range(16)]
    data = {"train": str(lines(tmp_path / "a.jsonl", rows[:10])), "validation": 0, "cache": False}
    data["test"] = str(lines(tmp_path / "b.jsonl", rows[10:]))
    whole = recipe(house, model=str(house / "gpt2"), task={"kind": "preference"}, data=data)
    run = api.run(whole, folder=tmp_path / "run")
    before, again = run.read_json("evaluation.json")["metrics"], api.evaluate(run, tmp_path / "b.jsonl")["metrics"]
    assert before["reward_margin"]["value"] != 0
    assert again["reward_margin"]["value"] == pytest.approx(before["reward_margin"]["value"], rel=1e-3)
    endless = {"prompt": "order", "chosen": "never again " * 60, "rejected": "so"}
    beside = api.evaluate(run, lines(tmp_path / "c.jsonl", [endless, *rows[10:]]))
    assert beside["rows"] == 6
    assert beside["metrics"]["reward_margin"]["value"] == pytest.approx(again["reward_margin"]["value"], rel=1e-6)
    assert "1 more rows cannot be read by this model (reply too long: 1), and are not counted" in beside["verdict"]
    with pytest.raises(UserError, match=r"d.jsonl, line 1: cannot be read by this model: .*, and so are all rows"):
        api.evaluate(run, lines(tmp_path / "d.jsonl", [endless]))
    with pytest.raises(UserError, match=r"^input 302: cannot be read by this model: reply too long; leave it out"):
        api.ask(run, [rows[0], endless], first=301)


def test_how_texts_are_generated_may_change_after_training(tmp_path: Path) -> None:
    """More tokens are asked for than the model has positions; then fewer: judged again, and nothing learned again."""
    model_folder("gpt2", tmp_path / "gpt2")
    rows = [{"source": f"the {word}", "target": word} for word in ("kettle", "lamp", "chair", "order")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe: dict[str, Any] = {
        "model": "./gpt2",
        "task": {"kind": "generation", "decoding": {"max_new_tokens": 100}},
        "data": {"train": "rows.jsonl", "validation": 0.5, "cache": False},
        "train": {"epochs": 1, "batch_size": 2},
        "evaluate": {"resamples": 100, "baselines": False},
        "deploy": {"verify": False},
    }
    run = api.run(recipe, folder=tmp_path / "run", base=tmp_path)
    learned, said = run.journal.read_bytes(), run.predictions.read_text()
    again = api.run(recipe, overrides=["task.decoding.max_new_tokens=2"], folder=tmp_path / "run", base=tmp_path)
    assert again.journal.read_bytes() == learned
    assert again.predictions.read_text() != said
    assert again.recipe().as_mapping()["task"]["decoding"]["max_new_tokens"] == 2
    changes = ["task.decoding.max_new_tokens=3", "evaluate.validation_replies=2"]
    with pytest.raises(UserError, match="another recipe"):
        api.run(recipe, overrides=changes, folder=tmp_path / "run", base=tmp_path)
