"""Bases whose blocks are held in few bits, through bitsandbytes: 4-bit NormalFloat with double quantisation (QLoRA,
arXiv:2305.14314, section 3) and 8-bit integers (LLM.int8(), arXiv:2208.07339)."""

import logging
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from torch import nn
from transformers import BitsAndBytesConfig, PretrainedConfig
from transformers.pytorch_utils import Conv1D

from tunesmith.errors import UserError
from tunesmith.select.skeleton import skeleton

BITS: Mapping[str, Mapping[str, Any]] = {
    "nf4": {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": "float32",  # autocast lowers it where training is in less
    },
    "int8": {"load_in_8bit": True},
}
"""What `BitsAndBytesConfig` is told, by the recipe's word."""


def require_quantising() -> None:
    """Refuses where the library is missing. Raises UserError."""
    if find_spec("bitsandbytes") is None:
        raise UserError("model.quantise", "needs bitsandbytes", "pip install 'tunesmith[quantise]'")


def quantising(kind: str, config: PretrainedConfig, auto_class: str) -> dict[str, Any]:
    """The arguments of `BitsAndBytesConfig`, as JSON can hold them, for this class of model.

    Only linear layers in repeated blocks are held in few bits: neither embeddings, nor heads, nor output layers.
    """
    modules = skeleton(config, auto_class).named_modules()
    linear = [name for name, module in modules if isinstance(module, nn.Linear | Conv1D)]
    whole = [name for name in linear if not any(part.isdigit() for part in name.split("."))]
    return {**BITS[kind], "llm_int8_skip_modules": whole}


def quantised(kind: str | None, config: PretrainedConfig, auto_class: str) -> dict[str, Any]:
    """What `from_pretrained` is given besides; nothing for a model that is held as it is."""
    if kind is None:
        return {}
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it tells at each product of int8 what it rounds
    return {"quantization_config": BitsAndBytesConfig(**quantising(kind, config, auto_class))}  # type: ignore[no-untyped-call]
