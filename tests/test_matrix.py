"""The contract of every task with every method on every family. Whatever is in the tables is tested, unasked."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tiny import CONFIGURATIONS, ZOO
from tunesmith import adapting
from tunesmith.adapt import METHODS
from tunesmith.adapting import Setting, adapted_model
from tunesmith.contracts import VOCABULARY_HEADS, Family, parts_of
from tunesmith.errors import UserError
from tunesmith.forward import Inference, all_outputs
from tunesmith.generate import Speaker, with_replies
from tunesmith.given import Outputs, Predictions
from tunesmith.select.foundation import family_of, mapping_of, supported
from tunesmith.tasks import TASKS
from tunesmith.train.loop import steps
from workshop import CPU, Bench, bench, left, merged, opened, records_of

UNABLE = {
    ("m2m100", "language"): "has no mark for what is taken out",
    **{
        (kind, "code"): "tokenizer_changes_it"
        for kind in ("mt5", "flan", "mbart", "mbart50", "m2m100", "nllb", "pegasus")
    },
}
"""What a kind of model cannot although it has the head: some tokenizers know no line breaks, for instance."""


def has_head(kind: str, task: str) -> bool:
    """Whether that kind of model can learn the task at all."""
    config = ZOO[kind]
    part = TASKS.load(task)
    family = family_of(config)
    if family not in part.families:
        return False
    asked = parts_of(part(**part.specimens[0].options)).values()
    able = all(type(config) in mapping_of(one.auto_class(family)) for one in asked)
    return able and (kind, task) not in UNABLE


def adds_no_head(kind: str, task: str) -> bool:
    """Whether the task, or a part of it, uses the head that the model was pre-trained with."""
    part, family = TASKS.load(task), family_of(ZOO[kind])
    asked = parts_of(part(**part.specimens[0].options)).values()
    return any(one.auto_class(family) in VOCABULARY_HEADS for one in asked)


FEW, MANY = 12, 250
"""Updates after which the loss must have fallen, and after which the rows must be known by heart."""
WHOLE = ("classification",)
"""The tasks that every method must learn by heart in each run of the tests; the others are slow."""
CELLS = [
    (kind, task, number, method)
    for kind in ZOO
    for task in TASKS
    if has_head(kind, task)
    for number in range(len(TASKS.load(task).specimens) if kind in CONFIGURATIONS else 1)
    for method in (["full", "lora"] if kind in CONFIGURATIONS else ["full"])
]
"""Of the kinds of model outside the core, each task is tried in one way."""
SAMPLE = ("bert", "gpt2", "llama", "t5")
"""The kinds of model on which the other methods are tried: each family, and layers that are no `nn.Linear`."""
REFUSED = {
    (kind, task, method)
    for kind in SAMPLE
    for task in TASKS
    if has_head(kind, task)
    for method, cannot in {
        **dict.fromkeys(("loha", "lokr", "oft"), kind == "gpt2"),
        "bitfit": kind in ("t5", "llama"),
        "head": adds_no_head(kind, task),
    }.items()
    if cannot
}
"""What cannot be: layers that are no `nn.Linear`, models without biases, and no head that is new."""
OTHERS = [
    pytest.param(kind, task, method, steps_, marks=[] if steps_ == FEW or task in WHOLE else [pytest.mark.slow])
    for kind in SAMPLE
    for task in TASKS
    if has_head(kind, task)
    for method in METHODS
    if method not in ("full", "lora") and (kind, task, method) not in REFUSED
    for steps_ in (FEW, MANY)
    if steps_ == FEW or not METHODS.load(method).narrow
]
RATES = {"electra": 5e-3, "bert": 5e-3, "roberta": 5e-3, "distilbert": 3e-3, "gpt2": 3e-3, "llama": 3e-3, "bart": 3e-3}
"""Tiny models that find the rate which suits the others too high: most of all saturating poolers."""
WRITES = ("chat", "code", "generation", "language")
"""Tasks that a low rank learns by heart only at the common rate, whatever the model: a vocabulary is wide."""


def rate_of(family: str, task: str, method: str) -> float:
    return 1e-2 if method != "full" and task in WRITES else RATES.get(family, 1e-2)


@pytest.mark.parametrize("task", list(TASKS))
def test_a_task_is_held_to_its_contract_on_some_family(task: str) -> None:
    assert TASKS.load(task).specimens
    assert any(cell[1] == task for cell in CELLS)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bases")


def outputs(one: Bench, side: str = "right", tokens: int = 4096) -> Outputs:
    padding = left(one.padding) if side == "left" else one.padding
    return all_outputs(one.adapted.model, one.task, one.data, padding, Inference(CPU, tokens=tokens)).outputs


def gap(one: Outputs, other: Outputs) -> float:
    """The largest difference of two outputs."""
    return max(float(np.abs(a - b).max()) for a, b in zip(one.values, other.values, strict=True))


@pytest.mark.parametrize(("kind", "task"), list(UNABLE))
def test_a_kind_of_model_that_cannot_says_so_before_weights_load(kind: str, task: str, bases: Path) -> None:
    codec = opened(bases / kind, kind, TASKS.load(task)().auto_class(family_of(ZOO[kind]))).codec
    part = TASKS.load(task)
    learned = part(**part.specimens[0].options)
    records = records_of(learned, part.specimens[0].rows)
    try:
        reasons = {example.refused for example in learned.encode(records, codec, 64)}
    except UserError as error:
        reasons = {str(error)}
    assert all(UNABLE[kind, task] in reason for reason in reasons)


@pytest.mark.parametrize(("family", "task", "number", "method"), CELLS)
def test_cell_keeps_its_contract(family: str, task: str, number: int, method: str, bases: Path) -> None:
    one = bench(bases / family, family, task, method, specimen=number)
    hold_to_contract(one, rate_of(family, task, method))


@pytest.mark.parametrize(("family", "task", "method", "most"), OTHERS)
def test_cell_of_another_method_keeps_its_contract(family: str, task: str, method: str, most: int, bases: Path) -> None:
    hold_to_contract(bench(bases / family, family, task, method), rate_of(family, task, method), most)


@pytest.mark.parametrize(("family", "task", "method"), sorted(REFUSED))
def test_a_cell_that_cannot_be_says_so_before_weights_are_read(
    family: str, task: str, method: str, bases: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapting, "load_model", None)
    with pytest.raises(UserError) as caught:
        bench(bases / family, family, task, method)
    assert caught.value.where.startswith("method")


def hold_to_contract(one: Bench, rate: float, most: int = MANY) -> None:
    """Fails by what is wrong with the task or the method of the bench. most: updates; after a few, the rows need not be
    known by heart, but the loss must have fallen."""
    plain = Bench(one.foundation, one.task, one.method, one.records, one.data, one.padding, one.adapted)
    plain.adapted = adapted_model(one.foundation, one.task, METHODS.load("full")(), Setting(1, 0.0))
    started = gap(outputs(one), outputs(plain))
    assert started < 1e-6 if one.method.starts_at_base else started > 1e-6, f"step 0 differs from the base by {started}"

    frozen = {
        name: parameter.detach().clone()
        for name, parameter in one.adapted.model.named_parameters()
        if name not in one.adapted.trainable
    }
    assert frozen or one.method.moves_base, "a method that leaves the base as it is has frozen weights"
    start = {name: p.detach().clone() for name, p in one.adapted.model.named_parameters() if name not in frozen}
    first, last = learn_by_heart(one, rate, most)
    assert last < first, "the loss did not fall"

    for name, parameter in one.adapted.model.named_parameters():
        if name in frozen:
            assert torch.equal(parameter, frozen[name]), f"frozen {name} moved"
        else:
            gone = one.adapted.tend is not None and not parameter.any()  # a method may take what it added away again
            assert gone or not torch.equal(parameter, start[name]), f"{name} should move and did not"

    learned = outputs(one)
    answers = one.task.predictions(spoken(one, learned), one.records)
    if most == MANY:
        assert_right(answers)

    assert gap(outputs(one, tokens=1), learned) < 1e-4, "a row alone differs from the row in a batch"
    if one.foundation.family is Family.DECODER:
        assert gap(outputs(one, side="left"), learned) < 1e-4, "left padding differs from right"

    for answer in one.task.answers(spoken(one, learned), one.records):
        json.dumps({"value": answer.value, "scores": dict(answer.scores)})

    folded = one.task.fold(one.adapted.model)
    again = folded.predictions(outputs(one), one.records)
    if answers.kind in ("label", "labels", "numbers"):
        assert np.allclose(again.answers, answers.answers, rtol=1e-4, atol=1e-4), (
            "folding the scale changed the answers"
        )

    if not one.method.merges:
        with pytest.raises(UserError):
            merged(one.adapted.model, one.method)
        return
    before = outputs(one)
    whole = Bench(one.foundation, folded, one.method, one.records, one.data, one.padding, one.adapted)
    whole.adapted = type(one.adapted)(merged(one.adapted.model, one.method), (), ())
    size = max(1.0, *(float(np.abs(values).max()) for values in before.values))
    assert gap(outputs(whole), before) < 1e-3 * size, "merged differs"


def learn_by_heart(one: Bench, rate: float, most: int = MANY) -> tuple[float, float]:
    """The first loss and the last."""
    course = one.course(epochs=most, max_steps=most, learning_rate=rate, batch_size=12)
    state = one.state(course)
    losses = []
    for step in steps(state, course):
        losses.append(step.loss)
        if step.loss < 2e-4:  # before the step's update
            break
    return losses[0], losses[-1]


def spoken(one: Bench, given: Outputs) -> Outputs:
    """The outputs with generated texts, where the task has any."""
    speaker = Speaker(one.foundation.codec, 64, Inference(CPU))
    return with_replies(one.adapted.model, one.task, given, one.records, speaker)


def assert_right(answers: Predictions) -> None:
    """Fails unless every answer is the right one."""
    wrong = "learned by heart, answered wrong"
    if answers.kind == "parts":
        for part in answers.parts.values():
            assert_right(part)
    elif answers.kind in ("label", "labels"):
        assert np.array_equal(answers.gold, answers.answers), wrong
    elif answers.kind == "numbers":
        miss = np.abs(answers.gold - answers.answers) / answers.gold.std(axis=0)
        assert miss.max() < 0.35, wrong
    elif answers.kind == "spans":
        for gold, given in zip(answers.gold, answers.answers, strict=True):
            assert set(gold) == set(given), wrong
    elif answers.kind == "texts":
        for gold, given in zip(answers.gold, answers.answers, strict=True):
            assert given[0] in gold, wrong
    elif "tokens_right" in answers.extras:  # how a text begins cannot be known
        assert answers.extras["tokens_right"].sum() >= 0.9 * answers.extras["targets"].sum(), wrong
    else:
        assert answers.extras["right"].min() == 1, wrong


def _noisy(adapt: Any) -> Any:
    """A method whose change is not zero at the start."""

    def wrong(self: Any, *words: Any) -> Any:
        adapted = adapt(self, *words)
        with torch.no_grad():
            for name, parameter in adapted.model.named_parameters():
                if "lora_B" in name:
                    parameter += 0.1
        return adapted

    return wrong


def _idle(adapt: Any) -> Any:
    """A method whose weights are never reached by a gradient."""

    def wrong(self: Any, *words: Any) -> Any:
        adapted = adapt(self, *words)
        spare = torch.nn.Parameter(torch.ones(2))
        adapted.model.register_parameter("spare", spare)
        return replace(adapted, trainable=(*adapted.trainable, "spare"))

    return wrong


def _unmerged(merge: Any) -> Any:
    return lambda self, model: model.unload()


def _shifted(answer: Any) -> Any:
    """A task that names the next label."""

    def wrong(self: Any, outputs: Any, records: Any) -> Any:
        found = answer(self, outputs, records)
        return replace(found, answers=np.roll(found.answers, 1))

    return wrong


@pytest.mark.parametrize(
    ("part", "function", "plant", "message"),
    [
        ("method", "adapt", _noisy, "step 0 differs"),
        ("method", "adapt", _idle, "should move and did not"),
        ("method", "merge", _unmerged, "merged differs"),
        ("task", "predictions", _shifted, "answered wrong"),
    ],
)
def test_the_contract_notices(
    part: str, function: str, plant: Any, message: str, bases: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = METHODS.load("lora") if part == "method" else TASKS.load("classification")
    monkeypatch.setattr(kind, function, plant(getattr(kind, function)))
    with pytest.raises(AssertionError, match=message):
        hold_to_contract(bench(bases / "bert", "bert", "classification", "lora"), 5e-3)


def test_every_part_of_the_tables_has_specimens_and_help() -> None:
    for name in TASKS:
        kind = TASKS.load(name)
        assert kind.specimens, f"task {name} has nothing to be tested on"
        for field in kind.model_fields.values():
            assert field.description, f"a field of task {name} has no help"
    for name in METHODS:
        assert all(field.description for field in METHODS.load(name).model_fields.values())


def test_task_says_before_weights_load_that_a_model_has_no_such_head(tmp_path: Path) -> None:
    from transformers import M2M100Config

    from tunesmith.errors import UserError

    one = bench(tmp_path / "base", "bert", "classification", "full")
    object.__setattr__(one.foundation, "config", M2M100Config())
    with pytest.raises(UserError, match="no SequenceClassification head"):
        supported(one.foundation, "AutoModelForSequenceClassification")


def test_labels_are_never_read_by_position_of_another_run(tmp_path: Path) -> None:
    one = bench(tmp_path / "base", "bert", "classification", "full")
    reordered = one.task.model_copy(update={"labels": tuple(reversed(one.task.label_names))})
    row = replace(outputs(one), values=[np.array([0.0, 0.0, 5.0])])
    assert one.task.answers(row, one.records[:1])[0].value == reordered.label_names[0]
    assert reordered.answers(row, one.records[:1])[0].value == one.task.label_names[0]


def test_importing_the_tables_imports_no_task() -> None:
    code = "import tunesmith.tasks, tunesmith.adapt, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
