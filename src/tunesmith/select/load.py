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

from tunesmith.contracts import VOCABULARY_HEADS, Foundation
from tunesmith.errors import UserError
from tunesmith.quiet import quiet
from tunesmith.select.foundation import supported
from tunesmith.select.quantise import quantised

BACKBONE = re.compile(r"\.\d+\.|embed")
"""Names of weights in repeated blocks and embeddings, which only pre-training gives."""


@dataclass(frozen=True)
class Loaded:
    """head: names of the modules that the task adds to the pre-trained model. notes: what was found out in loading.
    knows: whether the output layer came with the model and means the task's labels."""

    model: PreTrainedModel
    head: tuple[str, ...]
    notes: tuple[str, ...]
    knows: bool = False


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
            model, found = _read(foundation, auto_class, config)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise UserError(str(foundation.folder), str(error).splitlines()[0], "are the weights complete?") from error
    _require_backbone(model, found, foundation)
    _require_finite(model, foundation)
    _grow(model, foundation)
    _let_padding_learn(model, foundation)
    new, (told, knows) = _head(model, found["missing_keys"], auto_class), _fit_labels(model, found, foundation, head)
    return Loaded(model, new, (*_notes(model, found), *told), knows)


def _fit_labels(
    model: PreTrainedModel, found: Mapping[str, Any], foundation: Foundation, head: Mapping[str, Any]
) -> tuple[tuple[str, ...], bool]:
    """Makes the output layer that came with the model mean the task's labels; what was done, to be told, and whether
    it knows them.

    Its rows are put into the order of the task's names. Where it was made for other names, or for numbers of a scale
    that is not known, it is drawn anew.
    """
    names = [str(name) for name in dict(head.get("id2label", {})).values()]
    layer = _output_layer(model, len(names)) if names else None
    if layer is None or f"{layer}.weight" in {*found["missing_keys"], *found["mismatched_keys"]}:
        return (), False
    labels: Mapping[Any, str] = foundation.config.id2label or {}
    held = [str(labels[place]) for place in sorted(labels)]
    numbers = "regression" in (head.get("problem_type"), foundation.config.problem_type)
    order = None if numbers else _order(held, names)
    output: Any = model.get_submodule(layer)
    if order is None:
        for parameter in output.parameters():
            parameter._is_hf_initialized = False
        model._init_weights(output)  # type: ignore[no-untyped-call]  # how its class draws it
        return (f"{layer} was made for {_some(held)}, and is drawn anew",), False
    with torch.no_grad():
        for parameter in output.parameters():
            parameter.copy_(parameter[order].clone())
    moved = "" if order == sorted(order) else ", put into the task's order"
    return (f"{layer} came with the model and knows the labels {_some(names)}{moved}",), True


def _output_layer(model: PreTrainedModel, labels: int) -> str | None:
    """The name of the last linear layer beside the pre-trained part, where it has a row for each label."""
    inside = f"{model.base_model_prefix}."
    layers = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not name.startswith(inside) and not re.search(r"\.\d+\.", name)
    ]
    last = model.get_submodule(layers[-1]) if layers else None
    return layers[-1] if isinstance(last, nn.Linear) and last.out_features == labels else None


def _order(held: Sequence[str], names: Sequence[str]) -> list[int] | None:
    """For each of the task's labels the row that stands for it; None where a name is not held."""
    known = {_plain(name): place for place, name in enumerate(held)}
    found = [known.get(_plain(name)) for name in names]
    rows = [place for place in found if place is not None]
    return rows if len(set(rows)) == len(names) == len(held) else None


def _plain(name: str) -> str:
    """The name as names are compared: in small letters, and a number for what `transformers` calls by its number."""
    return name.casefold().removeprefix("label_") if re.fullmatch(r"LABEL_\d+", name) else name.casefold()


def _some(names: Sequence[str]) -> str:
    """A few of the names."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _require_finite(model: PreTrainedModel, foundation: Foundation) -> None:
    """Refuses weights with values that are not numbers."""
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            found = f"its weights {name} hold values that are not finite"
            raise UserError(str(foundation.folder), found, "fetch the file again; nothing can be learned from these")


def _grow(model: PreTrainedModel, foundation: Foundation) -> None:
    """Gives each new token a row of the embeddings, and of the output layer: the mean of those that it stands for."""
    if not foundation.grown:
        return
    model.resize_token_embeddings(foundation.embedded, mean_resizing=False)
    given: Any = model.get_input_embeddings()
    made: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for table in [given] if made is None or made.weight is given.weight else [given, made]:
            for row, ids in foundation.grown.items():
                table.weight[row] = table.weight[list(ids)].mean(dim=0)


def _let_padding_learn(model: PreTrainedModel, foundation: Foundation) -> None:
    """Where padding has no token of its own, that token's embedding learns like any other (it may be the end token)."""
    tokenizer = foundation.tokenizer
    if tokenizer.pad_token_id in (tokenizer.eos_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id):
        for module in model.modules():
            if isinstance(module, nn.Embedding) and module.padding_idx == tokenizer.pad_token_id:
                module.padding_idx = None


