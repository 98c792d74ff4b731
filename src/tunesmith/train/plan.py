"""The whole course of a training run, worked out before its first step."""

import math
from dataclasses import dataclass

import torch

from tunesmith.errors import UserError
from tunesmith.train.options import TrainOptions, UnfreezeOptions

NO_FLOAT16 = ("t5", "mt5", "umt5", "longt5", "switch_transformers", "t5gemma")
"""Model types whose activations overflow float16 (huggingface/transformers#4586)."""


SLANT = 32
"""How many times larger the peak of a slanted schedule is than its lowest rate."""


@dataclass(frozen=True)
class Plan:
    """rows: of the training split. steps: updates in all. warmup: updates until the peak rate.

    marks: the steps after which the model is evaluated and saved.
    """

    options: TrainOptions
    seed: int
    rows: int
    steps: int
    warmup: int
    peak: float
    precision: str
    marks: frozenset[int]

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.rows // self.options.batch_size)

    def saves_at(self, step: int) -> bool:
        """Whether the state is written after this step."""
        every = self.options.save_every
        return step in self.marks or step == self.steps or (every is not None and step % every == 0)

    def rate(self, step: int) -> float:
        """The learning rate of the update that follows `step` updates.

        Rises linearly to the peak during warm-up; then falls to zero linearly or along half a cosine, or stays.
        Slanted: rises and falls linearly between the peak and a 32nd of it (arXiv:1801.06146, section 3.2, whose
        cut_frac is `warmup` here).
        """
        if self.options.schedule == "slanted":
            fall = (step - self.warmup) / max(1, self.steps - self.warmup)
            height = step / self.warmup if step < self.warmup else 1 - fall
            return self.peak * (1 + height * (SLANT - 1)) / SLANT
        if step < self.warmup:
            return self.peak * (step + 1) / (self.warmup + 1)
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        if self.options.schedule == "linear":
            return self.peak * (1 - done)
        if self.options.schedule == "cosine":
            return self.peak * 0.5 * (1 + math.cos(math.pi * done))
        return self.peak

    def period(self, step: int) -> int | None:
        """How many periods of gradual unfreezing are over after `step` updates; None where all moves from the start."""
        if self.options.unfreeze is None:
            return None
        return step // self._updates_a_period(self.options.unfreeze)

    def _updates_a_period(self, unfreeze: UnfreezeOptions) -> int:
        return self.steps_per_epoch if unfreeze.every == "epoch" else unfreeze.every

    def unfreezing(self, layers: int) -> str | None:
        """How gradual unfreezing goes with so many layers, in a line; None without it."""
        if self.options.unfreeze is None:
            return None
        updates = self._updates_a_period(self.options.unfreeze)
        opened = min(layers, 1 + (self.steps - 1) // updates)
        end = f"all from update {(layers - 1) * updates + 1} on" if opened == layers else f"only {opened} ever do"
        return f"of {layers} layers the topmost moves at first, and a further one after every {updates} updates: {end}"


def make_plan(options: TrainOptions, *, rows: int, seed: int, peak: float, precision: str) -> Plan:
    """The plan for `rows` training rows. Raises UserError for a warm-up longer than the run."""
    per_epoch = -(-rows // options.batch_size)
    steps = max(1, round(options.epochs * per_epoch))
    if options.max_steps is not None:
        steps = min(steps, options.max_steps)
    warmup = round(options.warmup * steps) if options.warmup < 1 else round(options.warmup)
    if warmup > steps:
        raise UserError("train.warmup", f"{warmup} updates of warm-up in a run of {steps}", "make it a share below 1")
    every = per_epoch if options.evaluate_every == "epoch" else options.evaluate_every
    marks = frozenset(range(every, steps + 1, every)) | {steps}
    return Plan(options, seed, rows, steps, warmup, peak, precision, marks)


def choose_precision(wanted: str, model_type: str, device: torch.device) -> str:
    """The number format to compute in; `auto` takes bfloat16 where the processor multiplies it natively.

    Raises UserError for float16 with a model that overflows it, and for bfloat16 on a GPU without it.
    """
    if wanted == "float16" and model_type in NO_FLOAT16:
        raise UserError("train.precision", f"float16 overflows in {model_type} models", "use bfloat16 or float32")
    native = torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.cpu._is_amx_tile_supported()
    if wanted == "auto":
        return "bfloat16" if native else "float32"
    if wanted == "bfloat16" and device.type == "cuda" and not native:
        raise UserError("train.precision", "this GPU has no bfloat16", "use float16 or float32")
    return wanted
