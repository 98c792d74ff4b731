"""Each task's loss and gradients in float64: the same however a batch is cut or padded, and what its formula gives."""

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import log_softmax, logsigmoid

from test_numbers import BOUND, gradients, in_groups, largest_difference
from tunesmith.batch import IGNORED, Batch, collate, encoded
from tunesmith.contracts import Family
from tunesmith.forward import Inference, all_outputs, batch_of
from tunesmith.quiet import quiet
from workshop import CPU, Bench, bench, left, records_of

ROWS = 16
TEXT = "the red kettle is broken and my blue lamp arrived late yesterday thank you kind shop"
WORDS = TEXT.split()
WHOLE = 100_000
"""More tokens than all rows have."""
SINGLE = 1e-6
"""What rounding makes of it where `transformers` takes a loss in float32 (causal models)."""


def words(start: int, count: int) -> str:
    return " ".join(WORDS[(start + step) % len(WORDS)] for step in range(count))


def turns(place: int) -> list[dict[str, str]]:
    """A conversation of one exchange or two."""
    roles = ("user", "assistant") * (1 + place % 2)
    return [{"role": role, "content": words(place + 3 * at, 1 + (place + at) % 3)} for at, role in enumerate(roles)]


def marked(place: int) -> str:
    start, count = words(place, place % 4), words(place + 5, 1 + place % 3)
    return f"{start} [[{('THING', 'TIME')[place % 2]}|{count}]] {words(place + 2, 1 + place % 5)}".strip()


def asked(place: int) -> dict[str, Any]:
    context = f"{words(place, 1 + place % 4)} chair{place} {words(place + 5, place % 3)}".strip()
    return {"question": words(place + 1, 2), "context": context, "answers": [f"chair{place}"] if place % 4 else []}


def chosen(place: int) -> dict[str, Any]:
    choices = [f"{words(place + at, 1 + at)} {at}" for at in range(2 + place % 3)]
    return {"question": words(place, 1 + place % 4), "choices": choices, "answer": place % len(choices)}


MADE: dict[str, Callable[[int], dict[str, Any]]] = {
    "language": lambda place: {"text": words(place, 3 + 2 * place % 13)},
    "generation": lambda place: {"source": words(place, 1 + place % 6), "target": words(place + 4, 1 + place % 3)},
    "chat": lambda place: {"messages": turns(place)},
    "ner": lambda place: {"said": marked(place)},
    "span_qa": asked,
    "multiple_choice": chosen,
    "preference": lambda place: {
        "prompt": words(place, 1 + place % 5), "chosen": words(place + 2, 1 + place % 4), "rejected": words(place, 2),
        "completion": words(place + 7, 1 + place % 4), "label": place % 3 > 0,
    },
}  # fmt: skip
"""Of each task a row of its own for every number, of lengths that vary."""
SPECIMENS = {"kto": 4}
"""Which specimen of a task has rows for a criterion, where it is not the first."""


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bases")


def double(bases: Path, family: str, task: str, **options: Any) -> Bench:
    """A bench with sixteen rows in float64, whose model is no longer the base that `compared` remembers."""
    return _double(bases, family, task, tuple(options.items()))


@functools.cache
def _double(bases: Path, family: str, task: str, options: tuple[tuple[str, Any], ...]) -> Bench:
    given = dict(options)
    specimen = SPECIMENS.get(given.get("criterion", ""), 0)
    one = bench(bases / family, family, task, "full", task=given, specimen=specimen)
    one.adapted.model.double().eval()
    one.records = records_of(one.task, [MADE[task](place) for place in range(ROWS)])
    one.data = encoded(one.task.encode(one.records, one.foundation.codec, 64))
    one.data = one.data.take(np.arange(ROWS))  # behind an encoder each reply of a conversation is a row
    if one.task.compares:
        one.data = one.task.refer(
            one.data, all_outputs(one.adapted.model, one.task, one.data, one.padding, Inference(CPU)).values
        )
    chance = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in one.adapted.model.parameters():
            noise = 0.05 * torch.randn(parameter.shape, generator=chance, dtype=torch.float64)
            parameter += noise * (parameter.abs().sum(dim=-1, keepdim=True) > 0)  # a padding token stays zero
    return one


