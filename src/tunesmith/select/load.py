"""The weights of a foundation, with the head that a task asks for."""

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from tunesmith.contracts import Foundation
from tunesmith.errors import UserError
from tunesmith.quiet import quiet
from tunesmith.select.foundation import supported

BACKBONE = re.compile(r"\.\d+\.|embed")
"""Names of weights in repeated blocks and embeddings, which only pre-training gives."""


@dataclass(frozen=True)
class Loaded:
    """head: names of the modules that the task adds to the pre-trained model. notes: what was found out in loading."""

    model: PreTrainedModel
    head: tuple[str, ...]
    notes: tuple[str, ...]


def load_model(
    foundation: Foundation, auto_class: str, head: Mapping[str, Any], *, seed: int, dropout: float | None = None
) -> Loaded:
    """The model in float32 with the configuration that `head` asks for; what is new is drawn from `seed`.

    Raises UserError for weights that do not fit the configuration.
    """
    supported(foundation, auto_class)
    config = copy.deepcopy(foundation.config)
    config.update(dict(head))
    config.get_text_config().pad_token_id = config.pad_token_id = foundation.tokenizer.pad_token_id
    if dropout is not None:
        set_dropout(config, dropout)
    torch.manual_seed(seed)
    with quiet():
        try:
            model, found = getattr(transformers, auto_class).from_pretrained(
                foundation.folder,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise UserError(str(foundation.folder), str(error).splitlines()[0], "are the weights complete?") from error
    _require_backbone(model, found, foundation)
    return Loaded(model, _head(model, found["missing_keys"]), _notes(model, found))


def _require_backbone(model: PreTrainedModel, found: Mapping[str, Any], foundation: Foundation) -> None:
    """Refuses weights that leave blocks or embeddings of the pre-trained part to chance."""
    other = [key[0] if isinstance(key, tuple) else key for key in found["mismatched_keys"]]
    drawn = [key for key in (*found["missing_keys"], *other) if key.startswith(f"{model.base_model_prefix}.")]
    lost = sorted(key for key in drawn if BACKBONE.search(key))
    if lost:
        raise UserError(
            str(foundation.folder),
            f"its weights do not fit its config.json: {len(lost)} tensors are missing or of another size, "
            f"such as {lost[0]}",
            "are these the files of one model?",
        )


def set_dropout(config: PretrainedConfig, rate: float) -> None:
    """Sets every dropout rate of a configuration that is a number."""
    text = config.get_text_config()
    for part in {id(config): config, id(text): text}.values():
        for key, value in part.to_dict().items():
            if (
                ("dropout" in key or key.endswith("pdrop"))
                and isinstance(value, float | int)
                and not isinstance(value, bool)
            ):
                setattr(part, key, rate)


def _head(model: PreTrainedModel, missing: Sequence[str]) -> tuple[str, ...]:
    """The modules beside the backbone that have weights, and those inside it that the pre-trained file lacked."""
    backbone = model.base_model_prefix
    beside = [
        name
        for name, module in model.named_children()
        if name != backbone and next(module.parameters(), None) is not None
    ]
    inside = [key.rpartition(".")[0] for key in missing if key.startswith(f"{backbone}.")]
    return tuple(dict.fromkeys([*beside, *inside]))


def _notes(model: PreTrainedModel, found: Mapping[str, Any]) -> tuple[str, ...]:
    notes = []
    fresh = sorted({key.rpartition(".")[0] for key in found["missing_keys"]})
    if fresh:
        notes.append(f"new, drawn at random: {', '.join(fresh)}")
    other = sorted({key[0] if isinstance(key, tuple) else key for key in found["mismatched_keys"]})
    if other:
        notes.append(f"of another size in the pre-trained file, drawn anew: {', '.join(other)}")
    kept = {name for name, _ in model.named_parameters()}
    unread = [key for key in found["unexpected_keys"] if key not in kept]
    if unread:
        notes.append(
            f"in the pre-trained file but not used by this task: {len(unread)} tensors, such as {sorted(unread)[0]}"
        )
    return tuple(notes)


def parameter_counts(model: nn.Module) -> tuple[int, int]:
    """All parameters and those that move, each counted once."""
    total = sum(parameter.numel() for parameter in model.parameters())
    return total, sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
