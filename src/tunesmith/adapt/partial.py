"""Partial fine-tuning: the topmost blocks, named modules, biases (BitFit, arXiv:2106.10199) or norms; and the head."""

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field
from torch import nn
from transformers import PreTrainedModel

from tunesmith.adapt.base import MethodOptions
from tunesmith.adapt.layers import blocks, computed_weights
from tunesmith.contracts import Adapted, Codec, Family
from tunesmith.errors import UserError, nearest


class Partial(MethodOptions):
    """Some of the model's own weights move, the others stay. What is named is added up; the head always moves."""

    learning_rate: ClassVar[float] = 5e-4
    artifact: ClassVar[str] = "safetensors"
    narrow: ClassVar[bool] = True

    top: int | None = Field(
        None,
        ge=0,
        description="This many blocks from the top (of an encoder-decoder, of each half); None: one where nothing else "
        "is named.",
    )
    biases: bool = Field(False, description="All bias vectors (BitFit).")
    norms: bool = Field(False, description="The weights and biases of all normalisations.")
    modules: tuple[str, ...] = Field(
        (), description="Modules by their names, or by parts of these that stand between dots: `layer.11`, `pooler`."
    )

    @property
    def blocks(self) -> int:
        """How many blocks from the top move."""
        if self.top is not None:
            return self.top
        return 0 if self.biases or self.norms or self.modules else 1

    def check(self, model: PreTrainedModel, family: Family, auto_class: str) -> None:
        self._moving(model)

    def require_tokens(self, model: PreTrainedModel, family: Family) -> None:
        raise UserError("model.new_tokens", "this method would leave them untrained", "use full or lora")

    def adapt(
        self, model: PreTrainedModel, codec: Codec, head: Sequence[str], seed: int, rows: Sequence[int] = ()
    ) -> Adapted:
        moving = self._moving(model) | set(_under([name for name, _ in model.named_parameters()], head))
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in moving)
        kinds = {f"the top {self.blocks} blocks": self.blocks, "biases": self.biases, "norms": self.norms}
        note = f"move: {', '.join([*(kind for kind, moves in kinds.items() if moves), *self.modules, *head])}"
        names = tuple(name for name, _ in model.named_parameters() if name in moving)
        return Adapted(model, names, tuple(head), (note,))

    def _moving(self, model: PreTrainedModel) -> set[str]:
        """The names of the parameters that move, but for the head's."""
        names = [name for name, _ in model.named_parameters()]
        moving = set(_under(names, self._tops(model, names))) if self.blocks else set()
        for module in self.modules:
            moving |= set(self._named(model, names, module))
        if self.biases:
            moving |= {name for name in names if name.endswith(("bias", "_bias"))}
        if self.norms:
            moving |= set(_under(names, [name for name, module in model.named_modules() if _normalises(module)]))
        moving -= set(computed_weights(model))
        if not {name for name in moving if any(part.isdigit() for part in name.split("."))} and not self.modules:
            what = " and ".join([*["biases"] * self.biases, *["norms"] * self.norms])
            raise UserError("method", f"the blocks of {type(model).__name__} have no {what}", "use partial with top")
        return moving

    def _tops(self, model: PreTrainedModel, names: Sequence[str]) -> list[str]:
        """The names of the topmost blocks of each stack."""
        stacks: dict[str, list[str]] = {}
        for block in blocks(names):
            stacks.setdefault(block.rpartition(".")[0], []).append(block)
        most = min(map(len, stacks.values()), default=0)
        if self.blocks > most:
            found = f"{self.blocks} blocks are more than {type(model).__name__} has"
            raise UserError("method.top", found, f"at most {most}; to move all of it, method: full")
        return [block for stack in stacks.values() for block in stack[-self.blocks :]]

    def _named(self, model: PreTrainedModel, names: Sequence[str], module: str) -> list[str]:
        found = [name for name in names if f".{module}." in f".{name}."]
        if not found:
            parts = dict.fromkeys(part for name, _ in model.named_modules() for part in (name, name.rpartition(".")[2]))
            known = [part for part in parts if part]
            raise UserError("method.modules", f"no module is called {module}", nearest(module, known))
        return found


class BitFit(Partial):
    """Only bias vectors and the head move (arXiv:2106.10199)."""

    learning_rate: ClassVar[float] = 1e-3

    biases: bool = Field(True, description="All bias vectors (BitFit).")


def _under(names: Sequence[str], modules: Sequence[str]) -> list[str]:
    """The parameters that lie in one of the modules."""
    return [name for name in names if any(f".{module}." in f".{name}" for module in modules)]


def _normalises(module: nn.Module) -> bool:
    """A layer with parameters that is called a norm: classes of their own in most models."""
    own = next(module.parameters(recurse=False), None)
    return own is not None and "norm" in type(module).__name__.lower()
