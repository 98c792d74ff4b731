"""Prompts and prefixes: the same with PEFT, and what they begin as is what the base makes of real tokens."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import GenerationConfig

from tiny import ZOO
from tunesmith import adapting
from tunesmith.adapt import METHODS
from tunesmith.adapt.prompt import ids_of
from tunesmith.adapt.virtual import load
from tunesmith.contracts import Family
from tunesmith.errors import UserError
from tunesmith.forward import Inference, all_outputs
from tunesmith.quiet import quiet
from tunesmith.select.foundation import family_of
from tunesmith.select.load import load_model
from tunesmith.train.loop import steps
from workshop import CPU, Bench, bench, left

TASKS = {Family.ENCODER: "ner", Family.DECODER: "generation", Family.ENCODER_DECODER: "generation"}
OWN_ATTENTION = ("deberta-v3", "falcon", "falcon-rw", "bloom")
UNEQUAL = ("deepseek-v2", "deepseek-v3")
KINDS = [
    (kind, method)
    for kind in ZOO
    for method in ("prompt", "p_tuning", "prefix")
    if kind not in (*OWN_ATTENTION, *UNEQUAL) * (method == "prefix")
    if method != "p_tuning" or kind in ("bert", "gpt2", "llama", "t5")
]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bases")


def made(bases: Path, kind: str, method: str, task: str = "", **options: Any) -> Bench:
    task = task or TASKS[family_of(ZOO[kind])]
    return bench(bases / kind, kind, task, method, method={"tokens": 5, **options})


def tuned(one: Bench, steps_: int = 4) -> Bench:
    course = one.course(epochs=steps_, max_steps=steps_, learning_rate=1e-2)
    for _ in steps(one.state(course), course):
        pass
    one.adapted.model.eval()
    return one


def passed(one: Bench, model: torch.nn.Module | None = None, side: str = "right", tokens: int = 4096) -> list[Any]:
    padding = left(one.padding) if side == "left" else one.padding
    found = all_outputs(model or one.adapted.model, one.task, one.data, padding, Inference(CPU, tokens=tokens))
    return [value.copy() for value in found.outputs.values]


def apart(one: list[Any], other: list[Any]) -> float:
    return max(float(abs(a - b).max()) for a, b in zip(one, other, strict=True))


def base_of(one: Bench) -> Any:
    return load_model(
        one.foundation, one.task.auto_class(one.foundation.family), one.task.head(), seed=1, dropout=0.0
    ).model


@pytest.mark.parametrize(("kind", "method"), KINDS)
def test_a_file_gives_the_same_outputs_whatever_the_batch(kind: str, method: str, bases: Path, tmp_path: Path) -> None:
    one = tuned(made(bases, kind, method))
    wanted = passed(one)
    assert apart(passed(one, tokens=1), wanted) < 1e-4
    if one.foundation.family is Family.DECODER:
        assert apart(passed(one, side="left"), wanted) < 1e-4
    one.method.save(one.adapted.model, tmp_path)
    with quiet():
        again = load(base_of(one), tmp_path)
    assert apart(passed(one, again), wanted) < 1e-6
    with again.disable_adapter():
        assert apart(passed(one, again), wanted) > 1e-3
    assert apart(passed(one, again), wanted) < 1e-6


@pytest.mark.parametrize(("kind", "method"), KINDS)
def test_peft_alone_gives_the_same_where_that_is_promised(kind: str, method: str, bases: Path, tmp_path: Path) -> None:
    family = family_of(ZOO[kind])
    one = made(bases, kind, method, "classification" if family is Family.ENCODER else "")
    if not one.method.loads_plainly(family, one.task.auto_class(family), one.foundation.config):
        assert method == "prefix" or kind == "pegasus"
        return
    wanted = passed(tuned(one))
    one.method.save(one.adapted.model, tmp_path)
    with quiet():
        plain = PeftModel.from_pretrained(base_of(one), str(tmp_path))

    def without_prompt(module: Any, given: Any, inputs: Any, output: Any) -> Any:
        if family is Family.DECODER:
            output["logits"] = output.logits[:, -inputs["input_ids"].shape[1] :]
        return output

    plain.register_forward_hook(without_prompt, with_kwargs=True)
    assert apart(passed(one, plain), wanted) < 1e-5


@pytest.mark.parametrize(("kind", "method"), [pair for pair in KINDS if family_of(ZOO[pair[0]]) != Family.ENCODER])
def test_greedy_texts_are_those_of_one_forward_pass_a_token(kind: str, method: str, bases: Path) -> None:
    one = made(bases, kind, method, "generation")
    model, decoder = one.adapted.model.eval(), one.foundation.family is Family.DECODER
    ids = torch.randint(20, 100, (2, 6), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, slice(2) if decoder else slice(4, 6)] = 0
    start = one.foundation.config.decoder_start_token_id if not decoder else None
    more: dict[str, Any] = {"pad_token_id": one.foundation.tokenizer.pad_token_id, "decoder_start_token_id": start}
    config = GenerationConfig(max_new_tokens=5, **more)  # type: ignore[no-untyped-call]
    penalised = GenerationConfig(max_new_tokens=5, num_beams=2, repetition_penalty=1.5, **more)  # type: ignore[no-untyped-call]
    config.eos_token_id = penalised.eos_token_id = -1  # never
    with torch.inference_mode():
        found = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)  # type: ignore[operator]
        assert len(model.generate(input_ids=ids, attention_mask=mask, generation_config=penalised)) == 2  # type: ignore[operator]
        for row in range(2):
            text = ids[row : row + 1, mask[row] == 1]
            said = text if decoder else found[row : row + 1, :1]
            begun = 6 if decoder else 1
            for token in found[row, begun:].tolist():
                inputs = {"input_ids": said} if decoder else {"input_ids": text, "decoder_input_ids": said}
                logits = model(**inputs, attention_mask=torch.ones_like(inputs["input_ids"])).logits[:, -1]
                assert float(logits.max() - logits[0, token]) < 1e-4
                said = torch.cat([said, said.new_tensor([[token]])], dim=1)
    assert decoder is False or torch.equal(found[:, :6], ids)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen3", "gemma", "phi"])
@pytest.mark.parametrize("method", ["prompt", "prefix"])
def test_what_begins_as_a_text_is_that_text_to_a_decoder(kind: str, method: str, bases: Path) -> None:
    text = "the kettle is broken"
    init = "text" if method == "prompt" else "activations"
    count = len(ids_of(text, made(bases, kind, "prompt").foundation.codec))
    one = made(bases, kind, method, init=init, text=text, tokens=count)
    ids = torch.randint(20, 100, (1, 7), generator=torch.Generator().manual_seed(2))
    before = torch.tensor([ids_of(text, one.foundation.codec)])
    plain = base_of(one).eval()
    with torch.inference_mode():
        wanted = plain(input_ids=torch.cat([before, ids], dim=1)).logits[:, count:]
        found = one.adapted.model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    assert torch.allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "task"),
    [
        ("bert", "ner"),
        ("gpt2", "generation"),
        ("t5", "generation"),
        ("t5", "classification"),
        ("bart", "classification"),
    ],
)
def test_hidden_states_are_those_of_the_text_alone(kind: str, task: str, bases: Path) -> None:
    one = made(bases, kind, "prompt", task)
    (batch, *_) = one.course().batches(0)
    found, plain = (
        model.eval()(**one.task.arguments(batch), output_hidden_states=True)
        for model in (one.adapted.model, base_of(one))
    )
    for name in ("hidden_states", "encoder_hidden_states", "decoder_hidden_states"):
        assert [v.shape for v in getattr(found, name, None) or ()] == [
            v.shape for v in getattr(plain, name, None) or ()
        ]


@pytest.mark.parametrize("kind", ["bert", "gpt2", "t5"])
def test_a_prompt_begins_as_the_names_of_the_labels(kind: str, bases: Path) -> None:
    one = made(bases, kind, "prompt", "classification", init="labels", tokens=20)
    names = list(one.task.head()["id2label"].values())
    wanted = [token for name in names for token in ids_of(name, one.foundation.codec)]
    table = base_of(one).get_input_embeddings().weight
    assert torch.equal(one.adapted.model.prompt_encoder["default"].embedding.weight[: len(wanted)], table[wanted[:20]])


@pytest.mark.parametrize(
    ("kind", "method", "task", "options", "message"),
    [
        *((kind, "prefix", "", {}, "attention of its own, which takes no prefix") for kind in OWN_ATTENTION),
        *((kind, "prefix", "", {}, "differ in width") for kind in UNEQUAL),
        ("gpt2", "prompt", "language", {"init": "labels"}, "has no labels to begin with"),
        ("bert", "prompt", "", {"tokens": 100}, "vectors leave too few of"),
    ],
)
def test_what_cannot_be_is_refused_before_weights_are_read(
    kind: str, method: str, task: str, options: Any, message: str, bases: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapting, "load_model", None)
    with pytest.raises(UserError, match=message):
        made(bases, kind, method, task, **options)


@pytest.mark.parametrize(
    ("task", "method", "options", "message"),
    [
        ("regression", "prompt", {"init": "text", "text": "\u200b"}, "holds no token"),
        ("regression", "prefix", {"text": "\u200b"}, "holds no token"),
        ("multiple_choice", "prompt", {"init": "labels"}, "have no names"),
    ],
)
def test_what_gives_nothing_to_begin_with_is_refused(
    task: str, method: str, options: Any, message: str, bases: Path
) -> None:
    with pytest.raises(UserError, match=message):
        made(bases, "bert", method, task, **options)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("p_tuning", {"layers": 1}, "are of encoder: lstm"),
        ("p_tuning", {"encoder": "lstm", "layers": 1, "dropout": 0.5}, "is between layers"),
        ("prompt", {"text": "good"}, "belong together"),
        ("prompt", {"init": "text"}, "belong together"),
        ("prefix", {"text": "good", "projection": True}, "leave out projection"),
        ("prefix", {"text": "good", "init": "random"}, "leave out projection"),
        ("prefix", {"width": 16}, "write projection: true"),
    ],
)
def test_options_that_do_not_go_together_are_refused(method: str, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        METHODS.load(method)(**options)


PLAIN = [
    ("bert", "classification", "lora", {}),
    ("gpt2", "language", "lora", {}),
    ("bert", "classification", "ia3", {}),
    ("t5", "generation", "ia3", {}),
    ("bert", "classification", "prompt", {}),
    ("gpt2", "language", "prompt", {}),
    ("t5", "generation", "prompt", {}),
    ("llama", "language", "p_tuning", {}),
    ("gpt2", "language", "prefix", {}),
    ("llama", "language", "prefix", {"projection": True}),
]


@pytest.mark.parametrize(("kind", "task", "method", "options"), PLAIN)
def test_twenty_losses_are_those_of_a_plain_loop_over_peft(
    kind: str, task: str, method: str, options: Any, bases: Path
) -> None:
    """From the same weights over the same rows, with a loss, an optimiser and a loop that are not ours."""
    one = bench(bases / kind, kind, task, method, method=options)
    course = one.course(epochs=20, max_steps=20, schedule="constant", weight_decay=0.0, learning_rate=5e-3)
    model: Any = one.adapted.model
    from peft import get_peft_model

    config = copy.deepcopy(model.peft_config["default"])
    with quiet():
        plain = get_peft_model(base_of(one), config)
    begun = {name: value for name, value in model.state_dict().items() if name in one.adapted.trainable}
    assert not plain.load_state_dict(begun, strict=False).unexpected_keys
    moving = [parameter for parameter in plain.parameters() if parameter.requires_grad]
    assert sum(p.numel() for p in moving) == sum(value.numel() for value in begun.values())
    optimiser = torch.optim.AdamW(moving, lr=5e-3, weight_decay=0.0)
    wanted = []
    for number in range(20):
        (batch,) = course.batches(number)
        plain.train()
        inputs, labels = one.task.arguments(batch), batch.targets["labels"]
        logits = plain(**inputs).logits
        if logits.ndim == 3:
            logits = logits[:, -labels.shape[1] :]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, -2), labels.flatten())
        wanted.append(float(loss.detach()))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(moving, 1.0)
        optimiser.step()
        optimiser.zero_grad()
    found = [step.loss for step in steps(one.state(course), course)]
    assert found == pytest.approx(wanted, rel=2e-5)
    assert found[-1] != pytest.approx(found[0], rel=1e-3)
