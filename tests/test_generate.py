"""Batches write what `transformers` writes for each prompt alone, end where they should, and leave nothing behind."""

import copy
import gc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tiny import model_folder
from tunesmith.batch import Encoded, Example, Padding, encoded, padding_for
from tunesmith.contracts import Codec, Family
from tunesmith.errors import UserError
from tunesmith.forward import Inference
from tunesmith.generate import Speaker, _replies, positions, replies, with_replies
from tunesmith.given import Decoding, Outputs, Reply
from tunesmith.quiet import quiet
from tunesmith.select.foundation import open_foundation
from tunesmith.select.load import load_model
from tunesmith.select.options import ModelOptions
from tunesmith.tasks.generation import Generation, languages
from tunesmith.train.loop import steps
from workshop import CPU, Bench, bench, records_of

KINDS = ("gpt2", "llama", "qwen2", "gemma2", "bloom", "t5", "bart", "mbart")
HEADS = {Family.DECODER: "AutoModelForCausalLM", Family.ENCODER_DECODER: "AutoModelForSeq2SeqLM"}
TEXTS = (
    "the red kettle is broken and the lamp is late and the blue chair never arrived, thank you kind shop",
    "lamp",
    "please cancel my order now",
    "is the wonderful blue chair late again",
    "good morning",
)
"""Of lengths that do not follow their order; the longest is wider than a sliding window of the zoo."""
NEW = 9
NOTHING_ENDS: tuple[int, ...] = ()


def enliven(model: Any) -> None:
    """Moves all weights, so that what the model writes depends on what it has read."""
    chance = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.25 * torch.randn(parameter.shape, generator=chance)


class Desk:
    """A model that writes, in evaluation mode, and prompts for it."""

    def __init__(self, folder: Path, kind: str) -> None:
        if not (folder / "config.json").exists():
            model_folder(kind, folder)
        foundation = open_foundation(ModelOptions(name=str(folder)), Path())
        loaded = load_model(foundation, HEADS[foundation.family], {}, seed=1, dropout=0.0)
        self.model: Any = loaded.model.eval()
        enliven(self.model)
        self.codec: Codec = foundation.codec
        self.decoder = foundation.family is Family.DECODER
        self.pad = int(foundation.tokenizer.pad_token_id)
        self.ids = [list(foundation.tokenizer(text)["input_ids"]) for text in TEXTS]

    def prompts(self, places: Sequence[int] | None = None) -> Encoded:
        wanted = range(len(self.ids)) if places is None else places
        return encoded([Example(place, {"input_ids": self.ids[place]}) for place in wanted])

    def ours(
        self, decoding: Decoding, places: Sequence[int] | None = None, tokens: int = 16384
    ) -> list[tuple[Reply, ...]]:
        columns = padding_for({}, self.pad).columns
        run = Inference(CPU, tokens=tokens)
        return replies(self.model, self.prompts(places), self.codec, decoding, Padding(columns), run)

    def plain(self, place: int, **given: Any) -> list[int]:
        """What `generate` itself adds to one prompt."""
        ids = torch.tensor([self.ids[place]])
        with torch.inference_mode(), quiet():
            made = self.model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, pad_token_id=self.pad,
                **{"do_sample": False, "eos_token_id": None, **given},
            )  # fmt: skip
        line: list[int] = made[0, ids.shape[1] if self.decoder else 1 :].tolist()
        return line

    def up_to(self, line: Sequence[int], ends: Sequence[int]) -> tuple[int, ...]:
        """The tokens of `line` before the first that ends it."""
        end = next((at for at, token in enumerate(line) if token in ends), len(line))
        return tuple(line[:end])


