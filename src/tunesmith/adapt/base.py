"""What methods have in common: what they promise unless they say otherwise, and those that PEFT carries out."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import torch
from peft import PeftConfig, PeftModel, TaskType, get_peft_model
from peft.utils import ModulesToSaveWrapper
from pydantic import Field
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from tunesmith.adapt.layers import block_layers, chosen, leaf_names, sizes, tables, transposed
from tunesmith.adapt.merging import Mix, Stored, averaged, require_values
from tunesmith.adapt.quantised import dequantised, is_quantised
from tunesmith.contracts import Adapted, Codec, Family
from tunesmith.errors import UserError
from tunesmith.options import Options
from tunesmith.quiet import quiet

TASK_TYPES = {
    "ForSequenceClassification": TaskType.SEQ_CLS,
    "ForTokenClassification": TaskType.TOKEN_CLS,
    "ForCausalLM": TaskType.CAUSAL_LM,
    "LMHeadModel": TaskType.CAUSAL_LM,
    "ForConditionalGeneration": TaskType.SEQ_2_SEQ_LM,
}
"""What PEFT calls a model with a head of this kind, by the end of its class name.

Question answering is left out: PEFT's class for it does not hand token types and positions on.
"""


class MethodOptions(Options):
    """What a method says of itself; see `contracts.Method`."""

    moves_base: ClassVar[bool] = False
    artifact: ClassVar[str] = "adapter"
    starts_at_base: ClassVar[bool] = True
    merges: ClassVar[bool] = True
    loader: ClassVar[str] = ""
    narrow: ClassVar[bool] = False
    quantises: ClassVar[bool] = False
    averages: ClassVar[bool] = False
    """Whether the values of several adapters may be averaged one by one."""

    def check(self, model: PreTrainedModel, family: Family, auto_class: str) -> None:
        """Every model will do."""

    def require_tokens(self, model: PreTrainedModel, family: Family) -> None:
        """New tokens learn with all else."""

    def positions(self, family: Family) -> int:
        return 0

    def loads_plainly(self, family: Family, auto_class: str, config: PretrainedConfig) -> bool:
        return not self.loader

    def merge(self, model: nn.Module) -> PreTrainedModel:
        self.require_merging()
        if not isinstance(model, PreTrainedModel):
            raise TypeError(f"{type(model).__name__} is not a transformers model")
        return model

    def require_merging(self) -> None:
        """Refuses to make a plain model of what none can hold. Raises UserError."""
        if not self.merges:
            raise UserError("deploy.formats", "no plain model can hold what this method learns", "use adapter")

    def save(self, model: nn.Module, folder: Path) -> None:
        raise UserError("deploy.formats", "there is no adapter to write", "use safetensors")

    def require_mixing(self, adapters: Sequence[Stored], wanted: Mix) -> None:
        """Refuses, before a weight of the base is read, adapters that cannot become one. Raises UserError."""
        if not self.averages:
            found = "holds factors of a product, and a product of averages is not the average of the products"
            raise UserError(adapters[0].name, found, "merge LoRAs, or export it as safetensors")
        require_values(adapters, wanted)

    def mixed(self, base: PreTrainedModel, adapters: Sequence[Stored], wanted: Mix) -> Stored:
        """Several adapters of this method as one. base: a model of their build, which is used up."""
        return replace(adapters[0], tensors=averaged(adapters, wanted.shares))


class PeftMethod(MethodOptions):
    """A method whose layers, files and merging are PEFT's."""

    quantises: ClassVar[bool] = True

    @abstractmethod
    def configuration(self, model: PreTrainedModel, family: Family, common: Mapping[str, Any]) -> PeftConfig:
        """What PEFT is told. common: what each of its configurations takes: `task_type`, `modules_to_save`."""

    @abstractmethod
    def note(self, tuned: PeftModel, layers: Sequence[str]) -> str:
        """What was chosen, in a line. layers: the full names of those that were changed."""

    def check(self, model: PreTrainedModel, family: Family, auto_class: str) -> None:
        self.configuration(model, family, {})

    def require_tokens(self, model: PreTrainedModel, family: Family) -> None:
        if family is Family.ENCODER_DECODER:
            found = "PEFT trains single rows of embeddings in one place, and encoder-decoders hold them in several"
            raise UserError("model.new_tokens", found, "use method: full")
        if not hasattr(self.configuration(model, family, {}), "trainable_token_indices"):
            raise UserError("model.new_tokens", "this method cannot train rows of embeddings", "use method: lora")

    def adapt(
        self, model: PreTrainedModel, codec: Codec, head: Sequence[str], seed: int, rows: Sequence[int] = ()
    ) -> Adapted:
        common = {"task_type": task_type(model), "modules_to_save": list(head)}
        config: Any = self.configuration(model, codec.family, common)
        if rows:
            config.trainable_token_indices = {name: list(rows) for name in tables(model)}
        torch.manual_seed(seed)
        with quiet():
            tuned = get_peft_model(model, config)
        trainable = tuple(name for name, parameter in tuned.named_parameters() if parameter.requires_grad)
        return Adapted(tuned, trainable, tuple(head), (self.note(tuned, changed_layers(tuned)),))

    def merge(self, model: nn.Module) -> PreTrainedModel:
        if not isinstance(model, PeftModel):
            raise TypeError(f"{type(model).__name__} holds no adapter")
        self.require_merging()
        if is_quantised(model):
            model = self._over_plain(model)
        _put_heads_in_place(model)
        merged: PreTrainedModel = model.merge_and_unload()
        return merged

    def _over_plain(self, model: PeftModel) -> PeftModel:
        """The same adapter over plain weights, into which it can be merged without their being rounded once more."""
        if getattr(model.get_base_model(), "is_loaded_in_8bit", False):
            found = "a base in int8 rounds what comes into its layers, and no plain model does"
            raise UserError("deploy.formats", found, "use adapter, or model.quantise: nf4")
        with TemporaryDirectory() as folder, quiet():
            self.save(model, Path(folder))
            return PeftModel.from_pretrained(dequantised(taken_off(model)), folder)

    def save(self, model: nn.Module, folder: Path) -> None:
        save_adapter(model, folder)