def all_at_once(one: Bench) -> tuple[float, dict[str, Tensor]]:
    return gradients(one, one.course(batch_size=ROWS, micro_tokens=WHOLE))


CELLS: list[tuple[str, str, dict[str, Any]]] = [
    ("bert", "language", {}),
    ("gpt2", "language", {}),
    ("llama", "language", {}),
    ("t5", "language", {}),
    ("llama", "generation", {}),
    ("t5", "generation", {}),
    ("bart", "generation", {}),
    ("qwen2", "chat", {}),
    ("bart", "chat", {}),
    ("bert", "ner", {}),
    ("gpt2", "ner", {}),
    ("roberta", "span_qa", {}),
    ("gpt2", "span_qa", {}),
    ("distilbert", "multiple_choice", {}),
    ("gpt2", "multiple_choice", {}),
    ("llama", "multiple_choice", {"normalise": "none"}),
    ("gpt2", "preference", {"criterion": "dpo"}),
    ("llama", "preference", {"criterion": "dpo", "label_smoothing": 0.1}),
    ("gpt2", "preference", {"criterion": "ipo"}),
    ("gpt2", "preference", {"criterion": "orpo"}),
    ("gpt2", "preference", {"criterion": "simpo", "beta": 2.0}),
]
DIVISIONS = ([16], [8, 8], [4] * 4, [1] * 16, [1, 13, 2])


