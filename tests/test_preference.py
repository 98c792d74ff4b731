"""Preferences: replies that are good or bad by themselves, and replies to conversations."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import GPT2Config

from templates import KINDS, tokenizer_of
from test_pipeline import lines, recipe
from tiny import model_folder
from tunesmith import api
from tunesmith.batch import IGNORED, PIECES, Batch, Encoded, Example, encoded
from tunesmith.contracts import Codec, Family, Record
from tunesmith.errors import BadRow, UserError
from tunesmith.forward import Inference, all_outputs
from tunesmith.given import Answer, Outputs
from tunesmith.prepare.detect import detect
from tunesmith.report.row import row_view
from tunesmith.tasks.chat import Chat
from tunesmith.tasks.chat_format import chat_format, stop_ids
from tunesmith.tasks.preference import BAD, DESIRABLE, GOOD, LABELS, REFERENCE, Preference
from workshop import CPU, Bench, bench, records_of

KTO = {"criterion": "kto"}
ROLES = ("user", "assistant")
LONG = 4096
"""More tokens than any row here has."""
ALIKE = [name for name, kind in KINDS.items() if kind.template is not None and not kind.variables]
"""Chat formats whose template needs nothing to be told."""


def turns(*texts: str, system: str | None = None) -> list[dict[str, str]]:
    """A conversation of these texts by turns, the user's first."""
    first = [] if system is None else [{"role": "system", "content": system}]
    return first + [{"role": ROLES[place % 2], "content": text} for place, text in enumerate(texts)]


def codec_of(name: str) -> Codec:
    return Codec(tokenizer_of(name), Family.DECODER, GPT2Config())


def learned(rows: Sequence[Mapping[str, Any]], **options: Any) -> tuple[Preference, list[Record]]:
    task = Preference(**options)
    records = records_of(task, rows)
    return task.learn(records), records


def sequences(example: Example) -> list[list[int]]:
    """The tokens of each sequence of a row."""
    ids, found = list(example.columns["input_ids"]), []
    for size in example.columns[PIECES]:
        found.append([int(token) for token in ids[: int(size)]])
        ids = ids[int(size) :]
    return found


def graded(example: Example) -> list[list[int]]:
    """The tokens of each sequence that its labels name."""
    labels, found = list(example.columns["labels"]), []
    for size in example.columns[PIECES]:
        found.append([int(label) for label in labels[: int(size)] if label != IGNORED])
        labels = labels[int(size) :]
    return found


def as_chat(codec: Codec, prompt: Any, reply: Any, most: int = LONG, **more: Any) -> Example:
    """What the chat task makes of the same conversation."""
    task = Chat(form="prompt")
    (example,) = task.encode(records_of(task, [{"prompt": prompt, "completion": reply, **more}]), codec, most)
    return example


# Replies that are good or bad.


def batch_of(gains: Sequence[tuple[float, float]], good: Sequence[int]) -> tuple[torch.Tensor, Batch]:
    """Outputs of rows whose two sequences gained so much over a base, and the batch that they are of."""
    reference = torch.full((len(good), 2), -7.0, dtype=torch.float64)
    sums = -(torch.tensor(gains, dtype=torch.float64) + reference).reshape(-1)
    outputs = torch.stack([sums, torch.full_like(sums, 3.0), torch.zeros_like(sums)], dim=1).requires_grad_()
    targets = {REFERENCE: reference, DESIRABLE: torch.tensor(good)[:, None]}
    return outputs, Batch({}, targets, tuple(range(len(good))), 0, (2,) * len(good))


@pytest.mark.parametrize(
    ("gains", "kl"), [([(1.0, 2.0), (-3.0, 4.0), (0.5, 0.0)], 2.0), ([(1.0, -2.0), (-3.0, -4.0), (0.5, 0.0)], 0.0)]
)
def test_a_good_reply_should_gain_more_than_others_on_average_and_a_bad_one_less(
    gains: list[tuple[float, float]], kl: float
) -> None:
    outputs, batch = batch_of(gains, [1, 0, 1])
    task = Preference(criterion="kto", beta=0.5, desirable=2.0, undesirable=3.0)
    values = torch.tensor([gains[0][0] - kl, kl - gains[1][0], gains[2][0] - kl], dtype=torch.float64)
    wanted = torch.tensor([2.0, 3.0, 2.0], dtype=torch.float64) * (1 - torch.sigmoid(0.5 * values))
    loss = task.loss(outputs, batch)
    assert float(loss.detach()) == pytest.approx(float(wanted.sum()), abs=1e-12)
    assert task.count(batch) == 3
    loss.backward()
    assert outputs.grad is not None
    moved = outputs.grad[:, 0].reshape(-1, 2)
    assert (moved[:, 0].sign() == torch.tensor([1, -1, 1])).all()  # by the negative log-likelihood
    assert (moved[:, 1] == 0).all()


