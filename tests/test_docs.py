"""README and docs say what is so: blocks marked `<!-- run -->` run, tables equal the code, links lead somewhere."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from tiny import model_folder
from tunesmith.recipe import load_recipe, recipe_from

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
MAIN_RECIPE = "support-desk-intent"
"""The README's block runs it."""
FENCE = re.compile(r"(?P<mark><!-- run -->\n)?```(?P<language>\w*)\n(?P<text>.*?)```\n", re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\((?P<to>[^)#]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page. line: where it starts."""

    page: str
    line: int
    language: str
    text: str
    runs: bool

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks() -> list[Block]:
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for fence in FENCE.finditer(text):
            line = text.count("\n", 0, fence.start()) + 1
            found.append(Block(page.name, line, fence["language"], fence["text"], fence["mark"] is not None))
    return found


def generator() -> ModuleType:
    spec = spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BLOCKS = blocks()


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with the recipes and examples, and a launcher that needs no set-up."""
    for name in ("recipes", "examples"):
        shutil.copytree(ROOT / name, tmp_path / name)
    launcher = tmp_path / "tunesmith"
    launcher.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P -m tunesmith "$@"\n')
    launcher.chmod(0o755)
    return tmp_path


def test_there_are_blocks_that_run() -> None:
    assert {block.language for block in BLOCKS if block.runs} == {"python", "sh"}


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.runs], ids=str)
def test_a_block_that_is_marked_runs_as_it_stands(block: Block, clone: Path) -> None:
    command = [sys.executable, "-P", "-c", block.text] if block.language == "python" else ["sh", "-euc", block.text]
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "error::SyntaxWarning",
    }
    done = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, f"{block}\n{done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "yaml"], ids=str)
def test_a_yaml_block_is_a_recipe(block: Block) -> None:
    recipe_from(yaml.safe_load(block.text), str(block))


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "python"], ids=str)
def test_every_python_block_is_at_least_python(block: Block) -> None:
    compile(block.text, str(block), "exec")


def test_generated_parts_equal_the_code() -> None:
    generate = generator()
    stale = [
        page.name for page in PAGES if generate.renewed(page.read_text(encoding="utf-8")) != page.read_text("utf-8")
    ]
    assert stale == [], "run `make docs`"


def test_a_stale_table_is_seen() -> None:
    generate = generator()
    page = (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8")
    assert "| `epochs` |" in page
    assert generate.renewed(page.replace("| `epochs` |", "| `rounds` |")) == generate.renewed(page)


def test_every_generated_table_stands_on_some_page() -> None:
    generate = generator()
    shown = {found[2] for page in PAGES for found in generate.REGION.finditer(page.read_text(encoding="utf-8"))}
    assert shown == set(generate.REGIONS)


def test_the_limits_of_a_number_are_in_its_table() -> None:
    rows = generator().REGIONS["train"]().splitlines()
    (row,) = [row for row in rows if row.startswith("| `layer_decay` |")]
    assert "number, above 0, at most 1" in row


def test_a_key_of_a_section_within_a_task_stands_with_its_dot_in_a_table_of_whole_lines() -> None:
    rows = [line for line in generator().REGIONS["tasks"]().splitlines() if line.startswith("|")]
    assert len([row for row in rows if row.startswith("| `decoding.beams` | whole number, at least 1 | `1` |")]) == 3
    assert [row for row in rows if not row.endswith("|")] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_project_lead_somewhere(page: Path) -> None:
    targets = [found["to"] for found in LINK.finditer(page.read_text(encoding="utf-8"))]
    local = [target for target in targets if "://" not in target and not target.endswith(".png")]
    assert [target for target in local if not (page.parent / target).exists()] == []


def test_the_architecture_names_every_room_and_module_of_the_ground_floor() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = [path.name for path in (ROOT / "src" / "tunesmith").iterdir() if (path / "__init__.py").exists()]
    assert [room for room in rooms if room != "cli" and f"| `{room}/` |" not in page] == []


def test_the_architecture_shows_every_file_of_a_run() -> None:
    from tunesmith.run import Run

    tree = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").split("runs/NAME/")[1].split("```")[0]
    shown = {line.split()[0].rstrip("/") for line in tree.strip().splitlines()}
    place = type(vars(Run)["report"])
    kept = {inside.name for inside in vars(Run).values() if isinstance(inside, place)}
    assert shown - {"run.json"} == kept


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_is_whole_and_its_files_are_there(recipe: Path) -> None:
    whole = load_recipe(recipe)
    sources: list[str] = []
    for data in (whole.data, *(stage.data for stage in whole.stages)):
        sources += [data.train] if isinstance(data.train, str) else list(data.train)
        sources += [source for source in (data.validation, data.test) if isinstance(source, str)]
    assert [source for source in sources if not (recipe.parent / source).is_file()] == []


def stand_in(recipe: Path, folder: Path) -> list[str]:
    """Settings that put a tiny model of the same family in the place of one that has to be fetched."""
    kind = {"support-desk-summary": "t5", "support-desk-reply": "llama"}.get(recipe.stem)
    if kind is None:
        assert load_recipe(recipe).model.name.startswith("builtin:"), "a fetched model needs a stand-in"
        return []
    model_folder(kind, folder / kind)
    for name, key in (("config.json", "max_position_embeddings"), ("tokenizer_config.json", "model_max_length")):
        values = json.loads((folder / kind / name).read_text())
        (folder / kind / name).write_text(json.dumps({**values, key: 1024}))
    return [f"model={folder / kind}", "data.max_tokens=1024", "task.decoding.max_new_tokens=4", "task.decoding.beams=1"]


@pytest.mark.parametrize(
    "recipe", [recipe for recipe in RECIPES if recipe.stem != MAIN_RECIPE], ids=lambda path: path.stem
)
def test_a_shipped_recipe_runs_from_start_to_end(recipe: Path, tmp_path: Path) -> None:
    from tunesmith import api
    from tunesmith.run import Run, final

    small = [
        *stand_in(recipe, tmp_path),
        "data.limit=24",
        "train.max_steps=2",
        "train.batch_size=4",
        "evaluate.resamples=100",
        "deploy.verify=false",
        *(f"stages.{stage.name}.gate=null" for stage in load_recipe(recipe).stages),  # two steps pass none
    ]
    run = api.run(recipe, overrides=small, folder=tmp_path / "run")
    assert run.state == "complete"
    assert Run.open(final(run.folder)).read_json("evaluation.json")["rows"] == (
        24 if "handbook" not in recipe.stem else 7
    )
    assert run.report.stat().st_size > 10_000


def test_the_method_of_the_contributor_s_page_can_be_tuned_with(tmp_path: Path) -> None:
    """What a maintainer copies from the page is called as the house calls a method."""
    from tunesmith.adapting import Setting, adapted_model
    from tunesmith.tasks.classification import Classification
    from workshop import opened

    (code,) = [block.text for block in blocks() if "class Norms" in block.text]
    names: dict[str, Any] = {}
    exec(compile(code, "CONTRIBUTING.md", "exec"), names)
    task = Classification(labels=("a", "b"))
    foundation = opened(tmp_path, "bert", "AutoModelForSequenceClassification")
    adapted = adapted_model(foundation, task, names["Norms"](), Setting(0))
    assert "classifier.weight" in adapted.trainable
    assert all("norm" in name.lower() for name in adapted.trainable if not name.startswith("classifier"))


def test_the_two_commands_of_the_readme_are_those_of_the_ci() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = readme.split("## Two commands")[1].split("```sh\n")[1].split("```")[0].splitlines()
    commands = {line.partition("#")[0].strip() for line in shown}
    run = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert commands == {line for line in run if line.startswith("make ")}
