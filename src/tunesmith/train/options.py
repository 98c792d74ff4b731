"""What a recipe can say about training."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from tunesmith.options import Options


class StopOptions(Options):
    """When to stop before the planned end."""

    patience: int | None = Field(
        3, ge=1, description="Stop after this many evaluations without a better score; None never stops early."
    )
    metric: str | None = Field(
        None, description="Metric to watch on the validation split; None: the task's main one. `loss` is allowed."
    )
    min_change: float = Field(0.0, ge=0, description="Smallest change of the metric that counts as better.")
    restore_best: bool = Field(True, description="End with the weights of the best evaluation instead of the last.")


class UnfreezeOptions(Options):
    """Gradual unfreezing: the top layer learns first, and after each period the next one below it begins to."""

    every: Literal["epoch"] | Annotated[int, Field(ge=1)] = Field(
        "epoch", description="A further layer begins to move after each epoch, or after this many updates."
    )


class TrainOptions(Options):
    """How the weights are moved."""

    epochs: float = Field(3.0, gt=0, description="Passes over the training rows.")
    max_steps: int | None = Field(
        None, ge=0, description="End after this many updates, whatever `epochs` says; 0 leaves the model untuned."
    )
    batch_size: int = Field(
        16, ge=1, description="Rows per update, over all processes. How they are split to fit memory changes nothing."
    )
    packing: bool = Field(
        False,
        description="Lay several texts into one line without padding, for decoders that keep them apart.",
    )
    micro_tokens: int = Field(8192, ge=1, description="Most padded tokens in one forward pass.")
    learning_rate: float | None = Field(None, gt=0, description="Peak rate; None: the method's own.")
    schedule: Literal["linear", "cosine", "constant", "slanted"] = Field(
        "linear",
        description="How the rate falls after warm-up; `slanted` begins and ends at 1/32 of the peak (ULMFiT).",
    )
    warmup: float = Field(
        0.06, ge=0, description="Updates until the peak rate: a share of all when below 1, else a number."
    )
    weight_decay: float = Field(
        0.01, ge=0, description="Decoupled decay of weight matrices; biases and norms have none."
    )
    betas: tuple[float, float] = Field((0.9, 0.999), description="AdamW's averaging rates.")
    epsilon: float = Field(1e-8, gt=0, description="AdamW's denominator term.")
    max_grad_norm: float = Field(1.0, ge=0, description="Gradients are scaled down to this norm; 0 leaves them.")
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Number format of the forward pass; weights stay float32. auto: bfloat16 where it is native.",
    )
    gradient_checkpointing: bool = Field(
        False, description="Compute activations again in the backward pass instead of keeping them."
    )
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="Learning-rate factor per layer from the top down; 1 treats all alike."
    )
    unfreeze: UnfreezeOptions | None = Field(
        None, description="Let the layers begin to move one after the other, from the top down; None: all at once."
    )
    dropout: float | None = Field(
        None, ge=0, lt=1, description="Overrides every dropout rate of the model's configuration."
    )
    evaluate_every: Literal["epoch"] | Annotated[int, Field(ge=1)] = Field(
        "epoch", description="Evaluate and save after each epoch, or after this many updates."
    )
    save_every: int | None = Field(
        None, ge=1, description="Also save after this many updates; None: only when evaluating."
    )
    keep: int = Field(1, ge=1, description="Latest checkpoints to keep, besides the best.")
    stop: StopOptions = Field(StopOptions(), description="Early stopping.")
    deterministic: bool = Field(True, description="Only algorithms that give the same bytes each time.")
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = Field(
        (), description="Also write the journal to these."
    )

    @field_validator("betas")
    @classmethod
    def _averaging(cls, betas: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError("each must be at least 0 and below 1")
        return betas