def test_the_distance_is_that_of_the_rows_in_one_pass() -> None:
    task = Preference(criterion="kto")
    together = task.loss(*batch_of([(1.0, 2.0), (1.0, 4.0)], [1, 0]))
    apart = task.loss(*batch_of([(1.0, 2.0)], [1])) + task.loss(*batch_of([(1.0, 4.0)], [0]))
    assert float(together.detach()) != pytest.approx(float(apart.detach()))


@pytest.mark.parametrize(
    ("label", "verdict"),
    [(True, GOOD), (False, BAD), (1, GOOD), (0, BAD), (1.0, GOOD), ("good", GOOD), ("bad", BAD), ("true", GOOD),
     ("0", BAD), (" bad ", BAD)],
)  # fmt: skip
def test_a_label_says_plainly_whether_a_reply_is_good(label: Any, verdict: str) -> None:
    inputs, target = Preference(**KTO).read({"prompt": "hi", "completion": "yes", "label": label})
    assert (inputs, target) == ({"prompt": "hi", "completion": "yes"}, verdict)


@pytest.mark.parametrize("label", [None, "", "yes", "True", "+", 2, -1, 0.5, [True], {"good": 1}])
def test_any_other_label_is_a_bad_row(label: Any) -> None:
    with pytest.raises(BadRow, match="field 'label'") as told:
        Preference(**KTO).read({"prompt": "hi", "completion": "yes", "label": label})
    assert told.value.reason == "bad_label"


def test_columns_are_those_of_the_criterion() -> None:
    pairs, single = Preference(), Preference(**KTO, completion="said", label="liked")
    assert pairs.inputs == ("prompt", "chosen", "rejected")
    assert pairs.fields == ("chosen", "rejected")  # which may begin with the prompt
    assert (single.inputs, single.fields) == (("prompt", "said"), ("prompt", "said", "liked"))
    assert single.metrics == ("roc_auc", "accuracy", "mcc")
    assert Preference(**KTO, metric="mcc").metrics == ("mcc", "roc_auc", "accuracy")
    assert single.read({"prompt": "a", "said": "b"}, with_target=False) == ({"prompt": "a", "completion": "b"}, None)


JUDGED = {"prompt": "the red kettle", "chosen": "is broken now", "rejected": "x"}
VOTES = [
    {"prompt": "the red kettle", "completion": "is broken", "label": True},
    {"prompt": "my order", "completion": "is late", "label": False},
    {"prompt": "the lamp", "completion": "x", "label": 1},
]


def test_the_second_sequence_has_the_reply_of_the_next_row_around_the_end(tmp_path: Path) -> None:
    one = bench(tmp_path / "gpt2", "gpt2", "preference", "full", specimen=4)
    tokenizer, records = one.foundation.tokenizer, records_of(one.task, VOTES)
    examples = one.task.encode(records, one.foundation.codec, 64)
    for place, example in enumerate(examples):
        following = VOTES[(place + 1) % len(VOTES)]
        wanted = [
            [*tokenizer(VOTES[place]["prompt"])["input_ids"], *tokenizer(row["completion"])["input_ids"]]
            for row in (VOTES[place], following)
        ]
        assert sequences(example) == [[*ids, tokenizer.eos_token_id] for ids in wanted]
        assert example.columns[DESIRABLE] == [int(bool(VOTES[place]["label"]))]
    (alone,) = one.task.encode(records[:1], one.foundation.codec, 64)
    assert sequences(alone) == [sequences(examples[0])[0]] * 2


