"""What the checks of tokenizers and chat templates find, on the zoo and on planted faults."""

import pytest
from tokenizers.normalizers import Lowercase
from transformers import GenerationConfig, LlamaConfig

from templates import CHATML, IM, KINDS, QWEN3, byte_level, sentencepiece_like, tokenizer_of, unigram
from tunesmith.tasks.chat_format import ChatOptions
from tunesmith.tasks.control_tokens import ControlTokens
from tunesmith.tasks.template_doctor import CHECKS, Diagnosis, diagnose

TURN_BY_TURN = {"mistral", "qwen3", "vicuna", "lines", "harmony"}
OTHER_END = {"llama3", "gemma", "phi3"}


def found(name: str, options: ChatOptions | None = None) -> dict[str, Diagnosis]:
    return {one.name: one for one in diagnose(tokenizer_of(name), options)}


@pytest.mark.parametrize("name", KINDS)
def test_each_format_of_the_zoo_can_be_trained_and_its_peculiarities_are_told(name: str) -> None:
    seen = found(name)
    assert list(seen) == list(CHECKS)
    assert not [one for one in seen.values() if one.level == "error"]
    odd = {check for check, one in seen.items() if one.level == "warning"}
    kind = KINDS[name]
    assert ("turns" in odd) == (name in TURN_BY_TURN)
    assert ("stop token" in odd) == (name in OTHER_END | {"lines"})
    assert ("one end" in odd) == (name == "phi3")
    assert ("earlier turns" in odd) == (name in ("qwen3", "harmony"))
    assert ("generation prompt" in odd) == (name == "r1")
    assert ("reasoning" in odd) == (name in ("qwen3", "r1"))
    assert ("system" in odd) == (not kind.system)
    assert ("tools" in odd) == (not kind.tools)
    assert ("template" in odd) == (kind.template is None)
    assert ("start token" in odd) == (name in ("phi3", "zephyr", "vicuna"))


def test_a_template_that_cannot_be_used_is_the_one_error() -> None:
    (one,) = diagnose(tokenizer_of("chatml"), ChatOptions("{% for %}"))
    assert (one.name, one.level) == ("template", "error")


def test_a_start_token_that_a_turn_has_twice_is_an_error() -> None:
    assert found("llama3", ChatOptions("{{ bos_token }}" + KINDS["llama3"].template))["start token"].level == "error"


def test_a_template_without_a_generation_prompt_is_told() -> None:
    text = CHATML.split("{%- if add_generation_prompt")[0]
    one = found("chatml", ChatOptions(text))["generation prompt"]
    assert one.level == "warning"
    assert "'<|im_start|>assistant\\n' is added" in one.message


def test_the_variable_that_puts_an_empty_reasoning_block_into_the_prompt_is_named_and_helps() -> None:
    assert "enable_thinking: false" in found("qwen3")["reasoning"].message
    assert found("qwen3", ChatOptions(variables={"enable_thinking": False}))["reasoning"].level == "ok"


def test_dropped_reasoning_of_earlier_turns_is_told() -> None:
    dropped = QWEN3.replace("(loop.last or message.reasoning_content)", "message.reasoning_content")
    kept = dropped.replace("loop.index0 > ns.asked and ", "")
    assert found("qwen3", ChatOptions(kept))["earlier turns"].level == "ok"
    assert "drops the reasoning" in found("qwen3", ChatOptions(dropped))["earlier turns"].message


def test_a_list_of_tools_that_is_not_written_is_told() -> None:
    silent = KINDS["hermes"].template.replace("{%- if tools %}", "{%- if false %}")
    assert "the list of tools is not written" in found("hermes", ChatOptions(silent))["tools"].message


def test_a_date_in_the_prompt_is_told() -> None:
    assert found("chatml", ChatOptions("{{ strftime_now('%d %b %Y') }}" + CHATML))["date"].level == "warning"


def test_a_folded_system_turn_is_no_warning() -> None:
    assert found("gemma", ChatOptions(fold_system=True))["system"].level == "ok"


def test_a_text_that_can_make_control_tokens_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ControlTokens, "mark", lambda self, text: text)
    assert found("chatml")["control text"].level == "error"


def test_padding_that_is_the_end_token_is_told() -> None:
    assert "pads and ends replies" in found("chatml")["padding"].message
    assert "for padding only" in found("llama2")["padding"].message


def test_generation_marks_are_told_and_never_needed() -> None:
    marked = CHATML + "{% generation %}{% endgeneration %}"
    assert "are present" in found("chatml", ChatOptions(marked))["generation marks"].message
    assert "are not there" in found("chatml")["generation marks"].message


def test_tokens_that_lose_their_text_are_told() -> None:
    tokenizer = byte_level(IM, eos="<|im_end|>")
    tokenizer.backend_tokenizer.normalizer = Lowercase()
    tokenizer.chat_template = CHATML
    assert {one.name: one.level for one in diagnose(tokenizer)}["round trip"] == "warning"


@pytest.mark.parametrize(("rows", "level"), [(-1, "error"), (0, "ok"), (64, "ok")])
def test_a_token_without_a_row_of_embeddings_is_an_error(rows: int, level: str) -> None:
    tokenizer = tokenizer_of("chatml")
    config = LlamaConfig(vocab_size=len(tokenizer) + rows)
    assert diagnose(tokenizer, config=config)[-1].level == level


@pytest.mark.parametrize(("ends", "level"), [(["<|end_of_text|>"], "warning"), (["<|eot_id|>", "<|eom_id|>"], "ok")])
def test_settings_that_do_not_stop_where_replies_end_are_told(ends: list[str], level: str) -> None:
    tokenizer = tokenizer_of("llama3")
    generation = GenerationConfig(eos_token_id=tokenizer.convert_tokens_to_ids(ends))
    assert diagnose(tokenizer, generation=generation)[-1].level == level


def test_an_encoder_decoder_is_told_that_each_reply_is_an_example() -> None:
    seen = {one.name: one for one in diagnose(unigram(), encoder_decoder=True)}
    assert "one example a reply" in seen["turns"].message
    assert not [one for one in seen.values() if one.level == "error"]


def test_a_template_that_a_sentencepiece_tokenizer_lacks_tokens_for_is_refused() -> None:
    (one,) = diagnose(sentencepiece_like(), ChatOptions("chatml"))
    assert one.level == "error"
    assert "<|im_start|>" in one.message
