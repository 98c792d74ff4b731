"""Labels told by words: the word stands where it should, its score is the model's own, and templates are compared."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tiny import model_folder
from tunesmith import api
from tunesmith.batch import IGNORED, PIECES, REPLY
from tunesmith.contracts import Record
from tunesmith.errors import UserError
from tunesmith.forward import Inference, all_outputs
from tunesmith.tasks.prompted import WORDS, Prompted
from tunesmith.tasks.template import Template
from workshop import CPU, Bench, bench, opened

AUTO = {
    **dict.fromkeys(("bert", "roberta", "xlm-r", "modernbert"), "AutoModelForMaskedLM"),
    **dict.fromkeys(("gpt2", "llama", "qwen2"), "AutoModelForCausalLM"),
    **dict.fromkeys(("t5", "bart", "mbart"), "AutoModelForSeq2SeqLM"),
}
MOODS = {"words": {"bad": "late", "good": "quick"}, "labels": ("bad", "good")}


def task_of(**options: Any) -> Prompted:
    task = Prompted.model_validate({**MOODS, **options})
    return task.learn([record("my shop", "bad"), record("my lamp", "good", 1)])


def record(text: str, label: str | None = None, row: int = 0) -> Record:
    return Record(row, "f", row + 1, {"text": text}, label)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{text} is", "must stand in it once"),
        ("{label} {text} {label}", "must stand in it once"),
        ("{text}{label}", "something must stand between"),
        ("{label}{text}", "something must stand between"),
        ("it is {label}", "use each of {text}"),
        ("{text} {other} {label}", "use each of {text}"),
    ],
)
def test_a_template_that_cannot_be_filled_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Prompted(template=text)


def bare(text: str) -> str:
    """Without blanks, and without the marks of pieces of words."""
    return "".join(text.replace("##", "").split())


@pytest.mark.parametrize("kind", AUTO)
@pytest.mark.parametrize("template", ["{text} is {label}", "{text} was\n{label}!", "all is {label}"])
def test_the_word_stands_in_its_place_whatever_the_tokenizer(kind: str, template: str, tmp_path: Path) -> None:
    codec = opened(tmp_path, kind, AUTO[kind]).codec
    filled = Template.parsed(template).filled({"text": "my kettle"}, "quick")
    ids, spot = filled.tokens(codec.tokenizer)
    assert bare(codec.tokenizer.decode(ids[spot])) == "quick"
    wanted = template.partition("{label}")[0].replace("{text}", "my kettle")
    assert bare(codec.tokenizer.decode(ids[: spot.start])) == bare(wanted)


@pytest.mark.parametrize("kind", ["bert", "roberta", "llama", "t5", "bart"])
@pytest.mark.parametrize("words", [MOODS["words"], {"bad": "late now", "good": "quick"}])
def test_a_long_text_loses_its_end_and_the_template_nothing(kind: str, words: Any, tmp_path: Path) -> None:
    codec = opened(tmp_path, kind, AUTO[kind]).codec
    task = task_of(template="my text: {text} so it is {label}", words=words)
    (whole,) = task.encode([record("red lamp " * 3, "bad")], codec, 200)
    (short,) = task.encode([record("red lamp " * 40, "bad")], codec, 40)
    assert short.cut > 0
    assert whole.cut == 0
    assert not short.refused
    sizes = short.columns.get(PIECES, [len(short.columns["input_ids"])])
    assert max(sizes) <= 40
    text = codec.tokenizer.decode(short.columns["input_ids"][: int(sizes[0])])
    assert "mytext" in bare(text)
    assert "soitis" in bare(text)
    (refused,) = task.encode([record("red lamp", "bad")], codec, 5)
    assert refused.refused == "template_too_long"


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_a_mask_in_a_text_stays_text(kind: str, tmp_path: Path) -> None:
    codec = opened(tmp_path, kind, AUTO[kind]).codec
    mask = codec.tokenizer.mask_token
    (one,) = task_of(template="{text} is {label}").encode([record(f"my {mask} lamp", "bad")], codec, 60)
    assert list(one.columns["input_ids"]).count(codec.tokenizer.mask_token_id) == 1


def scores(one: Bench) -> np.ndarray:
    passed = all_outputs(one.adapted.model, one.task, one.data, one.padding, Inference(CPU))
    return np.array([value.reshape(-1) for value in passed.values])


@pytest.mark.parametrize("kind", ["bert", "llama", "t5", "bart"])
def test_one_pass_gives_what_a_pass_for_each_word_gives(kind: str, tmp_path: Path) -> None:
    """The scores are log-probabilities of `transformers`' own logits, in one pass or in several."""
    one = bench(tmp_path, kind, "prompted", "full")
    assert WORDS in one.data.columns
    found, tokenizer = scores(one), one.foundation.tokenizer
    template = Template.parsed("{text} is {label}")
    model = one.adapted.model.eval()
    for place, row in enumerate(one.records):
        for number, word in enumerate(("slow", "quick")):
            ids, spot = template.filled(row.inputs, word).tokens(tokenizer)
            piece = one.task._piece(one.foundation.codec, ids, spot)  # type: ignore[attr-defined]
            given = {"input_ids": torch.tensor([piece["input_ids"]])}
            if REPLY in piece:
                given[REPLY] = torch.tensor([piece[REPLY]])
            with torch.inference_mode():
                logits = model(**given).logits[0].log_softmax(-1)
            (at,) = [n for n, label in enumerate(piece["labels"]) if label != IGNORED]
            assert piece["labels"][at] == ids[spot][0]
            assert found[place, number] == pytest.approx(float(logits[at, ids[spot][0]]), abs=1e-5)