def test_a_reply_to_the_same_prompt_is_not_taken_for_another_row_s(tmp_path: Path) -> None:
    one = bench(tmp_path / "gpt2", "gpt2", "preference", "full", specimen=4)
    rows = [VOTES[0], {**VOTES[0], "completion": "is late", "label": False}, VOTES[2]]
    first, second, _ = one.task.encode(records_of(one.task, rows), one.foundation.codec, 64)
    assert (
        graded(first)[1]
        == graded(second)[1]
        == one.foundation.tokenizer("x")["input_ids"] + [one.foundation.tokenizer.eos_token_id]
    )
    same = one.task.encode(records_of(one.task, rows[:2]), one.foundation.codec, 64)
    assert graded(same[0]) == [graded(first)[0], graded(second)[0]]


def test_a_reply_that_is_too_long_behind_another_prompt_leaves_a_row_its_own(tmp_path: Path) -> None:
    one = bench(tmp_path / "gpt2", "gpt2", "preference", "full", specimen=4)
    rows = [VOTES[0], {**VOTES[1], "completion": "broken " * 40}]
    kept, refused = one.task.encode(records_of(one.task, rows), one.foundation.codec, 24)
    assert refused.refused == "reply_too_long"
    assert sequences(kept)[0] == sequences(kept)[1]


def spoken(one: Bench, rows: Sequence[Mapping[str, Any]]) -> Outputs:
    """What the model gives for rows whose labels are not known."""
    records = [Record(n, "f", n + 1, one.task.read(row, with_target=False)[0], None) for n, row in enumerate(rows)]
    data = encoded(one.task.encode(records, one.foundation.codec, 64))
    return all_outputs(one.adapted.model, one.task, data, one.padding, Inference(CPU)).outputs


def test_an_answer_without_the_base_does_not_depend_on_other_rows(tmp_path: Path) -> None:
    one = bench(tmp_path / "gpt2", "gpt2", "preference", "full", specimen=4)
    outputs = spoken(one, VOTES)
    assert [value.shape for value in outputs.values] == [(1, 3)] * 3
    together = one.task.answers(outputs, [])
    for row, answer in zip(VOTES, together, strict=True):
        (alone,) = one.task.answers(spoken(one, [row]), [])
        assert alone.value == pytest.approx(answer.value, abs=1e-5)
    nll, tokens, _ = outputs.values[0][0]
    assert together[0].value == {"likelihood": pytest.approx(np.exp(-nll / tokens))}
    assert not together[0].scores  # no label, which only the gain over the base can tell


def test_a_reply_that_is_only_asked_about_is_called_good_beside_the_base(tmp_path: Path) -> None:
    one = bench(tmp_path / "gpt2", "gpt2", "preference", "full", specimen=4)
    data = spoken(one, VOTES).data
    base = [np.array([[nll, 4.0, 0.0]]) for nll in (9.0, 1.0, 5.0)]
    known = one.task.refer(data, base)
    assert known.columns[REFERENCE].lengths.tolist() == [1, 1, 1]
    passed = all_outputs(one.adapted.model, one.task, known, one.padding, Inference(CPU)).outputs
    for value, answer, before in zip(passed.values, one.task.answers(passed, []), base, strict=True):
        good = 1 / (1 + np.exp(value[0, 0] - before[0, 0]))
        assert answer.scores == {GOOD: pytest.approx(good), BAD: pytest.approx(1 - good)}
        assert answer.value == (GOOD if good > 0.5 else BAD)


@pytest.mark.parametrize("criterion", ["dpo", "ipo", "orpo", "simpo"])
def test_pairs_are_told_apart_without_the_base_only_where_none_is_learned_from(criterion: str, tmp_path: Path) -> None:
    one = bench(tmp_path / "gpt2", "gpt2", "preference", "full", task={"criterion": criterion})
    records = records_of(one.task, [JUDGED])
    data = encoded(one.task.encode(records, one.foundation.codec, 64))
    outputs = all_outputs(one.adapted.model, one.task, data, one.padding, Inference(CPU)).outputs
    (answer,) = one.task.answers(outputs, records)
    likelihoods = np.exp(-outputs.values[0][:, 0] / outputs.values[0][:, 1])
    if criterion in ("dpo", "ipo"):
        names = ("chosen_likelihood", "rejected_likelihood")
        assert answer.value == pytest.approx(dict(zip(names, likelihoods, strict=True)))
        assert not answer.scores
    else:
        assert answer.value == ("chosen", "rejected")[likelihoods.argmax()]


