"""The command line teaches, answers at once, ends with documented codes, and never shows a traceback."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import tunesmith
from tiny import model_folder
from tunesmith.cli import app as app_module
from tunesmith.cli.app import app, main
from tunesmith.cli.screen import clean, say_table
from tunesmith.errors import CheckFailed, Interrupted, MissingExtra, RunBusy, TrainingStopped, UserError
from tunesmith.recipe import load_recipe, recipe_from
from tunesmith.recipe_schema import SCHEMA_FILE
from tunesmith.run import Run

VERBS = (
    "new",
    "run",
    "compare",
    "audit",
    "show",
    "list",
    "evaluate",
    "ask",
    "export",
    "merge",
    "serve",
    "doctor",
    "schema",
)
HEAVY = ("torch", "transformers", "numpy", "yaml", "matplotlib", "sklearn")
SMALL = {"model": "builtin:minilm", "task": {"kind": "classification"}, "data": "rows.csv"}
IMPORTED = """
import sys
from tunesmith.cli.app import main
codes = {" ".join(words): main([*words, "--help"]) for words in [[], *([verb] for verb in sys.argv[2:])]}
heavy = [name for name in sys.argv[1].split(",") if name in sys.modules]
print("RESULT", codes, heavy)
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty working directory, and a terminal that is wide and has no colours."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TERMINAL_WIDTH", "200")
    for name in ("FORCE_COLOR", "CLICOLOR_FORCE", "PY_COLORS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def made_run(folder: Path, score: float = 0.875) -> Run:
    """A run with the files that a finished one has."""
    run = Run.create_or_open(folder, recipe_from(SMALL), Path())
    run.write_json("parameters.json", {"total": 200, "trainable": 50, "head": [], "notes": []})
    run.write_json("audit.json", {"ledger": {"read": {"rows.csv": 3}, "ways": {"train": 2, "skipped:no_text": 1}}})
    metrics = {"accuracy": {"value": score, "low": 0.8, "high": 0.95}, "macro_f1": {"value": 0.5}}
    baseline = {"name": "majority", "label": "most frequent label", "metrics": {"accuracy": {"value": 0.25}}}
    judged = {"main": "accuracy", "metrics": metrics, "verdict": "accuracy 0.88", "baselines": [baseline]}
    run.write_json("evaluation.json", judged)
    run.mark("complete")
    return run


# help


def test_help_of_every_verb_imports_nothing_heavy():
    command = [sys.executable, "-c", IMPORTED, ",".join(HEAVY), *VERBS]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == f"RESULT {dict.fromkeys(['', *VERBS], 0)} []"
    assert "Traceback" not in done.stderr


def test_help_is_there_in_half_a_second_or_in_four_times_what_drawing_it_takes_here():
    """On an idle machine in half a second; on a busy one measured beside the libraries that draw the page."""

    def processor_seconds(*arguments: str) -> float:
        began = os.times()
        subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
        ended = os.times()
        return ended.children_user + ended.children_system - began.children_user - began.children_system

    pairs = [
        (processor_seconds("-m", "tunesmith", "--help"), processor_seconds("-c", "import typer, rich.console"))
        for _ in range(3)
    ]
    assert min(ours for ours, _ in pairs) < 0.5 or min(ours / bare for ours, bare in pairs) < 4


def test_every_verb_is_listed_with_a_summary_and_has_an_example(capsys):
    assert main(["--help"]) == 0
    page = capsys.readouterr().out
    assert [command.name for command in app.registered_commands] == list(VERBS)
    for verb in VERBS:
        assert f"│ {verb} " in page
        assert main([verb, "--help"]) == 0
        assert f"tunesmith {verb}" in capsys.readouterr().out.replace(f"Usage: tunesmith {verb}", "")


@pytest.mark.parametrize(
    "code", ["0 done", "1 a fault", "2 the input", "3 training", "4 a check", "5 another", "130 or 143"]
)
def test_help_lists_the_exit_codes(capsys, code):
    main(["--help"])
    assert code in " ".join(capsys.readouterr().out.split())


def test_without_words_the_help_is_shown(capsys):
    assert main([]) == 2
    assert "Usage: tunesmith" in capsys.readouterr().out


def test_the_version_is_printed(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"tunesmith {tunesmith.__version__}\n"


def test_a_shell_completes_verbs():
    environment = {
        **os.environ,
        "_TUNESMITH_COMPLETE": "complete_bash",
        "COMP_WORDS": "tunesmith ex",
        "COMP_CWORD": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "tunesmith"], capture_output=True, text=True, env=environment, check=False
    )
    assert done.stdout.split() == ["export"]


# how a command ends


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError("rows.csv, line 3", "no text", "add one"), 2),
        (MissingExtra("Parquet", "data"), 2),
        (TrainingStopped("loss is nan"), 3),
        (CheckFailed("parity"), 4),
        (RunBusy("busy"), 5),
        (Interrupted(15, "saved"), 143),
    ],
)
def test_a_foreseen_end_is_one_line_and_its_code(monkeypatch, capsys, error, code):
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(app_module, "app", fail)
    assert main(["list"]) == code
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"error: {error}\n")


