"""Several models with a head each over one backbone: every weight that they have in common exists once."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Several(nn.Module):
    """Models by name that share what is pre-trained; each call says which of them answers."""

    def __init__(self, models: Mapping[str, nn.Module], heads: Mapping[str, Sequence[str]]) -> None:
        """heads: of each model the names of the modules that its task added, which stay its own.

        The models are changed: from now on one's pre-trained weights are the others'.
        """
        super().__init__()
        self.names = tuple(models)
        known: dict[str, nn.Parameter] = {}
        for name, model in models.items():
            _share(model, heads[name], known)
            self.add_module(_key(name), model)

    def __getitem__(self, name: str) -> nn.Module:
        return self.get_submodule(_key(name))

    def by_part(self, values: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
        """Numbers of each model's parameters, by the parameters' names in this one."""
        return {f"{_key(name)}.{key}": value for name, own in values.items() for key, value in own.items()}

    def forward(self, part: str, **inputs: Any) -> Any:
        """What the model called `part` gives for these inputs."""
        return self[part](**inputs)


def _key(name: str) -> str:
    return f"for_{name}"


def _share(model: nn.Module, head: Sequence[str], known: dict[str, nn.Parameter]) -> None:
    """Puts known parameters in the place of this model's, and adds those that are new.

    Parameters are the same where their names are, without the name of the backbone in its class, and their shapes.
    One that the model itself uses in two places (embeddings that are also the output layer) stays one.
    """
    places = _places(model)
    swapped: dict[int, nn.Parameter] = {}
    for _, _, parameter, name in places:
        if any(f".{part}." in f".{name}" for part in head):
            continue
        other = known.setdefault(name, parameter)
        if other is not parameter and other.shape == parameter.shape:
            swapped.setdefault(id(parameter), other)
    for module, key, parameter, _ in places:
        if id(parameter) in swapped:
            module._parameters[key] = swapped[id(parameter)]


def share_equal(model: nn.Module, known: dict[str, nn.Parameter]) -> int:
    """Puts known parameters in the place of this model's that have the same name, shape, type, device and values, and
    adds those that are new; how many numbers are not held twice any more.

    Outputs stay the same to the bit. Neither the models nor `known` may be trained afterwards.
    """
    saved: dict[int, int] = {}
    for module, key, parameter, name in _places(model):
        other = known.setdefault(name.replace(".base_layer.", "."), parameter)
        if other is not parameter and _equal(other, parameter):
            saved[id(parameter)] = parameter.numel()
            module._parameters[key] = other
    return sum(saved.values())


def _equal(one: nn.Parameter, other: nn.Parameter) -> bool:
    alike = (one.shape, one.dtype, one.device) == (other.shape, other.dtype, other.device) and torch.equal(one, other)
    ours, theirs = _scales(one), _scales(other)
    return alike and len(ours) == len(theirs) and all(map(torch.equal, ours, theirs))


def _scales(parameter: nn.Parameter) -> list[Tensor]:
    """What a parameter in few bits is multiplied by; nothing of any other."""
    state, scale = getattr(parameter, "quant_state", None), getattr(parameter, "SCB", None)
    found = [] if state is None else [value for _, value in sorted(state.as_dict(packed=True).items())]
    return found if scale is None else [*found, scale]


def _places(model: nn.Module) -> list[tuple[nn.Module, str, nn.Parameter, str]]:
    """Where each parameter stands: its module, its key there, itself, and its name in the pre-trained part."""
    wrapped, prefix = _beginnings(model)
    return [
        (module, key, parameter, f"{path}.{key}".removeprefix(wrapped).removeprefix(prefix))
        for path, module in model.named_modules()
        for key, parameter in module._parameters.items()
        if parameter is not None
    ]


def _beginnings(model: nn.Module) -> tuple[str, str]:
    """What PEFT puts before the names of a model's parameters, and how those of the pre-trained part begin then."""
    unwrap: Any = getattr(model, "get_base_model", None)
    inner: Any = unwrap() if unwrap is not None else model
    place = next(name for name, module in model.named_modules() if module is inner)
    prefix = str(inner.base_model_prefix)
    return f"{place}." if place else "", f"{prefix}." if prefix in dict(inner.named_children()) else ""