@pytest.mark.parametrize("criterion", ["dpo", "ipo", "orpo", "simpo", "kto"])
def test_the_base_is_asked_only_where_the_loss_compares_with_it(criterion: str) -> None:
    task = Preference(criterion=criterion)
    assert task.compares == (criterion not in ("orpo", "simpo"))
    assert (REFERENCE in task.columns()) == task.compares


@pytest.mark.parametrize(
    ("criterion", "key", "value"),
    [
        ("orpo", "label_smoothing", 0.2), ("ipo", "label_smoothing", 0.2), ("dpo", "margin", 3), ("kto", "margin", 3),
        ("simpo", "desirable", 4), ("dpo", "undesirable", 4), ("orpo", "completion", "said"), ("dpo", "label", "liked"),
        ("kto", "chosen", "good"), ("kto", "rejected", "bad"),
    ],
)  # fmt: skip
def test_a_key_that_has_no_effect_with_the_criterion_is_refused(criterion: str, key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{key}: has no effect with criterion {criterion}; it is for"):
        Preference(criterion=criterion, **{key: value})
    default = Preference.model_fields[key].default
    assert getattr(Preference(criterion=criterion, **{key: default}), key) == default


@pytest.mark.parametrize("label", [True, False])
def test_votes_that_are_all_the_same_cannot_be_learned_from(label: bool) -> None:
    rows = [{**row, "label": label} for row in VOTES]
    with pytest.raises(UserError, match=f"column 'label': only {(BAD, GOOD)[label]} replies in the training rows"):
        learned(rows, **KTO)


def test_a_reply_is_good_where_it_has_gained_over_the_base() -> None:
    task, records = learned(VOTES, criterion="kto", beta=0.5)
    data = encoded([Example(n, {"input_ids": [1]}) for n in range(3)])
    values = [np.array([[-sums, 4.0, 0.0], [9.0, 9.0, 0.0]]) for sums in (-10.0, -12.0, -11.0)]
    known = task.refer(data, [np.array([[11.0, 4.0, 0.0], [1.0, 1.0, 0.0]])] * 3)
    outputs = Outputs([-np.abs(value) * np.sign(-value) for value in values], known)
    found = task.predictions(outputs, records)
    assert found.labels == LABELS
    assert found.kind == "label"
    assert found.gold.tolist() == [1, 0, 1]
    assert found.answers.tolist() == [1, 0, 0]  # no gain is none
    assert found.scores is not None
    assert found.scores[:, 1] == pytest.approx([1 / (1 + np.exp(-0.5)), 1 / (1 + np.exp(0.5)), 0.5])
    assert found.scores.sum(axis=1) == pytest.approx(1.0)
    assert [answer.value for answer in task.answers(outputs, records)] == [GOOD, BAD, BAD]
    nothing = task.predictions(Outputs([], Encoded({}, np.zeros(0), np.zeros(0))), [])
    assert nothing.scores is not None
    assert nothing.scores.shape == (0, 2)


# Replies to conversations.


CONVERSATIONS = [
    turns("the red kettle is broken"),
    turns("where is my order", "it is late", "and now?"),
    turns("is it late", "yes", "why", "please wait", "again?"),
]


@pytest.mark.parametrize("name", ALIKE)
@pytest.mark.parametrize("listed", [False, True])
def test_a_conversation_is_encoded_as_the_chat_task_does(name: str, listed: bool) -> None:
    codec = codec_of(name)
    good: Any = "thank you, it is late"
    bad: Any = "never again"
    given = [[{"role": "assistant", "content": text}] if listed else text for text in (good, bad)]
    prompts = CONVERSATIONS + ([turns("hi", system="kind shop")] if KINDS[name].system else [])
    rows = [{"prompt": prompt, "chosen": given[0], "rejected": given[1]} for prompt in prompts]
    task, records = learned(rows)
    stops = stop_ids(chat_format(codec.tokenizer))
    for prompt, example in zip(prompts, task.encode(records, codec, LONG), strict=True):
        assert not example.refused
        chats = [as_chat(codec, prompt, text) for text in (good, bad)]
        assert sequences(example) == [list(chat.columns["input_ids"]) for chat in chats]
        labels = [label for chat in chats for label in chat.columns["labels"]]
        assert list(example.columns["labels"]) == labels
        for ids, said in zip(graded(example), (good, bad), strict=True):
            assert ids[-1] in stops
            assert not set(ids[:-1]) & set(stops)
            assert said in codec.tokenizer.decode(ids)
            assert codec.tokenizer.decode(ids[:-1]).strip() == KINDS[name].reply({"content": said}).strip()


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_model_without_a_template_is_given_conversations_in_the_plain_form(family: str, tmp_path: Path) -> None:
    one = bench(tmp_path / family, family, "preference", "full", specimen=5)
    codec = one.foundation.codec
    rows = [{"prompt": CONVERSATIONS[1], "chosen": "thank you", "rejected": "never"}]
    (example,) = one.task.encode(records_of(one.task, rows), codec, LONG)
    for ids, said in zip(sequences(example), ("thank you", "never"), strict=True):
        assert ids == list(as_chat(codec, CONVERSATIONS[1], said).columns["input_ids"])
        assert f"Assistant: {said}" in codec.tokenizer.decode(ids)
    assert {ids[-1] for ids in graded(example)} == {codec.tokenizer.eos_token_id}


def test_what_else_a_chat_row_may_hold_counts_too() -> None:
    codec = codec_of("hermes")
    tools = [{"type": "function", "function": {"name": "clock", "description": "", "parameters": {}}}]
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "clock", "arguments": {"zone": "UTC"}}}]}
    row = {"prompt": turns("what time is it"), "tools": tools, "system": "kind shop"}
    task, records = learned([{**row, "chosen": [call], "rejected": "never"}])
    (example,) = task.encode(records, codec, LONG)
    chat = as_chat(codec, row["prompt"], [call], tools=tools, system="kind shop")
    assert sequences(example)[0] == list(chat.columns["input_ids"])
    assert "clock" in str(records[0].inputs["chosen"])


