"""OFT: weights turned by trained rotations of blocks of their inputs (arXiv:2306.07280, arXiv:2506.19847), by PEFT."""

from collections.abc import Mapping, Sequence
from math import gcd
from typing import Any, ClassVar

from peft import OFTConfig, PeftModel
from pydantic import Field
from transformers import PreTrainedModel

from tunesmith.adapt.base import TargetedMethod, plain, said_of
from tunesmith.adapt.layers import pattern_of, sizes
from tunesmith.contracts import Family
from tunesmith.errors import UserError

MOST = 32
"""The largest block that is chosen by itself, PEFT's default."""


class OFT(TargetedMethod):
    """Rotations of frozen weights, which keep the angles between neurons."""

    learning_rate: ClassVar[float] = 1e-3

    block: int | None = Field(
        None, ge=2, description="Inputs that are rotated together; None: the most up to 32 that divide every layer's."
    )

    def configuration(self, model: PreTrainedModel, family: Family, common: Mapping[str, Any]) -> OFTConfig:
        layers = plain(self.layers_of(model), model)
        most = gcd(*(sizes(layer)[0] for layer in layers.values()))
        fitting = [size for size in range(2, min(MOST, most) + 1) if most % size == 0]
        if (self.block and most % self.block) or not fitting:
            found = f"blocks of {self.block or 2} do not divide the inputs of every layer"
            raise UserError("method.block", found, f"choose a divisor of {most}" if most > 1 else "name other targets")
        return OFTConfig(
            **common,
            r=0,
            oft_block_size=self.block or fitting[-1],
            target_modules=pattern_of(layers),
        )

    def note(self, tuned: PeftModel, layers: Sequence[str]) -> str:
        config: Any = tuned.peft_config["default"]
        return f"OFT in blocks of {config.oft_block_size} on {said_of(layers)}"