@pytest.fixture(scope="module")
def desks(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root, made = tmp_path_factory.mktemp("bases"), {}

    def desk(kind: str) -> Desk:
        if kind not in made:
            made[kind] = Desk(root / kind, kind)
        return made[kind]

    return desk


def decoding(*ends: int, **more: Any) -> Decoding:
    return Decoding(NEW, tuple(ends), **more)


def ends_of(desk: Desk) -> tuple[int, int]:
    """Two tokens that the model writes in the middle of different replies, so that both can be seen to end one."""
    first, second = desk.plain(0), desk.plain(3)
    return first[len(first) // 2], second[len(second) // 3]


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_replies_of_a_batch_are_those_of_generate_for_each_prompt_alone(kind: str, desks: Any) -> None:
    desk = desks(kind)
    found = desk.ours(decoding())
    assert [reply.ids for (reply,) in found] == [tuple(desk.plain(place)) for place in range(len(TEXTS))]
    assert len({reply.ids for (reply,) in found}) > 1, "all prompts have one reply, so their order shows nothing"
    texts = [desk.codec.tokenizer.decode(list(reply.ids), skip_special_tokens=True) for (reply,) in found]
    assert [reply.text for (reply,) in found] == texts


@pytest.mark.parametrize("kind", KINDS)
def test_stop_ids_end_a_reply_and_are_no_part_of_it(kind: str, desks: Any) -> None:
    desk = desks(kind)
    ends = ends_of(desk)
    found = [reply for (reply,) in desk.ours(decoding(*ends))]
    for place, reply in enumerate(found):
        whole = desk.plain(place)
        assert reply.ids == desk.up_to(whole, ends)
        assert reply.ids == desk.up_to(desk.plain(place, eos_token_id=list(ends)), ends)
        assert reply.stopped == (len(reply.ids) < len(whole))
    assert any(reply.stopped for reply in found)


@pytest.mark.parametrize("kind", KINDS)
def test_a_reply_in_a_batch_is_the_reply_alone_however_the_batches_are_cut(kind: str, desks: Any) -> None:
    desk = desks(kind)
    wanted = decoding(*ends_of(desk))
    whole = desk.ours(wanted)
    assert desk.ours(wanted, tokens=1) == whole
    assert desk.ours(wanted, tokens=60) == whole
    assert [desk.ours(wanted, [place])[0] for place in range(len(TEXTS))] == whole


@pytest.mark.parametrize("kind", KINDS)
def test_beams_are_those_of_generate(kind: str, desks: Any) -> None:
    desk = desks(kind)
    ends = ends_of(desk)
    given = {"num_beams": 3, "length_penalty": 0.5, "eos_token_id": list(ends)}
    found = [reply.ids for (reply,) in desk.ours(decoding(*ends, beams=3, length_penalty=0.5))]
    assert found == [desk.up_to(desk.plain(place, **given), ends) for place in range(len(TEXTS))]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"repetition_penalty": 2.0}, {"repetition_penalty": 2.0}),
        ({"no_repeat_ngram": 1}, {"no_repeat_ngram_size": 1}),
        ({"min_new_tokens": 5}, {"min_new_tokens": 5}),
    ],
)
@pytest.mark.parametrize("kind", ["qwen2", "bart"])
def test_a_setting_does_what_it_does_in_generate(
    kind: str, ours: dict[str, Any], theirs: dict[str, Any], desks: Any
) -> None:
    desk = desks(kind)
    ends = ends_of(desk)
    found = [reply.ids for (reply,) in desk.ours(decoding(*ends, **ours))]
    wanted = [desk.up_to(desk.plain(place, eos_token_id=list(ends), **theirs), ends) for place in range(len(TEXTS))]
    assert found == wanted
    assert found != [reply.ids for (reply,) in desk.ours(decoding(*ends))], "the setting makes no difference here"


@pytest.mark.parametrize("kind", ["gpt2", "t5"])
def test_replies_come_in_the_order_of_the_prompts(kind: str, desks: Any) -> None:
    desk = desks(kind)
    whole = desk.ours(decoding())
    for order in ([4, 3, 2, 1, 0], [1, 0, 4, 2, 3], [2, 2, 0]):
        assert desk.ours(decoding(), order, tokens=60) == [whole[place] for place in order]


@pytest.mark.parametrize("kind", ["gpt2", "llama", "t5"])
def test_sampled_replies_are_repeated_by_their_seed_and_by_no_other(kind: str, desks: Any) -> None:
    desk = desks(kind)
    drawn = decoding(temperature=1.0, samples=3, seed=4)
    torch.manual_seed(1)
    first = desk.ours(drawn)
    torch.manual_seed(1)
    assert desk.ours(drawn) == first
    assert desk.ours(replace(drawn, seed=5)) != first
    assert [len(found) for found in first] == [3] * len(TEXTS)
    assert len(set(first[0])) > 1, "the samples of one prompt are alike"


def test_a_draw_from_the_likeliest_token_alone_is_the_greedy_reply(desks: Any) -> None:
    desk = desks("gpt2")
    assert desk.ours(decoding(temperature=5.0, top_k=1)) == desk.ours(decoding())
    assert desk.ours(decoding(temperature=5.0, top_p=1e-6)) == desk.ours(decoding())


def stretches(text: str, size: int) -> list[str]:
    """The stretches of `text`, from its second sign on, that are letters and so come whole out of their tokens."""
    found = [text[at : at + size] for at in range(1, len(text) - size + 1)]
    return [stretch for stretch in found if stretch.isascii() and stretch.isalpha()]