@pytest.mark.parametrize("name", ["chatml", "llama3", "vicuna"])
def test_a_long_conversation_loses_its_oldest_turns_and_both_replies_keep_the_same_prompt(name: str) -> None:
    codec = codec_of(name)
    task, records = learned([{"prompt": CONVERSATIONS[2], "chosen": "the lamp is late now " * 3, "rejected": "no"}])
    (whole,) = task.encode(records, codec, LONG)
    longest = max(map(len, sequences(whole)))
    cuts = set()
    for most in range(longest, 0, -1):
        (example,) = task.encode(records, codec, most)
        chat = as_chat(codec, CONVERSATIONS[2], str(records[0].inputs["chosen"]), most)
        assert example.refused == chat.refused
        if example.refused:
            break
        first, second = sequences(example)
        assert first == list(chat.columns["input_ids"])
        assert example.cut == chat.cut
        assert graded(example) == graded(whole)
        starts = [
            next(at for at, token in enumerate(ids) if ids[at : at + len(marked)] == marked)
            for ids, marked in zip((first, second), graded(whole), strict=True)
        ]
        assert first[: starts[0]] == second[: starts[1]]
        assert max(len(first), len(second)) <= most
        cuts.add(example.cut)
    assert 0 in cuts
    assert len(cuts) > 5


def test_single_replies_to_conversations_have_their_own_and_another_row_s() -> None:
    codec = codec_of("chatml")
    rows = [{"prompt": prompt, "completion": f"reply {n}", "label": n % 2} for n, prompt in enumerate(CONVERSATIONS)]
    task, records = learned(rows, **KTO)
    for place, example in enumerate(task.encode(records, codec, LONG)):
        following = rows[(place + 1) % len(rows)]
        wanted = [as_chat(codec, rows[place]["prompt"], row["completion"]) for row in (rows[place], following)]
        assert sequences(example) == [list(chat.columns["input_ids"]) for chat in wanted]


