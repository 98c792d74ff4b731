"""Methods compared: the same rows and steps for all; what fails or cannot be is said; it goes on after a kill."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finished_run import numbers, several, single
from test_pipeline import Screen, lines, rows, weights
from test_report import Seen, is_inert
from tiny import model_folder
from tunesmith import api
from tunesmith.errors import Interrupted, UserError
from tunesmith.evaluate.metrics import find
from tunesmith.recipe import Recipe, recipe_from
from tunesmith.run import Run
from tunesmith.search.options import CompareOptions
from tunesmith.search.plan import own_rate, trial_recipe
from tunesmith.search.scores import read_judged
from tunesmith.search.variants import divided, read_variants

BROKEN = """
import os, signal
from tunesmith.adapt.head import Head

class Broken(Head):
    def adapt(self, model, family, head, seed, rows=()):
        if seed:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().adapt(model, family, head, seed, rows)
"""
METHODS = "full,head,oft(block=7),broken_method:Broken"
QUICK: dict[str, Any] = {"methods": METHODS, "seeds": 2, "rates": "default", "jobs": 1}


def recipe(**more: Any) -> dict[str, Any]:
    whole: dict[str, Any] = {
        "model": "./bert",
        "task": {"kind": "classification"},
        "data": {"train": "rows.jsonl", "validation": 0.2, "test": 0.4},
        "method": {"kind": "lora", "rank": 4, "dora": True},
        "train": {"max_steps": 6, "batch_size": 4, "learning_rate": 2e-3},
        "evaluate": {"resamples": 100},
    }
    return {**whole, **more}


def made(**more: Any) -> Recipe:
    return recipe_from(recipe(**more))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model, rows, a recipe, and a method that dies with all seeds but 0."""
    folder = tmp_path_factory.mktemp("a home")
    model_folder("bert", folder / "bert")
    lines(folder / "rows.jsonl", rows(120))
    (folder / "recipe.yaml").write_text(json.dumps(recipe()))
    (folder / "broken_method.py").write_text(BROKEN)
    return folder


