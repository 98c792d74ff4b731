"""The floors of docs/architecture.md, read from the imports, and what no source file may contain."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "tunesmith"

ROOMS = {"tasks", "select", "prepare", "adapt", "train", "evaluate", "deploy", "report", "retain"}
FLOORS: dict[str, int] = {
    **dict.fromkeys(
        (
            "batch",
            "catalog",
            "commit",
            "contracts",
            "errors",
            "figures",
            "forward",
            "generate",
            "given",
            "letters",
            "options",
            "parts",
            "quiet",
            "several",
            "seeds",
            "world",
        ),
        0,
    ),
    **dict.fromkeys(ROOMS, 1),
    **dict.fromkeys(
        ("recipe", "recipe_conflicts", "recipe_errors", "recipe_schema", "recipe_stages", "recipe_yaml", "run"), 2
    ),
    **dict.fromkeys(
        (
            "adapting",
            "answering",
            "api",
            "artefact",
            "delivery",
            "elsewhere",
            "gate",
            "general",
            "house",
            "merging",
            "pipeline",
            "probing",
            "references",
            "retaining",
            "search",
            "stages",
            "trained",
            "training",
            "transfer",
        ),
        3,
    ),
    **dict.fromkeys(("cli", "__main__"), 4),
}
"""The floor of each module and package directly below tunesmith. A new one must be given its place here."""
LIGHT = {"typer", "click", "rich", "pydantic", "pydantic_core", "yaml", "annotated_types", "typing_extensions"}
"""What a command may import before it knows what it is to do."""
UNPICKLERS = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
DISTRIBUTIONS = {
    "rouge_score": "rouge-score",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
    "huggingface_hub": "huggingface-hub",
    "pydantic_core": "pydantic",
    "markupsafe": "jinja2",
}
"""Names of distributions that differ from what is imported, and of the one that a part belongs to."""


@dataclass(frozen=True)
class Import:
    """What a module imports: a dotted name. now: when the module is imported, not when a function is called."""

    name: str
    line: int
    now: bool


def imports(tree: ast.AST, *, now: bool = True) -> Iterator[Import]:
    """Every import of a syntax tree; those under `if TYPE_CHECKING` and in functions do not happen `now`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, now) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise ValueError(f"line {node.lineno}: a relative import; name the whole path")
            # `from a import b` may import the module a.b
            yield from (Import(f"{node.module}.{alias.name}", node.lineno, now) for alias in node.names)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from imports(node, now=False)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from (found for child in node.body for found in imports(ast.Module([child], []), now=False))
            yield from (found for child in node.orelse for found in imports(ast.Module([child], []), now=now))
        else:
            yield from imports(node, now=now)


def module_name(path: Path) -> str:
    """The dotted name of a source file below tunesmith."""
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): ast.parse(path.read_text(encoding="utf-8")) for path in sorted(SOURCE.rglob("*.py"))}


def home(name: str) -> str:
    """The module or package directly below tunesmith that a dotted name lies in; empty for tunesmith itself."""
    return name.split(".")[1] if "." in name else ""


def breach(module: str, imported: str) -> str | None:
    """Why `module` may not import `imported`, both names below tunesmith; None when it may."""
    here, there = home(module), home(imported)
    if not here or not there or here == there:
        return None
    if there == "cli" and here != "__main__":
        return "nothing imports the command line"
    if here in ROOMS and there in ROOMS:
        return f"room {here} imports room {there}"
    if FLOORS[here] < FLOORS[there]:
        return f"{here}, on floor {FLOORS[here]}, imports {there}, on floor {FLOORS[there]}"
    if FLOORS[here] == 2 and there in ROOMS and not names_only(imported):
        return f"{here} imports {imported}; of a room it may know only options and the table of parts"
    return None


def names_only(imported: str) -> bool:
    """Whether an import of a room reads nothing but its options or a table such as `tunesmith.tasks.TASKS`."""
    rest = imported.split(".")[2:]
    return rest[:1] == ["options"] or (len(rest) == 1 and rest[0].isupper())


def known(name: str) -> str | None:
    """The module of tunesmith that importing `name` loads: itself, or the one that it is a name of."""
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name or None


def loaded_by(start: str) -> dict[str, str]:
    """Every import from outside tunesmith that importing the module `start` leads to, and the module it stands in."""
    outside: dict[str, str] = {}
    seen: set[str] = set()
    todo = [start]
    while todo:
        module = todo.pop()
        if module in seen:
            continue
        seen.add(module)
        todo += [parent for parent in [module.rpartition(".")[0]] if parent]
        for found in imports(MODULES[module]):
            if not found.now:
                continue
            if found.name.split(".")[0] == "tunesmith":
                todo.append(known(found.name) or "tunesmith")
            else:
                outside.setdefault(found.name.split(".")[0], module)
    return outside


