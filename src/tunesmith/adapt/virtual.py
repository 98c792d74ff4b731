"""Models that read trained vectors before each text: PEFT's prompts and prefixes, on every family and head.

The files are PEFT's. `load` puts one on its base; `peft.PeftModel.from_pretrained` does so too, and gives the same
outputs, where it serves the head (see `loads_plainly`).

Prompts are tokens beyond the vocabulary, whose embeddings are the trained vectors: so the model's own head finds the
last token or the end of the text as it is used to. Outputs for them are taken away again.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from peft.utils import PeftType
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from tunesmith.adapt.attention import PLACE, PREFIXED, Prefixed, attentions
from tunesmith.contracts import VOCABULARY_HEADS, Family
from tunesmith.quiet import quiet

PER_TOKEN = ("logits", "start_logits", "end_logits", "last_hidden_state")
"""Outputs that may have an entry a token."""


def loads_plainly(family: Family, auto_class: str, config: PretrainedConfig) -> bool:
    """Whether PEFT's own class gives the same outputs: of a model that writes, or an encoder that classifies rows.

    Pegasus is another exception: it scales embeddings of tokens, but not those that it is given.
    """
    if auto_class == "AutoModelForSequenceClassification":
        return family is Family.ENCODER
    return auto_class in VOCABULARY_HEADS and family is not Family.ENCODER and config.model_type != "pegasus"


class Virtual(PeftModel):
    """What prompts and prefixes have in common: they can be switched off, and take up positions of the model."""

    def __init__(self, model: PreTrainedModel, config: PeftConfig, adapter_name: str = "default", **more: Any) -> None:
        super().__init__(model, config, adapter_name, **more)
        self.on = True

    @property
    def count(self) -> int:
        """The number of vectors that a text is read behind."""
        config: Any = self.active_peft_config
        return int(config.num_virtual_tokens)

    @property
    def taken(self) -> int:
        """How many of the positions of the model's own texts are used up."""
        return 0

    def trained(self) -> Tensor:
        """The vectors, as they are kept in the file: [P, ...]."""
        config: Any = self.active_peft_config
        name = self.active_adapter
        encoder: Any = self.prompt_encoder[name]
        if config.inference_mode:
            return encoder.embedding.weight  # type: ignore[no-any-return]
        tokens: Tensor = self.prompt_tokens[name][: self.count].to(encoder.embedding.weight.device)
        return encoder(tokens[None])[0]  # type: ignore[no-any-return]

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """The base alone, while this is open."""
        was, self.on = self.on, False
        try:
            yield
        finally:
            self.on = was


