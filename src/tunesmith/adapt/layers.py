"""The layers of a model that a method can work on, and what each is there for."""

import re
from collections.abc import Iterable, Mapping, Sequence

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tunesmith.errors import UserError, nearest

BLOCK = re.compile(r"^(?P<block>(?:.*\.)?\d+)\.(?P<place>[^\d].*)$")
"""The name of a module in a repeated block: up to its last number, and where in the block it stands."""
ROLES = {
    "attention": r"(?:.*\.)?(?:\w*attn|\w*[aA]ttention)\.(?:output\.dense|out_lin|c_proj|o_proj|out_proj|dense|o|Wo)",
    "feed_forward": r"(?!.*[aA]ttention)(?:.*\.)?(?:output\.dense|lin2|mlp\.c_proj|down_proj|dense_4h_to_h|wo|fc2"
    r"|mlp\.Wo)",
    "feed_in": r"(?!.*[aA]ttention)(?:.*\.)?(?:intermediate\.dense|lin1|mlp\.c_fc|gate_proj|gate_up_proj|dense_h_to_4h"
    r"|wi|wi_0|fc1|mlp\.Wi)",
    "key_value": r"(?:.*\.)?(?:key|value|k_lin|v_lin|k|v|[kv]_proj|key_proj|value_proj|kv_b_proj|c_attn|Wqkv|qkv_proj"
    r"|query_key_value)",
}
"""Where in a block the linear layers stand that end a sublayer of attention, end or begin a feed-forward sublayer, or
make keys and values (some models make the queries with the same layer)."""


def block_layers(model: PreTrainedModel) -> dict[str, nn.Module]:
    """The linear layers inside the repeated blocks, by full name: those with a number in it."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and any(part.isdigit() for part in name.split("."))
    }


def of_role(layers: Mapping[str, nn.Module], role: str) -> dict[str, nn.Module]:
    """Those of the layers that have the role of this name. Raises UserError where none has it."""
    wanted = re.compile(ROLES[role])
    found = {name: layer for name, layer in layers.items() if wanted.fullmatch(place_of(name))}
    if not found:
        what, known = role.replace("_", "-"), ", ".join(leaf_names(layers))
        raise UserError("method", f"no layer of this model is known as {what}", f"name layers: it has {known}")
    return found


def place_of(name: str) -> str:
    """Where in its block a module stands: `attention.output.dense`."""
    found = BLOCK.match(name)
    return found["place"] if found else name


def pattern_of(layers: Iterable[str]) -> str:
    """A regular expression, short enough for a file, of the full names of just these layers of the repeated blocks."""
    places = dict.fromkeys(place_of(name) for name in layers)
    return rf"(?:.*\.)?\d+\.(?:{'|'.join(map(re.escape, places))})"


def chosen(layers: Mapping[str, nn.Module], targets: str | Sequence[str], key: str) -> dict[str, nn.Module]:
    """Those of the layers whose names end with one of `targets`; all of them for `auto`.

    Raises UserError, at the recipe's `key`, for a target that no layer ends with.
    """
    if targets in ("auto", "all-linear"):
        return dict(layers)
    found: dict[str, nn.Module] = {}
    for target in (targets,) if isinstance(targets, str) else targets:
        own = {name: layer for name, layer in layers.items() if f".{name}".endswith(f".{target}")}
        if not own:
            known = leaf_names(layers)
            raise UserError(key, f"no layer is called {target}", f"{nearest(target, known)}; it has {', '.join(known)}")
        found |= own
    return {name: layer for name, layer in layers.items() if name in found}


def blocks(names: Iterable[str]) -> list[str]:
    """The repeated blocks that parameters or modules of these names stand in, from the input on.

    Of blocks inside blocks (experts, the sublayers of a T5 block) the outermost.
    """
    found = (re.match(r"^(.*?\.\d+)\.", f".{name}") for name in names)
    return list(dict.fromkeys(one[1].removeprefix(".") for one in found if one))


def computed_weights(model: PreTrainedModel) -> tuple[str, ...]:
    """The names of weights that a formula gives (sinusoidal positions), through which no gradient is led."""
    modules = {name: module for name, module in model.named_modules() if "Sinusoidal" in type(module).__name__}
    return tuple(f"{name}.{part}" for name, module in modules.items() for part, _ in module.named_parameters())


def leaf_names(layers: Iterable[str]) -> list[str]:
    """The different last parts of the layers' names, in order of appearance: query, key, value, …"""
    return list(dict.fromkeys(name.rpartition(".")[2] for name in layers))


def sizes(layer: nn.Module) -> tuple[int, int]:
    """Inputs and outputs of a linear layer."""
    if isinstance(layer, Conv1D):
        return int(layer.nx), int(layer.nf)
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    raise TypeError(f"{type(layer).__name__} is not a linear layer")


def transposed(layers: Iterable[nn.Module]) -> bool:
    """Whether layers hold their weights as [inputs, outputs], as GPT-2's do, or would if not held in few bits."""
    return any(isinstance(layer, Conv1D) or getattr(layer, "source_cls", None) is Conv1D for layer in layers)


def tables(model: PreTrainedModel) -> list[str]:
    """The names of the modules with a row a token: the embeddings, and an output layer that is not tied to them."""
    given, made = model.get_input_embeddings(), model.get_output_embeddings()  # type: ignore[no-untyped-call]
    wanted = [given] if made is None or made.weight is given.weight else [given, made]
    return [name for name, module in model.named_modules() if any(module is one for one in wanted)]
