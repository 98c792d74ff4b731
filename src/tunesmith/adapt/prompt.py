"""Prompts learned as vectors: prompt tuning (arXiv:2104.08691), p-tuning (arXiv:2103.10385), with PEFT's encoders."""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from peft import PeftConfig, PromptEncoderConfig, PromptTuningConfig
from pydantic import Field, model_validator
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from tunesmith.adapt.base import MethodOptions, save_adapter, task_type
from tunesmith.adapt.virtual import Prompted, Virtual, loads_plainly, word_embeddings
from tunesmith.contracts import VOCABULARY_HEADS, Adapted, Codec, Family
from tunesmith.errors import UserError
from tunesmith.quiet import quiet

UNNAMED = "LABEL_"
"""How `transformers` calls labels that have no names."""


class VirtualMethod(MethodOptions):
    """A method that trains vectors which a text is read behind, and no weight of the model."""

    merges: ClassVar[bool] = False
    starts_at_base: ClassVar[bool] = False
    loader: ClassVar[str] = "tunesmith.adapt.virtual:load"
    averages: ClassVar[bool] = True
    quantises: ClassVar[bool] = True

    tokens: int = Field(20, ge=1, description="Number of vectors before each text.")

    @abstractmethod
    def begin(self, model: PreTrainedModel, codec: Codec, common: dict[str, Any]) -> Virtual:
        """The model with vectors that have their first values. common: what each of PEFT's configurations takes."""

    def require_tokens(self, model: PreTrainedModel, family: Family) -> None:
        raise UserError("model.new_tokens", "this method cannot train rows of embeddings", "use method: lora")

    def loads_plainly(self, family: Family, auto_class: str, config: PretrainedConfig) -> bool:
        return loads_plainly(family, auto_class, config)

    def adapt(
        self, model: PreTrainedModel, codec: Codec, head: Sequence[str], seed: int, rows: Sequence[int] = ()
    ) -> Adapted:
        common = {
            "task_type": task_type(model),
            "modules_to_save": list(head),
            "num_virtual_tokens": self.tokens,
            "num_transformer_submodules": 1,
        }
        torch.manual_seed(seed)
        with quiet():
            tuned = self.begin(model, codec, common)
        trainable = tuple(name for name, parameter in tuned.named_parameters() if parameter.requires_grad)
        return Adapted(tuned, trainable, tuple(head), (f"{self.tokens} vectors before each text",))

    def save(self, model: nn.Module, folder: Path) -> None:
        save_adapter(model, folder)


class PromptMethod(VirtualMethod):
    """A method whose vectors stand where embeddings of tokens do."""

    def positions(self, family: Family) -> int:
        return self.tokens

    def check(self, model: PreTrainedModel, family: Family, auto_class: str) -> None:
        room = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        if room is not None and self.tokens >= int(room) // 2:
            found = f"{self.tokens} vectors leave too few of {room} positions to the text"
            raise UserError("method.tokens", found, f"at most {int(room) // 2 - 1}")

    def begin(self, model: PreTrainedModel, codec: Codec, common: dict[str, Any]) -> Virtual:
        common = {**common, "token_dim": word_embeddings(model)[0].embedding_dim}
        common |= {"num_layers": 1, "num_attention_heads": 1}  # which PEFT asks for and prompts do not use
        tuned = Prompted(model, self.configuration(common))
        first = self.first(model, codec)
        if first is not None:
            encoder: Any = tuned.prompt_encoder["default"]
            with torch.no_grad():
                encoder.embedding.weight.copy_(first)
        return tuned

    @abstractmethod
    def configuration(self, common: dict[str, Any]) -> PeftConfig:
        """What PEFT is told."""

    @abstractmethod
    def first(self, model: PreTrainedModel, codec: Codec) -> Tensor | None:
        """The vectors to begin with, [P, D]; None for PEFT's own."""