def test_an_interrupt_ends_with_130(monkeypatch):
    def stop(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(app_module, "app", stop)
    assert main(["list"]) == 130


def test_a_fault_is_one_line_and_a_file_with_the_traceback(monkeypatch, capsys, tmp_path):
    def fail(**_: object) -> None:
        raise ZeroDivisionError("something \x1b[31m broke")

    monkeypatch.setattr(app_module, "app", fail)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert main(["list"]) == 1
    message = capsys.readouterr().err
    assert message.startswith("error: this is a fault of tunesmith: ZeroDivisionError: something ")
    assert message.count("\n") == 1
    assert "\x1b" not in message
    (log,) = tmp_path.glob("tunesmith-*.log")
    assert str(log) in message
    assert "Traceback" in log.read_text()


@pytest.mark.parametrize("words", [["--debug", "run", "no.yaml"], ["run", "no.yaml", "--debug"]])
def test_debug_shows_the_traceback_wherever_it_stands(capsys, words):
    assert main(words) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("words", ["--help", "list --json", "list"])
def test_a_closed_pipe_is_no_fault(tmp_path, words):
    made_run(tmp_path / "runs" / "a")
    script = f"'{sys.executable}' -m tunesmith {words} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.returncode in (1, 141)


def test_a_terminal_that_knows_only_ascii_gets_escapes_not_an_error(tmp_path):
    made_run(tmp_path / "runs" / "ü😀")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-m", "tunesmith", "list"], capture_output=True, env=environment, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"\xfc\U0001f600" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nonsense"], "No such command"),
        (["run"], "error: command line: there is no recipe; give a recipe.yaml, or --data FILE"),
        (["run", "none.yaml"], "error: none.yaml: no such file"),
        (["run", "."], "error: recipe.yaml: no such file"),
        (["show", "."], "error: .: holds no data file"),
        (["list", "nowhere"], "error: nowhere: no such folder"),
        (["evaluate", "."], "error: .: holds no run"),
        (["ask", "nowhere", "hello"], "error: nowhere: holds no run"),
        (["serve", "nowhere"], "error: nowhere: holds no run"),
        (["export", "nowhere"], "error: nowhere: holds no run"),
        (["new", "nowhere.csv"], "nowhere.csv"),
        (["audit", "nowhere.csv"], "nowhere.csv"),
        (["serve", ".", "--port", "x"], "Invalid value for '--port'"),
    ],
)
def test_what_cannot_be_done_is_said_and_ends_with_2(capsys, words, message):
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert "Traceback" not in out + err


def test_every_fault_of_a_recipe_is_listed(capsys):
    Path("recipe.yaml").write_text("model: m\ntask: {kind: classification, lable: x}\ndata: d\nseed: x\n")
    assert main(["run", "recipe.yaml"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: recipe.yaml, line 2, task: unknown key 'lable'; did you mean 'label'?",
        "recipe.yaml, line 4, seed: found 'x', expected a whole number",
    ]


# what is printed


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("😀 ü 中文", "😀 ü 中文"),
        ("👩\u200d💻", "👩\u200d💻"),
        ("a\x1b[31mb", "a\\u001b[31mb"),
        ("a\x9bb", "a\\u009bb"),
        ("a\u202eb", "a\\u202eb"),
        ("a\nb\tc\rd", "a\\nb\\tc\\rd"),
        ("\x00\x07", "\\u0000\\u0007"),
    ],
)
def test_text_cannot_command_the_terminal(text, shown):
    assert clean(text) == shown


