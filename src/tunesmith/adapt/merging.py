"""Several adapters over one base made into one: sums of what LoRA changes, and averages of everything else.

A sum of products is not the product of sums: B1 A1 + B2 A2 is not (B1 + B2)(A1 + A2). So LoRA's changes are merged as
whole matrices, by PEFT's `add_weighted_adapter`: `cat` for a weighted sum, which is exact and of the summed ranks, and
its `svd` ways for all else, of which the nearest matrices of a given rank are kept. PEFT's ways without `svd` merge A
and B apart; they are not used.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from tunesmith.adapt.layers import sizes
from tunesmith.errors import UserError, nearest, shown
from tunesmith.quiet import quiet

How = Literal["linear", "ties", "dare_linear", "dare_ties", "magnitude_prune"]
HOWS: tuple[str, ...] = get_args(How)
"""linear: the weighted sum. ties: arXiv:2306.01708. dare_linear, dare_ties: arXiv:2311.03099. magnitude_prune: the
weighted sum of each change's largest entries."""
MEANS = ("ties", "dare_ties")
"""Those that divide by how many adapters agree in an entry's sign, so that weights of 1 give a mean."""
DRAWN = ("dare_linear", "dare_ties")
"""Those that leave out entries at random."""
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PLACE_OF_BASE = ("base_model_name_or_path", "revision", "peft_version", "inference_mode", "auto_mapping")
"""What a configuration says of where the base was, and not of the adapter."""
FACTORS = (".lora_A.", ".lora_B.")


@dataclass(frozen=True)
class Stored:
    """An adapter as its folder has it. name: what it is called in messages."""

    name: str
    config: PeftConfig
    tensors: Mapping[str, Tensor]

    @property
    def rank(self) -> int:
        """The largest rank of a LoRA's layers."""
        config: Any = self.config
        return int(max([config.r, *config.rank_pattern.values()]))


@dataclass(frozen=True)
class Mix:
    """How adapters become one. weights: one each. density: the share of entries that is kept, None for `linear`.

    rank: of a merged LoRA; None: the sum of the ranks, as far as the layers have as much. seed: of what is drawn.
    """

    weights: tuple[float, ...]
    how: str = "linear"
    density: float | None = None
    rank: int | None = None
    seed: int = 0

    @property
    def shares(self) -> tuple[float, ...]:
        """The weights divided by their sum: what everything is averaged with that is not a change of the base."""
        return tuple(weight / sum(self.weights) for weight in self.weights)


def mix(
    count: int,
    how: str = "linear",
    weights: Sequence[float] | None = None,
    *,
    density: float | None = None,
    rank: int | None = None,
    seed: int | None = None,
) -> Mix:
    """How so many adapters become one, with what is left out filled in. Raises UserError for what does not fit."""
    if how not in HOWS:
        raise UserError(f"--how {shown(how)}", "is not known", nearest(how, HOWS))
    if count < 2:
        raise UserError("merge", f"{count} adapter is nothing to merge", "name two or more")
    given = tuple(weights) if weights is not None else (1.0 if how in MEANS else 1.0 / count,) * count
    if len(given) != count:
        raise UserError("--weights", f"holds {len(given)} numbers for {count} adapters", "give one each")
    if not all(torch.isfinite(torch.tensor(given)).tolist()) or sum(given) <= 0:
        raise UserError("--weights", "must be finite and have a sum above 0", "heads are averaged by their shares")
    if how == "linear" and density is not None:
        raise UserError("--density", "linear keeps every entry", "leave it out, or choose another --how")
    if density is not None and not 0 < density <= 1:
        raise UserError("--density", f"{density:g} is no share", "give a number above 0, up to 1")
    if how not in DRAWN and seed is not None:
        raise UserError("--seed", f"{how} draws nothing", f"leave it out, or choose {' or '.join(DRAWN)}")
    if rank is not None and rank < 1:
        raise UserError("--rank", f"{rank} is no rank", "give 1 or more")
    kept = density if density is not None or how == "linear" else 0.5
    return Mix(given, how, kept, rank, seed or 0)