@pytest.mark.parametrize("kind", ["gpt2", "qwen2", "t5"])
def test_a_stop_text_ends_a_reply_and_is_no_part_of_it(kind: str, desks: Any) -> None:
    desk = desks(kind)
    whole = [reply for (reply,) in desk.ours(decoding())]
    word = next(stretch for reply in whole for stretch in stretches(reply.text, 2))
    found = [reply for (reply,) in desk.ours(decoding(stop_texts=(word,)))]
    assert any(reply.stopped for reply in found)
    for reply, uncut in zip(found, whole, strict=True):
        before, stop, _ = uncut.text.partition(word)
        assert (reply.text, reply.stopped) == (before, bool(stop))
        assert uncut.ids[: len(reply.ids)] == reply.ids
        assert before.startswith(desk.codec.tokenizer.decode(list(reply.ids), skip_special_tokens=True))


def test_of_several_stop_texts_the_one_that_comes_first_ends_the_reply(desks: Any) -> None:
    desk = desks("gpt2")
    whole = [reply for (reply,) in desk.ours(decoding())]
    place, word = next((at, word) for at, reply in enumerate(whole) for word in stretches(reply.text, 2))
    cut = whole[place].text.find(word)
    assert word[1] not in whole[place].text[:cut]
    for words in ((word, word[1]), (word[1], word)):  # one token ends both
        assert desk.ours(decoding(stop_texts=words), [place])[0][0].text == whole[place].text[:cut]


@pytest.mark.parametrize("kind", ["gpt2", "bart"])
def test_a_reply_that_ends_with_its_last_allowed_token_is_told_from_one_that_is_cut(kind: str, desks: Any) -> None:
    desk = desks(kind)
    place, line = max(enumerate(map(desk.plain, range(len(TEXTS)))), key=lambda found: len(set(found[1])))
    at = max(at for at, token in enumerate(line) if line.index(token) == at)  # a token that is new there
    for most, stopped in ((at, False), (at + 1, True), (at + 2, True)):
        reply = desk.ours(replace(decoding(line[at]), max_new_tokens=most), [place])[0][0]
        assert (reply.ids, reply.stopped) == (tuple(line[:at]), stopped)


@pytest.mark.parametrize(
    ("kind", "source", "target"), [("mbart50", "en_XX", "de_DE"), ("nllb", "eng_Latn", "deu_Latn")]
)
def test_a_forced_language_begins_every_reply_and_is_not_read_as_text(
    kind: str, source: str, target: str, desks: Any
) -> None:
    desk = desks(kind)
    task = Generation(source_language=source, target_language=target, decoding={"max_new_tokens": NEW})
    wanted = task.decoding_for(desk.codec)
    token = desk.codec.tokenizer.convert_tokens_to_ids(target)
    assert wanted is not None
    assert wanted.forced == token
    found = [reply for (reply,) in desk.ours(wanted)]
    for place, reply in enumerate(found):
        line = desk.plain(place, forced_bos_token_id=token, eos_token_id=list(wanted.stop_ids))
        assert reply.ids == desk.up_to(line, wanted.stop_ids)
        assert reply.ids[0] == token
        assert target not in reply.text
    other = desk.ours(replace(wanted, forced=desk.codec.tokenizer.convert_tokens_to_ids(source)))
    assert {reply.ids[0] for (reply,) in other} == {desk.codec.tokenizer.convert_tokens_to_ids(source)}


@pytest.mark.parametrize("kind", ["mbart50", "nllb"])
def test_a_model_of_several_languages_is_told_which_ones(kind: str, desks: Any) -> None:
    tokenizer = copy.deepcopy(desks(kind).codec.tokenizer)
    codec = replace(desks(kind).codec, tokenizer=tokenizer)
    Generation().decoding_for(codec)  # its own settings say which
    tokenizer.init_kwargs.pop("tgt_lang")
    with pytest.raises(UserError, match=r"^task\.target_language: not set.*known: [a-z]{2,3}_"):
        Generation().decoding_for(codec)
    tokenizer.init_kwargs.pop("src_lang")
    with pytest.raises(UserError, match=r"task\.source_language and task\.target_language: not set"):
        Generation().prompts([], codec, 16)
    known = sorted(languages(tokenizer))
    Generation(source_language=known[0], target_language=known[1]).decoding_for(codec)


