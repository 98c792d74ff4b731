"""Bottleneck adapters as a method of PEFT: `load` puts a file on its base, as does PEFT once this module is imported.

An adapter is h + scale · up(f(down(h))) behind a layer (arXiv:1902.00751, section 2; arXiv:2005.00247, section 2), or,
in parallel, a feed-forward sublayer's output plus scale · up(f(down(x))) of its input (arXiv:2110.04366, section 3.3).

The file is PEFT's: `adapter_config.json` with `peft_type: BOTTLENECK` and the fields of `BottleneckConfig`, and
`adapter_model.safetensors` with, for each changed layer, `LAYER.bottleneck_down.weight` [r, D], `.bias` [r] and
`LAYER.bottleneck_up.weight` [D, r], `.bias` [D].
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import Tensor, nn
from torch.nn.functional import gelu, relu, silu
from transformers import PreTrainedModel

from tunesmith.adapt.layers import BLOCK, sizes

KIND = "BOTTLENECK"
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": relu, "gelu": gelu, "silu": silu}


@dataclass
class BottleneckConfig(PeftConfig):
    """Where adapters stand, and how wide they are.

    target_modules: a pattern of all layers that are changed. listen_modules: of those among them whose input a parallel
    adapter takes, in the same block; None for adapters in sequence.
    """

    target_modules: str = ""
    listen_modules: str | None = None
    width: int = 64
    activation: str = "gelu"
    scale: float = 1.0
    modules_to_save: list[str] | None = field(default=None)

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[no-untyped-call]
        named: Any = KIND  # PEFT's enumeration of kinds is closed, its tables of classes are open
        self.peft_type = named


class Heard:
    """What came into a feed-forward sublayer last, on its way to the adapter beside it."""

    value: Tensor | None = None


class Listening(nn.Module, BaseTunerLayer):
    """The first layer of a feed-forward sublayer, which lets the adapter beside it know the input."""

    def __init__(self, base_layer: nn.Module, heard: Heard) -> None:
        super().__init__()
        self.base_layer, self.heard = base_layer, heard

    def forward(self, x: Tensor) -> Any:
        self.heard.value = x
        return self.base_layer(x)


class Bottleneck(nn.Module, BaseTunerLayer):
    """A layer with adapters behind it; those that are active work one after another."""

    adapter_layer_names = ("bottleneck_down", "bottleneck_up")
    other_param_names = ("scale", "activation", "heard")

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.bottleneck_down, self.bottleneck_up = nn.ModuleDict(), nn.ModuleDict()
        self.scale: dict[str, float] = {}
        self.activation: dict[str, str] = {}
        self.heard: dict[str, Heard] = {}
        self._disable_adapters, self.merged_adapters = False, []

    def update_layer(self, adapter_name: str, config: BottleneckConfig, heard: Heard | None) -> None:
        """Adds an adapter that changes nothing yet. heard: where one in parallel finds what its sublayer takes."""
        width = sizes(self.get_base_layer())[1]
        down, up = nn.Linear(width, config.width), nn.Linear(config.width, width)
        nn.init.zeros_(up.weight)
        nn.init.zeros_(up.bias)
        self.bottleneck_down[adapter_name], self.bottleneck_up[adapter_name] = down, up
        self.scale[adapter_name], self.activation[adapter_name] = config.scale, config.activation
        if heard is not None:
            self.heard[adapter_name] = heard
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base_layer(x)
        if self.disable_adapters:
            return out
        for name in self.active_adapters:
            if name in self.bottleneck_down:
                taken = self.heard[name].value if name in self.heard else out
                squeezed = ACTIVATIONS[self.activation[name]](self.bottleneck_down[name](taken))
                out = out + self.scale[name] * self.bottleneck_up[name](squeezed)
        return out


class BottleneckModel(BaseTuner):
    """Puts the adapters where the configuration says."""

    prefix = "bottleneck_"
    tuner_layer_cls: Any = (Bottleneck, Listening)
    target_module_mapping: dict[str, Any] = {}  # noqa: RUF012  # as PEFT declares it

    def _create_and_replace(
        self,
        peft_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        found = BLOCK.match(current_key)
        block = found["block"] if found else ""
        heard: dict[str, Heard] = self.__dict__.setdefault("heard_by_block", {})
        if peft_config.listen_modules and re.fullmatch(peft_config.listen_modules, current_key):
            if not isinstance(target, Listening):
                listening = Listening(target, heard.setdefault(block, Heard()))
                self._replace_module(parent, target_name, listening, target)
            return
        layer = target
        if not isinstance(layer, Bottleneck):
            layer = Bottleneck(target)
            layer.set_adapter(adapter_name)
            self._replace_module(parent, target_name, layer, target)
        layer.update_layer(adapter_name, peft_config, heard[block] if peft_config.listen_modules else None)


def load(model: PreTrainedModel, folder: Path | str) -> PeftModel:
    """The base `model` with the adapters that lie in `folder`."""
    return PeftModel.from_pretrained(model, str(folder))


TABLES: tuple[tuple[Any, Any], ...] = (
    (PEFT_TYPE_TO_CONFIG_MAPPING, BottleneckConfig),
    (PEFT_TYPE_TO_TUNER_MAPPING, BottleneckModel),
    (PEFT_TYPE_TO_PREFIX_MAPPING, BottleneckModel.prefix),
)
for _table, _entry in TABLES:
    _table.setdefault(KIND, _entry)