class TargetedMethod(PeftMethod):
    """A method that changes linear layers which can be named."""

    targets: str | tuple[str, ...] = Field(
        "auto",
        description="Linear layers to change, by the last parts of their names; `auto`: all in the repeated blocks.",
    )

    def layers_of(self, model: PreTrainedModel) -> dict[str, nn.Module]:
        """The layers that are changed, by full name. Raises UserError for targets that the model does not have."""
        return chosen(linear_layers(model), self.targets, "method.targets")


def taken_off(model: PeftModel) -> PreTrainedModel:
    """The base without the adapter, which is used up."""
    base: Any = model.get_base_model()
    base.is_loaded_in_4bit = base.is_loaded_in_8bit = False  # or PEFT would not take (IA)³ off
    unload: Any = getattr(model.base_model, "unload", None)
    return base if unload is None else unload()  # type: ignore[no-any-return]


def save_adapter(model: nn.Module, folder: Path) -> None:
    """Writes the adapter as PEFT does, which loads it with `PeftModel.from_pretrained`."""
    if not isinstance(model, PeftModel):
        raise TypeError(f"{type(model).__name__} holds no adapter")
    # The embeddings never move, and asking PEFT to find that out makes it look for the base on the hub.
    model.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)


def _put_heads_in_place(tuned: PeftModel) -> None:
    """Trained copies of whole modules take the places of what they are copies of; most of PEFT's methods cannot do it
    with a module that is not a single layer."""
    for name, module in list(tuned.named_modules()):
        if isinstance(module, ModulesToSaveWrapper):
            parent, _, leaf = name.rpartition(".")
            setattr(tuned.get_submodule(parent), leaf, module.modules_to_save[module.active_adapters[0]])


def changed_layers(tuned: PeftModel) -> list[str]:
    """The full names of the layers that PEFT changed."""
    tuner: Any = tuned.base_model
    return list(tuner.targeted_module_names)


def said_of(layers: Sequence[str]) -> str:
    """How many layers, and their names."""
    return f"{len(layers)} layers: {', '.join(leaf_names(layers))}"


def task_type(model: PreTrainedModel) -> TaskType | None:
    name = type(model).__name__
    return next((kind for ending, kind in TASK_TYPES.items() if name.endswith(ending)), None)


def require_rank(rank: int, layers: Mapping[str, nn.Module]) -> None:
    """Refuses a rank that a layer does not have. Raises UserError."""
    for name, layer in layers.items():
        if rank > min(sizes(layer)):
            found = f"{rank} is more than layer {name} has ({sizes(layer)})"
            raise UserError("method.rank", found, f"at most {min(sizes(layer))}")


def plain(layers: dict[str, nn.Module], model: PreTrainedModel) -> dict[str, nn.Module]:
    """The same layers of the model, for methods that PEFT offers only for `nn.Linear`. Raises UserError for others."""
    if transposed(layers.values()):
        raise UserError("method", f"the layers of {type(model).__name__} are no nn.Linear, which it needs", "use lora")
    return layers


def linear_layers(model: PreTrainedModel) -> dict[str, nn.Module]:
    """The linear layers of the repeated blocks. Raises UserError for a model that has none."""
    layers = block_layers(model)
    if not layers:
        raise UserError("method", f"{type(model).__name__} has no linear layers in blocks", "use method: full")
    return layers
