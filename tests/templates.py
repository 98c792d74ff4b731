"""A zoo of chat formats, each with our own template text and a tiny tokenizer that is made on the spot.

The formats are those that models in use expect; only their shape is taken over.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from unicodedata import normalize

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

TEXTS = (
    "the red kettle is broken and the lamp is late",
    "please cancel my order and refund the money",
    "good morning, kind shop! thank you for the quick answer",
    "user assistant system tool name arguments content function",
    "User: Assistant: System: Question: Answer: Tools: Call: USER: ASSISTANT:",
    "le café est fermé; die Tür ist grün; السلام عليكم; 你好",
    '{"name": "clock", "arguments": {"zone": "UTC"}} [1, 2, 3] <b> </b> | [INST] [/INST]',
)
SPLIT = Regex(r" ?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


@dataclass(frozen=True)
class Kind:
    """One chat format.

    reply: what the graded tokens of an assistant's message spell, without the stop token. stop: that token.
    variables: for the template. alternates: user and assistant must take turns. system, tools: whether it has them.
    """

    name: str
    template: str | None
    tokenizer: Callable[[], PreTrainedTokenizerFast]
    stop: str
    reply: Callable[[Mapping[str, Any]], str] = lambda message: str(message["content"])
    variables: Mapping[str, Any] = field(default_factory=dict)
    alternates: bool = False
    system: bool = True
    tools: bool = False


def byte_level(
    controls: Sequence[str],
    *,
    bos: str | None = None,
    eos: str,
    plain: Sequence[str] = (),
    adds_bos: bool = False,
    nfc: bool = False,
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with these control tokens; `plain` ones are added, but not special."""
    tokenizer = Tokenizer(models.BPE())
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(SPLIT, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=480, show_progress=False, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in controls])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in plain])
    if adds_bos and bos:
        tokenizer.post_processor = _bos_first(tokenizer, bos)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token=eos, pad_token=eos)


def sentencepiece_like(
    controls: Sequence[str] = (), *, legacy: bool = False, rstrip: Sequence[str] = (), plain: Sequence[str] = ()
) -> PreTrainedTokenizerFast:
    """A BPE tokenizer of pieces that start with ▁, with byte fallback, <s> and </s>.

    legacy: the blank is put before every stretch of text, not only the first. rstrip: tokens that eat blanks behind.
    """
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Metaspace()
    learner.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=260, show_progress=False))
    made = learner.to_str()
    pieces = learner.get_vocab()
    first = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocabulary = {piece: number for number, piece in enumerate([*first, *sorted(pieces, key=pieces.get)])}
    tokenizer = Tokenizer(models.BPE(vocabulary, _merges(made), unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    if legacy:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    names = ["<unk>", "<s>", "</s>", *controls]
    tokenizer.add_special_tokens(
        [AddedToken(name, normalized=False, special=True, rstrip=name in rstrip) for name in names]
    )
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in plain])
    tokenizer.post_processor = _bos_first(tokenizer, "<s>")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>"
    )


def unigram() -> PreTrainedTokenizerFast:
    """A T5-like tokenizer: pieces with scores, which hold the end token's spelling too, and </s> behind each text."""
    words = sorted({piece for text in TEXTS for word in text.split() for piece in (f"▁{word}", word[:3])})
    signs = sorted({sign for text in TEXTS for sign in text if not sign.isspace()} - set(words))
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), *((f"<0x{byte:02X}>", -12.0) for byte in range(256))]
    pieces += [("▁", -3.0), *((word, -5.0) for word in words), *((sign, -8.0) for sign in signs)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>", "<extra_id_0>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>", pad_token="<pad>", extra_special_tokens=[]
    )


def _merges(made: str) -> list[tuple[str, str]]:
    return [tuple(pair) for pair in json.loads(made)["model"]["merges"]]


def _bos_first(tokenizer: Tokenizer, bos: str) -> processors.PostProcessor:
    return processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))])


def stripped(message: Mapping[str, Any]) -> str:
    return str(message["content"]).strip()


def spaced(message: Mapping[str, Any]) -> str:
    return f" {stripped(message)} "


