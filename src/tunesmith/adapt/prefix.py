"""Prefix tuning: trained keys and values before those of each text, in every attention (arXiv:2101.00190), with PEFT's
encoder and files.

As in the paper (section 4), an encoder-decoder has a prefix in the attention of its encoder, of its decoder, and of its
decoder over the encoder. Of a decoder the file is one that PEFT loads.
"""

from typing import Any, ClassVar, Literal, Self

import torch
from peft import PrefixTuningConfig
from pydantic import Field, model_validator
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from tunesmith.adapt.attention import Attention, attentions
from tunesmith.adapt.prompt import VirtualMethod, ids_of
from tunesmith.adapt.virtual import Virtual, WithPrefix, probe
from tunesmith.contracts import Codec, Family
from tunesmith.errors import UserError


class Prefix(VirtualMethod):
    """Trained keys and values in every attention."""

    learning_rate: ClassVar[float] = 1e-2

    init: Literal["activations", "random"] = Field(
        "activations",
        description="What the prefix begins as. activations: the keys and values of real tokens (section 7.4). "
        "random: as PEFT draws them.",
    )
    text: str | None = Field(None, description="The text of these tokens; None: tokens drawn at random.")
    projection: bool = Field(
        False, description="Let a network make the prefix, which is left out afterwards (section 4.3); begins random."
    )
    width: int = Field(128, ge=1, description="Width inside that network.")

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if self.text is not None and (self.projection or self.init == "random"):
            raise ValueError("text is what activations are taken of; leave out projection and init: random")
        if self.width != 128 and not self.projection:
            raise ValueError("width is that of the network; write projection: true")
        return self

    def positions(self, family: Family) -> int:
        return self.tokens if family is Family.DECODER else 0

    def loads_plainly(self, family: Family, auto_class: str, config: PretrainedConfig) -> bool:
        windows = "sliding_attention" in (getattr(config, "layer_types", None) or ()) or config.model_type == "mistral"
        # PEFT's prefix leaves the window with the first tokens, ours stays in sight.
        return family is Family.DECODER and not windows and super().loads_plainly(family, auto_class, config)

    def check(self, model: PreTrainedModel, family: Family, auto_class: str) -> None:
        _checked(model, attentions(model, probe(model)))

    def begin(self, model: PreTrainedModel, codec: Codec, common: dict[str, Any]) -> Virtual:
        if any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
            raise UserError("train.gradient_checkpointing", "does not go with prefixes", "leave one of them out")
        ids = self._ids(model, codec)
        found = _checked(model, attentions(model, ids))
        heads, width = found[0].keys.shape[1], found[0].keys.shape[3]
        config = PrefixTuningConfig(
            **common,
            num_layers=len(found),
            num_attention_heads=heads,
            token_dim=heads * width,
            prefix_projection=self.projection,
            encoder_hidden_size=self.width,
        )
        tuned = WithPrefix(model, config)
        if self.init == "activations" and not self.projection:
            parts = torch.stack([torch.stack([one.keys[0], one.values[0]]) for one in found])  # [modules, 2, H, P, D/H]
            encoder: Any = tuned.prompt_encoder["default"]
            with torch.no_grad():
                encoder.embedding.weight.copy_(parts.permute(3, 0, 1, 2, 4).reshape(self.tokens, -1))
        return tuned

    def _ids(self, model: PreTrainedModel, codec: Codec) -> Tensor:
        """The tokens whose keys and values are begun with, [1, P]."""
        drawn = torch.randint(0, codec.config.get_text_config().vocab_size, (1, self.tokens)).to(model.device)
        if self.text is None:
            return drawn
        known = ids_of(self.text, codec)
        if not known:
            raise UserError("method.text", "holds no token that this model knows", "write some words")
        return drawn.new_tensor([(known * self.tokens)[: self.tokens]])


def _checked(model: PreTrainedModel, found: list[Attention]) -> list[Attention]:
    """The attention modules. Raises UserError where no prefix can be put."""
    name = type(model).__name__
    if not found:
        raise UserError("method", f"{name} has attention of its own, which takes no prefix", "use prompt, or lora")
    if len({tuple(part.shape[i] for i in (1, 3)) for one in found for part in (one.keys, one.values)}) > 1:
        raise UserError("method", f"keys and values of {name} differ in width", "use prompt, or lora")
    return found
