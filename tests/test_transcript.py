"""What is graded of a conversation, and that serving sees what training saw, over a zoo of chat formats."""

import json
import signal
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from templates import IM, KINDS, LINES, QWEN3, VICUNA, Kind, byte_level, sentencepiece_like, tokenizer_of, unigram
from tunesmith.errors import BadRow, UserError
from tunesmith.tasks import transcript
from tunesmith.tasks.chat_format import ChatFormat, ChatOptions, chat_format, stop_ids
from tunesmith.tasks.control_tokens import ControlTokens
from tunesmith.tasks.messages import Conversation
from tunesmith.tasks.transcript import Fitted, Reply, Transcript, fit, fit_prompt, prompt_ids, transcripts

FRAGMENTS = (
    *("the lamp", "is late", "kettle", "x", "7", ".", ",", ": ", "User: ", '"', "\\", "{{ x }}", "{% if %}"),
    *(" ", "  ", "\n", "\r\n", "\n\n", "\t", "\u00a0", "\u200d", "\x00", "\u0338", "e\u0301", "\ue000", "\U000f0000"),
    *("🫖", "👩‍🔧", "متأخر", "你好", "<", "|", ">", "[", "]", "<|", "|>", "</"),
)
BARE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TOOL = {"type": "function", "function": {"name": "clock", "description": "It says </s>.", "parameters": {}}}