def _calls(message: Mapping[str, Any], before: str, after: str) -> str:
    made = [json.dumps(call["function"], ensure_ascii=False) for call in message.get("tool_calls", ())]
    return "".join(f"{before}{call}{after}" for call in made)


CHATML = """\
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}"""

LLAMA2 = """\
{%- set ns = namespace(head='', turns=messages) %}
{%- if messages[0].role == 'system' %}
{%- set ns.head = '<<SYS>>\\n' + messages[0].content + '\\n<</SYS>>\\n\\n' %}
{%- set ns.turns = messages[1:] %}
{%- endif %}
{%- for turn in ns.turns %}
{%- if (turn.role == 'user') != (loop.index0 % 2 == 0) %}{{- raise_exception('turns must alternate') }}{% endif %}
{%- if turn.role == 'user' %}
{{- bos_token + '[INST] ' + (ns.head if loop.first else '') + turn.content | trim + ' [/INST]' }}
{%- else %}
{{- ' ' + turn.content | trim + ' ' + eos_token }}
{%- endif %}
{%- endfor %}"""

LLAMA3 = """\
{{- bos_token }}
{%- if tools %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\nTools: ' + tools | tojson + '<|eot_id|>' }}
{%- endif %}
{%- for message in messages %}
{%- set who = 'ipython' if message.role == 'tool' else message.role %}
{{- '<|start_header_id|>' + who + '<|end_header_id|>\\n\\n' }}
{%- if message.tool_calls %}
{%- for call in message.tool_calls %}{{- call.function | tojson }}{% endfor %}
{{- '<|eom_id|>' }}
{%- else %}
{{- message.content | trim + '<|eot_id|>' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"""

MISTRAL = """\
{%- set ns = namespace(head='', turns=messages, last=-1) %}
{%- if messages[0].role == 'system' %}
{%- set ns.head = messages[0].content + '\\n\\n' %}
{%- set ns.turns = messages[1:] %}
{%- endif %}
{%- for turn in ns.turns %}{% if turn.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}
{{- bos_token }}
{%- for turn in ns.turns %}
{%- if turn.role == 'user' %}
{%- if tools and loop.index0 == ns.last %}{{- '[AVAILABLE_TOOLS]' + tools | tojson + '[/AVAILABLE_TOOLS]' }}{% endif %}
{{- '[INST]' + (ns.head if loop.index0 == ns.last else '') + turn.content + '[/INST]' }}
{%- elif turn.role == 'tool' %}
{%- if turn.tool_call_id | length != 9 %}{{- raise_exception('a call id has nine characters') }}{% endif %}
{{- '[TOOL_RESULTS]' + turn.content + '[/TOOL_RESULTS]' }}
{%- elif turn.tool_calls %}
{{- '[TOOL_CALLS]' }}
{%- for call in turn.tool_calls %}{{- call.function | tojson }}{% endfor %}
{{- eos_token }}
{%- else %}
{{- turn.content + eos_token }}
{%- endif %}
{%- endfor %}"""

GEMMA = """\
{{- bos_token }}
{%- if messages[0].role == 'system' %}{{- raise_exception('System role not supported') }}{% endif %}
{%- for message in messages %}
{%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}{{- raise_exception('turns must alternate') }}{% endif %}
{%- set who = 'model' if message.role == 'assistant' else message.role %}
{{- '<start_of_turn>' + who + '\\n' + message.content | trim + '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<start_of_turn>model\\n' }}{% endif %}"""

PHI3 = """\
{%- for message in messages %}{{- '<|' + message.role + '|>\\n' + message.content + '<|end|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>\\n' }}{% else %}{{- eos_token }}{% endif %}"""

