"""Bases whose blocks are held in few bits: which layers are, and the plain layers that they stand for."""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.integrations.bitsandbytes import dequantize_bnb_weight
from transformers.pytorch_utils import Conv1D

KINDS = ("Linear4bit", "Linear8bitLt")
"""The layers of bitsandbytes, which need not be installed."""


def is_quantised(model: nn.Module) -> bool:
    """Whether some layers are held in few bits."""
    return any(type(module).__name__ in KINDS for module in model.modules())


@torch.no_grad()
def dequantised(model: PreTrainedModel) -> PreTrainedModel:
    """The model with plain layers in float32 that hold what the few bits stand for. The input is used up."""
    for name, layer in list(model.named_modules()):
        if type(layer).__name__ in KINDS:
            model.set_submodule(name, _plain(layer))
    whole: Any = model
    del whole.config.quantization_config
    whole.is_quantized = whole.is_loaded_in_4bit = whole.is_loaded_in_8bit = False
    whole.hf_quantizer = None
    return model


def _plain(layer: Any) -> nn.Module:
    weight = dequantize_bnb_weight(layer.weight, getattr(layer, "state", None)).to(torch.float32)
    with torch.device("meta"):
        made: Any = (
            Conv1D(layer.out_features, layer.in_features)  # type: ignore[no-untyped-call]
            if layer.source_cls is Conv1D
            else nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
        )
    made.weight = nn.Parameter(weight.T.contiguous() if layer.source_cls is Conv1D else weight)
    made.bias = None if layer.bias is None else nn.Parameter(layer.bias.to(torch.float32))
    return made  # type: ignore[no-any-return]