HELLO = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"prompt": [{"role": "nobody", "content": "hi"}]}, "unknown_role"),
        ({"prompt": [{"content": "hi"}]}, "unknown_role"),
        ({"prompt": []}, "no_prompt"),
        ({"prompt": ["hi"]}, "bad_turn"),
        ({"prompt": [{"role": "assistant", "content": "hi"}]}, "no_prompt"),
        ({"prompt": [*HELLO, {"role": "system", "content": "be kind"}]}, "late_system"),
        ({"prompt": [{"role": "user", "content": [{"type": "image"}]}]}, "no_text"),
        ({"prompt": None}, "no_text"),
        ({"chosen": None}, "no_text"),
        ({"chosen": " "}, "empty_reply"),
        ({"chosen": []}, "several_replies"),
        ({"chosen": [*HELLO, {"role": "assistant", "content": "yes"}]}, "several_replies"),
        ({"chosen": [{"role": "user", "content": "yes"}]}, "no_reply"),
        ({"chosen": [{"role": "assistant", "content": "yes", "weight": 0.5}]}, "bad_weight"),
        ({"chosen": [{"role": "assistant", "content": "yes", "train": False}]}, "no_reply"),
        ({"chosen": [{"role": "assistant", "content": "no"}]}, "same_replies"),
    ],
)
def test_conversations_that_the_chat_task_refuses_are_bad_rows(changes: dict[str, Any], reason: str) -> None:
    row = {"prompt": HELLO, "chosen": [{"role": "assistant", "content": "yes"}], "rejected": "no", **changes}
    with pytest.raises(BadRow) as told:
        Preference().read(row)
    assert told.value.reason == reason


# Replies that hold their prompt.


YES, NO = ({"role": "assistant", "content": text} for text in ("yes", "no"))
SYSTEM = {"role": "system", "content": "be kind"}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": HELLO, "chosen": [YES], "rejected": [NO]},
        {"prompt": "hi", "chosen": [*HELLO, YES], "rejected": [*HELLO, NO], "score_chosen": 8.0},
        {"chosen": [*HELLO, YES], "rejected": [*HELLO, NO]},
        {"prompt": None, "chosen": [*HELLO, YES], "rejected": [*HELLO, NO]},
        {"prompt": HELLO, "chosen": [*HELLO, YES], "rejected": [*HELLO, NO]},
    ],
)
@pytest.mark.parametrize("with_target", [True, False])
def test_a_prompt_is_what_both_lists_of_messages_begin_with(row: dict[str, Any], with_target: bool) -> None:
    wanted = Preference().read({"prompt": HELLO, "chosen": "yes", "rejected": "no"})[0]
    assert Preference().read(row, with_target=with_target)[0] == wanted


def test_a_prompt_in_the_replies_may_have_several_turns() -> None:
    before = [SYSTEM, *turns("hi", "yes", "sure?")]
    (record,) = records_of(Preference(), [{"prompt": "hi", "chosen": [*before, YES], "rejected": [*before, NO]}])
    assert record.text == "system: be kind\nuser: hi\nassistant: yes\nuser: sure?\nyes\nno"


HUMAN = "\n\nHuman: hi\n\nAssistant: yes\n\nHuman: sure?\n\nAssistant:"


def test_a_prompt_is_what_both_texts_of_hh_rlhf_s_form_begin_with() -> None:
    found = Preference().read({"chosen": f"{HUMAN} I am sure", "rejected": f"{HUMAN} I was not"})[0]
    assert found == {"prompt": HUMAN, "chosen": " I am sure", "rejected": " I was not"}
    kept = {"prompt": "hi", "chosen": f"{HUMAN} yes", "rejected": f"{HUMAN} no"}
    assert Preference().read(kept)[0] == kept


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"chosen": "yes", "rejected": "no"}, "no_prompt"),
        ({"chosen": f"\n\nHuman: a{HUMAN} yes", "rejected": f"\n\nHuman: b{HUMAN} no"}, "no_prompt"),
        ({"chosen": f"{HUMAN} yes", "rejected": f"{HUMAN} yes"}, "same_replies"),
        ({"chosen": [*HELLO, YES], "rejected": [*HELLO, YES]}, "same_replies"),
        ({"chosen": [YES], "rejected": [NO]}, "no_text"),
        ({"chosen": turns("hi", "yes"), "rejected": turns("ho", "no")}, "no_prompt"),
        ({"chosen": [*HELLO, YES], "rejected": [*HELLO, NO, *HELLO, YES]}, "several_replies"),
        ({"prompt": "ho", "chosen": [*HELLO, YES], "rejected": [*HELLO, NO]}, "other_prompt"),
        ({"prompt": turns("ho"), "chosen": [*HELLO, YES], "rejected": [*HELLO, NO]}, "several_replies"),
    ],
)
def test_replies_that_do_not_begin_with_one_prompt_are_bad_rows(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadRow) as told:
        Preference().read(row)
    assert told.value.reason == reason