class Prompted(Virtual):
    """A model that reads trained vectors as tokens before each text; of an encoder-decoder the encoder does."""

    def __init__(self, model: PreTrainedModel, config: PeftConfig, adapter_name: str = "default", **more: Any) -> None:
        super().__init__(model, config, adapter_name, **more)
        tables = word_embeddings(model)
        self.first = max(table.num_embeddings for table in tables)
        self.places: Tensor | None = None
        for table in tables:
            table.register_forward_pre_hook(self._hide)
            table.register_forward_hook(self._put)

    @property
    def taken(self) -> int:
        return self.count

    def _hide(self, table: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        ids: Tensor = arguments[0]
        self.places = ids - self.first if self.on and bool((ids >= self.first).any()) else None
        return (ids.masked_fill(ids >= self.first, 0), *arguments[1:])

    def _put(self, table: nn.Module, arguments: tuple[Any, ...], found: Tensor) -> Tensor:
        if self.places is None:
            return found
        vectors = self.trained()[self.places.clamp(min=0)].to(found.dtype)
        return torch.where((self.places >= 0)[..., None], vectors, found)

    def forward(self, **inputs: Any) -> Any:
        """As the base's, with the same shapes."""
        base: Any = self.get_base_model()
        if not self.on:
            return base(**inputs)
        laid, order = self._laid(inputs)
        found = base(**laid)
        places = order.argsort(dim=1)[:, self.count :]  # where the text's own tokens went
        two = base.config.is_encoder_decoder
        # The decoder of such a model reads the prompt too where it reads the text once more.
        twice = two and "decoder_input_ids" not in inputs
        for name in ("encoder_last_hidden_state",) if two else PER_TOKEN:
            values = getattr(found, name, None)
            if values is not None and values.shape[:2] == order.shape and (values.ndim > 2 or name != "logits"):
                found[name] = _picked(values, places)
        for name in ("hidden_states", "encoder_hidden_states", *(("decoder_hidden_states",) if twice else ())):
            if getattr(found, name, None) is not None:
                found[name] = tuple(_picked(values, places) for values in getattr(found, name))
        return found

    def _laid(self, inputs: Mapping[str, Any]) -> tuple[dict[str, Any], Tensor]:
        """The inputs with the prompt before the first token that is no padding, and how lines [B, P + T] were ordered.

        Tokens may be [B, T], or [B, C, T] of several choices a row.
        """
        *lead, length = inputs["input_ids"].shape
        ids, mask, types = (
            inputs[name].reshape(-1, length) if inputs.get(name) is not None else None
            for name in ("input_ids", "attention_mask", "token_type_ids")
        )
        assert ids is not None
        mask = torch.ones_like(ids) if mask is None else mask
        virtual = torch.arange(self.first, self.first + self.count, device=ids.device).expand(len(ids), -1)
        begun = (mask.cumsum(dim=1) > 0).long()
        order = torch.cat([torch.ones_like(virtual), 2 * begun], dim=1).argsort(dim=1, stable=True)

        def joined(before: Tensor, after: Tensor) -> Tensor:
            return torch.cat([before.to(after.dtype), after], dim=1).gather(1, order).reshape(*lead, -1)

        ones = torch.ones_like(virtual)
        laid = {**inputs, "input_ids": joined(virtual, ids), "attention_mask": joined(ones, mask)}
        if types is not None:
            laid["token_type_ids"] = joined(torch.zeros_like(virtual), types)
        if inputs.get("position_ids") is not None:
            laid["position_ids"] = (laid["attention_mask"].cumsum(dim=-1) - 1).clamp(min=0)
        return laid, order

    def generate(self, **inputs: Any) -> Any:
        """As the base's: of a decoder the prompt's tokens and behind them the new ones, of an encoder-decoder these."""
        base: Any = self.get_base_model()
        if not self.on:
            return base.generate(**inputs)
        ids = inputs["input_ids"]
        laid, _ = self._laid({name: inputs.pop(name) for name in ("input_ids", "attention_mask") if name in inputs})
        if base.config.is_encoder_decoder:
            return base.generate(**laid, **inputs)
        # What looks back on tokens (a penalty of repeating them) sees those of the text, and none of the prompt.
        embedded = base.get_input_embeddings()(laid["input_ids"])
        mask = laid["attention_mask"]
        return base.generate(input_ids=ids, inputs_embeds=embedded, attention_mask=mask, **inputs)


class WithPrefix(Virtual):
    """A model whose attention sees trained keys and values before those of each text."""

    def __init__(self, model: PreTrainedModel, config: PeftConfig, adapter_name: str = "default", **more: Any) -> None:
        super().__init__(model, config, adapter_name, **more)
        found = attentions(model, probe(model))
        self.shifts = all(one.causal for one in found)
        """Whether the text's positions begin behind the prefix, as where it is kept in a cache."""
        self.prefixes = [Prefixed() for _ in found]
        self.heads, self.width = found[0].keys.shape[1], found[0].keys.shape[3]
        for one, prefix in zip(found, self.prefixes, strict=True):
            setattr(one.module, PLACE, prefix)
        with quiet():
            model.set_attn_implementation(PREFIXED)
        model.register_forward_pre_hook(self._before, with_kwargs=True)

    @property
    def taken(self) -> int:
        return self.count if self.shifts else 0

    def _lay(self) -> None:
        """Puts the keys and values as they are now into the attention modules, or takes them away."""
        if not self.on:
            for prefix in self.prefixes:
                prefix.keys = prefix.values = None
            return
        # [P, modules, keys and values, heads, D / heads] as in PEFT's files, to a row of heads for each
        parts = self.trained().view(self.count, len(self.prefixes), 2, self.heads, self.width).permute(1, 2, 3, 0, 4)
        for prefix, (keys, values) in zip(self.prefixes, parts, strict=True):
            prefix.keys, prefix.values = keys[None], values[None]

    def _before(
        self, model: nn.Module, arguments: tuple[Any, ...], inputs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Makes the keys and values of this pass, and moves the text's positions behind them."""
        self._lay()
        if self.on and self.shifts:
            positions = inputs.get("position_ids")
            if positions is None:
                cache = inputs.get("past_key_values")
                start = int(cache.get_seq_length()) if cache is not None else 0
                ids = inputs["input_ids"]
                positions = torch.arange(start, start + ids.shape[1], device=ids.device).expand(len(ids), -1)
            inputs = {**inputs, "position_ids": positions + self.count}
        return arguments, inputs

    def forward(self, **inputs: Any) -> Any:
        """As the base's."""
        return self.get_base_model()(**inputs)

    def generate(self, **inputs: Any) -> Any:
        """As the base's."""
        self._lay()  # an encoder is called before the model itself is
        base: Any = self.get_base_model()
        return base.generate(**inputs)


def load(model: PreTrainedModel, folder: Path | str) -> Virtual:
    """The base `model` with the prompt or prefix that lies in `folder`, as `PeftModel.save_pretrained` wrote it."""
    config = PeftConfig.from_pretrained(str(folder))
    kind = WithPrefix if config.peft_type == PeftType.PREFIX_TUNING else Prompted
    of_task, config.task_type = config.task_type, None  # or PEFT would take a class of its own
    loaded: Virtual = kind.from_pretrained(model, str(folder), config=config)  # type: ignore[assignment]
    loaded.active_peft_config.task_type = of_task  # by which PEFT chooses its own, where this is saved again
    return loaded


def word_embeddings(model: PreTrainedModel) -> list[nn.Embedding]:
    """The modules that turn tokens into vectors; the sides of an encoder-decoder have one each."""
    weight: Any = model.get_input_embeddings().weight
    return [module for module in model.modules() if isinstance(module, nn.Embedding) and module.weight is weight]


def probe(model: PreTrainedModel) -> Tensor:
    """A few tokens that any model of this kind can read."""
    weight: Any = model.get_input_embeddings().weight
    return torch.zeros(1, 2, dtype=torch.long, device=weight.device)


def _picked(values: Tensor, places: Tensor) -> Tensor:
    """The entries at the places [B, T] of each row's [B, P + T, ...]."""
    index = places.reshape(*places.shape, *(1,) * (values.ndim - 2)).expand(*places.shape, *values.shape[2:])
    return values.gather(1, index)
