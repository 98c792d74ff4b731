"""Tokenizers of every kind that the families use, small and built on the spot: the same bytes each time."""

import json
import string
from collections.abc import Sequence
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    CodeLlamaTokenizer,
    MBart50Tokenizer,
    MBartTokenizer,
    NllbTokenizer,
    PreTrainedTokenizerFast,
    Qwen2Tokenizer,
)

WORDS = [
    "the",
    "parcel",
    "is",
    "late",
    "and",
    "broken",
    "please",
    "cancel",
    "my",
    "order",
    "refund",
    "money",
    "now",
    "good",
    "morning",
    "kind",
    "shop",
    "thank",
    "you",
    "red",
    "blue",
    "green",
    "kettle",
    "lamp",
    "chair",
    "arrived",
    "yesterday",
    "never",
    "again",
    "wonderful",
    "terrible",
    "quick",
    "slow",
    "answer",
    "1",
    "2",
    "3",
]
TEXTS = [" ".join([word] * count) for count, word in enumerate(WORDS, start=1)]  # no two words are as frequent
VOCABULARY = 200
PRINTED = string.ascii_lowercase + string.digits + string.punctuation
LETTERS = string.ascii_uppercase + "äöüßéèçñøłőşăабвгдежзиклмнопрстуяطلبةمكسور订单退款早上好"
"""Beside `PRINTED`, what a cased or a multilingual vocabulary has of its own."""
CONTEXT = 64
LANGUAGES = ("en", "de", "fr", "ru", "zh", "ar")
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
BYTES = [f"<0x{number:02X}>" for number in range(256)]


def word_piece(*, cased: bool) -> Tokenizer:
    """As BERT's; a cased one keeps accents, as multilingual BERT's does."""
    signs = PRINTED + LETTERS if cased else PRINTED
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*specials, *signs, *(f"##{sign}" for sign in signs), *(word for word in WORDS if len(word) > 1)]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=not cased)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return templated(tokenizer, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1")


def byte_level(specials: Sequence[str]) -> Tokenizer:
    """Byte-level BPE, as GPT-2's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY + 256,
        special_tokens=list(specials),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def bpe_pieces(specials: Sequence[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of a BPE over characters, as SentencePiece's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    alphabet = list(PRINTED + LETTERS)
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY + 64, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    trained = json.loads(tokenizer.to_str())["model"]
    pieces = [*specials, *sorted(trained["vocab"], key=trained["vocab"].get)]
    return {piece: number for number, piece in enumerate(pieces)}, [tuple(pair) for pair in trained["merges"]]


def byte_fallback(specials: Sequence[str], *, prefix_space: bool) -> Tokenizer:
    """BPE over characters that falls back to bytes: with a space before the text as Llama's, or as Gemma's."""
    vocabulary, merges = bpe_pieces([*specials, *BYTES])
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    spaces: list[normalizers.Normalizer] = [normalizers.Replace(" ", "▁")]
    strip: list[decoders.Decoder] = []
    if prefix_space:
        spaces.insert(0, normalizers.Prepend("▁"))
        strip = [decoders.Strip(" ", 1, 0)]
    tokenizer.normalizer = normalizers.Sequence(spaces)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return tokenizer


def unigram_pieces(
    specials: Sequence[str], more: Sequence[str] = (), *, fallback: bool = False
) -> list[tuple[str, float]]:
    """Pieces with their log-probabilities, the frequent words of `TEXTS` likeliest. more: special ones, at the end."""
    pieces = [*((piece, 0.0) for piece in specials), *((piece, -20.0) for piece in BYTES if fallback), ("▁", -4.0)]
    pieces += [(f"▁{word}", -6.0 + 0.05 * place) for place, word in enumerate(WORDS)]
    pieces += [(sign, -9.0 - 0.01 * place) for place, sign in enumerate(PRINTED + LETTERS)]
    return [*pieces, *((piece, 0.0) for piece in more)]


def unigram(pieces: list[tuple[str, float]], unknown: str, *, fallback: bool = False) -> Tokenizer:
    """Unigram over text whose white space is one "▁", as SentencePiece's."""
    number = [piece for piece, _ in pieces].index(unknown)
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=number, byte_fallback=fallback))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    whole = [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="always")] if fallback else None
    tokenizer.decoder = decoders.Sequence(whole) if whole else decoders.Metaspace(prepend_scheme="always")
    return tokenizer