@pytest.mark.parametrize(("family", "task", "options"), CELLS)
def test_any_division_into_micro_batches_gives_the_gradients_of_the_whole_batch(
    family: str, task: str, options: dict[str, Any], bases: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = double(bases, family, task, **options)
    course = one.course(batch_size=ROWS)
    results = []
    for sizes in DIVISIONS:
        with monkeypatch.context() as patch:
            in_groups(course, sizes, patch)
            assert len(course.batches(0)) == len(sizes)
            results.append(gradients(one, course))
    loss, wanted = results[0]
    assert max(float(found.abs().max()) for found in wanted.values()) > 1e-3
    for other, found in results[1:]:
        assert abs(other - loss) < BOUND
        assert largest_difference(found, wanted) < BOUND


@pytest.mark.parametrize(("family", "task", "options"), CELLS)
def test_the_limit_of_a_forward_pass_changes_no_gradient(
    family: str, task: str, options: dict[str, Any], bases: Path
) -> None:
    one = double(bases, family, task, **options)
    loss, wanted = all_at_once(one)
    numbers = set()
    for most in (1, 150):
        course = one.course(batch_size=ROWS, micro_tokens=most)
        numbers.add(len(course.batches(0)))
        other, found = gradients(one, course)
        assert abs(other - loss) < BOUND
        assert largest_difference(found, wanted) < BOUND
    assert ROWS in numbers
    assert len(numbers) == 2


KTO: tuple[str, str, dict[str, Any]] = ("gpt2", "preference", {"criterion": "kto"})
"""Whose loss looks at all rows of a forward pass together, so that its division counts."""
DECODERS = [*(cell for cell in CELLS if cell[0] in ("gpt2", "llama", "qwen2")), KTO]


@pytest.mark.parametrize(("family", "task", "options"), DECODERS)
def test_left_and_right_padding_give_equal_gradients(
    family: str, task: str, options: dict[str, Any], bases: Path
) -> None:
    one = double(bases, family, task, **options)
    assert one.foundation.family is Family.DECODER
    loss, wanted = all_at_once(one)
    other, found = all_at_once(replace(one, padding=left(one.padding)))
    assert abs(other - loss) < BOUND
    assert largest_difference(found, wanted) < BOUND


def test_a_mean_of_means_would_be_noticed(bases: Path) -> None:
    one = double(bases, "llama", "generation")
    loss, _ = all_at_once(one)
    course = one.course(batch_size=ROWS, micro_tokens=1)
    means = [gradients_of(one, made) for made in course.batches(0)]
    assert abs(sum(means) / len(means) - loss) > 1e-4


def gradients_of(one: Bench, made: Batch) -> float:
    """The mean loss of one batch alone."""
    with torch.no_grad():
        outputs = one.task.outputs(one.adapted.model(**one.task.arguments(made)), made)
        return float(one.task.loss(outputs, made)) / one.task.count(made)


# From here on: the same numbers from plain calls of the tokenizer, the model and log_softmax, a row at a time.


def likelihoods(model: Any, prompt: Sequence[int], reply: Sequence[int]) -> Tensor:
    """The log-likelihood of each token of `reply` behind `prompt`."""
    ids = torch.tensor([[*prompt, *reply]])
    with torch.no_grad():
        found = log_softmax(model(input_ids=ids).logits[0], dim=-1)
    at = torch.arange(len(prompt) - 1, len(prompt) + len(reply) - 1)
    return found[at, torch.tensor(list(reply))]


def plain(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def mean_nll(parts: Sequence[Tensor]) -> float:
    return -float(torch.cat(list(parts)).sum()) / sum(len(part) for part in parts)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_loss_of_causal_text_is_the_mean_over_all_tokens_but_the_first(family: str, bases: Path) -> None:
    one = double(bases, family, "language")
    model, tokenizer = one.adapted.model, one.foundation.tokenizer
    parts = []
    for place in range(ROWS):
        ids = [*plain(tokenizer, MADE["language"](place)["text"]), tokenizer.eos_token_id]
        ids = [tokenizer.bos_token_id, *ids] if family == "llama" else ids
        parts.append(likelihoods(model, ids[:1], ids[1:]))
    assert all_at_once(one)[0] == pytest.approx(mean_nll(parts), abs=BOUND)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_loss_of_generation_by_a_decoder_is_the_mean_over_the_tokens_of_replies(family: str, bases: Path) -> None:
    one = double(bases, family, "generation")
    tokenizer, parts = one.foundation.tokenizer, []
    for row in map(MADE["generation"], range(ROWS)):
        reply = [*plain(tokenizer, row["target"]), tokenizer.eos_token_id]
        parts.append(likelihoods(one.adapted.model, tokenizer(row["source"] + "\n")["input_ids"], reply))
    assert all_at_once(one)[0] == pytest.approx(mean_nll(parts), abs=BOUND)


def test_the_loss_of_generation_behind_an_encoder_is_the_mean_over_the_tokens_of_replies(bases: Path) -> None:
    one = double(bases, "t5", "generation")
    tokenizer, parts = one.foundation.tokenizer, []
    for row in map(MADE["generation"], range(ROWS)):
        labels = tokenizer(row["target"])["input_ids"]
        assert labels[-1] == tokenizer.eos_token_id
        given = torch.tensor([[one.foundation.config.decoder_start_token_id, *labels[:-1]]])
        source = torch.tensor([tokenizer(row["source"])["input_ids"]])
        with torch.no_grad():
            found = log_softmax(one.adapted.model(input_ids=source, decoder_input_ids=given).logits[0], dim=-1)
        parts.append(found[torch.arange(len(labels)), torch.tensor(labels)])
    assert all_at_once(one)[0] == pytest.approx(mean_nll(parts), abs=BOUND)


def test_the_loss_of_chat_is_the_mean_over_the_replies_with_what_stops_them(bases: Path) -> None:
    one = double(bases, "qwen2", "chat")
    tokenizer, parts = one.foundation.tokenizer, []
    for messages in map(turns, range(ROWS)):
        ids: list[int] = []
        for message in messages:
            ids += tokenizer(f"<|im_start|>{message['role']}\n")["input_ids"]
            said = tokenizer(f"{message['content']}<|im_end|>")["input_ids"]
            if message["role"] == "assistant":
                parts.append(likelihoods(one.adapted.model, ids, said))
            ids += [*said, *tokenizer("\n")["input_ids"]]
        written = tokenizer.apply_chat_template(messages, tokenize=False)
        assert tokenizer(written)["input_ids"] == ids
    assert all_at_once(one)[0] == pytest.approx(mean_nll(parts), abs=BOUND)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_the_loss_of_entities_is_the_mean_over_the_tokens_of_the_texts(family: str, bases: Path) -> None:
    one = double(bases, family, "ner")
    tokenizer, names, parts = one.foundation.tokenizer, list(one.task.head()["id2label"].values()), []
    for record in one.records:
        found = tokenizer(record.inputs["text"], return_offsets_mapping=True, return_tensors="pt")
        offsets = found.pop("offset_mapping")[0].tolist()
        with torch.no_grad():
            likely = log_softmax(one.adapted.model(**found).logits[0], dim=-1)
        text, (span,) = record.inputs["text"], record.target
        begun = False
        for at, (start, end) in enumerate(offsets):
            start += len(text[start:end]) - len(text[start:end].lstrip())
            if start == end:
                continue
            inside = start < span.end and end > span.start
            tag = f"{'I' if begun else 'B'}-{span.label}" if inside else "O"
            begun = begun or inside
            parts.append(likely[at, names.index(tag)][None])
    assert all_at_once(one)[0] == pytest.approx(mean_nll(parts), abs=BOUND)


@pytest.mark.parametrize("family", ["roberta", "bert"])
def test_the_loss_of_answers_in_texts_is_the_mean_over_both_ends_among_tokens_of_the_text(
    family: str, bases: Path
) -> None:
    one = double(bases, family, "span_qa")
    tokenizer, parts = one.foundation.tokenizer, []
    for row in map(asked, range(ROWS)):
        found = tokenizer(row["question"], row["context"], return_offsets_mapping=True, return_tensors="pt")
        offsets, sequences = found.pop("offset_mapping")[0].tolist(), found.sequence_ids(0)
        inside = [at for at, sequence in enumerate(sequences) if sequence == 1]
        first = last = 0  # where the answer is that there is none
        if row["answers"]:
            begin = row["context"].index(row["answers"][0])
            end = begin + len(row["answers"][0])
            covering = [at for at in inside if offsets[at][0] < end and offsets[at][1] > begin]
            first, last = covering[0], covering[-1]
        with torch.no_grad():
            scores = one.adapted.model(**found)
        allowed = [0, *inside]
        for values, at in ((scores.start_logits, first), (scores.end_logits, last)):
            parts.append(log_softmax(values[0, allowed], dim=0)[allowed.index(at)][None])
    assert all_at_once(one)[0] == pytest.approx(mean_nll(parts), abs=BOUND)


@pytest.mark.parametrize("normalise", ["tokens", "none"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_loss_of_choices_by_a_decoder_compares_how_likely_each_is(family: str, normalise: str, bases: Path) -> None:
    one = double(bases, family, "multiple_choice", normalise=normalise)
    tokenizer, parts = one.foundation.tokenizer, []
    for row in map(chosen, range(ROWS)):
        prompt = tokenizer(f"{row['question']}\nAnswer:")["input_ids"]
        found = [likelihoods(one.adapted.model, prompt, plain(tokenizer, f" {text}")) for text in row["choices"]]
        scores = torch.stack([part.mean() if normalise == "tokens" else part.sum() for part in found])
        parts.append(log_softmax(scores, dim=0)[row["answer"]][None])
    assert all_at_once(one)[0] == pytest.approx(mean_nll(parts), abs=BOUND)


def by_hand(criterion: str, rows: Sequence[Mapping[str, Any]], beta: float, smoothing: float, margin: float) -> float:
    """The mean loss of pairs by the papers' formulas. Of each row: sums of log-likelihood, tokens, the base's sums."""
    losses = []
    for row in rows:
        (c, r), (nc, nr), (bc, br) = row["sums"], row["tokens"], row["base"]
        if criterion == "dpo":  # arXiv:2305.18290, equation 7; smoothed as in arXiv:2310.12036's cDPO
            gap = beta * ((c - bc) - (r - br))
            loss = -(1 - smoothing) * logsigmoid(gap) - smoothing * logsigmoid(-gap)
        elif criterion == "ipo":  # arXiv:2310.12036, equation 17, with means over tokens
            loss = ((c - bc) / nc - (r - br) / nr - 1 / (2 * beta)) ** 2
        elif criterion == "orpo":  # arXiv:2403.07691, equations 6 and 7
            pc, pr = torch.exp(c / nc), torch.exp(r / nr)
            loss = -torch.log(pc) - beta * logsigmoid(torch.log((pc / (1 - pc)) / (pr / (1 - pr))))
        else:  # arXiv:2405.14734, equation 6
            loss = -logsigmoid(beta / nc * c - beta / nr * r - margin)
        losses.append(float(loss))
    return sum(losses) / len(losses)


@pytest.mark.parametrize(
    ("family", "criterion", "beta", "smoothing", "margin"),
    [
        ("gpt2", "dpo", 0.1, 0.0, 0.5),
        ("llama", "dpo", 0.3, 0.1, 0.5),
        ("gpt2", "ipo", 0.1, 0.0, 0.5),
        ("gpt2", "orpo", 0.1, 0.0, 0.5),
        ("gpt2", "simpo", 2.0, 0.0, 0.5),
        ("llama", "simpo", 2.5, 0.0, 1.0),
    ],
)
def test_the_loss_of_preferences_is_the_formula_of_its_paper(
    family: str, criterion: str, beta: float, smoothing: float, margin: float, bases: Path
) -> None:
    options = {"criterion": criterion, "beta": beta, "label_smoothing": smoothing, "margin": margin}
    one = double(bases, family, "preference", **options)
    tokenizer, model = one.foundation.tokenizer, one.adapted.model
    base = copy.deepcopy(bench(bases / family, family, "preference", "full").adapted.model).double().eval()
    rows = []
    for row in map(MADE["preference"], range(ROWS)):
        prompt = tokenizer(row["prompt"])["input_ids"]
        ids = [[*plain(tokenizer, row[name]), tokenizer.eos_token_id] for name in ("chosen", "rejected")]
        rows.append(
            {
                "sums": [likelihoods(model, prompt, reply).sum() for reply in ids],
                "tokens": [len(reply) for reply in ids],
                "base": [likelihoods(base, prompt, reply).sum() for reply in ids],
            }
        )
    loss = all_at_once(one)[0]
    assert loss == pytest.approx(by_hand(criterion, rows, beta, smoothing, margin), abs=BOUND)
    if criterion == "dpo":
        assert abs(loss - 0.693) > 1e-3, "the model is still the base, which shows nothing"


def kto_by_hand(rows: Sequence[Mapping[str, Any]], beta: float, desirable: float, undesirable: float) -> float:
    """The mean loss by arXiv:2402.01306, as TRL's KTOTrainer computes it: `kl`, then `1 - sigmoid` of either kind."""
    kl = torch.stack([row["another"] - row["base_another"] for row in rows]).mean().clamp(min=0)
    losses = []
    for row in rows:
        ratio = row["own"] - row["base_own"]
        value = beta * (ratio - kl) if row["label"] else beta * (kl - ratio)
        losses.append((desirable if row["label"] else undesirable) * (1 - torch.sigmoid(value)))
    return float(torch.stack(losses).mean())


@pytest.mark.parametrize(
    ("family", "beta", "desirable", "undesirable"),
    [("gpt2", 0.1, 1.0, 1.0), ("llama", 0.3, 1.0, 1.0), ("gpt2", 0.5, 1.3, 0.7)],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_the_loss_of_single_replies_is_the_formula_of_its_paper(
    family: str, beta: float, desirable: float, undesirable: float, sign: int, bases: Path
) -> None:
    """sign: -1 where the changed model is taken for the base, so that `kl` is above 0; else it is held at 0."""
    options = {"criterion": "kto", "beta": beta, "desirable": desirable, "undesirable": undesirable}
    one = double(bases, family, "preference", **options)
    tokenizer = one.foundation.tokenizer
    models = [one.adapted.model, bench(bases / family, family, "preference", "full").adapted.model.double().eval()]
    model, base = models[::sign]
    known = all_outputs(base, one.task, one.data, one.padding, Inference(CPU)).values
    one = replace(one, adapted=replace(one.adapted, model=model), data=one.task.refer(one.data, known))
    made, rows = [MADE["preference"](place) for place in range(ROWS)], []
    for place, row in enumerate(made):
        prompt = tokenizer(row["prompt"])["input_ids"]
        found: dict[str, Any] = {"label": row["label"]}
        for name, text in (("own", row["completion"]), ("another", made[(place + 1) % ROWS]["completion"])):
            reply = [*plain(tokenizer, text), tokenizer.eos_token_id]
            found[name] = likelihoods(model, prompt, reply).sum()
            found[f"base_{name}"] = likelihoods(base, prompt, reply).sum()
        rows.append(found)
    distance = float(torch.stack([row["another"] - row["base_another"] for row in rows]).mean())
    assert distance * sign < -0.1
    batch = collate(one.data, range(ROWS), one.padding)
    assert gradients_of(one, batch) == pytest.approx(kto_by_hand(rows, beta, desirable, undesirable), abs=BOUND)


# And from the loss that the model itself computes, where its definition is the same one.


def whole(one: Bench) -> Batch:
    """All rows as one batch, and as the first step draws them."""
    (made,) = one.course(batch_size=ROWS, micro_tokens=WHOLE).batches(0)[:1]
    return made


def theirs(one: Bench, **given: Any) -> float:
    with torch.no_grad(), quiet():
        return float(one.adapted.model(**given).loss)


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2"])
@pytest.mark.parametrize("task", ["language", "generation"])
def test_a_causal_model_s_own_loss_is_ours(family: str, task: str, bases: Path) -> None:
    """Its labels stand where the tokens do; it shifts them itself."""
    one = double(bases, family, task)
    made = collate(one.data, range(ROWS), one.padding)
    ours = made.targets["labels"]
    labels = torch.full_like(ours, IGNORED)
    labels[:, 1:] = ours[:, :-1]
    found = theirs(one, input_ids=made.inputs["input_ids"], attention_mask=made.inputs["attention_mask"], labels=labels)
    assert all_at_once(one)[0] == pytest.approx(found, abs=SINGLE)


@pytest.mark.parametrize("family", ["t5", "bart", "mbart", "mbart50", "nllb", "pegasus", "flan"])
def test_an_encoder_decoder_s_own_loss_is_ours(family: str, bases: Path) -> None:
    """It makes what the decoder reads out of the labels itself."""
    one = double(bases, family, "generation")
    tokenizer, rows = one.foundation.tokenizer, [MADE["generation"](place) for place in range(ROWS)]
    given = tokenizer([row["source"] for row in rows], padding=True, return_tensors="pt")
    labels = tokenizer(text_target=[row["target"] for row in rows], padding=True, return_tensors="pt")
    wanted = labels["input_ids"].masked_fill(labels["attention_mask"] == 0, IGNORED)
    found = theirs(one, input_ids=given["input_ids"], attention_mask=given["attention_mask"], labels=wanted)
    assert all_at_once(one)[0] == pytest.approx(found, abs=BOUND)


@pytest.mark.parametrize(
    ("family", "task"),
    [("bert", "language"), ("t5", "language"), ("bart", "chat"), ("bert", "ner"), ("gpt2", "ner"), ("roberta", "ner")],
)
def test_the_model_s_own_loss_of_labels_that_stand_where_they_are_given_is_ours(
    family: str, task: str, bases: Path
) -> None:
    one = double(bases, family, task)
    made = batch_of(one.task, one.data, range(ROWS), one.padding, seed=7)
    found = theirs(one, **made.inputs, labels=made.targets["labels"])
    assert gradients_of(one, made) == pytest.approx(found, abs=BOUND)


@pytest.mark.parametrize("family", ["distilbert", "bert"])
def test_a_multiple_choice_model_s_own_loss_is_ours(family: str, bases: Path) -> None:
    """It wants as many choices in every row, so it is asked a row at a time."""
    one = double(bases, family, "multiple_choice")
    tokenizer, losses = one.foundation.tokenizer, []
    for row in map(chosen, range(ROWS)):
        found = tokenizer([row["question"]] * len(row["choices"]), row["choices"], padding=True, return_tensors="pt")
        given = {name: tensor[None] for name, tensor in found.items()}
        losses.append(theirs(one, **given, labels=torch.tensor([row["answer"]])))
    assert all_at_once(one)[0] == pytest.approx(sum(losses) / ROWS, abs=BOUND)


def test_what_a_masked_model_has_to_find_is_what_was_hidden(bases: Path) -> None:
    one = double(bases, "bert", "language")
    made, hidden = whole(one), 0
    for line, row in enumerate(made.rows):
        ids, labels = made.inputs["input_ids"][line], made.targets["labels"][line]
        uncut = one.data.columns["input_ids"][row].tolist()
        seen = torch.where(labels == IGNORED, ids, labels)[: len(uncut)].tolist()
        assert seen == uncut
        hidden += int((labels != IGNORED).sum())
        assert int((labels != IGNORED).sum()) >= 1
    assert one.task.count(made) == hidden