def read(folder: Path, name: str) -> Stored:
    """The adapter in a folder."""
    with quiet():
        config = PeftConfig.from_pretrained(str(folder))
    return Stored(name, config, load_file(folder / WEIGHTS))


def write(adapter: Stored, folder: Path) -> None:
    """Writes an adapter as PEFT does."""
    adapter.config.save_pretrained(str(folder))
    held = {name: tensor.contiguous() for name, tensor in adapter.tensors.items()}
    save_file(held, folder / WEIGHTS, metadata={"format": "pt"})


def require_values(adapters: Sequence[Stored], wanted: Mix) -> None:
    """Refuses adapters whose parameters cannot be averaged one by one. Raises UserError."""
    if wanted.how != "linear" or wanted.rank is not None:
        what = f"--how {wanted.how}" if wanted.how != "linear" else "--rank"
        found = "is for changes of the base's weights, which only LoRA's adapters are"
        raise UserError(what, found, "leave it out: these are averaged")
    first = adapters[0]
    for other in adapters[1:]:
        require_fields(first, other, ())
        if {k: t.shape for k, t in first.tensors.items()} != {k: t.shape for k, t in other.tensors.items()}:
            raise UserError(other.name, f"holds tensors of other names or sizes than {first.name}", "merge like ones")


def require_fields(first: Stored, other: Stored, free: Sequence[str]) -> None:
    """Refuses an adapter whose configuration differs from the first's in more than the fields `free`."""
    if type(first.config) is not type(other.config):
        found = f"is {_kind(other)}, and {first.name} is {_kind(first)}"
        raise UserError(other.name, found, "merge adapters of one method")
    for field in fields(first.config):
        if field.name in (*PLACE_OF_BASE, *free):
            continue
        ours, theirs = getattr(first.config, field.name), getattr(other.config, field.name)
        if _plain(ours) != _plain(theirs):
            found = f"has {field.name} {shown(_plain(theirs))}, and {first.name} has {shown(_plain(ours))}"
            raise UserError(other.name, found, "merge adapters that are built alike")


def _kind(adapter: Stored) -> str:
    return str(getattr(adapter.config.peft_type, "value", adapter.config.peft_type))


def _plain(value: Any) -> Any:
    """The value as values are compared: of names, PEFT may write one twice when an adapter is saved again."""
    return sorted(set(value)) if isinstance(value, set | list | tuple) else value


def averaged(
    adapters: Sequence[Stored], shares: Sequence[float], names: Sequence[str] | None = None
) -> dict[str, Tensor]:
    """The weighted averages of the tensors, in their own type. names: of those that are wanted; None: all."""
    found = {}
    for name in adapters[0].tensors if names is None else names:
        parts = [share * one.tensors[name].double() for share, one in zip(shares, adapters, strict=True)]
        found[name] = torch.stack(parts).sum(dim=0).to(adapters[0].tensors[name].dtype)
    return found


LORA_FREE = (
    "r",
    "lora_alpha",
    "lora_dropout",
    "target_modules",
    "rank_pattern",
    "alpha_pattern",
    "use_rslora",
    "init_lora_weights",
)
"""In what LoRAs that are merged may differ."""


def require_changes(adapters: Sequence[Stored], wanted: Mix) -> None:
    """Refuses LoRAs that cannot be merged. Raises UserError."""
    first = adapters[0]
    for one in adapters:
        config: Any = one.config
        if isinstance(config, LoraConfig) and config.use_dora:
            found = "is a DoRA, which sets the size of each weight column anew; such changes cannot be added"
            raise UserError(one.name, found, "export it as safetensors, or train without dora")
        require_fields(first, one, LORA_FREE)
        if {k: t.shape for k, t in _whole(first).items()} != {k: t.shape for k, t in _whole(one).items()}:
            raise UserError(one.name, f"trained other whole layers than {first.name}", "merge like ones")