def templated(tokenizer: Tokenizer, single: str, pair: str) -> Tokenizer:
    """The tokenizer with special tokens around its texts."""
    names = sorted({word.split(":")[0] for word in pair.split() if not word.startswith("$")})
    used = [(name, tokenizer.token_to_id(name)) for name in names]
    tokenizer.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=used)
    return tokenizer


def _fast(tokenizer: Any, **names: Any) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **{"model_max_length": CONTEXT, **names})


def bert_like(*, cased: bool = False) -> PreTrainedTokenizerFast:
    return _fast(
        word_piece(cased=cased), pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip


def minilm() -> PreTrainedTokenizerFast:
    """Padding and truncation lie in the file, as in that of all-MiniLM-L6-v2."""
    tokenizer = word_piece(cased=False)
    tokenizer.enable_truncation(CONTEXT // 2)
    tokenizer.enable_padding(length=CONTEXT // 2)
    return _fast(
        tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip


def deberta() -> PreTrainedTokenizerFast:
    """No limit of its own, as the hub's."""
    specials = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    tokenizer = unigram(unigram_pieces(specials, ["[MASK]"]), "[UNK]")
    return _fast(
        templated(tokenizer, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1"),
        bos_token="[CLS]", eos_token="[SEP]", pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", mask_token="[MASK]", model_max_length=int(1e30),
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip


def modernbert() -> PreTrainedTokenizerFast:
    specials = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    return _fast(
        templated(byte_level(specials), "[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]"), unk_token="[UNK]",
        cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]", mask_token="[MASK]",
    )  # fmt: skip


def xlm_roberta() -> PreTrainedTokenizerFast:
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    tokenizer = unigram(unigram_pieces(specials, ["<mask>"]), "<unk>")
    return _fast(
        templated(tokenizer, "<s> $A </s>", "<s> $A </s> </s> $B </s>"), bos_token="<s>", eos_token="</s>",
        cls_token="<s>", sep_token="</s>", pad_token="<pad>", unk_token="<unk>", mask_token="<mask>",
    )  # fmt: skip


def end_of_text() -> PreTrainedTokenizerFast:
    """As GPT-2's: one token begins and ends a text, and none pads."""
    end = "<|endoftext|>"
    return _fast(byte_level([end]), bos_token=end, eos_token=end, unk_token=end)


def falcon() -> PreTrainedTokenizerFast:
    return _fast(byte_level([">>TITLE<<", "<|endoftext|>"]), eos_token="<|endoftext|>")


def llama_like(**names: str) -> PreTrainedTokenizerFast:
    specials = dict.fromkeys(["<unk>", "<s>", "</s>", *names.values()])
    tokenizer = templated(byte_fallback([*specials], prefix_space=True), "<s> $A", "<s> $A <s> $B")
    return _fast(tokenizer, **{"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", **names})


def phi3() -> PreTrainedTokenizerFast:
    return llama_like(eos_token="<|endoftext|>", pad_token="<|endoftext|>")


def code_llama() -> CodeLlamaTokenizer:
    """With `<FILL_ME>`, which the class adds behind what the model embeds."""
    vocabulary, merges = bpe_pieces(["<unk>", "<s>", "</s>", "▁<PRE>", "▁<MID>", "▁<SUF>", "▁<EOT>", *BYTES])
    return CodeLlamaTokenizer(vocab=vocabulary, merges=merges, model_max_length=CONTEXT)


def qwen() -> Qwen2Tokenizer:
    trained = byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    model = json.loads(trained.to_str())["model"]
    return Qwen2Tokenizer(
        vocab=model["vocab"], merges=[tuple(pair) for pair in model["merges"]], model_max_length=CONTEXT,
        eos_token="<|im_end|>", extra_special_tokens=["<|im_start|>", "<|im_end|>"], chat_template=CHAT,
    )  # fmt: skip


def gemma() -> PreTrainedTokenizerFast:
    tokenizer = byte_fallback(["<pad>", "<eos>", "<bos>", "<unk>"], prefix_space=False)
    return _fast(
        templated(tokenizer, "<bos> $A", "<bos> $A <bos> $B"), bos_token="<bos>", eos_token="<eos>",
        unk_token="<unk>", pad_token="<pad>", padding_side="left",
    )  # fmt: skip


def deepseek() -> PreTrainedTokenizerFast:
    begin, end = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
    tokenizer = templated(byte_level([begin, end]), f"{begin} $A", f"{begin} $A {begin} $B")
    return _fast(tokenizer, bos_token=begin, eos_token=end, pad_token=end)


def bloom() -> PreTrainedTokenizerFast:
    return _fast(
        byte_level(["<unk>", "<s>", "</s>", "<pad>"]), bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        pad_token="<pad>", padding_side="left",
    )  # fmt: skip


def t5_like(*, fallback: bool) -> PreTrainedTokenizerFast:
    sentinels = [f"<extra_id_{number}>" for number in reversed(range(10))]
    pieces = unigram_pieces(["<pad>", "</s>", "<unk>"], sentinels, fallback=fallback)
    tokenizer = templated(unigram(pieces, "<unk>", fallback=fallback), "$A </s>", "$A </s> $B </s>")
    return _fast(
        tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", extra_special_tokens=sentinels,
    )  # fmt: skip


def mbart() -> MBartTokenizer:
    pieces = unigram_pieces(["<s>", "<pad>", "</s>", "<unk>"])
    return MBartTokenizer(vocab=pieces, src_lang="en_XX", tgt_lang="de_DE", model_max_length=CONTEXT)


def mbart50() -> MBart50Tokenizer:
    """The language before the text instead of behind it. The class takes pieces in SentencePiece's order."""
    pieces = unigram_pieces(["<unk>", "<s>", "</s>"])
    return MBart50Tokenizer(vocab=pieces, src_lang="en_XX", tgt_lang="de_DE", model_max_length=CONTEXT)


def nllb() -> NllbTokenizer:
    languages = ["eng_Latn", "deu_Latn", "fra_Latn", "rus_Cyrl", "zho_Hans", "arb_Arab"]
    vocabulary, merges = bpe_pieces(["<s>", "<pad>", "</s>", "<unk>"])
    return NllbTokenizer(
        vocab=vocabulary, merges=merges, extra_special_tokens=languages, src_lang="eng_Latn", tgt_lang="deu_Latn",
        model_max_length=CONTEXT,
    )  # fmt: skip


def m2m100() -> PreTrainedTokenizerFast:
    """The real class is slow; this holds the same tokens and writes the source's language before a text."""
    languages = [f"__{language}__" for language in LANGUAGES]
    tokenizer = unigram(unigram_pieces(["<s>", "<pad>", "</s>", "<unk>"], languages), "<unk>")
    return _fast(
        templated(tokenizer, "__en__ $A </s>", "__en__ $A $B </s>"), bos_token="<s>", eos_token="</s>",
        sep_token="</s>", pad_token="<pad>", unk_token="<unk>", extra_special_tokens=languages,
    )  # fmt: skip


def pegasus() -> PreTrainedTokenizerFast:
    masks = ["<mask_1>", "<mask_2>"]
    tokenizer = unigram(unigram_pieces(["<pad>", "</s>", *masks, "<unk>"]), "<unk>")
    return _fast(
        templated(tokenizer, "$A </s>", "$A $B </s>"), pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        mask_token="<mask_2>", extra_special_tokens=["<mask_1>"],
    )  # fmt: skip
