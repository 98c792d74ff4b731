"""Texts out of a model: static batches of prompts of like length, padded on the side that its kind of model needs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedTokenizerBase

from tunesmith.batch import Encoded, Padding, collate, encoded, padding_for
from tunesmith.contracts import Codec, Family, Record, Task, parts_of
from tunesmith.forward import Inference, autocast
from tunesmith.given import Decoding, Outputs, Reply
from tunesmith.quiet import quiet
from tunesmith.seeds import mix

AHEAD = 8
"""Tokens of a prompt that a reply which continues its text is read behind."""
FIELDS = ("input_ids", "attention_mask")
"""What a prompt consists of for a model that generates."""


@dataclass(frozen=True)
class Speaker:
    """What generating needs besides a model: its codec, the longest row in tokens, and how to compute."""

    codec: Codec
    max_tokens: int
    run: Inference


def replies(
    model: nn.Module, prompts: Encoded, codec: Codec, decoding: Decoding, padding: Padding, run: Inference
) -> list[tuple[Reply, ...]]:
    """`decoding.samples` replies to each prompt, in order.

    Greedy replies are those of `transformers.generate` token for token. Sampled ones are drawn from the seed and the
    rows of their batch. The model is left in the mode that it was in. In a world of several, each does its share.
    """
    was_training = model.training
    model.eval()
    world = run.world
    left = codec.family is Family.DECODER
    beside = Padding(padding.columns, side="left" if left else "right", multiple=1)
    room = positions(codec, model)
    order = np.argsort(prompts.lengths, kind="stable")
    mine = order[world.rank :: world.size]
    found: list[NDArray[np.float64]] = []
    with torch.inference_mode(), autocast(run.precision, world.device), torch.random.fork_rng(devices=[]), quiet():
        for index in _batches(mine, prompts.lengths, decoding, run.tokens):
            batch = collate(prompts, index, beside).to(world.device)
            torch.manual_seed(mix(decoding.seed, *batch.rows))
            inputs = {name: batch.inputs[name] for name in FIELDS}
            bounded = within(decoding, room, inputs["input_ids"].shape[1], left)
            config = _config(bounded, codec.tokenizer, left)
            more = {"tokenizer": codec.tokenizer} if decoding.stop_texts else {}
            made = model.generate(**inputs, generation_config=config, **more)  # type: ignore[operator]
            skip = inputs["input_ids"].shape[1] if left else 1
            found += _rows(made[:, skip:].cpu(), len(index), bounded)
    model.train(was_training)
    gathered = world.gather_arrays(found)
    places = np.concatenate([order[rank :: world.size] for rank in range(world.size)])
    found_replies = []
    for number, place in enumerate(np.argsort(places, kind="stable").tolist()):
        ahead = prompts.columns["input_ids"][number][-AHEAD:].tolist() if decoding.continues and left else []
        found_replies.append(_replies(gathered[place], codec.tokenizer, decoding, ahead))
    return found_replies


def positions(codec: Codec, model: nn.Module | None = None) -> int | None:
    """The most tokens that a text of the model's own can have; None where nothing limits it.

    model: one that reads something before each text says how many positions that has `taken`.
    """
    most = getattr(codec.config.get_text_config(), "max_position_embeddings", None)
    return int(most) - int(getattr(model, "taken", 0)) if most else None


def within(decoding: Decoding, room: int | None, prompt: int, decoder: bool) -> Decoding:
    """Replies that end where the model's positions do: behind a prompt of so many tokens, or by themselves."""
    most = decoding.max_new_tokens
    if room is None or most <= (left := room - (prompt if decoder else 1)):
        return decoding
    return replace(decoding, max_new_tokens=max(1, left), min_new_tokens=min(decoding.min_new_tokens, max(1, left)))