def _whole(adapter: Stored) -> dict[str, Tensor]:
    """What is not a factor of a change: heads, and rows of new tokens."""
    return {name: tensor for name, tensor in adapter.tensors.items() if not any(part in name for part in FACTORS)}


def merged_changes(base: PreTrainedModel, adapters: Sequence[Stored], wanted: Mix) -> Stored:
    """LoRAs as one: what they change is merged as `wanted` says, heads and rows of new tokens are averaged.

    base: any model of this build; its values are not used, and it is used up. With `linear` and no rank the change is
    the weighted sum exactly. Weights multiply changes as they are, and are shares in averages.
    """
    names = [f"input_{number}" for number in range(len(adapters))]  # PEFT finds a bare number in layers' names, too
    model = side_by_side(base, adapters, names)
    tuner: Any = model.base_model
    rank = _rank(tuner, adapters, wanted)
    exact = wanted.how == "linear" and wanted.rank is None
    way = "cat" if exact else "svd" if wanted.how == "linear" else f"{wanted.how}_svd"
    tuner.peft_config[names[0]].use_rslora = False  # the inputs' scales are set by now, and that of the result is 1
    with quiet(), warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", message="The density 1")  # it keeps all, as it is asked to
        torch.manual_seed(wanted.seed)
        tuner.add_weighted_adapter(
            names,
            list(wanted.weights),
            "merged",
            combination_type=way,
            svd_rank=None if exact else rank,
            svd_full_matrices=False,
            density=wanted.density,
        )
    factors = get_peft_model_state_dict(model, adapter_name="merged", save_embedding_layers=False)
    first: Any = adapters[0].config
    targets = {str(getattr(one.config, "target_modules", None)) for one in adapters}
    kept: dict[str, Any] = {name: getattr(first, name) for name in ("modules_to_save", "trainable_token_indices")}
    if len(targets) == 1:
        kept["target_modules"] = first.target_modules
    config = replace(model.peft_config["merged"], **kept)
    whole = averaged(adapters, wanted.shares, list(_whole(adapters[0])))
    return Stored("merged", config, {**{name: tensor.detach() for name, tensor in factors.items()}, **whole})


def side_by_side(base: PreTrainedModel, adapters: Sequence[Stored], names: Sequence[str]) -> PeftModel:
    """The base with the changes of all adapters, without what else they hold: PEFT merges no whole layers."""
    alone: dict[str, Any] = {"modules_to_save": None, "trainable_token_indices": None, "init_lora_weights": True}
    bare = [replace(one.config, **alone) for one in adapters]
    with quiet():
        model = PeftModel(base, bare[0], names[0])
        for name, config in zip(names[1:], bare[1:], strict=True):
            model.add_adapter(name, config)
        for name, one in zip(names, adapters, strict=True):
            if getattr(model.peft_config[name], "target_parameters", None):
                found = "changes experts that a model holds in one tensor, which PEFT does not merge"
                raise UserError(one.name, found, "export it as safetensors")
            factors = {key: tensor for key, tensor in one.tensors.items() if any(part in key for part in FACTORS)}
            left: Any = set_peft_model_state_dict(model, factors, adapter_name=name)
            if left.unexpected_keys:
                raise UserError(one.name, f"changes a layer that the base lacks: {left.unexpected_keys[0]}")
    return model


def _rank(tuner: Any, adapters: Sequence[Stored], wanted: Mix) -> int:
    """The rank of the merged change: no layer can have more than its smaller side."""
    most = min(min(sizes(tuner.model.get_submodule(name).get_base_layer())) for name in tuner.targeted_module_names)
    if wanted.rank is not None and wanted.rank > most:
        raise UserError("--rank", f"{wanted.rank} is more than the smallest changed layer has", f"at most {most}")
    return wanted.rank or min(most, sum(one.rank for one in adapters))