QWEN3 = """\
{%- set ns = namespace(asked=0) %}
{%- for message in messages %}{% if message.role == 'user' %}{% set ns.asked = loop.index0 %}{% endif %}{% endfor %}
{%- if tools %}{{- '<|im_start|>system\\nTools:' }}
{%- for tool in tools %}{{- '\\n' + tool | tojson }}{% endfor %}
{{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{%- if message.role == 'tool' %}
{{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' }}
{%- elif message.role == 'assistant' %}
{{- '<|im_start|>assistant\\n' }}
{%- if loop.index0 > ns.asked and (loop.last or message.reasoning_content) %}
{{- '<think>\\n' + (message.reasoning_content or '').strip('\\n') + '\\n</think>\\n\\n' }}
{%- endif %}
{{- message.content.lstrip('\\n') }}
{%- for call in message.tool_calls or [] %}
{{- '\\n<tool_call>\\n' + call.function | tojson + '\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- else %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and not enable_thinking %}{{- '<think>\\n\\n</think>\\n\\n' }}{% endif %}
{%- endif %}"""

DEEPSEEK = """\
{{- bos_token }}
{%- for message in messages %}
{%- if message.role == 'assistant' %}{{- '<｜Assistant｜>' + message.content + eos_token }}
{%- elif message.role == 'user' %}{{- '<｜User｜>' + message.content }}
{%- else %}{{- message.content }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<｜Assistant｜>' }}{% endif %}"""

R1 = """\
{{- bos_token }}
{%- for message in messages %}
{%- if message.role == 'assistant' %}
{{- '<｜Assistant｜>' + message.content.split('</think>')[-1] + eos_token }}
{%- elif message.role == 'user' %}{{- '<｜User｜>' + message.content }}
{%- else %}{{- message.content }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<｜Assistant｜><think>\\n' }}{% endif %}"""

ZEPHYR = """\
{%- for message in messages %}{{- '<|' + message.role + '|>\\n' + message.content + eos_token + '\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>\\n' }}{% endif %}"""

COMMAND_R = """\
{{- bos_token }}
{%- for message in messages %}
{%- set who = {'system': 'SYSTEM', 'user': 'USER', 'assistant': 'CHATBOT'}[message.role] %}
{{- '<|START_OF_TURN_TOKEN|><|' + who + '_TOKEN|>' + message.content.strip() + '<|END_OF_TURN_TOKEN|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}"""

VICUNA = """\
{%- for message in messages %}
{%- if message.role == 'assistant' %}{{- 'ASSISTANT: ' + message.content + eos_token }}
{%- elif message.role == 'user' %}{{- 'USER: ' + message.content + ' ' }}
{%- else %}{{- message.content + ' ' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- 'ASSISTANT: ' }}{% endif %}"""

LINES = """\
{%- for message in messages %}{{- message.role.upper() + ': ' + message.content + '\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{- 'ASSISTANT:' }}{% endif %}"""

HERMES = """\
{{- bos_token }}
{%- if tools %}{{- '<|im_start|>system\\n<tools>' + tools | tojson + '</tools><|im_end|>\\n' }}{% endif %}
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' }}
{%- if message.role == 'tool' %}{{- '<tool_response>\\n' + message.content + '\\n</tool_response>' }}
{%- else %}{{- message.content }}{% endif %}
{%- for call in message.tool_calls or [] %}
{{- '<tool_call>\\n' + call.function | tojson + '\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}"""

HARMONY = """\
{%- for message in messages %}
{%- if message.role == 'assistant' %}
{{- '<|start|>assistant<|channel|>final<|message|>' + message.content }}
{{- '<|return|>' if loop.last and not add_generation_prompt else '<|end|>' }}
{%- else %}
{{- '<|start|>' + message.role + '<|message|>' + message.content + '<|end|>' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start|>assistant' }}{% endif %}"""

