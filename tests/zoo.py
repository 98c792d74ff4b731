"""More families than `tiny` has, as tiny random models from their real configuration classes."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    BertConfig,
    BloomConfig,
    DebertaV2Config,
    DeepseekV2Config,
    DeepseekV3Config,
    ElectraConfig,
    FalconConfig,
    Gemma2Config,
    GemmaConfig,
    GPTNeoXConfig,
    LlamaConfig,
    M2M100Config,
    MBartConfig,
    MistralConfig,
    ModernBertConfig,
    MT5Config,
    PegasusConfig,
    Phi3Config,
    PhiConfig,
    PretrainedConfig,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen3Config,
    T5Config,
    XLMRobertaConfig,
)

from zoo_tokenizers import (
    CONTEXT,
    bert_like,
    bloom,
    code_llama,
    deberta,
    deepseek,
    end_of_text,
    falcon,
    gemma,
    llama_like,
    m2m100,
    mbart,
    mbart50,
    minilm,
    modernbert,
    nllb,
    pegasus,
    phi3,
    qwen,
    t5_like,
    xlm_roberta,
)

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": CONTEXT,
}
ENCODER = {**SIZES, "initializer_range": 0.2}
DECODER = {**SIZES, "initializer_range": 0.1}
GROUPED = {**DECODER, "num_key_value_heads": 1}
FALCON = {name: size for name, size in DECODER.items() if name != "intermediate_size"}
EXPERTS = {
    **DECODER,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
    "num_key_value_heads": 2,
}
T5 = {
    "d_model": 32,
    "d_kv": 16,
    "num_layers": 2,
    "num_heads": 2,
    "d_ff": 48,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
    "decoder_start_token_id": 0,
}
BART = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": CONTEXT,
    "init_std": 0.1,
    "scale_embedding": True,
}


@dataclass(frozen=True)
class Kind:
    """config: without what the tokenizer decides. saved_as: the Auto class of what the hub's files hold."""

    config: PretrainedConfig
    tokenizer: Callable[[], PreTrainedTokenizerBase]
    saved_as: str = "AutoModelForCausalLM"
    starts_with: str | None = None
    """The token with which a decoder behind an encoder starts, where the configuration does not say."""
    spare: int = 0
    """How many tokens of the tokenizer the model does not embed."""
    untied: bool = False
    """Whether the head over the vocabulary has weights of its own although the configuration's class ties them."""


ZOO = {
    "electra": Kind(ElectraConfig(**ENCODER, embedding_size=16), bert_like, "AutoModelForPreTraining"),
    "deberta-v3": Kind(
        DebertaV2Config(
            **ENCODER,
            relative_attention=True,
            position_buckets=8,
            norm_rel_ebd="layer_norm",
            share_att_key=True,
            pos_att_type=["p2c", "c2p"],
            position_biased_input=False,
        ),
        deberta,
        "AutoModelForMaskedLM",
    ),
    "modernbert": Kind(ModernBertConfig(**ENCODER, local_attention=16), modernbert, "AutoModelForMaskedLM"),
    "mbert": Kind(BertConfig(**ENCODER), partial(bert_like, cased=True), "AutoModelForMaskedLM"),
    "xlm-r": Kind(
        XLMRobertaConfig(**{**ENCODER, "max_position_embeddings": CONTEXT + 2}, type_vocab_size=1),
        xlm_roberta,
        "AutoModelForMaskedLM",
    ),
    "minilm": Kind(BertConfig(**ENCODER), minilm, "AutoModel"),
    "gpt-neox": Kind(GPTNeoXConfig(**DECODER), end_of_text),
    "codellama": Kind(LlamaConfig(**GROUPED), code_llama, spare=1),
    "mistral": Kind(MistralConfig(**GROUPED, sliding_window=16), llama_like),
    "qwen2": Kind(Qwen2Config(**GROUPED, tie_word_embeddings=True), qwen),
    "qwen3": Kind(Qwen3Config(**GROUPED, head_dim=16, tie_word_embeddings=True), qwen),
    "gemma": Kind(GemmaConfig(**GROUPED, head_dim=16), gemma),
    "gemma2": Kind(Gemma2Config(**GROUPED, head_dim=16, query_pre_attn_scalar=16, sliding_window=16), gemma),
    "phi": Kind(PhiConfig(**DECODER, partial_rotary_factor=0.5), end_of_text),
    "phi3": Kind(Phi3Config(**DECODER, original_max_position_embeddings=CONTEXT, eos_token_id=2, pad_token_id=2), phi3),
    "deepseek-v2": Kind(DeepseekV2Config(**EXPERTS, q_lora_rank=None), deepseek),
    "deepseek-v3": Kind(DeepseekV3Config(**EXPERTS, q_lora_rank=16, n_group=2, topk_group=1), deepseek),
    "falcon": Kind(FalconConfig(**FALCON), falcon),
    "falcon-rw": Kind(FalconConfig(**FALCON, alibi=True, multi_query=False, parallel_attn=False, bias=True), falcon),
    "bloom": Kind(BloomConfig(hidden_size=32, n_layer=2, n_head=2, initializer_range=0.1, seq_length=CONTEXT), bloom),
    "mt5": Kind(MT5Config(**T5), partial(t5_like, fallback=True), "AutoModelForSeq2SeqLM", untied=True),
    "flan": Kind(
        T5Config(**T5, n_positions=CONTEXT), partial(t5_like, fallback=False), "AutoModelForSeq2SeqLM", untied=True
    ),
    "mbart": Kind(MBartConfig(**BART), mbart, "AutoModelForSeq2SeqLM", starts_with="de_DE"),
    "mbart50": Kind(MBartConfig(**BART), mbart50, "AutoModelForSeq2SeqLM", starts_with="</s>"),
    "m2m100": Kind(M2M100Config(**BART), m2m100, "AutoModelForSeq2SeqLM", starts_with="</s>"),
    "nllb": Kind(M2M100Config(**BART), nllb, "AutoModelForSeq2SeqLM", starts_with="</s>"),
    "pegasus": Kind(PegasusConfig(**BART), pegasus, "AutoModelForSeq2SeqLM", starts_with="<pad>"),
}
CONFIGURATIONS = {name: kind.config for name, kind in ZOO.items()}
DECODERS = tuple(name for name, kind in ZOO.items() if kind.saved_as == "AutoModelForCausalLM")


def zoo_folder(name: str, folder: Path) -> Path:
    """A folder that holds the tiny model `name` and its tokenizer, as a hub would give it."""
    kind = ZOO[name]
    tokenizer = kind.tokenizer()
    config = copy.deepcopy(kind.config)
    config.vocab_size = len(tokenizer) - kind.spare
    for key in ("bos_token_id", "eos_token_id", "pad_token_id", "cls_token_id", "sep_token_id"):
        if hasattr(config, key):
            setattr(config, key, getattr(tokenizer, key))
    if kind.starts_with is not None:
        config.decoder_start_token_id = tokenizer.convert_tokens_to_ids(kind.starts_with)
        config.forced_eos_token_id = None
    torch.manual_seed(7)
    model = getattr(transformers, kind.saved_as).from_config(config)
    if kind.untied:
        model.lm_head.weight = torch.nn.Parameter(0.2 * torch.randn(config.vocab_size, config.hidden_size))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