def test_columns_line_up_by_the_width_that_is_seen(capsys):
    say_table(("label", "rows"), [("中文", 5), ("[red]a", 120), ("b", None)])
    assert capsys.readouterr().out.splitlines() == ["label   rows", "中文       5", "[red]a   120", "b          -"]


# runs


def test_list_shows_state_and_score(capsys, tmp_path):
    made_run(tmp_path / "runs" / "good")
    Run.create_or_open(tmp_path / "runs" / "fresh", recipe_from(SMALL), tmp_path)
    (tmp_path / "runs" / "hurt").mkdir()
    (tmp_path / "runs" / "hurt" / "run.json").write_text("{")
    assert main(["list"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1] == ["fresh", "started", "classification", "builtin:minilm", "full", "-", "-", "-", "-"]
    assert lines[2] == [
        "good",
        "complete",
        "classification",
        "builtin:minilm",
        "full",
        "accuracy",
        "0.875",
        "0.8",
        "0.95",
    ]
    assert lines[3][:2] == ["hurt", "damaged"]
    assert main(["list", "runs", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["run"] for row in found] == ["fresh", "good", "hurt"]
    assert found[1]["score"] == 0.875


def test_show_tells_what_a_run_did(capsys, tmp_path):
    made_run(tmp_path / "good")
    assert main(["show", "good"]) == 0
    page = capsys.readouterr().out
    assert "good: complete" in page
    assert "rows train 2, skipped:no_text 1" in page
    assert "parameters 200, of which 50 were trained (25.00%)" in page
    assert [line.split() for line in page.splitlines() if line.startswith("accuracy ")][-1] == [
        "accuracy",
        "0.875",
        "0.8",
        "0.95",
        "0.25",
    ]
    assert main(["show", "good", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"]["trainable"] == 50


def test_evaluate_without_data_repeats_what_the_run_found(capsys, tmp_path):
    made_run(tmp_path / "good")
    assert main(["evaluate", "good", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["accuracy"]["value"] == 0.875
    Run.create_or_open(tmp_path / "fresh", recipe_from(SMALL), tmp_path)
    assert main(["evaluate", "fresh"]) == 2
    assert "fresh: has not been judged; go on with it: tunesmith run fresh" in capsys.readouterr().err


def test_asking_a_run_that_is_not_done_says_how_to_go_on(capsys, tmp_path):
    Run.create_or_open(tmp_path / "fresh", recipe_from(SMALL), tmp_path)
    assert main(["ask", "fresh", "hello"]) == 2
    assert "fresh: has no model yet; go on with it: tunesmith run fresh" in capsys.readouterr().err


def test_doctor_tells_versions_extras_and_what_is_wrong_with_a_model(capsys, tmp_path):
    assert main(["doctor"]) == 0
    assert "torch" in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    assert main(["doctor", "./empty", "--json"]) == 2
    found = json.loads(capsys.readouterr().out)
    assert "./empty" in found["model"]["fault"] or "empty" in found["model"]["fault"]
    assert found["environment"]["threads"] == 1


def test_schema_prints_what_is_shipped(capsys, tmp_path):
    assert main(["schema"]) == 0
    assert capsys.readouterr().out == SCHEMA_FILE.read_text(encoding="utf-8")
    assert main(["schema", "--out", "mine.json"]) == 0
    assert Path("mine.json").read_bytes() == SCHEMA_FILE.read_bytes()


# the package


def test_importing_the_package_is_light_and_its_names_resolve():
    script = "import sys, tunesmith; print([name for name in sys.argv[1].split(',') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script, ",".join(HEAVY)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert (
        sorted(tunesmith.__all__)
        == tunesmith.__all__
        == ["Recipe", "Run", "TunesmithError", "UserError", "__version__", "api"]
    )
    for name in tunesmith.__all__:
        assert getattr(tunesmith, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        tunesmith.nonsense  # noqa: B018


def test_the_api_has_the_words_of_the_command_line():
    assert {"run", "audit", "evaluate", "ask", "export", "merge", "serve", "load_recipe", "open_run"} <= set(
        tunesmith.api.__all__
    )
    for name in tunesmith.api.__all__:
        assert callable(getattr(tunesmith.api, name))


# as a new user


def table(path: str, header: str, rows: Sequence[str], delimiter: str = ",") -> None:
    lines = [header, *rows]
    Path(path).write_text("\n".join(line.replace("|", delimiter) for line in lines) + "\n", encoding="utf-8")


SAYINGS = (
    ("Mein Paket ist nicht da", "📦"),
    ("Ich möchte mein Geld zurück", "💶"),
    ("Danke für die schnelle Hilfe", "🙂"),
)


def odd_table() -> None:
    """Twelve rows under odd column names, with labels that are emoji."""
    table(
        "odd.csv",
        "Nr|Kunden Text|Kategorie",
        [f"{n}|{SAYINGS[n % 3][0]} {n}|{SAYINGS[n % 3][1]}" for n in range(12)],
        ";",
    )


def test_new_writes_a_recipe_that_loads_and_says_what_it_saw(capsys):
    odd_table()
    assert main(["new", "odd.csv"]) == 0
    said = capsys.readouterr().out
    assert "'Kunden Text'" in said
    assert "'Kategorie' has 3 different values" in said
    recipe = load_recipe("recipe.yaml")
    assert recipe.as_mapping()["task"]["kind"] == "classification"
    assert (recipe.task.fields, recipe.data.train) == (("Kunden Text", "Kategorie"), "odd.csv")
    first, *_ = Path("recipe.yaml").read_text().splitlines()
    assert first == "# yaml-language-server: $schema=recipe.schema.json"
    assert Path("recipe.schema.json").read_bytes() == SCHEMA_FILE.read_bytes()


def test_new_writes_over_a_recipe_only_when_told_to(capsys):
    odd_table()
    Path("recipe.yaml").write_text("mine")
    assert main(["new", "odd.csv"]) == 2
    assert "recipe.yaml: is there already" in capsys.readouterr().err
    assert Path("recipe.yaml").read_text() == "mine"
    assert main(["new", "odd.csv", "--force"]) == 0
    assert load_recipe("recipe.yaml").data.train == "odd.csv"


def test_new_finds_the_data_from_the_folder_of_the_recipe():
    odd_table()
    Path("recipes").mkdir()
    assert main(["new", "odd.csv", "--out", "recipes/a.yaml", "--model", "org/name"]) == 0
    recipe = load_recipe("recipes/a.yaml")
    assert (recipe.data.train, recipe.model.name) == ("../odd.csv", "org/name")


def test_new_takes_the_task_that_is_asked_for():
    table("stars.csv", "review,stars", [f"a review of some words {n},{n % 5}" for n in range(60)])
    assert main(["new", "stars.csv", "--out", "a.yaml"]) == 0
    assert main(["new", "stars.csv", "--out", "b.yaml", "--task", "regression"]) == 0
    assert load_recipe("a.yaml").as_mapping()["task"]["label"] == "stars"
    other = load_recipe("b.yaml")
    assert (other.as_mapping()["task"]["target"], other.data.test) == ("stars", 0.2)


def test_a_column_name_cannot_break_the_recipe():
    table("odd.csv", 'text: "a" # b\tc,label', [f"some words to read {n},{'xy'[n % 2]}" for n in range(12)])
    assert main(["new", "odd.csv"]) == 0
    assert load_recipe("recipe.yaml").task.inputs == ('text: "a" # b\tc',)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "bad.csv: is empty"),
        (b"text,label\n", "bad.csv: holds no readable rows"),
        (b"number,other\n1,2\n3,4\n", "bad.csv: has no column of texts"),
        (b"\x00\xff\xfe" * 50, "bad.csv"),
    ],
)
@pytest.mark.parametrize("verb", ["new", "audit", "show"])
def test_data_that_cannot_be_used_is_one_line(capsys, content, message, verb):
    Path("bad.csv").write_bytes(content)
    assert main([verb, "bad.csv"]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_audit_counts_every_row_and_shows_the_balance(capsys):
    odd_table()
    assert main(["audit", "odd.csv", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ledger"] == {"read": {"odd.csv": 12}, "ways": {"train": 12}}
    assert found["splits"]["train"]["balance"] == {"📦": 4, "💶": 4, "🙂": 4}
    assert main(["audit", "odd.csv"]) == 0
    page = capsys.readouterr().out
    assert "odd.csv: 12 rows read" in page
    assert "warning: 3 labels have fewer than 5 training rows" in page


def test_audit_of_a_recipe_divides_the_rows_as_its_run_will(capsys):
    odd_table()
    assert main(["new", "odd.csv"]) == 0
    capsys.readouterr()
    assert main(["audit", "recipe.yaml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ledger"]["ways"] == {"train": 11, "validation": 1}


def test_settings_go_over_the_recipe_that_is_looked_at(capsys):
    odd_table()
    assert main(["new", "odd.csv"]) == 0
    Path("odd.csv").write_text(Path("odd.csv").read_text() + "13;only two cells\n")
    assert main(["audit", "recipe.yaml"]) == 2
    capsys.readouterr()
    assert main(["audit", "recipe.yaml", "data.on_bad_row=skip", "data.validation=0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ledger"]["ways"] == {"train": 12, "skipped:unreadable": 1}
    assert main(["audit", "odd.csv", "data.on_bad_row=skip", "--json"]) == 0
    assert main(["audit", "recipe.yaml", "data.on_bad_row=skp"]) == 2
    assert "data.on_bad_row=skp" in capsys.readouterr().err


def test_an_exported_model_says_what_to_give_instead(capsys):
    Path("model").mkdir()
    Path("model/tunesmith.json").write_text("{}")
    for verb in ("show", "audit"):
        assert main([verb, "model"]) == 2
        said = "error: model: is an exported model, which holds neither a recipe nor rows; give the folder of its run"
        assert said in capsys.readouterr().err


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny model that was tuned by LoRA from the command line, and the folder where that was done."""
    folder = tmp_path_factory.mktemp("a user's work")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        model_folder("bert", Path("tiny"))
        words = ("the parcel is late", "money now please", "good morning kind shop")
        table("tickets.csv", "id,message,intent", [f"{n},{words[n % 3]} {n},{'abc'[n % 3]}" for n in range(24)])
        settings = ["train.epochs=2", "deploy.verify=false", "evaluate.resamples=100", "train.precision=float32"]
        assert main(["run", "--data", "tickets.csv", "--model", "tiny", "--method", "lora", *settings]) == 0
    return folder


def test_a_run_without_a_recipe_leaves_a_run_that_can_be_run_again(trained, monkeypatch, capsys):
    monkeypatch.chdir(trained)
    run = Run.open(Path("runs/tickets"))
    assert run.state == "complete"
    assert run.recipe().data.train == "../../tickets.csv"
    assert str(trained) not in run.recipe_file.read_text()
    assert main(["run", "runs/tickets"]) == 0
    assert "runs/tickets is complete" in capsys.readouterr().out
    assert main(["run", "runs/tickets", "seed=1"]) == 2
    assert ["seed", "0", "1", "refused"] in [line.split() for line in capsys.readouterr().err.splitlines()]


def test_new_writes_what_it_knows_of_a_task_of_your_own(tmp_path, monkeypatch, capsys):
    odd_table()
    own = "from tunesmith.options import Options\nclass Mine(Options):\n    text: str = 't'\n    answer: str\n"
    (tmp_path / "mine_own.py").write_text(own)
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["new", "odd.csv", "--task", "mine_own:Mine"]) == 0
    assert "still to be written under task: answer" in capsys.readouterr().out
    written = Path("recipe.yaml").read_text()
    assert "  kind: mine_own:Mine\n  text: Kunden Text\n\ndata:" in written


def test_new_writes_a_starter_for_a_task_of_your_own_whatever_the_columns(tmp_path, monkeypatch, capsys):
    table("tags.csv", "tokens|tags", [f"{n}|{n}" for n in range(12)])
    own = (
        "from tunesmith.options import Options\nclass Tags(Options):\n    tokens: str\n    multi_label: bool = False\n"
    )
    (tmp_path / "tags_own.py").write_text(own)
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["new", "tags.csv", "--task", "tags_own:Tags"]) == 0
    assert "still to be written under task: tokens" in capsys.readouterr().out
    assert "  kind: tags_own:Tags\n" in Path("recipe.yaml").read_text()


def test_new_refuses_what_is_no_task(capsys):
    odd_table()
    assert main(["new", "odd.csv", "--task", "json:dumps"]) == 2
    assert "error: --task 'json:dumps': is no task; see CONTRIBUTING.md" in capsys.readouterr().err


def test_asking_gives_an_answer_for_each_text_in_order(trained, monkeypatch, capsys):
    monkeypatch.chdir(trained)
    assert main(["ask", "runs/tickets", "money now", "good morning", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["input"] for line in lines] == ["money now", "good morning"]
    for line in lines:
        assert set(line["scores"]) == {"a", "b", "c"}
        assert sum(line["scores"].values()) == pytest.approx(1)
        assert line["value"] == max(line["scores"], key=line["scores"].get)


def test_asking_reads_a_file_and_standard_input(trained, monkeypatch, capsys):
    monkeypatch.chdir(trained)
    assert main(["ask", "runs/tickets", "--file", "tickets.csv", "--json"]) == 0
    by_file = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(by_file) == 24
    lines = [
        by_file[3]["input"]["message"],
        "",
        json.dumps({"message": by_file[4]["input"]["message"]}),
        '["not a row"]',
    ]
    monkeypatch.setattr(sys, "stdin", typed("\n".join(lines).encode("utf-8-sig")))
    assert main(["ask", "runs/tickets", "--json"]) == 0
    by_line = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["scores"]["a"] for line in by_line[:2]] == pytest.approx(
        [row["scores"]["a"] for row in by_file[3:5]], abs=1e-5
    )
    assert by_line[0]["input"] == lines[0], "without the mark of the byte order"
    assert by_line[2]["input"] == '["not a row"]'


def typed(data: bytes) -> io.TextIOWrapper:
    """Standard input that holds `data`."""
    return io.TextIOWrapper(io.BytesIO(data), encoding="latin-1")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'fine\n\n{"message": "cut off\n', "standard input, line 3: is no JSON object with the columns 'message'"),
        (b'{"other": "column"}\n', "standard input, line 1: is no JSON object with the columns 'message'"),
        ("grüße\n".encode("latin-1"), "standard input: is not UTF-8 text"),
    ],
)
def test_what_is_typed_is_a_text_or_a_whole_row(trained, monkeypatch, capsys, data, message):
    monkeypatch.chdir(trained)
    monkeypatch.setattr(sys, "stdin", typed(data))
    assert main(["ask", "runs/tickets"]) == 2
    assert message in capsys.readouterr().err


def test_a_broken_line_of_a_file_to_answer_is_named(trained, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(trained)
    (tmp_path / "new.jsonl").write_text('{"message": "fine"}\n{"message": \n')
    assert main(["ask", "runs/tickets", "--file", str(tmp_path / "new.jsonl")]) == 2
    assert "new.jsonl, line 2: " in capsys.readouterr().err


def test_texts_that_are_too_long_are_counted(trained, monkeypatch, capsys):
    monkeypatch.chdir(trained)
    assert main(["ask", "runs/tickets", "money now", "money now " * 5000, "--json"]) == 0
    printed = capsys.readouterr()
    assert [json.loads(line)["cut"] > 0 for line in printed.out.splitlines()] == [False, True]
    assert printed.err.startswith("1 of 2 inputs were longer than the ")
    assert main(["ask", "runs/tickets", "money now"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["  "], "input 1: field 'message': found an empty text"),
        (["fine", "  "], "input 2: field 'message'"),
        (["x", "--file", "tickets.csv"], "texts and --file are both given"),
        (["--file", "none.csv"], "none.csv"),
        ([], "there is no text"),
    ],
)
def test_a_question_that_cannot_be_answered_is_named(trained, monkeypatch, capsys, words, message):
    monkeypatch.chdir(trained)
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert main(["ask", "runs/tickets", *words]) == 2
    assert message in capsys.readouterr().err


def test_evaluate_judges_new_rows_beside_baselines(trained, monkeypatch, capsys):
    monkeypatch.chdir(trained)
    table("new.csv", "message,intent", ["money now please,b", "the parcel is late,a", "good morning,c"])
    assert main(["evaluate", "runs/tickets", "--data", "new.csv", "--json"]) == 0
    judged = json.loads(capsys.readouterr().out)
    assert judged["rows"] == 3
    assert 0 <= judged["metrics"]["accuracy"]["value"] <= 1
    assert [baseline["name"] for baseline in judged["baselines"]] == ["majority", "tfidf_logistic"]
    table("bad.csv", "message,intent", ["money now please,d"])
    assert main(["evaluate", "runs/tickets", "--data", "bad.csv"]) == 2
    assert "bad.csv, line 2: field 'intent': found 'd'" in capsys.readouterr().err


def test_an_adapter_is_copied_or_merged_and_answers_alike(trained, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(trained)
    answers = []
    for kind in ("adapter", "safetensors"):
        folder = tmp_path / kind
        assert main(["export", "runs/tickets", "--format", kind, "--out", str(folder)]) == 0
        capsys.readouterr()
        assert main(["ask", str(folder), "money now", "--json", "--base", "tiny"]) == 0
        answers.append(json.loads(capsys.readouterr().out)["scores"]["a"])
    assert answers[0] == pytest.approx(answers[1], abs=1e-5)
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    assert (tmp_path / "safetensors" / "model.safetensors").is_file()
    assert main(["export", "runs/tickets", "--out", str(tmp_path / "adapter")]) == 2
    assert "is there already" in capsys.readouterr().err


def test_an_adapter_on_another_base_is_refused(trained, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(trained)
    model_folder("bert", tmp_path / "other")
    weights = tmp_path / "other" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\x00\x00\x80\x3f")
    assert main(["ask", "runs/tickets", "money now", "--base", str(tmp_path / "other")]) == 2
    assert "is not the base that this adapter was trained on" in capsys.readouterr().err


def test_show_gives_a_row_as_the_model_sees_it(trained, monkeypatch, capsys):
    monkeypatch.chdir(trained)
    assert main(["show", "tickets.csv", "--row", "1", "--model", "tiny", "--json"]) == 0
    view = json.loads(capsys.readouterr().out)
    assert (view["inputs"], view["target"]) == ({"text": "money now please 1"}, "b")
    (sequence,) = view["sequences"]
    assert "".join(token["text"] for token in sequence["tokens"]).count("money") == 1
    assert main(["show", "tickets.csv", "task.label=id", "data.max_tokens=4", "--model", "tiny", "--json"]) == 0
    view = json.loads(capsys.readouterr().out)
    assert (view["target"], len(view["sequences"][0]["tokens"])) == ("0", 4)
    assert main(["show", "runs/tickets", "data.max_tokens=4"]) == 2
    assert "data.max_tokens=4: changes nothing of a run; name a row with --row" in capsys.readouterr().err
    assert main(["show", "runs/tickets", "--row", "999"]) == 2
    assert "--row: train has no row 999" in capsys.readouterr().err


def test_the_api_runs_a_recipe_of_plain_values(trained, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    values = {
        "model": str(trained / "tiny"),
        "task": {"kind": "classification", "text": "message", "label": "intent"},
        "data": trained / "tickets.csv",
        "train": {"epochs": 1},
        "deploy": {"verify": False},
        "evaluate": {"baselines": False},
    }
    run = tunesmith.api.run(values, overrides=["train.max_steps=1"], folder="first")
    assert run.state == "complete"
    (answer,) = tunesmith.api.ask(run, ["money now"])
    assert answer.value in ("a", "b", "c")
    assert tunesmith.api.evaluate(run)["main"] == "accuracy"