def test_the_language_in_front_of_mbart_is_what_its_decoder_starts_with(desks: Any) -> None:
    desk = desks("mbart")
    task = Generation(source_language="en_XX", target_language="fr_XX", decoding={"max_new_tokens": NEW})
    wanted, token = task.decoding_for(desk.codec), desk.codec.tokenizer.convert_tokens_to_ids("fr_XX")
    assert wanted is not None
    assert wanted.start == token
    found = [reply.ids for (reply,) in desk.ours(wanted)]
    given = {"decoder_start_token_id": token, "eos_token_id": list(wanted.stop_ids)}
    assert found == [desk.up_to(desk.plain(place, **given), wanted.stop_ids) for place in range(len(TEXTS))]


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_the_model_and_the_random_numbers_are_left_as_they_were(training: bool, desks: Any) -> None:
    desk = desks("gpt2")
    desk.model.train(training)
    before = torch.get_rng_state()
    desk.ours(decoding(temperature=1.0))
    assert desk.model.training == training
    assert torch.equal(torch.get_rng_state(), before)
    desk.model.eval()


def test_no_prompts_give_no_replies(desks: Any) -> None:
    assert desks("gpt2").ours(decoding(), []) == []


def speak(one: Bench) -> Outputs:
    """As many replies as there are rows, as they are asked for between two steps."""
    speaker = Speaker(one.foundation.codec, 64, Inference(CPU))
    return with_replies(one.adapted.model, one.task, Outputs([], one.data), one.records, speaker)


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_replies_between_steps_change_no_step(family: str, tmp_path: Path) -> None:
    losses = []
    for speaks in (False, True):
        one = bench(tmp_path / family, family, "generation", "full", dropout=0.1)
        course = one.course(epochs=3, batch_size=2)
        found = []
        for step in steps(one.state(course), course):
            found.append((step.loss, step.gradient_norm))
            if speaks:
                assert speak(one).replies
        losses.append(found)
    assert losses[0] == losses[1]


def tensors() -> tuple[int, int]:
    """How many tensors are alive, and their bytes."""
    gc.collect()
    alive = [found for found in gc.get_objects() if issubclass(type(found), torch.Tensor)]
    return len(alive), sum(tensor.numel() * tensor.element_size() for tensor in alive)


@pytest.mark.parametrize(("family", "method"), [("gpt2", "full"), ("gpt2", "lora"), ("t5", "full")])
def test_replies_during_training_leave_no_tensor_behind(family: str, method: str, tmp_path: Path) -> None:
    one = bench(tmp_path / family, family, "generation", method, task={"decoding": {"max_new_tokens": 4}})
    course = one.course(epochs=22, batch_size=4)
    alive = {}
    for step in steps(one.state(course), course):
        speak(one)
        if step.step in (2, 22):
            alive[step.step] = tensors()
    assert alive[2] == alive[22]


def test_replies_are_asked_of_the_records_given_and_of_no_others(tmp_path: Path) -> None:
    one = bench(tmp_path / "gpt2", "gpt2", "generation", "full")
    some = records_of(one.task, [{"source": "lamp", "target": "late"}])
    speaker = Speaker(one.foundation.codec, 64, Inference(CPU))
    outputs = Outputs([], one.data)
    assert len(with_replies(one.adapted.model, one.task, outputs, some, speaker).replies or ()) == 1
    assert with_replies(one.adapted.model, one.task, outputs, (), speaker) is outputs


def test_padding_that_was_written_to_the_last_token_is_no_stop(desks: Any) -> None:
    """Where padding ends nothing, a reply that is full of it did not end by itself."""
    tokenizer, pad = desks("llama").codec.tokenizer, desks("llama").pad
    (reply,) = _replies(np.array([[3.0, 5.0, pad, pad]]), tokenizer, Decoding(3, (pad + 1,)), [])
    assert not reply.stopped
    assert reply.ids == (5, pad, pad)


@pytest.mark.parametrize(("kind", "most"), [("gpt2", 64), ("bart", 64), ("llama", 64), ("t5", None)])
def test_replies_end_where_the_models_positions_do(kind: str, most: int | None, tmp_path: Path) -> None:
    """Without a stop token each reply takes all the room, and none of them counts as stopped."""
    task_kind = "generation"
    one = bench(tmp_path / kind, kind, task_kind, "full", task={"decoding": {"max_new_tokens": 100}})
    assert positions(one.foundation.codec) == most
    prompts = encoded(one.task.prompts(one.records[:2], one.foundation.codec, 30))
    endless = replace(one.task.decoding_for(one.foundation.codec), stop_ids=(), stop_texts=())
    padding = Padding({**padding_for({}, one.foundation.tokenizer.pad_token_id).columns})
    found = replies(one.adapted.model, prompts, one.foundation.codec, endless, padding, Inference(CPU))
    widest = int(prompts.lengths.max())
    room = 100 if most is None else most - (widest if kind in ("gpt2", "llama") else 1)
    assert {len(reply.ids) for said in found for reply in said} == {room}
    assert not any(reply.stopped for said in found for reply in said)
