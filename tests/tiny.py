"""Tiny random models of every family, from their real configuration classes, with tokenizers trained on the spot."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    BartConfig,
    BertConfig,
    DistilBertConfig,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    T5Config,
)

import zoo
from zoo_tokenizers import PRINTED, VOCABULARY, WORDS

CONFIGURATIONS: dict[str, PretrainedConfig] = {
    "bert": BertConfig(
        initializer_range=0.2,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=64,
    ),
    "roberta": RobertaConfig(
        initializer_range=0.2,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=66,
        type_vocab_size=1,
    ),
    "distilbert": DistilBertConfig(
        initializer_range=0.2, dim=32, n_layers=2, n_heads=2, hidden_dim=48, max_position_embeddings=64
    ),
    "gpt2": GPT2Config(initializer_range=0.1, n_embd=32, n_layer=2, n_head=2, n_inner=48, n_positions=64),
    "llama": LlamaConfig(
        initializer_range=0.1,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=48,
        max_position_embeddings=64,
    ),
    "t5": T5Config(
        d_model=32, d_kv=16, num_layers=2, num_decoder_layers=2, num_heads=2, d_ff=48, decoder_start_token_id=0
    ),
    "bart": BartConfig(
        init_std=0.2,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_position_embeddings=64,
    ),
}
CORE = tuple(CONFIGURATIONS)
"""The kinds on which every task and method is tested."""
ZOO: dict[str, PretrainedConfig] = {**CONFIGURATIONS, **zoo.CONFIGURATIONS}
"""Every kind that `model_folder` can make."""
DECODERS = ("gpt2", "llama", *zoo.DECODERS)


def model_folder(kind: str, folder: Path) -> Path:
    """A folder that holds a tiny `kind` model and its tokenizer, as a hub would give it."""
    if kind in zoo.ZOO:
        return zoo.zoo_folder(kind, folder)
    tokenizer = _tokenizer(kind)
    config = type(CONFIGURATIONS[kind]).from_dict(CONFIGURATIONS[kind].to_dict())
    config.vocab_size = len(tokenizer)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config, name, getattr(tokenizer, name))
    if kind == "bart":
        config.decoder_start_token_id = config.eos_token_id
        config.forced_eos_token_id = None
    torch.manual_seed(7)
    model = (AutoModelForCausalLM if kind in DECODERS else AutoModel).from_config(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer(kind: str) -> PreTrainedTokenizerFast:
    specials = {
        "bert": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
        "distilbert": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
        "roberta": ["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        "bart": ["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        "gpt2": ["<|endoftext|>"],
        "llama": ["<unk>", "<s>", "</s>"],
        "t5": ["<pad>", "</s>", "<unk>", *(f"<extra_id_{number}>" for number in range(10))],
    }[kind]
    texts = [" ".join([word] * count) for count, word in enumerate(WORDS, start=1)]  # no two words are as frequent
    if kind in ("bert", "distilbert"):
        pieces = [*specials, *PRINTED, *(f"##{sign}" for sign in PRINTED), *(word for word in WORDS if len(word) > 1)]
        vocabulary = {piece: number for number, piece in enumerate(pieces)}  # a trainer numbers them anew each time
        tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
        )  # fmt: skip
        return PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
            mask_token="[MASK]", model_max_length=64,
            model_input_names=["input_ids", *(["token_type_ids"] if kind == "bert" else []), "attention_mask"],
        )  # fmt: skip
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY + 256, special_tokens=specials, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(texts, trainer)
    templates = {
        "roberta": ("<s> $A </s>", "<s> $A </s> </s> $B </s>"),
        "bart": ("<s> $A </s>", "<s> $A </s> </s> $B </s>"),
        "llama": ("<s> $A", "<s> $A $B"),
        "t5": ("$A </s>", "$A </s> $B </s>"),
    }
    if kind in templates:
        single, pair = templates[kind]
        used = [(name, tokenizer.token_to_id(name)) for name in ("<s>", "</s>") if name in specials]
        tokenizer.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=used)
    names = {
        "gpt2": {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"},
        "llama": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
        "t5": {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"},
    }.get(
        kind,
        {
            "bos_token": "<s>",
            "eos_token": "</s>",
            "cls_token": "<s>",
            "sep_token": "</s>",
            "pad_token": "<pad>",
            "unk_token": "<unk>",
            "mask_token": "<mask>",
        },
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **names)