class Prompt(PromptMethod):
    """Trained vectors before the embeddings of each text (arXiv:2104.08691, section 2)."""

    learning_rate: ClassVar[float] = 3e-2

    init: Literal["vocabulary", "text", "labels", "random"] = Field(
        "vocabulary",
        description="What the vectors begin as. vocabulary: embeddings of tokens drawn at random. text: of `text`. "
        "labels: of the names of the labels, the others drawn. random: normal, as wide as embeddings are.",
    )
    text: str | None = Field(None, description="The text that `init: text` begins with, repeated as often as it fits.")

    @model_validator(mode="after")
    def _has_its_text(self) -> Self:
        if (self.init == "text") != (self.text is not None):
            raise ValueError("init: text and text belong together")
        return self

    def check(self, model: PreTrainedModel, family: Family, auto_class: str) -> None:
        super().check(model, family, auto_class)
        if self.init == "labels" and auto_class in VOCABULARY_HEADS:
            raise UserError("method.init", "this task has no labels to begin with", "use init: vocabulary, or text")

    def configuration(self, common: dict[str, Any]) -> PeftConfig:
        return PromptTuningConfig(**common)

    def first(self, model: PreTrainedModel, codec: Codec) -> Tensor | None:
        table = word_embeddings(model)[0]
        device = table.weight.device
        drawn = torch.randint(0, codec.config.get_text_config().vocab_size, (self.tokens,)).to(device)
        with torch.no_grad():
            if self.init == "random":
                known = table(drawn)
                normal: Tensor = torch.randn(self.tokens, table.embedding_dim, device=device)
                return normal * float(known.std()) + float(known.mean())
            begun: Tensor = table(self._ids(model, codec, drawn))
            return begun

    def _ids(self, model: PreTrainedModel, codec: Codec, drawn: Tensor) -> Tensor:
        """The tokens to begin with, [P]. drawn: as many at random."""
        if self.init == "text":
            found = ids_of(self.text or "", codec)
            if not found:
                raise UserError("method.text", "holds no token that this model knows", "write some words")
            return drawn.new_tensor((found * self.tokens)[: self.tokens])
        if self.init == "labels":
            names = [str(name) for name in (model.config.id2label or {}).values()]
            if not names or any(name.startswith(UNNAMED) for name in names):
                raise UserError("method.init", "the labels of this task have no names", "use init: vocabulary, or text")
            found = [token for name in names for token in ids_of(name, codec)][: self.tokens]
            return torch.cat([drawn.new_tensor(found), drawn[len(found) :]])
        return drawn


class PTuning(PromptMethod):
    """Trained vectors that a small network makes, which is left out afterwards (arXiv:2103.10385, section 3.2)."""

    learning_rate: ClassVar[float] = 3e-3

    encoder: Literal["mlp", "lstm"] = Field("mlp", description="The network that makes the vectors.")
    width: int = Field(128, ge=1, description="Width inside that network.")
    layers: int = Field(2, ge=1, description="Layers of an LSTM.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout between the layers of an LSTM.")

    @model_validator(mode="after")
    def _of_an_lstm(self) -> Self:
        if self.encoder == "mlp" and (self.layers != 2 or self.dropout):
            raise ValueError("layers and dropout are of encoder: lstm")
        if self.encoder == "lstm" and self.dropout and self.layers == 1:
            raise ValueError("dropout is between layers, and there is one")
        return self

    def configuration(self, common: dict[str, Any]) -> PeftConfig:
        more: dict[str, Any] = {"encoder_num_layers": self.layers, "encoder_dropout": self.dropout}
        return PromptEncoderConfig(
            **common,
            encoder_reparameterization_type=self.encoder.upper(),
            encoder_hidden_size=self.width,
            **(more if self.encoder == "lstm" else {}),
        )

    def first(self, model: PreTrainedModel, codec: Codec) -> Tensor | None:
        return None


def ids_of(text: str, codec: Codec) -> list[int]:
    """The tokens of a text alone."""
    return list(codec.tokenizer(text, add_special_tokens=False)["input_ids"])