def forbidden(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Lines that could run code hidden in data, and what they do."""
    for found in imports(tree):
        if found.name.split(".")[0] in UNPICKLERS:
            yield found.line, f"imports {found.name.split('.')[0]}"
        if found.name in ("torch.load", "torch.save"):
            yield found.line, f"imports {found.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("torch.load", "torch.save"):
            yield node.lineno, f"uses {ast.unparse(node)}"
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in ("eval", "exec", "builtins.eval", "builtins.exec", "os.system", "os.popen"):
                yield node.lineno, f"calls {called}"
            for keyword in node.keywords:
                if keyword.arg in ("trust_remote_code", "allow_pickle", "shell") and not is_false(keyword.value):
                    yield node.lineno, f"sets {keyword.arg}"


def is_false(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is False


def test_every_module_stands_on_a_floor() -> None:
    assert {home(module) for module in MODULES if home(module)} == set(FLOORS)


def test_the_picture_in_the_docs_shows_these_floors() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    picture = dict(re.findall(r"^floor (\d) +(\S+(?:,? {1,2}\S+)*)", page, re.MULTILINE))
    shown = {name: int(floor) for floor, names in picture.items() for name in re.split(r",? +", names)}
    parts = {name: floor for name, floor in FLOORS.items() if not name.startswith(("recipe_", "__"))}
    assert shown == parts


@pytest.mark.parametrize("module", MODULES)
def test_imports_lead_only_downwards_and_never_from_room_to_room(module: str) -> None:
    ours = [found for found in imports(MODULES[module]) if found.name.split(".")[0] == "tunesmith"]
    breaches = [(found.line, breach(module, found.name)) for found in ours]
    assert [(line, why) for line, why in breaches if why] == []


@pytest.mark.parametrize("module", ["tunesmith", "tunesmith.__main__", "tunesmith.cli.app"])
def test_a_command_imports_nothing_heavy_before_it_works(module: str) -> None:
    heavy = {name: where for name, where in loaded_by(module).items() if name not in LIGHT | sys.stdlib_module_names}
    assert heavy == {}


@pytest.mark.parametrize("module", MODULES)
def test_no_module_can_run_code_that_came_as_data(module: str) -> None:
    assert list(forbidden(MODULES[module])) == []


def test_every_library_that_is_imported_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    stated = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    declared = {re.split(r"[^\w.-]", line)[0].lower() for line in stated}
    used = {found.name.split(".")[0] for tree in MODULES.values() for found in imports(tree)}
    outside = used - sys.stdlib_module_names - {"tunesmith"}
    assert {DISTRIBUTIONS.get(name, name) for name in outside} - declared == set()


@pytest.mark.parametrize(
    ("module", "imported", "allowed"),
    [
        ("tunesmith.train.loop", "tunesmith.contracts.Task", True),
        ("tunesmith.train.loop", "tunesmith.train.order.mix", True),
        ("tunesmith.train.loop", "tunesmith.tasks.TASKS", False),
        ("tunesmith.contracts", "tunesmith.tasks.TASKS", False),
        ("tunesmith.recipe", "tunesmith.tasks.TASKS", True),
        ("tunesmith.recipe", "tunesmith.train.options.TrainOptions", True),
        ("tunesmith.recipe", "tunesmith.train.loop.steps", False),
        ("tunesmith.run", "tunesmith.pipeline.run", False),
        ("tunesmith.pipeline", "tunesmith.train.loop.steps", True),
        ("tunesmith.pipeline", "tunesmith.cli.screen.say", False),
        ("tunesmith.api", "tunesmith.pipeline", True),
        ("tunesmith.cli.run", "tunesmith.api", True),
    ],
)
def test_a_breach_of_the_floors_is_seen(module: str, imported: str, allowed: bool) -> None:
    assert (breach(module, imported) is None) is allowed


@pytest.mark.parametrize(
    "planted",
    [
        "import pickle",
        "def f():\n    from joblib import load",
        "torch.load(path)",
        "from torch import load",
        "reader = torch.load",
        "eval(text)",
        "exec(text)",
        "os.system(text)",
        "subprocess.run(text, shell=True)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "AutoModel.from_pretrained(name, trust_remote_code=asked)",
        "np.load(path, allow_pickle=True)",
    ],
)
def test_a_way_to_run_hidden_code_is_seen(planted: str) -> None:
    assert len(list(forbidden(ast.parse(planted)))) == 1


@pytest.mark.parametrize("harmless", ["model.eval()", "np.load(path, allow_pickle=False)", "safetensors.torch.load(b)"])
def test_harmless_lines_are_let_through(harmless: str) -> None:
    assert list(forbidden(ast.parse(harmless))) == []


def test_imports_that_wait_are_told_from_those_that_happen_at_once() -> None:
    text = "import a\nif TYPE_CHECKING:\n    import b\ndef f():\n    import c\ntry:\n    from d import e\nfinally: pass"
    assert {found.name: found.now for found in imports(ast.parse(text))} == {
        "a": True,
        "b": False,
        "c": False,
        "d.e": True,
    }
