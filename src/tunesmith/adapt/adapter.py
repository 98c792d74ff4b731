"""Adapter layers: small trained detours in each block, in the places of Houlsby, Pfeiffer or He et al."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from peft import PeftModel
from pydantic import Field
from torch import nn
from transformers import PreTrainedModel

from tunesmith.adapt.base import PeftMethod, linear_layers, said_of
from tunesmith.adapt.bottleneck import BottleneckConfig
from tunesmith.adapt.layers import chosen, of_role, pattern_of, sizes
from tunesmith.contracts import Family
from tunesmith.errors import UserError


class Adapter(PeftMethod):
    """A small detour behind frozen layers."""

    learning_rate: ClassVar[float] = 1e-3
    merges: ClassVar[bool] = False
    loader: ClassVar[str] = "tunesmith.adapt.bottleneck:load"
    averages: ClassVar[bool] = True

    places: Literal["houlsby", "pfeiffer", "parallel"] = Field(
        "houlsby",
        description="houlsby: behind attention and behind feed-forward layers (arXiv:1902.00751). pfeiffer: behind "
        "feed-forward layers (arXiv:2005.00247). parallel: beside feed-forward layers (arXiv:2110.04366).",
    )
    reduction: float = Field(16.0, ge=1, description="The model's width divided by that of the detour.")
    activation: Literal["gelu", "relu", "silu"] = Field("gelu", description="The function inside the detour.")
    scale: float | None = Field(None, gt=0, description="Factor of the detour's output; None: 4 in parallel, else 1.")
    after: tuple[str, ...] = Field(
        (), description="Layers to stand behind, by the last parts of their names; none: as `places` says."
    )

    def configuration(self, model: PreTrainedModel, family: Family, common: Mapping[str, Any]) -> BottleneckConfig:
        layers = linear_layers(model)
        targets = self._targets(layers)
        widths = {sizes(layer)[1] for layer in targets.values()}
        width = round(min(widths) / self.reduction)
        if width < 1:
            found = f"{self.reduction:g} leaves nothing of a width of {min(widths)}"
            raise UserError("method.reduction", found, f"at most {min(widths)}")
        heard = of_role(layers, "feed_in") if self.places == "parallel" else {}
        return BottleneckConfig(
            **common,
            target_modules=pattern_of(targets | heard),
            listen_modules=pattern_of(heard) if heard else None,
            width=width,
            activation=self.activation,
            scale=self.scale if self.scale is not None else 4.0 if self.places == "parallel" else 1.0,
        )

    def _targets(self, layers: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
        if self.after and self.places == "parallel":
            raise UserError("method.after", "says behind which layers adapters stand", "leave out places: parallel")
        if self.after:
            return chosen(layers, self.after, "method.after")
        behind = of_role(layers, "feed_forward")
        return of_role(layers, "attention") | behind if self.places == "houlsby" else behind

    def note(self, tuned: PeftModel, layers: Sequence[str]) -> str:
        config: Any = tuned.peft_config["default"]
        return f"adapters of width {config.width} ({self.places}) at {said_of(layers)}"
