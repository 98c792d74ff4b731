"""A recipe is complete, frozen and exact before any weight is read, and says in one line each what is wrong with it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.adapt.lora import LoRA
from tunesmith.errors import UserError
from tunesmith.recipe import Recipe, changed, flat, load_recipe, recipe_from
from tunesmith.recipe_schema import SCHEMA_FILE, json_schema, schema_text
from tunesmith.recipe_yaml import MAX_DEPTH, MAX_NODES, read_value, read_yaml, write_value, write_yaml
from tunesmith.tasks.classification import Classification
from tunesmith.tasks.regression import Regression

SMALL: Mapping[str, Any] = {
    "model": "builtin:minilm",
    "task": {"kind": "classification", "label": "intent"},
    "data": "tickets.jsonl",
}
TEXT = """\
model: builtin:minilm
task: {kind: classification, text: text, label: intent}
data: {train: tickets.jsonl}
method: {kind: lora, rank: 8}
train:
  epochs: 8
  learning_rate: 1e-4
deploy: [safetensors]
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes recipe.yaml into the working directory."""
    monkeypatch.chdir(tmp_path)

    def written(text: str | bytes) -> Path:
        path = Path("recipe.yaml")
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return written


def complaint(path: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_recipe(path, overrides)
    assert caught.value.exit_code == 2
    return str(caught.value)


# reading


def test_a_short_recipe_is_complete_once_read(write):
    recipe = load_recipe(write(TEXT))
    assert recipe.model.name == "builtin:minilm"
    assert recipe.task == Classification(label="intent")
    assert recipe.method == LoRA(rank=8)
    assert recipe.train.epochs == 8
    assert recipe.train.learning_rate == 1e-4
    assert recipe.deploy.formats == ("safetensors",)
    assert recipe.evaluate.resamples == 1000


def test_short_forms_stand_for_their_sections(write):
    short = load_recipe(
        write("model: m\ntask: classification\ndata: [a.csv, b.csv]\nmethod: lora\ndeploy: [adapter]\n")
    )
    long = recipe_from(
        {
            "model": {"name": "m"},
            "task": {"kind": "classification"},
            "data": {"train": ["a.csv", "b.csv"]},
            "method": {"kind": "lora"},
            "deploy": {"formats": ["adapter"]},
        }
    )
    assert short == long
    assert short.data.train == ("a.csv", "b.csv")


def test_the_method_is_full_when_none_is_named():
    assert recipe_from(SMALL).as_mapping()["method"] == {"kind": "full"}


def test_a_recipe_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        recipe_from(SMALL).seed = 3  # type: ignore[misc]


def test_a_recipe_of_typed_parts_equals_one_of_plain_values():
    typed = Recipe(
        model={"name": "m"},  # type: ignore[arg-type]
        task=Regression(target=("a", "b")),
        data={"train": "x.csv"},  # type: ignore[arg-type]
    )
    assert typed == recipe_from(
        {"model": "m", "task": {"kind": "regression", "target": ["a", "b"]}, "data": Path("x.csv")}
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("5E3", 5e3),
        (".5", 0.5),
        ("-3", -3),
        ("10", 10),
        ("true", True),
        ("null", None),
        ("", None),
        ("no", "no"),
        ("yes", "yes"),
        ("12:30", "12:30"),
        ("2024-01-31", "2024-01-31"),
        ("1_000", "1_000"),
        ("'1e-4'", "1e-4"),
        ("[a, 2]", ["a", 2]),
    ],
)
def test_plain_scalars_mean_what_people_expect(text, value):
    found = read_value(text, "here")
    assert found == value
    assert type(found) is type(value)


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
awkward = st.sampled_from(
    ["1e-4", "1e5", "no", "null", "~", "010", "0x1f", "12:30", "a: b", "- a", "#", "", "é", "🙂", "1_0", "="]
)
values = st.recursive(scalars | texts | awkward, lambda inner: st.lists(inner, max_size=3), max_leaves=6)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(texts.filter(bool) | awkward.filter(bool), values, min_size=1, max_size=4))
def test_whatever_is_written_reads_back_equal_and_of_the_same_type(mapping):
    found = read_yaml(write_yaml(mapping), "here").values
    assert repr(found) == repr(mapping)


@given(texts | awkward)
def test_a_value_written_alone_reads_back_equal(value):
    assert read_value(write_value(value), "here") == value


def test_the_dump_names_every_key_and_reloads_equal(write):
    recipe = load_recipe(write(TEXT), ["task.labels=[no, '7', 🙂]", "train.stop.patience=null"])
    again = load_recipe(write(recipe.dump()))
    assert again == recipe
    assert again.digest() == recipe.digest()
    keys = flat(yaml.safe_load(recipe.dump()))
    assert {"task.kind", "method.kind", "method.rank", "train.stop.restore_best", "evaluate.level", "seed"} <= set(keys)


def test_the_digest_depends_on_every_value_and_not_on_the_order_of_keys():
    backwards = dict(reversed(list(SMALL.items())))
    assert recipe_from(backwards).digest() == recipe_from(SMALL).digest()
    assert recipe_from({**SMALL, "seed": 1}).digest() != recipe_from(SMALL).digest()


def test_a_part_of_ones_own_is_named_by_module_and_class(tmp_path, monkeypatch):
    (tmp_path / "own_method.py").write_text(
        "from pydantic import Field\nfrom tunesmith.options import Options\n"
        "class Mine(Options):\n    size: int = 3\n    shape: str = Field('round', alias='form')\nlimit = 5\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    recipe = recipe_from({**SMALL, "method": {"kind": "own_method:Mine", "size": 4, "form": "flat"}})
    assert recipe.as_mapping()["method"] == {"kind": "own_method:Mine", "size": 4, "form": "flat"}
    assert recipe_from(recipe.as_mapping()) == recipe
    with pytest.raises(UserError, match=r"recipe, method.kind: 'own_method:limit' is not a method"):
        recipe_from({**SMALL, "method": "own_method:limit"})


def test_parts_of_ones_own_are_imported_before_anything_is_spent(tmp_path, monkeypatch):
    (tmp_path / "own_parts.py").write_text(
        "from tunesmith.evaluate.metrics import Metric\nGOOD = Metric('good', lambda found: 1.0)\nlimit = 5\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    task = SMALL["task"] if isinstance(SMALL["task"], dict) else {"kind": SMALL["task"]}
    assert recipe_from({**SMALL, "task": {**task, "metric": "own_parts:GOOD"}}).task.metrics[0] == "own_parts:GOOD"
    for name, told in (
        ("nowhere:GOOD", "'nowhere:GOOD' No module named 'nowhere'; is the package installed?"),
        ("own_parts:GOD", "did you mean 'GOOD'"),
        ("own_parts:limit", "'own_parts:limit' is no metric"),
    ):
        with pytest.raises(UserError, match=f"task.metric: .*{told}"):
            recipe_from({**SMALL, "task": {**task, "metric": name}})
    with pytest.raises(UserError, match=r"deploy.formats: 'nowhere:write' No module named"):
        recipe_from({**SMALL, "deploy": ["nowhere:write"]})


# refusals of YAML


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "recipe.yaml: is empty; `tunesmith new DATA` writes a recipe to start from"),
        ("# only a comment\n", "recipe.yaml: is empty"),
        ("- a\n- b\n", "recipe.yaml: holds ['a', 'b'], not `key: value` lines"),
        ("just words\n", "recipe.yaml: holds 'just words', not"),
        ("model: a\ndata: b\nmodel: c\n", "recipe.yaml, line 3: key 'model' is written twice, first on line 1"),
        ("train:\n  epochs: 1\n  epochs: 2\n", "recipe.yaml, line 3: key 'epochs' is written twice, first on line 2"),
        (
            "model: !!python/object/apply:os.system [ls]\n",
            "line 1: the tag '!!python/object/apply:os.system' is not allowed",
        ),
        ("model: !!python/name:os.system ''\n", "line 1: the tag '!!python/name:os.system' is not allowed"),
        ("a: !!timestamp 2024-01-01\n", "line 1: the tag '!!timestamp' is not allowed"),
        ("a: !!int twelve\n", "line 1: 'twelve' is not a value of the kind int"),
        ("1: x\n", "line 1: '1' is no text and cannot be a key"),
        ("? [a]\n: b\n", "line 1: a list or mapping and cannot be a key"),
        ("a: &a [*a]\n", f"line 1: is nested deeper than {MAX_DEPTH} levels"),
        ("[" * 3000, f"is nested deeper than {MAX_DEPTH} levels"),
        ("model: x: y\n", "line 1: not valid YAML: mapping values are not allowed here"),
        (
            "model:\n\tname: x\n",
            "line 2: not valid YAML: found character '\\t' that cannot start any token; indent with",
        ),
        ("a: 1\n---\nb: 2\n", "line 2: not valid YAML"),
        ("a: \x1b[31m\n", "line 1: the character '\\x1b' is not allowed"),
        ('a: "x\\0y"\n', "line 1: 'x\\x00y' holds characters that no text file can"),
        ('a: "\\ud800"\n', "line 1: '\\ud800' holds characters that no text file can"),
        (b"a: \xff\n", "recipe.yaml: is not UTF-8 text (byte 3)"),
        (b"#" * (4 * 2**20 + 1), "recipe.yaml: is larger than 4 MiB"),
    ],
)
def test_what_is_not_plain_strict_yaml_is_refused_with_its_line(write, text, message):
    assert message in complaint(write(text))


def test_an_alias_bomb_is_refused_before_it_grows(write):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{depth}: &a{depth} [{', '.join([f'*a{depth - 1}'] * 9)}]" for depth in range(1, 12)]
    assert f"stands for more than {MAX_NODES} values" in complaint(write("\n".join(lines)))


def test_an_alias_that_is_no_bomb_may_be_used(write):
    path = write("model: m\ntask: classification\ndata: {train: &file a.csv, test: *file}\n")
    assert load_recipe(path).data.test == "a.csv"


def test_a_file_with_a_byte_order_mark_and_windows_lines_is_read(write):
    assert load_recipe(write(b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode())).seed == 0


def test_a_missing_recipe_names_the_nearest_file(write):
    write(TEXT)
    assert complaint(Path("recpie.yaml")) == "recpie.yaml: no such file; did you mean 'recipe.yaml'?"


def test_a_folder_is_no_recipe(write):
    write(TEXT)
    Path("folder").mkdir()
    assert complaint(Path("folder")) == "folder: is not a file; give a recipe, such as recipe.yaml"


# refusals of options


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("modle: x", "recipe.yaml, line 4: unknown key 'modle'; did you mean 'model'?"),
        ("method: {kind: lora, rnak: 8}", "recipe.yaml, line 4, method: unknown key 'rnak'; did you mean 'rank'?"),
        ("method: {kind: lorra}", "recipe.yaml, line 4, method.kind: 'lorra' is not known; did you mean 'lora'?"),
        ("method: lorra", "recipe.yaml, line 4, method.kind: 'lorra' is not known; did you mean 'lora'?"),
        ("method: {rank: 8}", "recipe.yaml, line 4, method: key 'kind' is missing; known: full, lora"),
        ("method: {kind: os:system}", "recipe.yaml, line 4, method.kind: 'os:system' is not a method"),
        ("method: {kind: none_such:X}", "line 4, method.kind: 'none_such:X' No module named 'none_such'"),
        ("method: 5", "recipe.yaml, line 4, method: found 5, expected {kind: ...}; known kinds: full, lora"),
        ("method: {kind: lora, rank: 0}", "recipe.yaml, line 4, method.rank: found 0, expected at least 1"),
        ("method: {kind: lora, dora: 1}", "recipe.yaml, line 4, method.dora: found 1, expected true or false"),
        ("train: {epochs: '3'}", "recipe.yaml, line 4, train.epochs: found '3', expected a number"),
        ("train: {epochs: 0}", "recipe.yaml, line 4, train.epochs: found 0, expected more than 0"),
        ("train: {batch_size: 1.5}", "recipe.yaml, line 4, train.batch_size: found 1.5, expected a whole number"),
        (
            "train: {schedule: cosin}",
            "found 'cosin', expected one of 'linear', 'cosine', 'constant', 'slanted'; did you mean 'cosine'?",
        ),
        ("train: {betas: [0.9]}", "line 4, train.betas: found [0.9], expected a list of 2 numbers"),
        ("train: {betas: [0.9, x]}", "line 4, train.betas: found 'x', expected a number"),
        (
            "train: {trackers: [wandbb]}",
            "train.trackers: found 'wandbb', expected one of 'tensorboard', 'wandb', 'mlflow'; did",
        ),
        ("train: {stop: {patiense: 3}}", "line 4, train.stop: unknown key 'patiense'; did you mean 'patience'?"),
        (
            "train: {stop: {metric: acuracy}}",
            "train.stop.metric: metric 'acuracy' is not measured; did you mean 'accuracy'?",
        ),
        ("train: {learning_rate: 1e999}", "line 4, train.learning_rate: found inf, expected a number or null"),
        ("train: 3", "recipe.yaml, line 4, train: found 3, expected keys and values: epochs, "),
        ("seed: true", "recipe.yaml, line 4, seed: found true, expected a whole number"),
        ("seed: 99999999999999999999", "line 4, seed: found 99999999999999999999, expected less than"),
        ("name: ../elsewhere", "recipe.yaml, line 4, name: '../elsewhere' cannot name a folder"),
        (
            "deploy: [safetensor]",
            "line 4, deploy.formats: exporter 'safetensor' is not known; did you mean 'safetensors'?",
        ),
        ("deploy: [adapter]", "line 4, deploy.formats: this method leaves no adapter; use safetensors"),
        ("deploy: [1]", "recipe.yaml, line 4, deploy.formats: found 1, expected text"),
    ],
)
def test_a_wrong_option_is_named_with_file_line_key_found_and_expected(write, line, message):
    found = complaint(write("model: m\ntask: classification\ndata: d.csv\n" + line + "\n"))
    assert message in found
    assert "\n" not in found


@pytest.mark.parametrize("option", ["threshold: 0.3", "separator: ;"])
def test_an_option_of_many_labels_is_refused_where_a_row_has_one(write, option):
    key = option.partition(":")[0]
    task = f"{{kind: classification, {option}}}"
    found = complaint(write(f"model: m\ntask: {task}\ndata: d.csv\n"))
    assert f"line 2, task: {key}: has no effect without multi_label, where a row has one label" in found
    recipe_from({**SMALL, "task": {"kind": "classification", "threshold": 0.5, "separator": ","}})
    recipe_from({**SMALL, "task": {"kind": "classification", "threshold": 0.3, "multi_label": True}})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("validation: [1]", "recipe.yaml, line 5, data.validation: found [1], expected text or a number"),
        ("validation: true", "recipe.yaml, line 5, data.validation: found true, expected text or a number"),
        ("train: 5", "recipe.yaml, line 5, data.train: found 5, expected text or a list of texts"),
        ("validation: 1.5", "recipe.yaml, line 5, data.validation: found 1.5, expected a share from 0 to below 1"),
        ("max_tokens: x", "recipe.yaml, line 5, data.max_tokens: found 'x', expected a whole number or null"),
    ],
)
def test_a_choice_of_types_gives_one_message(write, line, message):
    rest = "" if line.startswith("train") else "  train: d.csv\n"
    found = complaint(write(f"model: m\ntask: classification\n\ndata:\n  {line}\n{rest}"))
    assert message in found
    assert "\n" not in found


def test_a_metric_that_does_not_exist_is_refused_before_training(write):
    found = complaint(write("model: m\ntask:\n  kind: classification\n  metric: acuracy\ndata: d.csv\n"))
    assert found == "recipe.yaml, line 4, task.metric: metric 'acuracy' is not known; did you mean 'accuracy'?"


def test_shares_that_leave_no_rows_are_refused(write):
    path = write(TEXT)
    assert "data.test=0.5: the shares of validation and test leave no rows" in complaint(
        path, "data.validation=0.5", "data.test=0.5"
    )


def test_every_fault_is_listed_in_the_order_of_the_file(write):
    found = complaint(write("task: {kind: classification, lable: x}\nseed: x\ntrain:\n  epochs: many\n")).splitlines()
    assert found == [
        "recipe.yaml: key 'model' is missing; write `model: builtin:minilm`, say",
        "recipe.yaml: key 'data' is missing; write `data: tickets.jsonl`, say",
        "recipe.yaml, line 1, task: unknown key 'lable'; did you mean 'label'?",
        "recipe.yaml, line 2, seed: found 'x', expected a whole number",
        "recipe.yaml, line 4, train.epochs: found 'many', expected a number",
    ]


def test_a_missing_key_of_a_section_names_the_section(write):
    found = complaint(write("model: {revision: main}\ntask: classification\ndata: x.csv\n"))
    assert found == "recipe.yaml, line 1, model: key 'name' is missing; expected text"


# the command line


def test_overrides_set_keys_at_any_depth_and_open_short_forms(write):
    path = write("model: m\ntask: classification\ndata: d.csv\nmethod: lora\n")
    recipe = load_recipe(
        path, ["train.stop.patience=7", "method.rank=4", "task.label=a: b", "train.learning_rate=2e-5"][:2]
    )
    assert recipe.train.stop.patience == 7
    assert recipe.method == LoRA(rank=4)
    assert load_recipe(path, ["method=full"]).as_mapping()["method"] == {"kind": "full"}
    assert load_recipe(path, ["train.learning_rate=2e-5"]).train.learning_rate == 2e-5


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epochs=x", "command line, train.epochs=x: found 'x', expected a number"),
        ("train.epoch=3", "command line, train.epoch=3: unknown key 'epoch'; did you mean 'epochs'?"),
        ("train.epochs", "command line, 'train.epochs': is not a `key=value` setting"),
        ("=3", "command line, '=3': is not a `key=value` setting"),
        ("model.name.x=3", "command line, model.name.x=3: model.name has no keys below it"),
        ("method.kind=lorra", "command line, method.kind=lorra: 'lorra' is not known; did you mean 'lora'?"),
        ("task.text=[", "command line, task.text=[, line 1: not valid YAML"),
    ],
)
def test_a_wrong_override_is_named_as_it_was_written(write, override, message):
    assert message in complaint(write(TEXT), override)


def test_sources_on_the_command_line_start_at_the_working_directory(write, tmp_path):
    write(TEXT)
    folder = tmp_path / "recipes"
    folder.mkdir()
    Path("recipe.yaml").rename(folder / "recipe.yaml")
    recipe = load_recipe(folder / "recipe.yaml", ["data.train=[a.csv, 'hub:imdb']", "data.test=more/b.csv"])
    assert recipe.data.train == ("../a.csv", "hub:imdb")
    assert recipe.data.test == "../more/b.csv"


# moving and changing


def test_a_recipe_that_moves_still_finds_its_files(tmp_path):
    (tmp_path / "models" / "own").mkdir(parents=True)
    recipe = recipe_from(
        {**SMALL, "model": "models/own", "data": {"train": ["a.csv", "hub:x"], "test": str(tmp_path / "t.csv")}}
    )
    moved = recipe.moved(tmp_path, tmp_path / "runs" / "first")
    assert moved.data.train == ("../../a.csv", "hub:x")
    assert moved.data.test == "../../t.csv"
    assert moved.model.name == "../../models/own"
    assert moved.data.validation == 0.1
    assert str(tmp_path) not in moved.dump()
    back = moved.moved(tmp_path / "runs" / "first", tmp_path)
    assert back.data.train == ("a.csv", "hub:x")


def test_files_that_a_task_names_are_found_like_those_of_the_data(write, tmp_path):
    code = {"kind": "code", "language": "sql", "database": "db/shop.sqlite"}
    recipe = recipe_from({**SMALL, "task": code})
    moved = recipe.moved(tmp_path, tmp_path / "runs" / "first")
    assert moved.task.database == "../../db/shop.sqlite"
    assert {change.key: change.allowed for change in changed(recipe, moved)}["task.database"]
    other = recipe_from({**SMALL, "task": {**code, "database": "db/other.sqlite"}})
    assert [change.allowed for change in changed(recipe, other)] == [False]
    both = {"kind": "multi_task", "tasks": {"query": code, "mood": {"kind": "classification"}}}
    moved = recipe_from({**SMALL, "task": both}).moved(tmp_path, tmp_path / "runs")
    assert moved.task.tasks["query"].database == "../db/shop.sqlite"
    folder = tmp_path / "recipes"
    folder.mkdir()
    (folder / "recipe.yaml").write_text(recipe_from({**SMALL, "task": both}).dump())
    found = load_recipe(folder / "recipe.yaml", ["task.tasks.query.database=x.sqlite", "evaluate.general=y.txt"])
    assert found.task.tasks["query"].database == "../x.sqlite"
    assert found.evaluate.general == "../y.txt"


@pytest.mark.parametrize("name", ["builtin:minilm", "org/name"])
def test_a_model_that_is_no_folder_keeps_its_name_when_the_recipe_moves(tmp_path, name):
    assert recipe_from({**SMALL, "model": name}).moved(tmp_path, tmp_path / "x").model.name == name


@pytest.mark.parametrize(
    ("change", "key", "allowed"),
    [
        ({"deploy": ["safetensors"]}, "deploy.formats", True),
        ({"evaluate": {"level": 0.9}}, "evaluate.level", True),
        ({"train": {"keep": 3}}, "train.keep", True),
        ({"train": {"trackers": ["wandb"]}}, "train.trackers", True),
        ({"name": "other"}, "name", True),
        ({"data": "other.jsonl"}, "data.train", False),
        ({"data": "hub:tickets.jsonl"}, "data.train", False),
        ({"seed": 1}, "seed", False),
        ({"train": {"epochs": 9}}, "train.epochs", False),
        ({"train": {"batch_size": 8}}, "train.batch_size", False),
        ({"train": {"learning_rate": 1e-3}}, "train.learning_rate", False),
        ({"train": {"precision": "bfloat16"}}, "train.precision", False),
        ({"task": {"kind": "classification", "label": "urgency"}}, "task.label", False),
        ({"model": "other/model"}, "model.name", False),
    ],
)
def test_only_what_does_not_touch_training_may_change(change, key, allowed):
    old, new = recipe_from(SMALL), recipe_from({**SMALL, **change})
    (found,) = changed(old, new)
    assert (found.key, found.allowed) == (key, allowed)
    assert found.old != found.new


def test_a_source_in_another_folder_may_be_gone_on_with_and_another_file_may_not():
    old, moved, other = (recipe_from({**SMALL, "data": path}) for path in ("../a/x.csv", "../../b/x.csv", "../a/y.csv"))
    assert [change.allowed for change in changed(old, moved)] == [True]
    assert [change.allowed for change in changed(old, other)] == [False]


def test_a_recipe_does_not_differ_from_itself():
    assert changed(recipe_from(SMALL), recipe_from(SMALL)) == []


# the schema


def test_the_shipped_schema_is_the_one_that_the_options_give():
    assert SCHEMA_FILE.read_text(encoding="utf-8") == schema_text(), (
        "run `tunesmith schema --out src/tunesmith/recipe.schema.json`"
    )


def test_the_schema_knows_every_key_of_a_resolved_recipe():
    schema = json_schema()
    recipe = recipe_from({**SMALL, "method": "lora"}).as_mapping()
    assert set(schema["properties"]) == set(recipe)
    for section in ("task", "method"):
        kinds = [
            part
            for part in schema["properties"][section]["anyOf"]
            if "const" in part.get("properties", {}).get("kind", {})
        ]
        (own,) = [part for part in kinds if part["properties"]["kind"]["const"] == recipe[section]["kind"]]
        assert set(own["properties"]) == set(recipe[section])
        assert own["additionalProperties"] is False
    assert json.dumps(schema)