@pytest.fixture
def known(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(home)
    return home


@pytest.fixture(scope="module")
def compared(home: Path) -> tuple[Path, dict[str, Any], Screen]:
    screen = Screen()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(home)
        found = api.compare(home / "recipe.yaml", **QUICK, folder=home / "compared", screen=screen)
    return home / "compared", found, screen


def by_name(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in found["methods"]}


def digests(folder: Path) -> dict[str, str]:
    """sha256 of the journal, the predictions and the weights of every finished trial."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for pattern in ("journal.jsonl", "predictions.jsonl", "artifact/*.safetensors")
        for path in sorted(folder.glob(f"trials/*/{pattern}"))
        if Run.open(folder / path.relative_to(folder).parts[0] / path.relative_to(folder).parts[1]).state == "complete"
    }


# how methods are written


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("full,head", ["full", "head"]),
        ("full, lora(rank=4, dora=true) ,head,", ["full", "lora(rank=4, dora=true)", "head"]),
        ("lora(ranks={a: 1, b: 2}),x", ["lora(ranks={a: 1, b: 2})", "x"]),
        ("partial(modules=['a,(b']),x", ["partial(modules=['a,(b'])", "x"]),
        ("", []),
    ],
)
def test_a_line_of_methods_is_divided_at_commas_outside_of_brackets(line: str, parts: list[str]) -> None:
    assert divided(line) == parts


def test_options_in_brackets_are_those_of_the_recipe() -> None:
    texts = ("lora(rank=16)", "lora", "lora(rank=2,ranks.value=1)", "head", "bitfit(norms=true)")
    found = read_variants(texts, made())
    assert [variant.name for variant in found] == [
        "lora-rank-16",
        "lora",
        "lora-rank-2-ranks.value-1",
        "head",
        texts[4][:-1].replace("(", "-").replace("=", "-"),
    ]
    assert [variant.settings.get("rank") for variant in found[:3]] == [16, 4, 2]
    assert all(variant.settings["dora"] for variant in found[:3]), "of the recipe's own kind, so with its options"
    assert found[2].settings["ranks"] == {"value": 1}
    plain = read_variants(["lora"], made(method="full"))
    assert (plain[0].settings["rank"], plain[0].settings["dora"]) == (8, False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lroa", "--methods, lroa.*did you mean 'lora'"),
        ("lora(rnk=1)", r"--methods, lora\(rnk=1\).*unknown key 'rnk'; did you mean 'rank'"),
        ("lora(rank)", "'rank' is not a `key=value` setting"),
        ("lora(rank=big)", "found 'big'"),
        ("lora(rank=4", "is no method"),
        ("head(", "is no method"),
    ],
)
def test_what_is_no_method_is_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_variants([text], made())


def test_a_recipe_that_leaves_full_models_is_compared_with_methods_that_leave_none() -> None:
    """A trial leaves what suits its method, whatever the recipe leaves."""
    (adapter,) = read_variants(["adapter"], made(method="full", deploy=["safetensors"]))
    trial = trial_recipe(made(method="full", deploy=["safetensors"]), adapter, seed=1, rate=1e-3)
    assert trial.deploy.formats == ("auto",)


def test_a_method_that_is_there_twice_is_refused() -> None:
    with pytest.raises(UserError, match=r"lora\(rank=4\): is the same as lora; name each once"):
        read_variants(["lora", "lora(rank=4)"], made())
    with pytest.raises(UserError, match="names none"):
        read_variants([], made())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"seeds": 0}, "--seeds: .*greater than or equal to 1"),
        ({"margin": 0}, "--margin"),
        ({"cheapest_by": "price"}, "--cheapest-by"),
        ({"rates": "best"}, "--rates"),
        ({"jobs": 0}, "--jobs"),
        ({"methods": ()}, "--methods"),
    ],
)
def test_an_option_that_cannot_be_is_refused_before_anything_is_read(more: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        api.compare("no_recipe.yaml", **more)


# what a trial is


def test_a_trial_differs_from_the_recipe_only_in_what_is_compared() -> None:
    base = made(seed=7)
    (head,) = read_variants(["head"], base)
    trial = trial_recipe(base, head, seed=9, rate=0.5)
    before, after = base.as_mapping(), trial.as_mapping()
    assert (after["seed"], after["data"]["seed"], after["train"]["learning_rate"]) == (9, 7, 0.5)
    assert after["train"]["stop"]["patience"] is None
    same = ("model", "task")
    assert all(before[section] == after[section] for section in same)
    assert {**after["data"], "seed": None} == before["data"]
    assert made(data={"train": "rows.jsonl", "seed": 3}).data.seed == 3
    kept = trial_recipe(made(data={"train": "rows.jsonl", "seed": 3}), head, seed=1, rate=0.1)
    assert kept.data.seed == 3


def test_the_rate_of_a_recipe_is_for_its_own_kind_of_method() -> None:
    own, other, none = made(), made(train={"learning_rate": None}), read_variants(["lora(rank=2)", "head"], made())
    assert [own_rate(variant, own) for variant in none] == [2e-3, 1e-2]
    assert own_rate(none[0], other) == 5e-4


# what is read of a trial


def evaluation(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "evaluation.json").read_bytes())
    return found


@pytest.mark.parametrize("make", [single, several, numbers])
def test_scores_can_be_told_from_predictions_without_sums(make: Any, tmp_path: Path) -> None:
    """Labels, sets of labels and numbers, whose metrics need not be made of sums over rows."""
    folder = (
        make(tmp_path / "run", bare=True) if make is not numbers else numbers(tmp_path / "run", ("a", "b"), bare=True)
    )
    judged = read_judged(Run.open(folder))
    assert judged.tallies is None
    found = evaluation(folder)["metrics"]
    assert judged.value == found[evaluation(folder)["main"]]["value"]
    assert judged.predictions is not None
    for name, entry in found.items():
        if entry["value"] is not None:
            assert find(name)(judged.predictions) == pytest.approx(entry["value"], rel=1e-9), name
        low, high = replace(judged, metric=find(name)).reach()
        assert low <= high


def test_a_score_that_its_rows_do_not_give_is_refused(tmp_path: Path) -> None:
    folder = single(tmp_path / "run", bare=True)
    found = evaluation(folder)
    found["metrics"]["accuracy"]["value"] += 0.01
    (folder / "evaluation.json").write_text(json.dumps(found))
    with pytest.raises(UserError, match=r"accuracy cannot be told from its predictions.jsonl"):
        read_judged(Run.open(folder))


# the whole way


def test_every_trial_has_the_same_rows_in_its_splits_and_takes_as_many_steps(
    compared: tuple[Path, dict[str, Any], Screen],
) -> None:
    folder, found, _ = compared
    places = sorted(folder.glob("trials/*-seed*"))
    assert [place.name for place in places] == [
        f"{name}-seed{seed}" for name in ("broken_method-Broken", "full", "head") for seed in (0, 1)
    ]
    assert len({(place / "split.json").read_bytes() for place in places if (place / "split.json").exists()}) == 1
    trials = [trial for row in found["methods"] for trial in row["trials"]]
    assert {trial["steps"] for trial in trials} == {6} == {found["budget"]["steps"]}
    for seed in (0, 1):
        assert len({trial["tokens"] for trial in trials if trial["seed"] == seed}) == 1
    seeds = [json.loads((place / "run.json").read_text())["recipe"] for place in places]
    assert {(values["data"]["seed"], values["train"]["max_steps"]) for values in seeds} == {(0, 6)}
    assert len(list((folder / "trials" / ".cache").iterdir())) == 1
    first, second = (Run.open(folder / "trials" / f"full-seed{seed}") for seed in (0, 1))
    assert weights(first) != weights(second)


def test_a_trial_is_the_run_that_its_recipe_makes(
    compared: tuple[Path, dict[str, Any], Screen], tmp_path: Path
) -> None:
    folder, _, _ = compared
    trial = Run.open(folder / "trials" / "head-seed1")
    assert trial.state == "complete"
    alone = api.run(trial.recipe_file, folder=tmp_path / "alone")
    assert alone.journal.read_bytes() == trial.journal.read_bytes()
    assert weights(alone) == weights(trial)


def test_what_is_found_is_what_the_trials_have(compared: tuple[Path, dict[str, Any], Screen]) -> None:
    folder, found, screen = compared
    assert found == json.loads((folder / "comparison.json").read_bytes())
    assert (found["metric"], found["split"], found["rows"]) == ("accuracy", "test", 48)
    row = by_name(found)["full"]
    scores = [
        Run.open(folder / "trials" / f"full-seed{seed}").read_json("evaluation.json")["metrics"]["accuracy"]["value"]
        for seed in (0, 1)
    ]
    assert [trial["value"] for trial in row["trials"]] == scores
    assert row["quality"]["value"] == pytest.approx(np.mean(scores))
    assert 0 <= row["quality"]["low"] <= row["quality"]["value"] <= row["quality"]["high"] <= 1
    costs = [Run.open(folder / row["trials"][seed]["folder"]).read_json("cost.json") for seed in (0, 1)]
    assert row["peak_memory_bytes"] == max(cost["peak_memory_bytes"] for cost in costs)
    assert row["train_seconds"] == pytest.approx(np.mean([cost["train_seconds"] for cost in costs]))
    assert row["trainable"] == row["parameters"]
    assert by_name(found)["head"]["trainable"] < 0.01 * row["parameters"]
    assert row["retention"] is None
    assert found["sentence"].startswith("the data cannot tell: on 48 test rows and 2 seeds no method is shown")
    assert "that takes at least" in found["sentence"]
    assert [line for line in screen.said if line.startswith("full-seed")] == [
        f"full-seed{seed}: accuracy {score:.3f}" for seed, score in enumerate(scores)
    ]


def test_a_method_that_the_model_cannot_take_is_refused_with_its_reason_and_one_that_dies_has_failed(
    compared: tuple[Path, dict[str, Any], Screen],
) -> None:
    folder, found, screen = compared
    refused, broken = by_name(found)["oft-block-7"], by_name(found)["broken_method-Broken"]
    assert "blocks of 7 do not divide" in refused["refused"]
    assert (refused["status"], refused["trials"], refused["quality"]) == ("refused", [], None)
    assert any(line.startswith("oft(block=7) cannot be used here") for line in screen.said)
    assert broken["failed"] == [{"seed": 1, "reason": "killed from outside, as a system does that runs out of memory"}]
    assert (broken["status"], broken["quality"]) == ("failed", None)
    assert [trial["seed"] for trial in broken["trials"]] == [0]
    assert "a method of which a trial failed takes no part in the tests" in found["notes"]
    page = (folder / "comparison.html").read_text()
    assert "mathdefault" not in page, "an axis shows how its numbers are written"
    assert "blocks of 7 do not divide" in page
    assert "killed from outside" in page


def test_the_page_shows_the_sentence_the_picture_and_every_number(
    compared: tuple[Path, dict[str, Any], Screen],
) -> None:
    folder, found, _ = compared
    page = (folder / "comparison.html").read_text()
    assert page.count("<svg") == 1
    assert found["sentence"] in page
    for row in found["methods"]:
        assert row["method"] in page
        for trial in row["trials"]:
            assert f"<td>{trial['folder']}</td>" in page
    assert "not measured" in page
    is_inert(Seen(page))
    assert str(folder.parent) not in page


def test_what_is_done_is_not_done_again_and_more_can_be_asked_of_it(
    compared: tuple[Path, dict[str, Any], Screen], known: Path, tmp_path: Path
) -> None:
    """Another margin and another idea of cheap, on trials of which nothing is left to do."""
    folder = shutil.copytree(compared[0], known / "copied")
    trial = folder / "trials" / "full-seed0" / "evaluation.json"
    general = {"metrics": {"perplexity": {key: {"value": value} for key, value in MEASURED.items()}}}
    trial.write_text(json.dumps({**json.loads(trial.read_text()), "general": general}))
    before = {path: path.stat().st_mtime_ns for path in folder.glob("trials/*/*")}
    again = {**QUICK, "methods": "full,head", "margin": 0.9}
    found = api.compare(known / "recipe.yaml", **again, folder=folder)
    assert (found["chosen"], found["margin"]) == ("head", 0.9)
    assert found["sentence"].startswith("head is the cheapest by parameters (")
    assert by_name(found)["full"]["retention"] == {"what": "perplexity of general text", **MEASURED}
    costs = [("time", "train_seconds"), ("memory", "peak_memory_bytes"), ("size", "artifact_bytes")]
    for what, key in costs:
        by_cost = api.compare(known / "recipe.yaml", **again, cheapest_by=what, folder=folder)
        cheap = min(by_cost["methods"], key=lambda row: (row[key], row["trainable"]))
        assert by_name(by_cost)[by_cost["chosen"]][key] == cheap[key]
        assert f"cheapest by {what}" in by_cost["sentence"]
    assert {path: path.stat().st_mtime_ns for path in folder.glob("trials/*/*")} == before
    with pytest.raises(UserError, match=r"has the rate of full by --rates default; name another folder with --run"):
        api.compare(known / "recipe.yaml", **{**again, "rates": "probe"}, folder=folder)
    with pytest.raises(UserError, match="was made by another recipe"):
        api.compare(known / "recipe.yaml", **again, overrides=["train.max_steps=7"], folder=folder)
    own = known / "other.jsonl"
    lines(own, rows(119))
    moved = recipe(data={**recipe()["data"], "train": str(own)})
    with pytest.raises(UserError, match=r"another recipe|was trained on data"):
        api.compare(moved, **again, folder=folder, base=known)


MEASURED = {"before": 10.0, "after": 12.5, "difference": 2.5}


def test_a_folder_that_holds_something_else_is_refused(home: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    for place, message in (("full", "is not empty and holds no comparison"), ("full/thesis.txt", "is a file")):
        with pytest.raises(UserError, match=message):
            api.compare(home / "recipe.yaml", **{**QUICK, "methods": "head"}, folder=tmp_path / place)
    with pytest.raises(UserError, match=r"none of them can be used here.*blocks of 7"):
        api.compare(home / "recipe.yaml", **{**QUICK, "methods": "oft(block=7)"}, folder=tmp_path / "new")
    staged = home / "staged.yaml"
    staged.write_text(json.dumps(recipe(stages=[{"name": "one"}, {"name": "two"}])))
    with pytest.raises(UserError, match=r"stages: are several trainings"):
        api.compare(staged, **{**QUICK, "methods": "head"}, folder=tmp_path / "staged")
    with pytest.raises(UserError, match=r"train.max_steps: is 0"):
        api.compare(home / "recipe.yaml", methods="head", overrides=["train.max_steps=0"], folder=tmp_path / "untuned")


def test_killed_in_the_middle_it_goes_on_and_finished_trials_are_not_touched(
    compared: tuple[Path, dict[str, Any], Screen], known: Path
) -> None:
    """With two trials at a time; it ends in the bytes of the one that was never stopped and had one at a time."""
    words = ["--methods", "full,head", "--seeds", "2", "--rates", "default", "--jobs", "2", "--run", "cut"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tunesmith", "compare", "recipe.yaml", *words]
    folder = known / "cut"
    with subprocess.Popen(command, cwd=known, env=environment, stdout=subprocess.DEVNULL) as child:
        until = time.monotonic() + 120
        while not (done := finished(folder)):
            assert time.monotonic() < until
            assert child.poll() is None
            time.sleep(0.02)
        child.kill()
    before = {path: path.stat().st_mtime_ns for place in done for path in place.iterdir() if path.name[0] != "."}
    found = api.compare(known / "recipe.yaml", **{**QUICK, "methods": "full,head", "jobs": 2}, folder=folder)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert found["jobs"] == 2
    whole = {place: digest for place, digest in digests(compared[0]).items() if "Broken" not in place}
    assert digests(folder) == whole
    kept = ("value", "steps", "tokens")
    for name in ("full", "head"):
        ours, theirs = (
            [[trial[key] for key in kept] for trial in by_name(one)[name]["trials"]] for one in (found, compared[1])
        )
        assert ours == theirs


def finished(folder: Path) -> list[Path]:
    places = [place for place in sorted(folder.glob("trials/*")) if (place / "run.json").exists()]
    return [place for place in places if Run.open(place).state == "complete"]


def test_a_signal_ends_it_after_the_trials_have_saved_and_no_trial_goes_on(known: Path) -> None:
    class Presser(Screen):
        def say(self, line: str) -> None:
            if line.startswith("head-seed0"):
                os.kill(os.getpid(), signal.SIGTERM)

    folder = known / "pressed"
    with pytest.raises(Interrupted, match="finished trials are kept") as stopped:
        api.compare(known / "recipe.yaml", **{**QUICK, "methods": "head"}, folder=folder, screen=Presser())
    assert stopped.value.exit_code == 143
    assert finished(folder) == [folder / "trials" / "head-seed0"]
    with Run.open(folder / "trials" / "head-seed1").lock():
        assert not (folder / "comparison.json").exists()


def test_rates_are_found_on_validation_rows_in_short_trials_of_the_first_seed(known: Path) -> None:
    folder, screen = known / "probed", Screen()
    settings = ["train.max_steps=20", "train.warmup=10", "train.evaluate_every=7"]
    found = api.compare(
        known / "recipe.yaml", methods="head", seeds=1, overrides=settings, folder=folder, screen=screen
    )
    (row,) = found["methods"]
    assert [probe["rate"] for probe in row["probes"]] == [0.0033, 0.01, 0.03]
    best = min(row["probes"], key=lambda probe: probe["loss"])
    assert row["rate"] == best["rate"]
    trial = Run.open(folder / "trials" / "head-seed0").recipe()
    assert trial.train.learning_rate == best["rate"]
    assert len(list((folder / "trials" / ".cache").iterdir())) == 1
    for probe in (Run.open(place) for place in sorted(folder.glob("trials/head-rate*"))):
        assert not probe.evaluation.exists()
        assert not probe.predictions.exists()
        steps = [json.loads(line) for line in probe.journal.read_text().splitlines()]
        assert [event["step"] for event in steps if event["event"] == "step"] == [1, 2, 3, 4]
        assert not probe.checkpoints.exists()
    assert found["sentence"].startswith("only head has a score")
    assert any("one seed" in note for note in found["notes"])
    page = (folder / "comparison.html").read_text()
    assert "How the rates were found" in page


def test_the_defaults_of_the_command_line_and_of_python_are_those_of_the_options() -> None:
    import inspect

    from tunesmith.cli.compare import compare

    fields = CompareOptions.model_fields
    for name, field in fields.items():
        wanted = field.default
        assert inspect.signature(api.compare).parameters[name].default == wanted
        own = inspect.signature(compare).parameters[name].default
        assert (tuple(divided(own)) if name == "methods" else own) == wanted