def _read(foundation: Foundation, auto_class: str, config: PretrainedConfig) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The model, and the names of the weights that its file lacks, holds in another size or holds in vain.

    Llama's backbone is `model`, but `transformer` in its question answering class, which so finds nothing of it in the
    file: it is read by itself then. (`from_pretrained` can rename, but would save the model under the other name too.)
    """
    model, found = _from_file(foundation, auto_class, config)
    usual = transformers.MODEL_MAPPING.get(type(config), None)
    if getattr(usual, "base_model_prefix", model.base_model_prefix) == model.base_model_prefix:
        return model, found
    if _lost(model, found):
        backbone, inside = _from_file(foundation, "AutoModel", config)
        part: Any
        for part in backbone.modules():
            if getattr(part, "config", None) is not None:
                part.config = model.config
        setattr(model, model.base_model_prefix, backbone)
        prefix = f"{model.base_model_prefix}."
        for kind in ("missing_keys", "mismatched_keys"):
            beside = [key for key in found[kind] if not key.startswith(prefix)]
            found[kind] = [*beside, *(prefix + key for key in inside[kind])]
        found["unexpected_keys"] = inside["unexpected_keys"]
    return model, found


def _from_file(
    foundation: Foundation, auto_class: str, config: PretrainedConfig
) -> tuple[PreTrainedModel, dict[str, Any]]:
    model, found = getattr(transformers, auto_class).from_pretrained(
        foundation.folder,
        config=config,
        dtype=torch.float32,
        use_safetensors=True,
        local_files_only=True,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        **quantised(foundation.quantise, config, auto_class),
    )
    other = [key[0] if isinstance(key, tuple) else key for key in found["mismatched_keys"]]
    return model, {**found, "mismatched_keys": other}


def _require_backbone(model: PreTrainedModel, found: Mapping[str, Any], foundation: Foundation) -> None:
    """Refuses weights that leave blocks or embeddings of the pre-trained part to chance."""
    lost = _lost(model, found)
    if lost:
        raise UserError(
            str(foundation.folder),
            f"its weights do not fit its config.json: {len(lost)} tensors are missing or of another size, "
            f"such as {lost[0]}",
            "are these the files of one model?",
        )


def _lost(model: PreTrainedModel, found: Mapping[str, Any]) -> list[str]:
    prefix = f"{model.base_model_prefix}." if _has_backbone(model) else ""
    drawn = [*found["missing_keys"], *found["mismatched_keys"]]
    return sorted(key for key in drawn if key.startswith(prefix) and BACKBONE.search(key))


def _has_backbone(model: PreTrainedModel) -> bool:
    """Whether the pre-trained part is one module. Some classes (T5's with a decoder) hold its parts beside the head."""
    return model.base_model_prefix in dict(model.named_children())


def set_dropout(config: PretrainedConfig, rate: float) -> None:
    """Sets every dropout rate of a configuration that is a number. At rate 0 no whole layer is left out either."""
    text = config.get_text_config()
    for part in {id(config): config, id(text): text}.values():
        for key, value in part.to_dict().items():
            named = "dropout" in key or key.endswith("pdrop") or (rate == 0 and key.endswith("layerdrop"))
            if named and isinstance(value, float | int) and not isinstance(value, bool):
                setattr(part, key, rate)


def _head(model: PreTrainedModel, missing: Sequence[str], auto_class: str) -> tuple[str, ...]:
    """The modules beside the backbone that have weights, and those inside it that the pre-trained file lacked.

    A head over the vocabulary is part of the pre-trained model; only layers that its file lacks count, and never the
    one that shares its weights with the embeddings.
    """
    backbone = model.base_model_prefix
    if auto_class in VOCABULARY_HEADS:
        modules = {name: module for name, module in model.named_modules() if not any(module.children())}
        new = dict.fromkeys(key.rpartition(".")[0] for key in missing)
        return tuple(name for name in new if name in modules and modules[name] is not model.get_output_embeddings())  # type: ignore[no-untyped-call]
    if not _has_backbone(model):
        return tuple(dict.fromkeys(key.rpartition(".")[0] for key in missing))
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
    other = sorted(set(found["mismatched_keys"]))
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
    total = sum(_count(parameter) for parameter in model.parameters())
    return total, sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _count(parameter: nn.Parameter) -> int:
    """How many numbers a parameter stands for; of those of four bits a byte holds two."""
    packed = getattr(parameter, "quant_state", None)
    return parameter.numel() if packed is None else int(packed.shape.numel())
