"""The folder of a run: whose it is, what may be done in it, and that it can be moved."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tunesmith.errors import RunBusy, UserError
from tunesmith.recipe import Recipe, load_recipe, recipe_from
from tunesmith.run import OtherRecipe, Run, environment, is_run, runs_in

SMALL = {"model": "builtin:minilm", "task": {"kind": "classification"}, "data": "rows.csv", "train": {"epochs": 2}}


def recipe(**changes: object) -> Recipe:
    return recipe_from({**SMALL, **changes})


@pytest.fixture
def base(tmp_path):
    """A folder with a data file, in a path that has a space and letters beyond ASCII."""
    folder = tmp_path / "my work ü"
    folder.mkdir()
    (folder / "rows.csv").write_text("text,label\n")
    return folder


def test_a_new_run_has_its_recipe_an_id_and_the_state_started(base):
    run = Run.create_or_open(base / "runs" / "a", recipe(), base)
    assert is_run(run.folder)
    assert run.state == "started"
    assert len(run.run_id) == 16
    assert load_recipe(run.recipe_file) == run.recipe()
    assert run.recipe().train.epochs == 2


def test_the_stored_recipe_leads_to_the_data_and_holds_no_absolute_path(base):
    absolute = recipe(data=str(base / "rows.csv"))
    run = Run.create_or_open(base / "runs" / "a", absolute, Path("/"))
    stored = load_recipe(run.recipe_file)
    assert stored.data.train == "../../rows.csv"
    assert (run.folder / "../../rows.csv").samefile(base / "rows.csv")
    for path in run.folder.iterdir():
        assert str(base) not in path.read_text()


def test_the_stored_recipe_leads_to_the_data_through_a_linked_run_folder(base):
    (base / "far" / "away").mkdir(parents=True)
    (base / "runs").symlink_to(base / "far" / "away")
    run = Run.create_or_open(base / "runs" / "a", recipe(), base)
    source = run.recipe().data.train
    assert isinstance(source, str)
    assert (run.folder / source).samefile(base / "rows.csv")


def test_the_same_recipe_opens_the_same_run(base):
    first = Run.create_or_open(base / "a", recipe(), base)
    first.mark("trained")
    again = Run.create_or_open(base / "a", recipe(), base)
    assert (again.run_id, again.state) == (first.run_id, "trained")


def test_the_runs_own_recipe_opens_the_same_run(base):
    first = Run.create_or_open(base / "a", recipe(), base)
    again = Run.create_or_open(base / "a", load_recipe(base / "a" / "recipe.yaml"), base / "a")
    assert again.run_id == first.run_id


def test_two_runs_have_different_ids(base):
    runs = [Run.create_or_open(base / name, recipe(), base) for name in "ab"]
    assert runs[0].run_id != runs[1].run_id


def learned(run):
    (run.checkpoints / "step-00000001").mkdir(parents=True)
    return run


def test_before_anything_was_learned_the_recipe_may_still_change(base):
    first = Run.create_or_open(base / "a", recipe(), base)
    again = Run.create_or_open(base / "a", recipe(train={"epochs": 3}, method="lora"), base)
    assert (again.run_id, again.state) == (first.run_id, "started")
    assert again.recipe().train.epochs == load_recipe(again.recipe_file).train.epochs == 3


def test_another_recipe_is_refused_with_a_table_and_the_way_out(base):
    learned(Run.create_or_open(base / "a", recipe(), base))
    before = (base / "a" / "recipe.yaml").read_bytes()
    with pytest.raises(OtherRecipe, match="name another folder with --run") as caught:
        Run.create_or_open(base / "a", recipe(train={"epochs": 3}, evaluate={"level": 0.9}, method="lora"), base)
    rows = [line.split() for line in str(caught.value).splitlines()[1:]]
    assert ["train.epochs", "2.0", "3.0", "refused"] in rows
    assert ["evaluate.level", "0.95", "0.9", "allowed"] in rows
    assert ["method.kind", "'full'", "'lora'", "refused"] in rows
    assert caught.value.exit_code == 2
    assert (base / "a" / "recipe.yaml").read_bytes() == before


def test_what_does_not_touch_training_may_change_and_is_then_stored(base):
    first = Run.create_or_open(base / "a", recipe(), base)
    again = Run.create_or_open(base / "a", recipe(evaluate={"level": 0.9}), base)
    assert again.run_id == first.run_id
    assert again.recipe().evaluate.level == 0.9
    assert load_recipe(again.recipe_file).evaluate.level == 0.9


@pytest.mark.parametrize(
    ("change", "state"), [({"evaluate": {"level": 0.9}}, "trained"), ({"name": "b"}, "complete"), ({}, "complete")]
)
def test_a_complete_run_is_judged_again_only_when_that_was_changed(base, change, state):
    Run.create_or_open(base / "a", recipe(), base).mark("complete")
    assert Run.create_or_open(base / "a", recipe(**change), base).state == state


def test_an_edit_of_the_runs_recipe_is_a_change_like_any_other(base):
    run = learned(Run.create_or_open(base / "a", recipe(), base))
    run.recipe_file.write_text(run.recipe_file.read_text().replace("epochs: 2.0", "epochs: 5.0"))
    with pytest.raises(OtherRecipe, match=r"train\.epochs +2\.0 +5\.0 +refused"):
        Run.create_or_open(base / "a", load_recipe(run.recipe_file), base / "a")


def test_a_run_that_was_stopped_before_its_recipe_was_written_gets_it(base):
    run = Run.create_or_open(base / "a", recipe(), base)
    run.recipe_file.unlink()
    assert load_recipe(Run.create_or_open(base / "a", recipe(), base).recipe_file) == run.recipe()


def test_a_moved_run_goes_on_with_the_same_recipe(base):
    first = Run.create_or_open(base / "runs" / "a", recipe(), base)
    first.folder.rename(base / "moved here")
    again = Run.create_or_open(base / "moved here", recipe(), base)
    assert again.run_id == first.run_id
    assert again.recipe().data.train == "../rows.csv"


def test_a_folder_with_other_files_is_refused(base):
    with pytest.raises(UserError, match="is not empty and holds no run; name another folder with --run"):
        Run.create_or_open(base, recipe(), base)
    assert sorted(os.listdir(base)) == ["rows.csv"]


def test_a_file_is_refused(base):
    with pytest.raises(UserError, match="is a file"):
        Run.create_or_open(base / "rows.csv", recipe(), base)


def test_what_a_stopped_writer_left_does_not_make_a_folder_someone_elses(base):
    (base / "a").mkdir()
    (base / "a" / ".run.json.123.tmp").write_text("{")
    assert Run.create_or_open(base / "a", recipe(), base).state == "started"


def test_a_folder_without_a_run_cannot_be_opened(base):
    with pytest.raises(UserError, match="holds no run"):
        Run.open(base)


@pytest.mark.parametrize("content", ['{"format": 99, "state": "started"}', '{"format": 1, "state": "dancing"}', "[]"])
def test_a_run_of_another_version_is_refused(base, content):
    (base / "run.json").write_text(content)
    with pytest.raises(UserError, match="this version reads 1"):
        Run.open(base)


def test_a_damaged_file_is_named(base):
    run = Run.create_or_open(base / "a", recipe(), base)
    run.evaluation.write_text('{"main": ')
    with pytest.raises(UserError, match=r"evaluation\.json: is damaged"):
        run.read_json("evaluation.json")


def test_json_is_kept_as_it_was_given(base):
    run = Run.create_or_open(base / "a", recipe(), base)
    run.write_json("cost.json", {"label": "😀", "seconds": 1.5, "none": None})
    assert run.read_json("cost.json") == {"label": "😀", "seconds": 1.5, "none": None}
    assert json.loads(run.cost.read_text(encoding="utf-8"))["label"] == "😀"
    assert run.read_json("evaluation.json") is None
    with pytest.raises(ValueError, match="not JSON compliant"):
        run.write_json("cost.json", {"value": float("nan")})
    assert run.read_json("cost.json")["seconds"] == 1.5


WORKER = """
import sys
from pathlib import Path
from tunesmith.commit import locked
with locked(Path(sys.argv[1])):
    print("in", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_while_the_first_works(base):
    run = Run.create_or_open(base / "a", recipe(), base)
    command = [sys.executable, "-c", WORKER, str(run.folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        assert worker.stdout.readline() == "in\n"
        with pytest.raises(RunBusy) as caught:
            Run.create_or_open(base / "a", recipe(), base)
        assert caught.value.exit_code == 5
        worker.kill()
    assert Run.create_or_open(base / "a", recipe(), base).run_id == run.run_id


def test_runs_are_listed_by_name_and_other_folders_are_not(base):
    for name in ("b", "a"):
        Run.create_or_open(base / "runs" / name, recipe(), base)
    (base / "runs" / "other").mkdir()
    assert [path.name for path in runs_in(base / "runs")] == ["a", "b"]
    assert runs_in(base / "nowhere") == []


def test_the_environment_holds_known_facts_only(monkeypatch):
    secret = "hf_" + "x" * 34
    monkeypatch.setenv("HF_TOKEN", secret)
    monkeypatch.setenv("USER", "somebody-special")
    facts = environment()
    assert set(facts) == {
        "tunesmith",
        "python",
        "platform",
        "packages",
        "processor",
        "cores",
        "threads",
        "device",
        "memory_bytes",
    }
    text = json.dumps(facts)
    assert facts["threads"] == 1
    assert facts["packages"]["torch"]
    for private in (secret, "somebody-special", str(Path.home())):
        assert private not in text
