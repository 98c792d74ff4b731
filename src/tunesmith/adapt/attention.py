"""Attention with keys and values before those of the tokens, through the attention interface of `transformers`."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout as dropped
from torch.nn.functional import pad
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from tunesmith.quiet import quiet

PREFIXED, WATCHED = "tunesmith_prefixed", "tunesmith_watched"
PLACE = "prefix"
"""Where an attention module keeps its `Prefixed`."""


class Prefixed:
    """The keys and values [1, heads, P, D / heads] that stand before the tokens' in one attention module; None: none.

    They are made anew in each forward pass, and a copy of the model begins without.
    """

    def __init__(self) -> None:
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "Prefixed":
        memo[id(self)] = copied = Prefixed()
        return copied


@dataclass(frozen=True)
class Attention:
    """One attention module as a forward pass met it, with the keys and values that it was given.

    keys, values: [B, heads, T, D / heads].
    """

    module: nn.Module
    causal: bool
    keys: Tensor
    values: Tensor


def attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **more: Any
) -> tuple[Tensor, Tensor | None]:
    """Attention over the module's prefix and the tokens; a prefix is seen from everywhere."""
    prefix: Prefixed | None = getattr(module, PLACE, None)
    if prefix is not None and prefix.keys is not None and prefix.values is not None:
        count = prefix.keys.shape[2]
        key, value = (
            torch.cat([own.to(given.dtype).expand(len(given), -1, -1, -1), given], dim=2)
            for own, given in ((prefix.keys, key), (prefix.values, value))
        )
        if attention_mask is not None:
            seen = 1.0 if attention_mask.dtype == torch.bool else 0.0
            attention_mask = pad(attention_mask, (count, 0), value=seen)
        if more.get("position_bias") is not None:
            more["position_bias"] = pad(more["position_bias"], (count, 0))
    if more.get("softcap") is not None:
        return _capped(module, query, key, value, attention_mask, **more), None
    more["is_causal"] = False  # the mask says it, since the first key is not where the first query is
    return sdpa_attention_forward(module, query, key, value, attention_mask, **more)


def _capped(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    softcap: float,
    scaling: float,
    dropout: float = 0.0,
    **_: Any,
) -> Tensor:
    """Attention whose scores are kept within ±softcap (arXiv:2408.00118, section 2)."""
    groups = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    scores = torch.tanh(query @ key.transpose(2, 3) * scaling / softcap) * softcap
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    elif mask is not None:
        scores = scores + mask
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    return (dropped(weights, dropout, module.training) @ value).transpose(1, 2).contiguous()


def attentions(model: PreTrainedModel, ids: Tensor) -> list[Attention]:
    """The attention modules in the order in which tokens [1, T] pass them; none for models with attention of their own.

    Encoder-decoders get the tokens on both sides. Weights on the meta device will do, as far as the pass gets then.
    """
    seen: list[Attention] = []

    def watched(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **more: Any
    ) -> tuple[Tensor, Tensor | None]:
        causal = bool(getattr(module, "is_causal", False)) and not model.config.is_encoder_decoder
        seen.append(Attention(module, causal, key.detach(), value.detach()))
        if query.is_meta:
            return query.new_zeros(len(query), query.shape[2], query.shape[1], value.shape[-1]), None
        return attend(module, query, key, value, mask, **more)

    backbone: Any = model.base_model
    before, was_training = model.config._attn_implementation, model.training
    AttentionInterface.register(WATCHED, watched)
    AttentionMaskInterface.register(WATCHED, _no_mask if ids.is_meta else _mask)
    with quiet(), torch.no_grad():
        model.set_attn_implementation(WATCHED)
        if model.config._attn_implementation != WATCHED:
            return []
        more = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
        try:
            backbone.eval()(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **more)
        except (RuntimeError, TypeError):
            if not ids.is_meta:  # experts, for one, cannot be chosen without weights
                raise
        finally:
            model.set_attn_implementation(before)
            model.train(was_training)
    return seen


def _no_mask(*_: Any, **__: Any) -> None:
    return None


def _mask(*arguments: Any, **more: Any) -> Any:
    """Masks that are always there, so that columns can be put before them."""
    return sdpa_mask(*arguments, **{**more, "allow_is_causal_skip": False, "allow_is_bidirectional_skip": False})


AttentionInterface.register(PREFIXED, attend)
AttentionMaskInterface.register(PREFIXED, _mask)