def test_a_system_turn_that_the_template_has_not_leaves_the_row_out_as_in_a_chat() -> None:
    name = next(name for name in ALIKE if not KINDS[name].system)
    prompt = turns("hi", system="kind shop")
    task, records = learned([{"prompt": prompt, "chosen": "yes", "rejected": "no"}])
    (example,) = task.encode(records, codec_of(name), LONG)
    assert example.refused == as_chat(codec_of(name), prompt, "yes").refused == "system_refused"


def test_records_of_conversations_can_be_printed(tmp_path: Path) -> None:
    one = bench(tmp_path / "gpt2", "gpt2", "preference", "full", specimen=5)
    row = {"prompt": turns("hi", "yes", "and?"), "chosen": "good", "rejected": [{"role": "gpt", "content": "bad"}]}
    (record,) = records_of(one.task, [row])
    assert record.text == "user: hi\nassistant: yes\nuser: and?\ngood\nbad"
    view = row_view(one.task, record, one.foundation.codec, 64)
    assert json.loads(json.dumps(view, default=str))["inputs"] == {
        "prompt": "user: hi\nassistant: yes\nuser: and?", "chosen": "good", "rejected": "bad",
    }  # fmt: skip


MIXED = [
    {"prompt": HELLO, "chosen": "yes", "rejected": "no"},
    {"prompt": "hi there", "chosen": "yes", "rejected": "no"},
]


@pytest.mark.parametrize("order", [1, -1])
def test_texts_among_conversations_are_refused_by_line_unless_they_are_said_to_be_turns(
    order: int, tmp_path: Path
) -> None:
    rows = MIXED[::order]
    task, records = learned(rows)
    assert task.conversations == (order == 1)
    task.check(records[0])
    with pytest.raises(BadRow, match="`conversations: true`") as told:
        task.check(records[1])
    assert told.value.reason == "mixed_prompts"

    task, records = learned(rows, conversations=True)
    codec = codec_of("chatml")
    for row, record, example in zip(rows, records, task.encode(records, codec, LONG), strict=True):
        task.check(record)
        prompt = HELLO if row["prompt"] is HELLO else turns("hi there")
        assert sequences(example)[0] == list(as_chat(codec, prompt, "yes").columns["input_ids"])
    with pytest.raises(BadRow, match="expected a text"):
        learned(rows, conversations=False)


def test_a_file_of_both_forms_stops_a_run_at_its_line(tmp_path: Path) -> None:
    model_folder("gpt2", tmp_path / "gpt2")
    rows = [{"prompt": turns(f"kettle {n}"), "chosen": "yes", "rejected": "no"} for n in range(8)]
    path = lines(tmp_path / "mixed.jsonl", [*rows, MIXED[1]])
    data = {"train": str(path), "validation": 0, "cache": False}
    whole = recipe(tmp_path, model=str(tmp_path / "gpt2"), task={"kind": "preference"}, data=data)
    with pytest.raises(UserError, match=r"mixed.jsonl, line 9: field 'prompt': found a text, expected messages"):
        api.run(whole, folder=tmp_path / "run")


# Whole runs.


@pytest.fixture
def gpt2(tmp_path: Path) -> Path:
    model_folder("gpt2", tmp_path / "gpt2")
    return tmp_path / "gpt2"


def likely(answer: Answer) -> float:
    """How good a reply is by an answer that knows the base, or how likely by one that does not."""
    return float(answer.scores["good"] if answer.scores else answer.value["likelihood"])