def shortened(task: Task, codec: Codec, max_tokens: int) -> str | None:
    """What is to be told where replies cannot be as long as asked for, behind prompts of up to half of `max_tokens`."""
    room, decoder = positions(codec), codec.family is Family.DECODER
    for part in parts_of(task).values():
        decoding = part.decoding_for(codec)
        if decoding is not None and within(decoding, room, max_tokens // 2, decoder) != decoding:
            return f"the model has {room} positions, and not every reply can have {decoding.max_new_tokens} tokens"
    return None


def _config(decoding: Decoding, tokenizer: PreTrainedTokenizerBase, decoder: bool) -> GenerationConfig:
    sampled = decoding.temperature > 0
    more: dict[str, Any] = (
        {"temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": decoding.top_k} if sampled else {}
    )
    if decoding.forced is not None and not decoder:
        more["forced_bos_token_id"] = decoding.forced
    if decoding.start is not None and not decoder:
        more["decoder_start_token_id"] = decoding.start
    if decoding.no_repeat_ngram:
        more["no_repeat_ngram_size"] = decoding.no_repeat_ngram
    if decoding.beams > 1:
        more["length_penalty"] = decoding.length_penalty
    if decoding.stop_texts:
        more["stop_strings"] = list(decoding.stop_texts)
    return GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=decoding.max_new_tokens,
        min_new_tokens=decoding.min_new_tokens,
        num_beams=decoding.beams,
        do_sample=sampled,
        repetition_penalty=decoding.repetition_penalty,
        num_return_sequences=decoding.samples,
        eos_token_id=list(decoding.stop_ids) or None,
        pad_token_id=tokenizer.pad_token_id,
        **more,
    )


def _batches(order: NDArray[np.int64], lengths: NDArray[np.int64], decoding: Decoding, most: int) -> list[list[int]]:
    """Runs of prompts, the longest first, whose size with all that may be added stays within `most` tokens."""
    groups: list[list[int]] = []
    width = 0
    for row in order[::-1].tolist():
        if not groups or (len(groups[-1]) + 1) * width > most:
            groups.append([])
            width = (int(lengths[row]) + decoding.max_new_tokens) * max(decoding.beams, decoding.samples)
        groups[-1].append(row)
    return [group[::-1] for group in groups[::-1]]


def _rows(made: Tensor, rows: int, decoding: Decoding) -> list[NDArray[np.float64]]:
    """Of each prompt its samples, [samples, 1 + tokens]: first the most tokens that there could have been."""
    most = made.new_full((len(made), 1), decoding.max_new_tokens)
    return [
        part.to(torch.float64).numpy() for part in torch.cat([most, made], dim=1).reshape(rows, decoding.samples, -1)
    ]


def _replies(
    made: NDArray[np.float64], tokenizer: PreTrainedTokenizerBase, decoding: Decoding, ahead: list[int]
) -> tuple[Reply, ...]:
    """The replies to one prompt. ahead: its last tokens, which a reply is read behind."""
    found = []
    read = _text(tokenizer, ahead)
    for most, *line in made.astype(np.int64).tolist():
        end = next((place for place, token in enumerate(line) if token in decoding.stop_ids), None)
        ids = tuple(line if end is None else line[:end])
        text = _text(tokenizer, [*ahead, *ids]).removeprefix(read)
        stop = min((text.find(word) for word in decoding.stop_texts if word in text), default=None)
        stopped = end is not None or stop is not None or len(ids) < most
        while stop is not None and len(_text(tokenizer, [*ahead, *ids]).removeprefix(read)) > stop:
            ids = ids[:-1]
        found.append(Reply(text if stop is None else text[:stop], ids, stopped))
    return tuple(found)


def _text(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def speaks(task: Task, codec: Codec) -> bool:
    """Whether the task, or a part of it, has texts generated."""
    return any(part.decoding_for(codec) is not None for part in parts_of(task).values())


def with_replies(
    model: nn.Module, task: Task, outputs: Outputs, records: Sequence[Record], speaker: Speaker
) -> Outputs:
    """The outputs with what the model says to each record, where the task, or a part of it, has texts generated."""
    if task.parts:
        parts = {}
        for number, (name, part) in enumerate(task.parts.items()):
            own, head = outputs.part(number, name), model[name]  # type: ignore[index]  # see `several`
            said = set(own.data.rows.tolist())
            asked = [record for record in task.of_part(name, records) if record.row in said]
            parts[name] = with_replies(head, part, own, asked, speaker)
        return replace(outputs, parts=parts)
    decoding = task.decoding_for(speaker.codec)
    if decoding is None or not records:
        return outputs
    prompts = encoded(task.prompts(records, speaker.codec, speaker.max_tokens))
    columns = {**padding_for({}, speaker.codec.tokenizer.pad_token_id).columns}
    found = replies(model, prompts, speaker.codec, decoding, Padding(columns), speaker.run)
    return replace(outputs, replies=found)
