"""The layers of a model that a method can work on."""

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D


def block_layers(model: PreTrainedModel) -> dict[str, nn.Module]:
    """The linear layers inside the repeated blocks, by full name: those with a number in it."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and any(part.isdigit() for part in name.split("."))
    }


def computed_weights(model: PreTrainedModel) -> tuple[str, ...]:
    """The names of weights that a formula gives (sinusoidal positions), through which no gradient is led."""
    modules = {name: module for name, module in model.named_modules() if "Sinusoidal" in type(module).__name__}
    return tuple(f"{name}.{part}" for name, module in modules.items() for part, _ in module.named_parameters())


def leaf_names(layers: dict[str, nn.Module]) -> list[str]:
    """The different last parts of the layers' names, in order of appearance: query, key, value, …"""
    return list(dict.fromkeys(name.rpartition(".")[2] for name in layers))


def sizes(layer: nn.Module) -> tuple[int, int]:
    """Inputs and outputs of a linear layer."""
    if isinstance(layer, Conv1D):
        return int(layer.nx), int(layer.nf)
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    raise TypeError(f"{type(layer).__name__} is not a linear layer")


def tables(model: PreTrainedModel) -> list[str]:
    """The names of the modules with a row a token: the embeddings, and an output layer that is not tied to them."""
    given, made = model.get_input_embeddings(), model.get_output_embeddings()  # type: ignore[no-untyped-call]
    wanted = [given] if made is None or made.weight is given.weight else [given, made]
    return [name for name, module in model.named_modules() if any(module is one for one in wanted)]