def test_single_replies_are_learned_judged_and_asked_about(gpt2: Path, tmp_path: Path) -> None:
    rows = [
        {"prompt": f"order {n // 2}", "completion": ("never", "thank you")[n % 2], "label": bool(n % 2)}
        for n in range(40)
    ]
    data = {"train": str(lines(tmp_path / "a.jsonl", rows[:32])), "validation": 0, "cache": False}
    data["test"] = str(lines(tmp_path / "b.jsonl", rows[32:]))
    task = {"kind": "preference", "criterion": "kto", "beta": 1.0}
    run = api.run(recipe(tmp_path, model=str(gpt2), task=task, data=data), folder=tmp_path / "run")
    found = run.read_json("evaluation.json")
    assert found["main"] == "roc_auc"
    assert found["metrics"]["roc_auc"]["value"] == 1.0
    assert {one["name"] for one in found["baselines"]} == {"majority", "tfidf_logistic"}
    again = api.evaluate(run, tmp_path / "b.jsonl")["metrics"]
    assert again["roc_auc"]["value"] == 1.0
    assert run.read_json("audit.json")["splits"]["train"]["balance"] == {"bad": 16, "good": 16}
    answers = api.ask(run.folder, [{"prompt": "order 3", "completion": text} for text in ("thank you", "never")])
    assert likely(answers[0]) > likely(answers[1])
    assert "good" in run.report.read_text()


def test_preferences_in_conversations_leave_a_model_with_its_template(gpt2: Path, tmp_path: Path) -> None:
    rows = [{"prompt": turns(f"order {n}"), "chosen": f"thank you {n}", "rejected": f"never {n}"} for n in range(16)]
    data = {"train": str(lines(tmp_path / "a.jsonl", rows)), "validation": 0, "test": 0.25, "cache": True}
    whole = recipe(tmp_path, model=str(gpt2), task={"kind": "preference"}, data=data)
    run = api.run(whole, folder=tmp_path / "run")
    assert run.read_json("evaluation.json")["main"] == "reward_accuracy"
    assert "user: order" in run.predictions.read_text()
    tokenizer = transformers.AutoTokenizer.from_pretrained(run.artifact)
    assert tokenizer.apply_chat_template(turns("hi"), tokenize=False, add_generation_prompt=True).endswith("Assistant:")
    predictor = api.open_predictor(run.folder)
    (listed, text) = api.ask(predictor, [{**rows[0], "prompt": turns("hi")}, {**rows[0], "prompt": "hi"}])
    assert (listed.value, listed.scores) == (text.value, text.scores)
    texts = [{**row, "prompt": row["prompt"][0]["content"]} for row in rows]
    data = {**data, "train": str(lines(tmp_path / "b.jsonl", texts))}
    other = api.run({**whole, "data": data}, folder=tmp_path / "other")
    assert not transformers.AutoTokenizer.from_pretrained(other.artifact).chat_template


# What `new` takes rows for.


@pytest.mark.parametrize(
    ("row", "options"),
    [
        (
            lambda n: {"prompt": f"a few words {n}", "completion": f"so be it {n}", "label": n % 3 > 0},
            {"criterion": "kto", "prompt": "prompt", "completion": "completion", "label": "label"},
        ),
        (
            lambda n: {"Prompt": turns(f"words {n}"), "completion": turns("", f"so {n}")[1:], "label": n % 3 > 0},
            {"criterion": "kto", "prompt": "Prompt", "completion": "completion", "label": "label"},
        ),
        (
            lambda n: {"prompt": turns(f"words {n}", "so", "and?"), "chosen": f"good {n}", "rejected": f"bad {n}"},
            {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"},
        ),
    ],
)
def test_rows_of_preferences_are_known_by_their_columns(
    row: Callable[[int], dict[str, Any]], options: dict[str, Any], tmp_path: Path
) -> None:
    path = lines(tmp_path / "rows.jsonl", [row(n) for n in range(20)])
    for asked in (None, "preference"):
        found = detect(path, asked)
        assert (found.kind, found.options) == ("preference", options)
    task = Preference(**found.options)
    for n in range(3):
        assert task.read(row(n))[1] is not None


@pytest.mark.parametrize(
    "row",
    [
        lambda n: {"prompt": f"a few words {n}", "completion": f"so be it {n}", "label": f"other {n}"},
        lambda n: {"prompt": f"a few words {n}", "completion": f"so be it {n}", "stars": n % 5},
    ],
)
def test_prompts_and_completions_without_such_a_label_stay_a_chat(
    row: Callable[[int], dict[str, Any]], tmp_path: Path
) -> None:
    assert detect(lines(tmp_path / "rows.jsonl", [row(n) for n in range(20)])).kind == "chat"