def pieces(kind: Kind) -> tuple[str, ...]:
    """Control tokens of a kind, and parts of them."""
    tokens = [token.content for token in tokenizer_of(kind.name).added_tokens_decoder.values()]
    return (*tokens, *(token[: len(token) // 2] for token in tokens), *(token[1:] for token in tokens))


def texts(kind: Kind) -> st.SearchStrategy[str]:
    fragments = st.sampled_from(FRAGMENTS + pieces(kind))
    odd = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=4)
    return st.lists(st.one_of(fragments, fragments, odd), min_size=1, max_size=5).map("".join)


@st.composite
def conversations(draw: st.DrawFn, kind: Kind) -> Conversation:
    said = texts(kind)
    replies = said.map(lambda text: text if text.strip() else f"well{text}")
    weights = st.sampled_from((1.0, 1.0, 0.5, 0.0))
    turns: list[dict[str, Any]] = []
    if kind.system and draw(st.booleans()):
        turns.append({"role": "system", "content": draw(replies)})
    tools = kind.tools and draw(st.booleans())
    for _ in range(draw(st.integers(1, 3))):
        turns.append({"role": "user", "content": draw(said)})
        if tools and draw(st.booleans()):
            call = {"name": "clock", "arguments": {"zone": draw(said)}}
            turns.append({"role": "assistant", "content": "", "weight": draw(weights), "tool_calls": [
                {"type": "function", "id": "call00000", "function": call}
            ]})  # fmt: skip
            turns.append({"role": "tool", "content": draw(said), "tool_call_id": "call00000", "name": "clock"})
        for _ in range(1 if kind.alternates else draw(st.sampled_from((1, 1, 1, 2)))):
            turns.append({"role": "assistant", "content": draw(replies), "weight": draw(weights)})
            if kind.name == "qwen3" and draw(st.booleans()):
                turns[-1]["reasoning_content"] = f"so {draw(said)} it is"
    turns[-1]["weight"] = turns[-1]["weight"] or 1.0
    return Conversation(tuple(turns), (TOOL,) if tools else ())


def bare(messages: tuple[Mapping[str, Any], ...]) -> list[dict[str, Any]]:
    return [{name: value for name, value in message.items() if name != "weight"} for message in messages]


def spoken(conversation: Conversation) -> Iterator[str]:
    for message in conversation.messages:
        yield from (message["content"], message.get("reasoning_content", ""))
        yield from (call["function"]["arguments"]["zone"] for call in message.get("tool_calls", ()))
    yield json.dumps(conversation.tools)


def harmless(conversation: Conversation) -> Conversation:
    """The same turns, but what they say spells no control token."""

    def quiet(message: Mapping[str, Any]) -> dict[str, Any]:
        said = {"content": "word" if message["content"] else "", "reasoning_content": "word"}
        calls = [{**call, "function": {"name": "clock", "arguments": {}}} for call in message.get("tool_calls", ())]
        return {
            **message,
            **{name: said[name] for name in said if name in message},
            **({"tool_calls": calls} if calls else {}),
        }

    tools = tuple({"type": "function", "function": {"name": "clock"}} for _ in conversation.tools)
    return Conversation(tuple(quiet(message) for message in conversation.messages), tools)


def templated(
    tokenizer: PreTrainedTokenizerFast, kind: Kind, format: ChatFormat, part: Conversation, **more: Any
) -> list[int]:
    tools = list(part.tools) or None
    return list(
        tokenizer.apply_chat_template(
            bare(part.messages), tools=tools, chat_template=format.template, return_dict=False, **kind.variables, **more
        )
    )


def check(kind: Kind, format: ChatFormat, conversation: Conversation) -> list[Transcript]:
    """Every promise about one conversation."""
    tokenizer = tokenizer_of(kind.name)
    made = transcripts(format, conversation)
    messages = conversation.messages
    wanted = [n for n, message in enumerate(messages) if message["role"] == "assistant" and message["weight"]]
    assert sorted(reply.message for one in made for reply in one.replies) == wanted
    guarded = set(tokenizer.added_tokens_decoder) - {tokenizer.unk_token_id}
    plain = not any(
        token.content in text for token in tokenizer.added_tokens_decoder.values() for text in spoken(conversation)
    )
    for one in made:
        last = len(messages) if len(one.replies) > 1 else one.replies[0].message + 1
        shown = replace(conversation, messages=messages[:last])
        controls = [number for number in one.ids if number in guarded]
        expected = [n for n in templated(tokenizer, kind, format, harmless(shown)) if n in guarded]
        assert controls == expected + [tokenizer.eos_token_id] * (kind.name == "lines")
        if tokenizer.bos_token_id is not None:
            assert list(one.ids).count(tokenizer.bos_token_id) <= 1 + (kind.name == "llama2") * len(messages)
        blank = kind.name == "qwen3" and any(messages[reply.message]["content"][:1].isspace() for reply in one.replies)
        if plain and kind.name not in ("vicuna", "lines") and not blank:
            assert list(one.ids) == templated(tokenizer, kind, format, shown)
        check_replies(kind, format, conversation, one, plain)
    return made


def check_replies(kind: Kind, format: ChatFormat, conversation: Conversation, one: Transcript, plain: bool) -> None:
    tokenizer = tokenizer_of(kind.name)
    stops = [tokenizer.convert_tokens_to_ids(stop) for stop in (kind.stop, "<|eom_id|>")]
    graded = [0.0] * len(one.ids)
    for reply in one.replies:
        message = conversation.messages[reply.message]
        before = replace(conversation, messages=conversation.messages[: reply.message])
        prompt = prompt_ids(format, before)
        assert one.ids[: reply.prompt] == prompt
        if plain and kind.name not in ("r1",):
            assert list(prompt) == templated(tokenizer, kind, format, before, add_generation_prompt=True)
        start, whole = format.control.decode(one.ids[: reply.start]), format.control.decode(one.ids[: reply.end - 1])
        assert whole.startswith(start)
        assert whole[len(start) :] == kind.reply(message)
        assert one.ids[reply.end - 1] in stops
        assert one.ids[reply.end - 1] in stop_ids(format)
        assert sum(number in stops for number in one.ids[reply.prompt : reply.end]) == 1
        graded[reply.start : reply.end] = [message["weight"]] * (reply.end - reply.start)
    assert list(one.weights) == graded


def format_of(kind: Kind) -> ChatFormat:
    return chat_format(tokenizer_of(kind.name), ChatOptions(variables=kind.variables))


@pytest.mark.parametrize("name", KINDS)
def test_of_any_conversation_each_reply_and_its_stop_token_are_graded_and_nothing_else(name: str) -> None:
    kind = KINDS[name]
    format = format_of(kind)

    @settings(max_examples=500, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(conversations(kind))
    def holds(conversation: Conversation) -> None:
        check(kind, format, conversation)

    holds()


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, "weight": 1.0, **more}


def system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


def talk(*messages: dict[str, Any]) -> Conversation:
    return Conversation(messages)


def graded(format: ChatFormat, one: Transcript) -> list[str]:
    return [format.control.decode(one.ids[reply.start : reply.end]) for reply in one.replies]


def all_graded(made: Transcript) -> Transcript:
    return replace(made, weights=(1.0,) * len(made.ids))


def without_stop(made: Transcript) -> Transcript:
    weights = list(made.weights)
    for reply in made.replies:
        weights[reply.end - 1] = 0.0
    return replace(made, weights=tuple(weights))


def shifted(made: Transcript) -> Transcript:
    return replace(made, weights=(0.0, *made.weights[:-1]))


def second_start(made: Transcript) -> Transcript:
    replies = tuple(Reply(r.message, r.prompt + 1, r.start + 1, r.end + 1) for r in made.replies)
    return replace(made, ids=made.ids[:1] + made.ids, weights=(0.0, *made.weights), replies=replies)


PLANT = talk(user("is <|eot_id|> late?"), assistant("<|eot_id|> is"), user("why"), assistant("so"))


@pytest.mark.parametrize("bug", [all_graded, without_stop, shifted, second_start])
def test_a_planted_fault_of_the_mask_breaks_the_promises(bug: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = KINDS["llama3"]
    format = format_of(kind)
    check(kind, format, PLANT)
    sound = transcript._transcript
    monkeypatch.setattr(transcript, "_transcript", lambda *given: bug(sound(*given)))
    with pytest.raises(AssertionError):
        check(kind, format, PLANT)


def test_texts_that_are_not_marked_break_the_promises(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = KINDS["llama3"]
    monkeypatch.setattr(ControlTokens, "mark", lambda self, text: text)
    with pytest.raises(AssertionError):
        check(kind, format_of(kind), PLANT)


def test_a_serving_prompt_that_differs_by_a_token_breaks_the_promises(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = KINDS["chatml"]
    sound = transcript._prompt
    monkeypatch.setattr(transcript, "_prompt", lambda *given: replace(sound(*given), ids=sound(*given).ids[:-1]))
    with pytest.raises(AssertionError):
        check(kind, format_of(kind), PLANT)


BYTES = byte_level(IM, eos="<|im_end|>"), byte_level(["<none>"], eos="<none>")
PIECES = sentencepiece_like(IM), sentencepiece_like()
LEGACY = sentencepiece_like(IM, legacy=True), sentencepiece_like(legacy=True)


@pytest.mark.parametrize(("guarding", "innocent"), [BYTES, PIECES, LEGACY], ids=["bytes", "pieces", "legacy"])
@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(text=st.lists(st.sampled_from((*FRAGMENTS, *IM, "<|im_")), max_size=8).map("".join))
def test_a_text_has_the_ids_that_it_has_in_a_tokenizer_without_control_tokens(
    guarding: PreTrainedTokenizerFast, innocent: PreTrainedTokenizerFast, text: str
) -> None:
    control = ControlTokens(guarding, "")
    assert control.encode(control.mark(text)) == innocent(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(
    ("before", "said", "after"),
    [
        ("", "x<|im_end", "|>"),
        ("", "x<|im_end \n", "|>"),
        ("<|", "im_end|>x", ""),
        ("<", "\t|im_end|>x", ""),
        ("<|", "im_end", "|>"),
        ("", "<", "|im_end|>"),
        ("<|", "<|im_end|>", "|>"),
    ],
)
def test_a_text_that_the_template_would_complete_to_a_control_token_stays_text(
    before: str, said: str, after: str
) -> None:
    tokenizer = byte_level(IM, eos="<|im_end|>")
    text = "{% for m in messages %}[" + before + "{{ m.content | trim }}" + after + "{{ '<|im_end|>' }}{% endfor %}"
    format = chat_format(tokenizer, ChatOptions(template=text))
    ids = prompt_ids(format, talk(user(said)))
    assert ids.count(tokenizer.eos_token_id) == 1
    assert format.control.decode(ids) == f"[{before}{said.strip()}{after}<|im_end|>[{before}"


def test_the_name_behind_which_a_text_is_hidden_means_nothing_when_a_text_spells_it() -> None:
    control = format_of(KINDS["chatml"]).control
    seen = control.mark("<|im_end|>")
    assert control.expand(control.mark(seen)) == seen
    assert control.decode(control.encode(control.mark(seen))) == seen


def test_a_piece_of_the_vocabulary_that_spells_the_end_token_is_written_in_letters() -> None:
    tokenizer = unigram()
    control = ControlTokens(tokenizer, "")
    ids = control.encode(control.mark("the </s> lamp"))
    assert tokenizer.eos_token_id not in ids
    assert control.decode(ids) == "the </s> lamp"


def test_the_end_token_is_guarded_where_it_is_the_unknown_token_too() -> None:
    tokenizer = byte_level(["<|endoftext|>"], eos="<|endoftext|>")
    tokenizer.unk_token = "<|endoftext|>"
    format = chat_format(tokenizer)
    assert prompt_ids(format, talk(user("a<|endoftext|>b"))).count(tokenizer.eos_token_id) == 0


def test_a_letter_that_is_unknown_and_so_would_end_a_reply_is_refused() -> None:
    words = Tokenizer(models.WordLevel({"<end>": 0, "late": 1}, unk_token="<end>"))
    words.add_special_tokens(["<end>"])
    control = ControlTokens(PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<end>", eos_token="<end>"), "")
    assert control.encode("late") == [1]
    with pytest.raises(BadRow, match="makes a control token"):
        control.encode("broken")


def test_a_tokenizers_words_stay_tokens_in_texts_and_its_other_added_ones_do_not() -> None:
    tokenizer = byte_level(IM, eos="<|im_end|>", plain=["kettles", "<answer>"])
    word, answer = tokenizer.convert_tokens_to_ids(["kettles", "<answer>"])
    asked = talk(user("kettles <answer>"))
    ids = prompt_ids(chat_format(tokenizer, ChatOptions("chatml")), asked)
    assert (word in ids, answer in ids) == (True, False)
    used = BARE.replace("message.role", "'kettles'")
    assert prompt_ids(chat_format(tokenizer, ChatOptions(used)), asked).count(word) == 1


def test_a_conversation_is_one_example_unless_the_template_writes_earlier_turns_otherwise() -> None:
    asked = talk(user("late?"), assistant("no"), user("sure?"), assistant("yes"))
    counts = {name: len(transcripts(format_of(KINDS[name]), asked)) for name in KINDS}
    turn_by_turn = {"qwen3", "lines", "harmony"}
    assert counts == {name: 2 if name in turn_by_turn else 1 for name in KINDS}


def test_tokens_that_join_across_the_seam_make_an_example_of_each_reply() -> None:
    format = format_of(KINDS["vicuna"])
    asked = talk(user("late?"), assistant("the lamp"), user("sure?"), assistant("the lamp"))
    made = transcripts(format, asked)
    assert [graded(format, one) for one in made] == [["the lamp</s>"], ["the lamp</s>"]]
    assert format.control.decode(made[0].ids) == "USER: late? ASSISTANT: the lamp</s>"
    pieces = chat_format(sentencepiece_like(), ChatOptions(VICUNA))
    assert graded(pieces, transcripts(pieces, asked)[1]) == ["the lamp</s>"]
    assert pieces.control.decode(transcripts(pieces, asked)[1].ids).endswith("sure? ASSISTANT: the lamp</s>")


def test_an_empty_reasoning_block_of_the_template_is_not_graded() -> None:
    asked = talk(user("late?"), assistant("no"))
    tokenizer = tokenizer_of("qwen3")
    block = "<think>\n\n</think>\n\n"
    quiet = chat_format(tokenizer)
    assert graded(quiet, transcripts(quiet, asked)[0]) == ["no<|im_end|>"]
    assert f"{block}no<|im_end|>" in quiet.control.decode(transcripts(quiet, asked)[0].ids)
    off = chat_format(tokenizer, ChatOptions(variables={"enable_thinking": False}))
    assert off.control.decode(prompt_ids(off, talk(user("late?")))).endswith(block)
    assert transcripts(off, asked)[0].ids == transcripts(quiet, asked)[0].ids


def test_an_empty_block_that_the_prompt_opens_is_not_graded_either() -> None:
    opened = QWEN3.replace(
        "{{- '<|im_start|>assistant\\n' }}\n{%- if enable", "{{- '<|im_start|>assistant\\n<think>\\n' }}\n{%- if enable"
    )
    format = chat_format(tokenizer_of("qwen3"), ChatOptions(opened))
    made = transcripts(format, talk(user("late?"), assistant("no")))[0]
    assert format.control.decode(made.ids[: made.replies[0].prompt]).endswith("<think>\n")
    assert graded(format, made) == ["no<|im_end|>"]


def test_reasoning_is_graded_where_the_template_keeps_it() -> None:
    asked = talk(user("late?"), assistant("no", reasoning_content="hm"), user("sure?"), assistant("yes"))
    kept, dropped = format_of(KINDS["qwen3"]), format_of(KINDS["r1"])
    made = transcripts(kept, asked)
    assert graded(kept, made[0]) == ["<think>\nhm\n</think>\n\nno<|im_end|>"]
    assert "hm" not in kept.control.decode(made[1].ids)
    assert graded(dropped, transcripts(dropped, asked)[0])[0].strip() == "no<｜end▁of▁sentence｜>"
    in_text = format_of(KINDS["hermes"])
    assert graded(in_text, transcripts(in_text, asked)[0])[0] == "<think>\nhm\n</think>\n\nno<|im_end|>"


def test_a_generation_prompt_that_no_written_turn_has_is_cut_in_training_and_serving() -> None:
    format = format_of(KINDS["r1"])
    asked = talk(user("late?"), assistant("no"))
    prompt = prompt_ids(format, talk(user("late?")))
    assert format.control.decode(prompt) == "<｜begin▁of▁sentence｜><｜User｜>late?<｜Assistant｜>"
    assert transcripts(format, asked)[0].ids[: len(prompt)] == prompt


def test_a_template_without_a_generation_prompt_is_given_the_head_that_it_writes() -> None:
    text = BARE.replace("{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}", "")
    format = chat_format(tokenizer_of("chatml"), ChatOptions(text))
    whole = format_of(KINDS["chatml"])
    asked = talk(user("late?"), assistant("no"))
    assert transcripts(format, asked)[0].ids == transcripts(whole, asked)[0].ids
    assert prompt_ids(format, talk(user("late?"))) == prompt_ids(whole, talk(user("late?")))


def test_a_second_reply_in_a_row_follows_the_prompt_of_serving_where_the_template_rewrites_the_first() -> None:
    format = format_of(KINDS["qwen3"])
    made = transcripts(format, talk(user("late?"), assistant("no"), assistant("really")))
    assert made[1].ids[: made[1].replies[0].prompt] == prompt_ids(format, talk(user("late?"), assistant("no")))
    assert graded(format, made[1]) == ["really<|im_end|>"]


@pytest.mark.parametrize(
    ("name", "template"),
    [
        ("lines", "{% if messages | length > 3 %}long {% endif %}" + LINES),
        ("vicuna", "{% if messages | length > 3 %}long {% endif %}" + VICUNA),
        ("chatml", BARE.replace("message.role", "(message.role if messages | length < 4 else message.role | upper)")),
    ],
)
def test_a_reply_that_is_not_written_behind_its_prompt_is_refused(name: str, template: str) -> None:
    format = chat_format(tokenizer_of(name), ChatOptions(template))
    asked = talk(user("late?"), assistant("ASSISTANT: no"))
    assert len(transcripts(format, asked)) == 1
    with pytest.raises(BadRow) as caught:
        transcripts(format, talk(*asked.messages, *asked.messages))
    assert caught.value.reason == "template_rewrites"


def test_the_templates_own_words_say_why_turns_are_refused() -> None:
    with pytest.raises(BadRow, match=r"turns must alternate") as caught:
        transcripts(format_of(KINDS["llama2"]), talk(user("late?"), user("well?"), assistant("no")))
    assert caught.value.reason == "template_refused"


CALLING = {"tool_calls": [{"type": "function", "id": "call00000", "function": {"name": "clock", "arguments": {}}}]}
RESULT = {"role": "tool", "content": "noon", "tool_call_id": "call00000", "name": "clock"}
CALLED = talk(user("late?"), assistant("", **CALLING), RESULT, assistant("no"))


@pytest.mark.parametrize("name", KINDS)
def test_tools_and_calls_are_refused_where_the_template_does_not_write_them(name: str) -> None:
    format = format_of(KINDS[name])
    plain = talk(user("late?"), assistant("no"))
    for part, reason in (
        (CALLED, "template_writes_no_tool_calls"), (replace(plain, tools=(TOOL,)), "template_writes_no_tools"),
    ):  # fmt: skip
        if KINDS[name].tools:
            assert all("clock" in format.control.decode(made.ids) for made in transcripts(format, part))
            continue
        with pytest.raises(BadRow, match="the chat template does not write") as caught:
            transcripts(format, part)
        assert caught.value.reason == reason


def test_chatml_writes_tools_and_calls_as_qwen_and_hermes_do() -> None:
    format = chat_format(tokenizer_of("chatml"), ChatOptions("chatml"))
    second = {**RESULT, "content": "one"}
    asked = replace(talk(system("be kind"), *CALLED.messages[:3], second, CALLED.messages[3]), tools=(TOOL,))
    (made,) = transcripts(format, asked)
    call = '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'
    text = format.control.decode(made.ids)
    assert text.startswith("<|im_start|>system\nbe kind\n\nFunctions that can be called:\n")
    assert f"<tools>\n{json.dumps(TOOL)}\n</tools>" in text
    results = "<|im_start|>user\n<tool_response>\nnoon\n</tool_response>\n<tool_response>\none\n</tool_response>"
    assert text.count("<|im_start|>system") == 1
    assert f"{call}<|im_end|>\n{results}<|im_end|>\n<|im_start|>assistant\nno<|im_end|>" in text
    assert graded(format, made) == [f"{call}<|im_end|>", "no<|im_end|>"]
    (bare,) = transcripts(format, talk(user("late?"), assistant("so", **CALLING), RESULT, assistant("no")))
    assert format.control.decode(bare.ids).startswith("<|im_start|>user\nlate?")
    assert graded(format, bare)[0] == f"so\n{call}<|im_end|>"


def test_a_system_turn_is_refused_or_folded_into_the_users_where_the_template_has_none() -> None:
    asked = talk(system("be kind"), user("late?"), assistant("no"))
    with pytest.raises(BadRow, match="System role not supported"):
        transcripts(format_of(KINDS["gemma"]), asked)
    format = chat_format(tokenizer_of("gemma"), ChatOptions(fold_system=True))
    made = transcripts(format, asked)[0]
    assert made.ids == transcripts(format, talk(user("be kind\n\nlate?"), assistant("no")))[0].ids
    assert made.replies[0].message == 2
    (longer,) = transcripts(format, talk(*asked.messages, user("sure?"), assistant("yes")))
    assert graded(format, longer) == ["no<end_of_turn>", "yes<end_of_turn>"]
    assert [reply.message for reply in longer.replies] == [2, 4]


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ messages[7].content }}",
        "{{ messages[0].content }}",
        "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}",
    ],
)
def test_a_template_that_cannot_or_may_not_run_is_refused_at_once(template: str) -> None:
    with pytest.raises(UserError, match="chat template"):
        chat_format(tokenizer_of("chatml"), ChatOptions(template))


@pytest.mark.parametrize("tried", [True, False])
def test_a_template_that_does_not_come_to_an_end_is_stopped(tried: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunesmith.tasks.chat_format.TEMPLATE_SECONDS", 0.3)
    begin = "" if tried else "{% if 'hang' in messages[0].content %}"
    loops = f"{begin}{'{% for a in range(99999) %}' * 3}{'{% endfor %}' * 3}{'' if tried else '{% endif %}'}"
    before = signal.getsignal(signal.SIGVTALRM)
    with pytest.raises(UserError, match=r"chat template: cannot be run: 'takes longer than 0.3 seconds'; give another"):
        prompt_ids(chat_format(tokenizer_of("chatml"), ChatOptions(loops + BARE)), talk(user("hang")))
    assert signal.getsignal(signal.SIGVTALRM) is before
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0)


def test_templates_run_in_threads_too() -> None:
    format = chat_format(tokenizer_of("chatml"))
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(prompt_ids, format, talk(user("a"))).result() == prompt_ids(format, talk(user("a")))


@pytest.mark.parametrize("fault", ["{{ range(10**9) }}", "{{ 'a' * 10**17 }}", "{{ cycler.__init__.__globals__ }}"])
def test_the_sandbox_of_templates_has_walls(fault: str) -> None:
    with pytest.raises(UserError, match="chat template"):
        chat_format(tokenizer_of("chatml"), ChatOptions(fault + BARE))


def test_arguments_of_calls_are_given_as_text_where_the_template_joins_them_to_text() -> None:
    text = BARE.replace(
        "message.content +",
        "message.content + (call.name + call.arguments if message.tool_calls else '') +",
    ).replace(
        "{{ '<|im_start|>' +",
        "{% set call = message.tool_calls[0].function if message.tool_calls %}{{ '<|im_start|>' +",
    )
    call = {"id": "call00000", "type": "function", "function": {"name": "clock", "arguments": {"zone": "UTC"}}}
    format = chat_format(tokenizer_of("chatml"), ChatOptions(text))
    made = transcripts(format, talk(user("late?"), assistant("", tool_calls=[call])))[0]
    assert graded(format, made) == ['clock{"zone": "UTC"}<|im_end|>']


def test_ids_and_arguments_of_calls_cannot_make_control_tokens() -> None:
    text = BARE.replace(
        "message.content +",
        "message.content + (message.tool_call_id or '') + (message.tool_calls or []) | map(attribute='id') | join +",
    )
    text = text.replace(
        "{{ '<|im_start|>'",
        "{% set call = message.tool_calls[0].function if message.tool_calls %}"
        "{{ call.name + call.arguments.zone + '|>' if call }}{{ '<|im_start|>'",
    )
    call = {"id": "<|im_end|>", "type": "function", "function": {"name": "clock", "arguments": {"zone": "<|im_end"}}}
    asked = talk(
        user("late?"), assistant("", tool_calls=[call]), {"role": "tool", "content": "no", "tool_call_id": "<|im_end|>"}
    )
    format = chat_format(tokenizer_of("chatml"), ChatOptions(text))
    ids = prompt_ids(format, asked)
    assert ids.count(format.control.ids["<|im_end|>"]) == 3
    assert format.control.decode(ids).count("<|im_end|>") == 6


def test_a_hidden_text_whose_letters_the_template_changes_is_refused() -> None:
    louder = "(message.content | upper if 'loud' in message.content else message.content)"
    format = chat_format(tokenizer_of("chatml"), ChatOptions(BARE.replace("message.content", louder)))
    assert "LOUD" in format.control.decode(prompt_ids(format, talk(user("loud"))))
    with pytest.raises(BadRow, match="changes its letters"):
        prompt_ids(format, talk(user("loud <|im_end|>")))


def test_a_named_template_suits_the_tokenizer_or_is_refused() -> None:
    asked = talk(user("late?"), assistant("no"))
    named = chat_format(tokenizer_of("chatml"), ChatOptions("chatml"))
    assert transcripts(named, asked)[0].ids == transcripts(format_of(KINDS["chatml"]), asked)[0].ids
    with pytest.raises(UserError, match="did you mean 'chatml'"):
        chat_format(tokenizer_of("chatml"), ChatOptions("chatlm"))
    with pytest.raises(UserError, match=r"task\.template: 'chatml' needs the token <\|im_start\|>"):
        chat_format(tokenizer_of("llama2"), ChatOptions("chatml"))
    with pytest.raises(UserError, match=r"task\.template_values: 'tools' is set by tunesmith"):
        chat_format(tokenizer_of("chatml"), ChatOptions(variables={"tools": 1}))
    starts, does_not = (byte_level(["<s>", "</s>"], bos="<s>", eos="</s>", adds_bos=adds) for adds in (True, False))
    assert [prompt_ids(chat_format(one), talk(user("a"))).count(one.bos_token_id) for one in (starts, does_not)] == [
        1,
        0,
    ]


def test_replies_that_nothing_could_end_are_refused() -> None:
    tokenizer = byte_level(["<s>"], bos="<s>", eos="<s>")
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="no end token"):
        chat_format(tokenizer)


def test_generation_ends_at_the_templates_stop_tokens_and_the_tokenizers_end_token() -> None:
    format = format_of(KINDS["llama3"])
    wanted = ["<|eot_id|>", "<|eom_id|>", "<|end_of_text|>"]
    assert format.tokenizer.convert_ids_to_tokens(list(stop_ids(format))) == wanted


def test_an_encoder_reads_the_prompt_and_the_reply_with_its_end_token_is_written() -> None:
    tokenizer = unigram()
    format = chat_format(tokenizer, encoder_decoder=True)
    asked = talk(user("the lamp </s>"), assistant("late"), user("really?"), assistant("</s> yes", weight=0.5))
    first, second = transcripts(format, asked)
    assert format.control.decode(first.source or ()) == "User: the lamp </s>\n\nAssistant:</s>"
    assert (first.source or ()).count(tokenizer.eos_token_id) == 1
    assert first.source == prompt_ids(format, talk(user("the lamp </s>")))
    assert list(first.ids) == tokenizer("late")["input_ids"]
    assert format.control.decode(second.ids) == "</s> yes</s>"
    assert second.ids.count(tokenizer.eos_token_id) == (second.source or ()).count(tokenizer.eos_token_id) == 1
    assert set(second.weights) == {0.5}


def test_an_encoder_reads_its_start_and_end_token_once_even_if_the_template_writes_them() -> None:
    tokenizer = byte_level(["<s>", "</s>"], bos="<s>", eos="</s>")
    ends = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<s>", "</s>")]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    written = "{{ bos_token }}{% for message in messages %}{{ message.content + eos_token }}{% endfor %}"
    asked = talk(user("late?"), assistant("no"))
    for template, shown in ((written, "<s>late?</s>"), ("plain", "<s>User: late?\n\nAssistant:</s>")):
        format = chat_format(tokenizer, ChatOptions(template), encoder_decoder=True)
        (made,) = transcripts(format, asked)
        assert format.control.decode(made.source or ()) == shown
        assert format.control.decode(made.ids) == "no</s>"


LONG = talk(system("be kind"), *(turn for n in range(4) for turn in (user(f"question {n}"), assistant(f"answer {n}"))))


def test_drop_leaves_a_conversation_out_that_is_too_long() -> None:
    format = format_of(KINDS["chatml"])
    whole = transcripts(format, LONG)[0]
    assert fit(format, LONG, whole.tokens, "drop").kept == (whole,)
    assert fit(format, LONG, whole.tokens - 1, "drop") == Fitted((), ("too_long",))


def test_cut_prompt_keeps_every_reply_and_cuts_the_oldest_turns_behind_the_system_turn() -> None:
    format = format_of(KINDS["chatml"])
    whole = transcripts(format, LONG)[0]
    fitted = fit(format, LONG, whole.tokens - 10)
    beginning, last = fitted.kept
    assert not fitted.dropped
    assert [reply.message for one in fitted.kept for reply in one.replies] == [2, 4, 6, 8]
    assert beginning.ids == whole.ids[: whole.replies[2].end]
    kept = talk(LONG.messages[0], *LONG.messages[3:8])
    assert last.ids[: last.replies[0].prompt] == prompt_ids(format, kept)
    assert last.cut == len(whole.ids) - len(last.ids) > 0
    assert graded(format, last) == ["answer 3<|im_end|>"]


def test_serving_cuts_a_long_prompt_as_training_does() -> None:
    format = format_of(KINDS["llama3"])
    reply = transcripts(format, LONG)[0].replies[-1]
    room = reply.prompt - 20
    prompt = fit_prompt(format, replace(LONG, messages=LONG.messages[:-1]), room)
    trained = fit(format, LONG, room + reply.end - reply.prompt).kept[-1]
    assert trained.ids[: trained.replies[0].prompt] == prompt.ids
    assert trained.cut == prompt.cut


@pytest.mark.parametrize("name", ["chatml", "llama3", "mistral", "qwen3", "lines"])
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(data=st.data(), limit=st.integers(1, 80))
def test_whatever_the_limit_no_reply_is_cut_and_none_is_lost_in_silence(
    name: str, data: st.DataObject, limit: int
) -> None:
    kind = KINDS[name]
    format = format_of(kind)
    conversation = data.draw(conversations(kind))
    wanted = {r.message: one.ids[r.start : r.end] for one in transcripts(format, conversation) for r in one.replies}
    fitted = fit(format, conversation, limit)
    replies = [(one, reply) for one in fitted.kept for reply in one.replies]
    assert len(replies) + len(fitted.dropped) == len(wanted)
    for one, reply in replies:
        assert one.tokens <= limit
        assert one.ids[reply.start : reply.end] == wanted[reply.message]
        assert sum(weight > 0 for weight in one.weights) == sum(r.end - r.start for r in one.replies)


def test_the_left_of_a_prompt_is_cut_behind_its_start_token_when_its_last_turn_is_too_long() -> None:
    format = format_of(KINDS["deepseek"])
    asked = talk(user("the lamp " * 50), assistant("no"))
    whole = transcripts(format, asked)[0]
    (short,) = fit(format, asked, 20).kept
    assert short.ids == whole.ids[:1] + whole.ids[-19:]
    assert (short.cut, len(short.weights)) == (whole.tokens - 20, 20)
    assert graded(format, short) == ["no<｜end▁of▁sentence｜>"]
    assert fit(format, asked, 2) == Fitted((), ("reply_too_long",))


def test_an_encoders_input_is_cut_on_its_left_and_the_written_reply_never() -> None:
    format = chat_format(unigram(), encoder_decoder=True)
    asked = talk(user("the lamp " * 50), assistant("late and broken"))
    whole = transcripts(format, asked)[0]
    (short,) = fit(format, asked, 20).kept
    assert short.source == (whole.source or ())[-20:]
    assert short.ids == whole.ids
    assert fit(format, asked, len(whole.ids) - 1).dropped == ("reply_too_long",)