@pytest.mark.parametrize("kind", ["bert", "llama", "t5", "bart"])
@pytest.mark.parametrize("normalise", ["tokens", "none"])
def test_a_word_of_several_tokens_scores_their_mean_or_sum(kind: str, normalise: str, tmp_path: Path) -> None:
    one = bench(tmp_path, kind, "prompted", "full", specimen=1, task={"normalise": normalise})
    assert PIECES in one.data.columns
    found = scores(one)
    template = Template.parsed("{text} and {text_b} is {label}")
    ids, spot = template.filled(one.records[0].inputs, "late now").tokens(one.foundation.tokenizer)
    piece = one.task._piece(one.foundation.codec, ids, spot)  # type: ignore[attr-defined]
    given = {name: torch.tensor([values]) for name, values in piece.items() if name != "labels"}
    with torch.inference_mode():
        logits = one.adapted.model.eval()(**given).logits[0].log_softmax(-1)
    graded = [float(logits[n, label]) for n, label in enumerate(piece["labels"]) if label != IGNORED]
    assert len(graded) >= 2
    wanted = np.mean(graded) if normalise == "tokens" else np.sum(graded)
    assert found[0, 0] == pytest.approx(wanted, abs=1e-4)


def test_the_scores_of_a_label_s_words_are_averaged() -> None:
    task = task_of(words={"bad": ["late", "slow", "broken"], "good": "quick"})
    assert task._means().tolist() == [[1 / 3, 0], [1 / 3, 0], [1 / 3, 0], [0, 1]]


def test_shown_rows_stand_before_the_prompt_one_of_each_label(tmp_path: Path) -> None:
    codec = opened(tmp_path, "llama", AUTO["llama"]).codec
    task = task_of(template="{text} is {label}", shots=2)
    assert {label for _, label in task.demonstrations or ()} == {"bad", "good"}
    (one,) = task.encode([record("red chair", "bad")], codec, 200)
    text = codec.tokenizer.decode(one.columns["input_ids"], skip_special_tokens=True)
    assert text.count(" is ") >= 2
    assert text.index("my shop is late") < text.index("red chair is")
    assert text.index("my lamp is quick") < text.index("red chair is")


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"template": "{label}: {text}"}, "llama", "a decoder reads no text behind the word"),
        ({"words": {"bad": "late", "good": "late"}}, "llama", "the same tokens"),
        ({"words": {"bad": "late", "good": "🦜"}}, "bert", "has no token for"),
    ],
)
def test_what_a_model_cannot_be_asked_is_told(options: Any, kind: str, message: str, tmp_path: Path) -> None:
    codec = opened(tmp_path, kind, AUTO[kind]).codec
    with pytest.raises(UserError, match=message):
        task_of(**options).encode([record("my lamp", "bad")], codec, 60)