IM = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
HEADERS = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|eom_id|>",
]
BRACKETS = [f"[{slash}{name}]" for name in ("INST", "AVAILABLE_TOOLS", "TOOL_RESULTS") for slash in ("", "/")]
PHI = ["<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
BARS = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"]
COMMANDS = [f"<|{name}_TOKEN|>" for name in ("START_OF_TURN", "END_OF_TURN", "SYSTEM", "USER", "CHATBOT")]
CHANNELS = ["<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|return|>"]


def _qwen(message: Mapping[str, Any]) -> str:
    thought = message.get("reasoning_content")
    before = f"<think>\n{thought}\n</think>\n\n" if thought else ""
    return before + message["content"].lstrip("\n") + _calls(message, "\n<tool_call>\n", "\n</tool_call>")


def _headers(message: Mapping[str, Any]) -> str:
    return _calls(message, "", "") or stripped(message)


KINDS = {
    kind.name: kind
    for kind in (
        Kind("chatml", CHATML, lambda: byte_level(IM, eos="<|im_end|>"), "<|im_end|>"),
        Kind("llama2", LLAMA2, lambda: sentencepiece_like(legacy=True), "</s>", spaced, alternates=True),
        Kind(
            "llama3",
            LLAMA3,
            lambda: byte_level(HEADERS, bos=HEADERS[0], eos=HEADERS[1], adds_bos=True),
            "<|eot_id|>",
            _headers,
            tools=True,
        ),
        Kind(
            "mistral",
            MISTRAL,
            lambda: sentencepiece_like([*BRACKETS, "[TOOL_CALLS]"]),
            "</s>",
            lambda message: _calls(message, "", "").join(["[TOOL_CALLS]", ""])
            if "tool_calls" in message
            else message["content"],
            tools=True,
        ),
        Kind(
            "gemma",
            GEMMA,
            lambda: byte_level(["<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"], bos="<bos>", eos="<eos>"),
            "<end_of_turn>",
            stripped,
            alternates=True,
            system=False,
        ),
        Kind(
            "phi3",
            PHI3,
            lambda: sentencepiece_like(PHI, rstrip=PHI),
            "<|end|>",
            lambda message: str(message["content"]).lstrip(),
        ),
        Kind(
            "qwen3",
            QWEN3,
            lambda: byte_level(
                IM,
                eos="<|im_end|>",
                plain=["<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"],
                nfc=True,
            ),
            "<|im_end|>",
            lambda message: normalize("NFC", _qwen(message)),
            alternates=True,
            tools=True,
        ),
        Kind(
            "deepseek", DEEPSEEK, lambda: byte_level(BARS, bos=BARS[0], eos=BARS[1], adds_bos=True), BARS[1]
        ),
        Kind(
            "r1",
            R1,
            lambda: byte_level(BARS, bos=BARS[0], eos=BARS[1], plain=["<think>", "</think>"]),
            BARS[1],
        ),
        Kind("zephyr", ZEPHYR, sentencepiece_like, "</s>"),
        Kind(
            "command_r",
            COMMAND_R,
            lambda: byte_level(["<BOS_TOKEN>", *COMMANDS], bos="<BOS_TOKEN>", eos="<|END_OF_TURN_TOKEN|>"),
            "<|END_OF_TURN_TOKEN|>",
            stripped,
        ),
        Kind("vicuna", VICUNA, lambda: byte_level(["<s>", "</s>"], bos="<s>", eos="</s>", adds_bos=True), "</s>"),
        Kind(
            "lines", LINES, lambda: byte_level(["<|endoftext|>"], eos="<|endoftext|>"), "<|endoftext|>",
            lambda message: f" {message['content']}",
        ),
        Kind(
            "plain", None, lambda: byte_level(["<s>", "</s>"], bos="<s>", eos="</s>", adds_bos=True), "</s>",
            lambda message: f" {message['content']}" + _calls(message, "\nCall: ", ""), tools=True,
        ),
        Kind(
            "hermes",
            HERMES,
            lambda: byte_level([*IM, "<s>"], bos="<s>", eos="<|im_end|>", plain=["<tool_call>", "</tool_call>"]),
            "<|im_end|>",
            lambda message: message["content"] + _calls(message, "<tool_call>\n", "\n</tool_call>"),
            tools=True,
        ),
        Kind(
            "harmony",
            HARMONY,
            lambda: byte_level([*CHANNELS, "<|endoftext|>"], eos="<|return|>"),
            "<|return|>",
            lambda message: f"<|channel|>final<|message|>{message['content']}",
        ),
    )
}  # fmt: skip


@cache
def tokenizer_of(name: str) -> PreTrainedTokenizerFast:
    """The tiny tokenizer of a kind, with its template."""
    tokenizer = KINDS[name].tokenizer()
    tokenizer.chat_template = KINDS[name].template
    return tokenizer
