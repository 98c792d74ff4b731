"""Standard artefacts, written whole or not at all, and only when a fresh process gets the same answers from them."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from tunesmith import commit
from tunesmith.commit import NOTE
from tunesmith.contracts import Artifact
from tunesmith.deploy import EXPORTERS
from tunesmith.deploy.card import model_card
from tunesmith.deploy.parcel import Parcel
from tunesmith.deploy.parity import check_parity
from tunesmith.errors import CheckFailed, UserError
from tunesmith.quiet import quiet

FORMAT = 1
Writer = Callable[[Parcel, Path], None]


def export(kind: str, parcel: Parcel, target: Path, *, verify: bool = True) -> Artifact:
    """The artefact of this kind in `target`; what stood there before stays until the new one has proved itself.

    Exporting "safetensors" from an adapter method merges the adapter, and the model is used up.
    Raises CheckFailed when weights are not finite or a fresh process gets other outputs.
    """
    write: Writer = EXPORTERS.load(kind)
    parity = {}

    def fill(folder: Path) -> None:
        _refuse_broken(parcel.model)
        _furnish(parcel)
        write(parcel, folder)
        parcel.foundation.tokenizer.save_pretrained(folder)
        (folder / NOTE).write_text(json.dumps(_note(kind, parcel), indent=1, ensure_ascii=False) + "\n")
        (folder / "README.md").write_text(model_card(kind, parcel), encoding="utf-8")
        if verify:
            parity.update(check_parity(folder, kind, parcel))

    manifest = commit.commit_folder(target, fill, facts={"kind": kind}, replace=True)
    return Artifact(kind, target, sum(int(entry["size"]) for entry in manifest.files.values()), parity)


def _furnish(parcel: Parcel) -> None:
    """Lets the ends of replies and the chat template travel with the model."""
    codec = parcel.foundation.codec
    parcel.task.furnish(codec)
    decoding = parcel.task.decoding_for(codec)
    config: Any = parcel.model.generation_config if decoding is not None else None
    if decoding is not None and config is not None:
        config.eos_token_id = list(decoding.stop_ids)
        config.pad_token_id = codec.tokenizer.pad_token_id
        if decoding.forced is not None:
            config.forced_bos_token_id = decoding.forced


def write_full(parcel: Parcel, folder: Path) -> None:
    """A full model as `save_pretrained` writes it; adapters are merged into it."""
    merged = parcel.method.merge(copy.deepcopy(parcel.model) if parcel.shares else parcel.model)
    _refuse_broken(merged)
    with quiet():
        merged.save_pretrained(folder)


def write_adapter(parcel: Parcel, folder: Path) -> None:
    """An adapter and the task's head as PEFT writes them, with the configuration that the base is to be loaded with."""
    model = parcel.model
    if not isinstance(model, PeftModel):
        raise UserError("deploy.formats", "there is no adapter to write", "use safetensors")
    config = model.peft_config["default"]
    config.base_model_name_or_path = parcel.foundation.portable_name
    config.revision = parcel.foundation.card.revision
    parcel.method.save(model, folder)
    base = model.get_base_model()
    assert isinstance(base, PreTrainedModel)
    config_of_base = copy.deepcopy(base.config)
    if hasattr(config_of_base, "quantization_config"):  # which would be taken for what its file holds
        del config_of_base.quantization_config
    if parcel.foundation.grown:  # as the base's file has it; whoever loads it makes room for the new tokens
        config_of_base.get_text_config().vocab_size = parcel.foundation.config.get_text_config().vocab_size
    config_of_base.save_pretrained(folder)
    if base.can_generate() and base.generation_config is not None:
        base.generation_config.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT leaves an empty form


def _refuse_broken(model: nn.Module) -> None:
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckFailed(f"the weights {name} hold values that are not finite; nothing was exported")


def _note(kind: str, parcel: Parcel) -> dict[str, object]:
    """What tunesmith itself needs to load the artefact again."""
    card = parcel.foundation.card
    return {
        "format": FORMAT,
        "kind": kind,
        "task": dict(parcel.task_spec),
        "family": str(card.family),
        "auto_class": parcel.auto_class,
        "base": parcel.foundation.portable_name,
        "base_revision": card.revision,
        "base_sha256": card.weights_sha256,
        "max_tokens": parcel.max_tokens,
        **({"loader": parcel.method.loader} if kind == "adapter" and parcel.method.loader else {}),
        **({"quantised": parcel.quantised} if kind == "adapter" and parcel.quantised else {}),
        **({"vocabulary": parcel.foundation.embedded} if parcel.foundation.grown else {}),
        **({"merged": parcel.facts["merged"]} if "merged" in parcel.facts else {}),
    }