@pytest.mark.parametrize("words", [{"bad": "late"}, {"bad": "late", "good": "quick", "goood": "so"}])
def test_words_and_labels_must_agree(words: Any) -> None:
    with pytest.raises(UserError, match=r"task\.words"):
        task_of(words=words)


def recipe(**more: Any) -> dict[str, Any]:
    templates = ["{text} was {label}", "{text} is {label}"]
    return {
        "model": {"name": "./bert"},
        "task": {"kind": "prompted", "template": templates, "words": MOODS["words"]},
        "data": {"train": "rows.jsonl", "validation": 0.25, "test": 0.25, "cache": False},
        "method": {"kind": "full"},
        "evaluate": {"resamples": 100},
        **more,
    }


@pytest.fixture
def place(tmp_path: Path) -> Path:
    model_folder("bert", tmp_path / "bert")
    rows = [{"text": f"my lamp {n} is {('so', 'never')[n % 2]}", "label": ("bad", "good")[n % 2]} for n in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_of_several_templates_the_best_is_taken_and_all_are_told(place: Path) -> None:
    asked = recipe(train={"epochs": 1, "batch_size": 8})
    run = api.run(asked, folder=place / "run", base=place)
    search = run.read_json("search.json")
    assert [one["name"] for one in search["found"]] == asked["task"]["template"]
    best = max(search["found"], key=lambda one: (one["accuracy"], -one["loss"]))
    assert search["taken"] == best["name"]
    for one in search["found"]:  # what each reaches by itself is what was told of it
        alone = recipe(train={"max_steps": 0})
        alone["task"] = {**alone["task"], "template": one["name"]}
        other = api.run(alone, folder=place / f"alone{len(one['name'])}", base=place)
        assert not (other.folder / "search.json").exists()
        rows = [json.loads(line) for line in (place / "rows.jsonl").read_text().splitlines()]
        held = [rows[line - 1] for _, line in run.read_json("split.json")["validation"]]
        answers = api.ask(other.folder, [row["text"] for row in held])
        right = [answer.value == row["label"] for answer, row in zip(answers, held, strict=True)]
        assert one["rows"] == len(held)
        assert one["accuracy"] == pytest.approx(np.mean(right))
    assert "Templates compared before tuning" in run.report.read_text()
    (answer,) = api.ask(run.folder, ["my lamp is so"])
    assert answer.value in ("bad", "good")
    assert json.loads((run.folder / "artifact" / "tunesmith.json").read_text())["task"]["template"] == search["taken"]


@pytest.mark.parametrize("row", [("my lamp",), ("my lamp", "my kettle", "bad"), ("my lamp", "so"), ()])
def test_shown_rows_that_cannot_be_read_are_told(row: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=r"task\.demonstrations.*'text', then one of the labels"):
        task_of(demonstrations=[row])


def test_a_row_is_not_shown_its_own_answer(tmp_path: Path) -> None:
    codec = opened(tmp_path, "llama", AUTO["llama"]).codec
    task = task_of(template="{text} is {label}", demonstrations=[("my lamp", "good"), ("my shop", "bad")])
    (one,) = task.encode([record("my lamp", "good")], codec, 200)
    text = codec.tokenizer.decode(one.columns["input_ids"], skip_special_tokens=True)
    assert "my shop is late" in text
    assert "quick" not in text


def test_without_a_step_the_model_is_the_one_that_was_given(place: Path) -> None:
    from safetensors.torch import load_file

    run = api.run(recipe(train={"max_steps": 0}), folder=place / "run", base=place)
    assert run.state == "complete"
    assert run.read_json("cost.json")["steps"] == 0
    files = (place / "bert" / "model.safetensors", run.folder / "artifact" / "model.safetensors")
    before, after = ({name.removeprefix("bert."): t for name, t in load_file(file).items()} for file in files)
    shared = [name for name in after if name in before]
    assert len(shared) > 10
    assert all(torch.equal(before[name], after[name]) for name in shared)
    assert run.report.exists()
