"""LoRA: a trained low-rank product beside each frozen weight matrix (arXiv:2106.09685), through PEFT."""

import re
from collections.abc import Sequence
from typing import ClassVar

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from pydantic import Field
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tunesmith.adapt.layers import block_layers, leaf_names, sizes, tables
from tunesmith.contracts import Adapted, Family
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


class LoRA(Options):
    """A low-rank change beside frozen weights."""

    moves_base: ClassVar[bool] = False
    learning_rate: ClassVar[float] = 5e-4
    artifact: ClassVar[str] = "adapter"

    rank: int = Field(8, ge=1, description="Rank of the change.")
    alpha: float | None = Field(None, gt=0, description="The change is scaled by alpha / rank; None: twice the rank.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the input of the change.")
    targets: str | tuple[str, ...] = Field(
        "auto",
        description="Linear layers to change, by the last part of their names; `auto`: all in the repeated blocks.",
    )
    rslora: bool = Field(False, description="Scale by alpha / sqrt(rank) (arXiv:2312.03732).")
    dora: bool = Field(
        False, description="Train the size of each weight column apart from its direction (arXiv:2402.09353)."
    )

    def adapt(
        self, model: PreTrainedModel, family: Family, head: Sequence[str], seed: int, rows: Sequence[int] = ()
    ) -> Adapted:
        if rows and family is Family.ENCODER_DECODER:
            found = "PEFT trains single rows of embeddings in one place, and encoder-decoders hold them in several"
            raise UserError("model.new_tokens", found, "use method: full")
        layers = self._chosen(model)
        names = leaf_names(layers)
        for name, layer in layers.items():
            if self.rank > min(sizes(layer)):
                raise UserError(
                    "method.rank", f"{self.rank} is more than layer {name} has ({sizes(layer)})", "choose a lower rank"
                )
        alpha = self.alpha if self.alpha is not None else 2.0 * self.rank
        torch.manual_seed(seed)
        with quiet():
            tuned = get_peft_model(
                model,
                LoraConfig(
                    task_type=_task_type(model),
                    r=self.rank,
                    lora_alpha=alpha,  # type: ignore[arg-type]  # PEFT divides it and takes fractions
                    lora_dropout=self.dropout,
                    target_modules=rf"(?:.*\.)?\d+\.(?:.*\.)?(?:{'|'.join(map(re.escape, names))})",
                    modules_to_save=list(head),
                    use_rslora=self.rslora,
                    use_dora=self.dora,
                    trainable_token_indices={name: list(rows) for name in tables(model)} if rows else None,
                    fan_in_fan_out=any(isinstance(layer, Conv1D) for layer in layers.values()),
                ),
            )
        trainable = tuple(name for name, parameter in tuned.named_parameters() if parameter.requires_grad)
        note = f"LoRA of rank {self.rank} on {len(layers)} layers: {', '.join(names)}"
        return Adapted(tuned, trainable, tuple(head), (note,))

    def _chosen(self, model: PreTrainedModel) -> dict[str, nn.Module]:
        layers = block_layers(model)
        if self.targets in ("auto", "all-linear"):
            return layers
        wanted = (self.targets,) if isinstance(self.targets, str) else self.targets
        known = leaf_names(layers)
        for name in wanted:
            if name not in known:
                raise UserError(
                    "method.targets", f"no Linear layer is called {name}", f"this model has {', '.join(known)}"
                )
        return {name: layer for name, layer in layers.items() if name.rpartition(".")[2] in wanted}

    def merge(self, model: nn.Module) -> PreTrainedModel:
        if not isinstance(model, PeftModel):
            raise TypeError(f"{type(model).__name__} holds no adapter")
        merged: PreTrainedModel = model.merge_and_unload()
        return merged


def _task_type(model: PreTrainedModel) -> TaskType | None:
    name = type(model).__name__
    return next((kind for ending, kind in TASK_TYPES.items() if name.endswith(ending)), None)
