"""Several tasks at once: what they share, how often each is drawn, and that each leaves a model that stands alone."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from peft import PeftModel

from tiny import model_folder
from tunesmith import api
from tunesmith.cli.app import main
from tunesmith.contracts import Corpus, Ledger
from tunesmith.delivery import golden_rows
from tunesmith.errors import UserError
from tunesmith.forward import Inference, all_outputs
from tunesmith.prepare import encode
from tunesmith.prepare.encode import encode_corpus
from tunesmith.several import Several
from tunesmith.tasks.multi_task import MultiTask
from workshop import CPU, Bench, bench, opened, records_of

TASKS = {
    "mood": {"kind": "classification", "label": "mood"},
    "stars": {"kind": "regression", "target": "stars"},
    "said": {"kind": "ner", "text": "said"},
    "pick": {"kind": "multiple_choice", "question": "text", "choices": "choices", "answer": "answer"},
}
WRITES = {
    "mood": {"kind": "classification", "label": "mood"},
    "answer": {"kind": "generation", "source": "text", "target": "reply", "decoding": {"max_new_tokens": 8}},
}


def rows(count: int = 60) -> list[dict[str, Any]]:
    """Rows that serve all tasks, some or one of them."""
    made: list[dict[str, Any]] = []
    for n in range(count):
        thing, mood = ("kettle", "lamp", "chair")[n % 3], ("good", "bad")[n % 2]
        row: dict[str, Any] = {"text": f"my {thing} is {('quick', 'broken')[n % 2]} {n}"}
        if n % 4 != 1:
            row["mood"] = mood
        if n % 4 != 2:
            row["stars"] = 5 - 4 * (n % 2)
            row["said"] = f"my [[THING|{thing}]] is {('quick', 'broken')[n % 2]}"
        if n % 4 == 3:
            row |= {"choices": ["thank you", "never again"], "answer": n % 2, "reply": f"the {thing}"}
        made.append(row)
    return made


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
    return tmp_path


def recipe(model: str, tasks: dict[str, Any], method: str = "full", **task: Any) -> dict[str, Any]:
    return {
        "model": {"name": model},
        "task": {"kind": "multi_task", "tasks": tasks, **task},
        "data": {"train": "rows.jsonl", "validation": 0.2, "test": 0.2, "cache": False, "on_bad_row": "skip"},
        "method": {"kind": method},
        "train": {"epochs": 2, "batch_size": 6, "learning_rate": 3e-3},
        "evaluate": {"resamples": 100},
    }


@pytest.mark.parametrize(
    ("kind", "tasks", "method"),
    [("bert", TASKS, "full"), ("roberta", TASKS, "lora"), ("t5", WRITES, "full"), ("llama", WRITES, "lora")],
)
def test_every_task_leaves_a_model_of_its_own(
    kind: str, tasks: dict[str, Any], method: str, place: Path, capsys: Any
) -> None:
    """Trained, judged, exported and proved by fresh processes; then asked, judged again and exported again."""
    model_folder(kind, place / kind)
    run = api.run(recipe(f"./{kind}", tasks, method), folder=place / "run", base=place)
    judged = run.read_json("evaluation.json")
    assert set(judged["parts"]) == set(tasks)
    assert all(f"{name}/{part['main']}" in judged["metrics"] for name, part in judged["parts"].items())
    events = [json.loads(line) for line in run.journal.read_text().splitlines()]
    steps = [event for event in events if event["event"] == "step"]
    assert {name for event in steps for name in event["losses"]} == set(tasks)
    assert set(next(event for event in events if event["event"] == "evaluation")["losses"]) == set(tasks)
    written = run.read_json("deploy.json")
    assert [entry["part"] for entry in written] == list(tasks)
    assert all(entry["parity"]["passed"] for entry in written)
    lines = [json.loads(line) for line in run.predictions.read_text().splitlines()]
    assert {line["part"] for line in lines} == set(tasks)
    page = run.report.read_text()
    assert all(f"{name}: Results on" in page for name in tasks)
    assert "mood: Labels in the training rows" in page

    row = rows()[3]
    (answer,) = api.ask(run.folder, [row])
    assert set(answer.value) == set(tasks)
    for entry in written:
        base = str(place / kind) if entry["kind"] == "adapter" else None
        (alone,) = api.ask(api.open_predictor(run.folder / entry["folder"], base=base), [row])
        assert alone.value == answer.value[entry["part"]]
    again = api.evaluate(run, place / "rows.jsonl")
    assert set(again["parts"]) == set(tasks)
    main(["show", str(run.folder)])
    main(["export", str(run.folder), "--out", str(place / "again"), "--format", "safetensors"])
    main(["ask", str(run.folder), json.dumps(row)])
    main(["evaluate", str(run.folder)])
    main(["list", str(place)])
    told = capsys.readouterr().out
    assert "fault of tunesmith" not in told
    assert all(f"{name}: " in told for name in tasks)
    merged = api.export(run, "safetensors", out=place / "whole")
    assert merged.parity["passed"]
    assert merged.parity["rows"] >= len(tasks)
    assert {path.name for path in (place / "whole").iterdir()} == set(tasks)


def test_rows_that_every_artefact_answers_are_found_for_each_task(tmp_path: Path) -> None:
    one = bench(tmp_path, "bert", "multi_task", "full")
    mood, stars = ([r for r in one.records if f"{name}.text" in r.inputs] for name in ("mood", "stars"))
    only_mood = [record for record in mood if record not in stars]
    splits = {"train": one.records, "validation": stars, "test": only_mood}
    corpus = Corpus(one.task, splits, Ledger({}, {}), (), {}, "")
    codec = one.foundation.codec
    for name, wanted in (("mood", only_mood), ("stars", stars)):
        records, data = golden_rows(corpus, name, one.task.parts[name], codec, 64)
        assert [record.row for record in records] == [record.row for record in wanted]
        assert len(data) == len(records)
    corpus = replace(corpus, splits={"train": only_mood})
    with pytest.raises(UserError, match="hold no row that the model of stars can read"):
        golden_rows(corpus, "stars", one.task.parts["stars"], codec, 64)


def test_the_exported_models_are_those_of_plain_transformers(place: Path) -> None:
    model_folder("bert", place / "bert")
    run = api.run(recipe("./bert", TASKS), folder=place / "run", base=place)
    classes = {
        "mood": transformers.BertForSequenceClassification,
        "stars": transformers.BertForSequenceClassification,
        "said": transformers.BertForTokenClassification,
        "pick": transformers.BertForMultipleChoice,
    }
    models = {name: kind.from_pretrained(run.folder / "artifact" / name) for name, kind in classes.items()}
    first = models["mood"].state_dict()
    for name, model in models.items():
        state = model.state_dict()
        shared = [key for key in state if key.startswith("bert.") and key in first]
        assert len(shared) > 10
        assert all(torch.equal(state[key], first[key]) for key in shared), f"{name} has another backbone"
    assert models["said"].config.id2label == {0: "O", 1: "B-THING", 2: "I-THING"}


def several(one: Bench) -> Several:
    assert isinstance(one.adapted.model, Several)
    return one.adapted.model


@pytest.mark.parametrize("kind", ["bert", "llama", "t5", "bart"])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_what_is_pre_trained_exists_once_and_heads_do_not(kind: str, method: str, tmp_path: Path) -> None:
    one = bench(tmp_path, kind, "multi_task", method)
    model = several(one)
    mood, stars = ({id(p) for p in model[name].parameters()} for name in ("mood", "stars"))
    names = [name for name, p in model["stars"].named_parameters() if id(p) not in mood]
    assert names
    assert all(any(part in name for part in one.adapted.head) for name in names)
    assert len(mood & stars) > 10
    if method == "lora":
        assert any("lora_A" in name and id(p) in mood for name, p in model["stars"].named_parameters())
        assert isinstance(model["mood"], PeftModel)


def test_a_tied_output_layer_stays_tied_to_the_shared_embeddings(tmp_path: Path) -> None:
    model_folder("gpt2", tmp_path)
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    config.num_labels, config.pad_token_id = 2, 0
    judge = transformers.GPT2ForSequenceClassification.from_pretrained(tmp_path, config=config)
    writer = transformers.GPT2LMHeadModel.from_pretrained(tmp_path)
    Several({"judge": judge, "writer": writer}, {"judge": ["score"], "writer": []})
    assert writer.lm_head.weight is writer.transformer.wte.weight is judge.transformer.wte.weight


def test_a_part_alone_and_among_others_gives_the_same(tmp_path: Path) -> None:
    one = bench(tmp_path, "bert", "multi_task", "full")
    together = all_outputs(one.adapted.model, one.task, one.data, one.padding, Inference(CPU))
    for number, (name, part) in enumerate(one.task.parts.items()):
        own = together.outputs.part(number, name)
        padding = one.padding.__class__({**one.padding.columns, **part.columns()})
        alone = all_outputs(several(one)[name], part, own.data, padding, Inference(CPU))
        assert np.allclose(np.stack(alone.values), np.stack(own.values), atol=1e-6)
        assert alone.mean_loss == pytest.approx(together.losses[name])
    assert together.mean_loss == pytest.approx(np.mean(list(together.losses.values())))


def test_a_steps_loss_counts_each_task_by_its_rows(tmp_path: Path) -> None:
    """However the batch is cut: six rows of two tasks, the mean of each task by itself."""
    from tunesmith.train.loop import steps

    found = []
    for most in (10_000, 1):
        one = bench(tmp_path, "bert", "multi_task", "full")
        course = one.course(batch_size=6, micro_tokens=most)
        assert len(course.batches(0)) == (2 if most > 1 else 6)
        found.append(next(iter(steps(one.state(course), course))))
    assert found[0].loss == pytest.approx(found[1].loss, rel=1e-6)
    assert found[0].gradient_norm == pytest.approx(found[1].gradient_norm, rel=1e-5)
    losses = found[0].losses
    assert found[0].loss == pytest.approx((3 * losses["mood"] + 3 * losses["stars"]) / 6)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, None),
        ({"temperature": 0.5}, {"mood": 10.0, "stars": 2.0}),
        ({"temperature": 0}, {"mood": 1.0, "stars": 1.0}),
        ({"shares": {"mood": 1, "stars": 3}}, {"mood": 1.0, "stars": 3.0}),
    ],
)
def test_tasks_are_drawn_by_their_size_to_a_power_or_by_fixed_shares(options: dict[str, Any], wanted: Any) -> None:
    task = MultiTask.model_validate({"tasks": {name: TASKS[name] for name in ("mood", "stars")}, **options})
    assert task.draws({"mood": 100, "stars": 4}) == wanted


def test_drawn_rows_follow_the_shares(place: Path) -> None:
    model_folder("bert", place / "bert")
    asked = recipe("./bert", TASKS, shares={"mood": 8, "stars": 1, "said": 1, "pick": 0})
    asked["train"] |= {"epochs": 8, "batch_size": 4}
    asked["evaluate"] = {"baselines": False}
    run = api.run(asked, folder=place / "run", base=place)
    steps = [e for e in map(json.loads, run.journal.read_text().splitlines()) if e["event"] == "step"]
    held = {name: sum(name in event["losses"] for event in steps) for name in TASKS}
    assert held["pick"] == 0
    assert held["mood"] > 0.95 * len(steps)
    assert held["stars"] < 0.75 * len(steps)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"tasks": {"one": TASKS["mood"]}}, "at least 2"),
        ({"tasks": {"a b": TASKS["mood"], "c": TASKS["stars"]}}, "cannot name a task"),
        ({"tasks": {**TASKS, "best": {"kind": "preference"}}}, "compares with the base"),
        ({"tasks": {**TASKS, "deep": {"kind": "multi_task", "tasks": TASKS}}}, "multi_task"),
        ({"tasks": {**TASKS, "told": {"kind": "prompted", "template": ["{text} {label}"]}}}, "several templates"),
        ({"tasks": TASKS, "shares": {"mood": 1}}, "say one for every task"),
        ({"tasks": TASKS, "shares": {**dict.fromkeys(TASKS, 1), "moods": 2}}, "did you mean 'mood'"),
        ({"tasks": TASKS, "metric": "mood/mae"}, "does not suit"),
    ],
)
def test_a_wrong_recipe_is_told_in_a_line(task: dict[str, Any], message: str, place: Path) -> None:
    asked = recipe("./bert", {})
    asked["task"] = {"kind": "multi_task", **task}
    with pytest.raises(UserError, match=message):
        api.run(asked, folder=place / "run", base=place)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "my lamp", "what": "moods"}, "one of mood, stars"),
        ({"text": "my lamp", "what": "mood"}, "a value for task 'mood'"),
        ({"other": "my lamp"}, "those of a task"),
    ],
)
def test_a_row_that_serves_no_task_is_refused(row: dict[str, Any], message: str) -> None:
    from tunesmith.errors import BadRow

    task = MultiTask.model_validate({"tasks": {name: TASKS[name] for name in ("mood", "stars")}, "column": "what"})
    with pytest.raises(BadRow, match=message):
        task.read(row)


def test_a_task_without_rows_is_told_before_weights_load(place: Path) -> None:
    model_folder("bert", place / "bert")
    tasks = {**TASKS, "topic": {"kind": "classification", "label": "topic"}}
    with pytest.raises(UserError, match=r"task\.tasks\.topic.*no training row is for it"):
        api.run(recipe("./bert", tasks), folder=place / "run", base=place)


def test_a_model_without_one_of_the_heads_says_so(place: Path) -> None:
    model_folder("t5", place / "t5")
    with pytest.raises(UserError, match=r"task\.tasks\.said: cannot use encoder-decoder"):
        api.run(recipe("./t5", TASKS), folder=place / "run", base=place)


def test_what_a_task_learns_after_training_or_may_know_before_it_is_asked_of_each(place: Path) -> None:
    """A threshold for no answer, found on the validation rows; the untuned model beside a task that writes."""
    asked = [
        {"question": f"what is {n}", "context": f"the lamp is red {n}", "answers": ["red"] if n % 2 else []}
        for n in range(40)
    ]
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows(), *asked]))
    model_folder("bert", place / "bert")
    tasks = {"mood": TASKS["mood"], "where": {"kind": "span_qa"}}
    run = api.run(recipe("./bert", tasks), folder=place / "run", base=place)
    note = json.loads((run.folder / "artifact" / "where" / "tunesmith.json").read_text())
    assert isinstance(note["task"]["threshold"], float)

    model_folder("llama", place / "llama")
    run = api.run(recipe("./llama", WRITES), folder=place / "other", base=place)
    parts = run.read_json("evaluation.json")["parts"]
    assert "untuned" in [baseline["name"] for baseline in parts["answer"]["baselines"]]
    assert "untuned" not in [baseline["name"] for baseline in parts["mood"]["baselines"]]


def test_a_conversation_is_answered_by_the_task_that_takes_one(place: Path) -> None:
    talks = [
        {"messages": [{"role": "user", "content": f"hi {n}"}, {"role": "assistant", "content": "now"}]}
        for n in range(20)
    ]
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows(), *talks]))
    model_folder("llama", place / "llama")
    tasks = {"mood": TASKS["mood"], "talk": {"kind": "chat", "decoding": {"max_new_tokens": 4}}}
    run = api.run(recipe("./llama", tasks), folder=place / "run", base=place)
    talked, judged = api.ask(run.folder, [{"messages": [{"role": "user", "content": "hi"}]}, {"text": "my lamp"}])
    assert set(talked.value) == {"talk"}
    assert set(judged.value) == {"mood"}


def test_the_audit_and_the_report_show_the_labels_of_each_task(place: Path) -> None:
    from tunesmith.recipe import recipe_from

    train = api.audit(recipe_from(recipe("./bert", TASKS)), place)["splits"]["train"]["parts"]
    assert set(train["mood"]["balance"]) == {"good", "bad"}
    assert train["stars"]["targets"]["max"] == 5
    assert train["said"]["balance"].keys() == {"THING"}


def test_the_rows_of_each_task_are_looked_at_by_themselves(place: Path) -> None:
    from tunesmith.recipe import recipe_from

    torn = [{"text": "my lamp", "mood": "good"}, {"text": "my lamp", "mood": "bad"}, {"text": "my lamp", "stars": 2}]
    with (place / "rows.jsonl").open("a") as file:
        file.write("".join(json.dumps(row) + "\n" for row in torn))
    asked = recipe("./bert", TASKS)
    asked["data"] |= {"validation": 0, "test": 0}
    found = {f["check"]: f["message"] for f in api.audit(recipe_from(asked), place)["findings"]}
    assert found["conflicts"] == "mood: 1 rows have the text of another row but another target"


def test_new_says_that_columns_do_not_name_several_tasks(place: Path) -> None:
    from tunesmith.prepare.detect import detect

    with pytest.raises(UserError, match="several tasks"):
        detect(place / "rows.jsonl", "multi_task")


def test_a_column_that_names_tasks_has_to_be_there(place: Path) -> None:
    model_folder("bert", place / "bert")
    asked = recipe("./bert", {name: TASKS[name] for name in ("mood", "stars")}, column="whatever")
    with pytest.raises(UserError, match=r"rows\.jsonl: has no column 'whatever'"):
        api.run(asked, folder=place / "run", base=place)


@pytest.mark.parametrize("order", [1, -1])
def test_rows_of_one_task_behind_those_of_another_are_all_encoded(
    order: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows are encoded in chunks, of which one or another, or a whole split, may hold no row for a task."""
    task = MultiTask.model_validate({"tasks": {name: TASKS[name] for name in ("mood", "stars", "pick")}})
    mood = [{"text": f"my lamp {n}", "mood": ("good", "bad")[n % 2]} for n in range(5)]
    stars = [{"text": f"my chair {n}", "stars": n + 0.5} for n in range(4)]
    pick = [{"text": f"my kettle {n}", "choices": ["now", "never"], "answer": n % 2} for n in range(4)]
    records = records_of(task, [*mood, *stars, *pick][::order])
    task = task.learn(records)
    codec = opened(tmp_path / "bert", "bert", "AutoModelForSequenceClassification").codec
    splits = {"train": records, "validation": [r for r in records if "stars.text" in r.inputs]}
    corpus = Corpus(task, splits, Ledger({}, {}), (), {}, "print")
    whole = encode_corpus(corpus, codec, 32, cache=None, world=CPU)
    monkeypatch.setattr(encode, "CHUNK", 3)
    parts = encode_corpus(corpus, codec, 32, cache=tmp_path / "kept", world=CPU)
    again = encode_corpus(corpus, codec, 32, cache=tmp_path / "kept", world=CPU)
    assert len(whole["train"]) == 13
    for found in (parts, again):
        for split, data in whole.items():
            assert found[split].columns.keys() == data.columns.keys()
            place = np.argsort(found[split].rows, kind="stable")
            other = found[split].take(place)
            ordered = data.take(np.argsort(data.rows, kind="stable"))
            for name, ragged in ordered.columns.items():
                assert other.columns[name].values.tolist() == ragged.values.tolist()
                assert other.columns[name].offsets.tolist() == ragged.offsets.tolist()
    for number, name in enumerate(task.parts):
        assert len(parts["train"].part(number, name)) == {"mood": 5, "stars": 4, "pick": 4}[name]
        assert len(parts["validation"].part(number, name)) == {"stars": 4}.get(name, 0)


def test_a_row_is_shown_as_each_task_sees_it(place: Path) -> None:
    from tunesmith.recipe import recipe_from

    model_folder("bert", place / "bert")
    view = api.view(recipe_from(recipe("./bert", TASKS)), place, split="train", row=0)
    assert {sequence["part"].partition(",")[0] for sequence in view["sequences"]} <= set(TASKS)
    assert view["target"]
