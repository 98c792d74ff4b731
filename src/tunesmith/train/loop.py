"""The training loop: a generator that moves the weights once and says what happened."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tunesmith.batch import Batch, Encoded, Padding
from tunesmith.contracts import Penalty, Step, Task, Tend, parts_of
from tunesmith.errors import TrainingStopped
from tunesmith.forward import autocast, batch_of, called, forward
from tunesmith.seeds import mix
from tunesmith.train.order import STEP_COST_TOKENS, Mixed, Order, micro_batches, runs, share
from tunesmith.train.plan import Plan
from tunesmith.train.tutor import Tutor
from tunesmith.world import World

OVERFLOWS = 20
"""float16 gradients that may overflow one after the other before training stops."""


@dataclass
class State:
    """What training changes: the weights (in `model`), the optimiser, the loss scale and the number of steps done."""

    model: nn.Module
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler | None = None
    step: int = 0


@dataclass(frozen=True)
class Course:
    """What training follows: the task, its encoded rows, how they are padded and drawn, the plan, the world.

    penalties, tutor: what else than the task's loss an update minds. replayed: how many of the rows, at their end, are
    earlier ones that are mixed in, and their share. tend: what is done after each update.
    """

    task: Task
    data: Encoded
    padding: Padding
    plan: Plan
    world: World
    weights: Sequence[float] | None = None
    penalties: Sequence[Penalty] = ()
    tutor: Tutor | None = None
    replayed: tuple[int, float] | None = None
    tend: Tend | None = None

    @property
    def undecayed(self) -> frozenset[str]:
        """The parameters that penalties pull elsewhere than to zero."""
        return frozenset().union(*(penalty.undecayed for penalty in self.penalties))

    @cached_property
    def order(self) -> Order | Mixed:
        earlier, share_of_all = self.replayed or (0, 0.0)
        rows = len(self.data) - earlier
        own = Order(rows, self.plan.options.batch_size, self.plan.seed, self.weights)
        return Mixed(own, earlier, share_of_all) if earlier else own

    def batches(self, step: int) -> list[Batch]:
        """This process's part of the optimiser batch after `step` updates, in pieces that fit; never none.

        A process without rows of its own gets one row whose loss is not to be counted (`Batch.rows` is empty).
        """
        index = self.order.batch(step)
        mine = share(index, self.data.lengths, self.world.rank, self.world.size)
        if not len(mine):
            row = batch_of(self.task, self.data, index[:1].tolist(), self.padding, 0)
            return [replace(row, rows=(), tokens=0).to(self.world.device)]
        cost = STEP_COST_TOKENS[self.world.device.type]
        most = self.plan.options.micro_tokens
        lengths, parts = self.data.lengths, self.data.part_of
        packed = self.padding.pack is not None
        groups = []
        for part in np.unique(parts[mine]):
            rows = mine[parts[mine] == part]
            groups += runs(rows, lengths, most) if packed else micro_batches(rows, lengths, most, cost)
        seed = mix(self.plan.seed, step + 1)
        return [
            batch_of(self.task, self.data, group.tolist(), self.padding, seed).to(self.world.device) for group in groups
        ]


def steps(state: State, course: Course) -> Iterator[Step]:
    """One Step for each update from `state.step` to the end of the plan; `state` is always between two updates.

    The loss is summed over supervised targets and divided by their number in the whole optimiser batch, over all
    processes, so that how the batch is cut changes nothing; of a task with parts, each part's so by itself, and the
    means count by the rows that they are of. Every step draws its random numbers from the seed and
    its own number. Raises TrainingStopped, with the weights of the last good step, when a loss or a gradient is
    not finite.
    """
    model, moving = state.model, 0
    while state.step < course.plan.steps:
        if (due := _thaw(state, course.plan)) != moving:
            model, moving = _together(state.model, course.world), due
        overflows = 0
        while (done := _update(state, model, course)) is None:
            overflows += 1
            if overflows == OVERFLOWS:
                raise TrainingStopped(f"step {state.step + 1}: float16 gradients overflowed {OVERFLOWS} times in a row")
        yield done


def _thaw(state: State, plan: Plan) -> int:
    """Sets those parameters to move whose turn it is in the update after `state.step` updates; how many tensors do.

    What waits gets no gradient, so that the optimiser neither moves nor decays it, and keeps no averages of it.
    """
    period, moving = plan.period(state.step), 0
    for group in state.optimiser.param_groups:
        due = period is None or group["turn"] <= period
        for parameter in group["params"]:
            parameter.requires_grad_(due)
        moving += due * len(group["params"])
    return moving


def _together(model: nn.Module, world: World) -> nn.Module:
    if world.size == 1:
        return model
    # Parameters that a model does not use in this task would otherwise be waited for.
    return DistributedDataParallel(model, find_unused_parameters=True)


def _update(state: State, model: nn.Module, course: Course) -> Step | None:
    """The next update, or None when float16 gradients overflowed and nothing was changed but the loss scale."""
    plan, world, tutor = course.plan, course.world, course.tutor
    batches = course.batches(state.step)
    names = list(parts_of(course.task))
    tokens, padded, taught, *counted = world.total(
        sum(batch.tokens for batch in batches),
        sum(batch.inputs["input_ids"].numel() for batch in batches if batch.rows),
        0.0 if tutor is None else sum(tutor.count(course.task, batch) for batch in batches if batch.rows),
        *(sum(course.task.count(batch) for batch in batches if batch.rows and batch.part == name) for name in names),
        *(sum(len(batch.rows) for batch in batches if batch.part == name) for name in names),
    )
    targets = dict(zip(names, counted[: len(names)], strict=True))
    rows = dict(zip(names, counted[len(names) :], strict=True))
    scale = {name: rows[name] / sum(rows.values()) / targets[name] for name in names if targets[name]}
    rate = plan.rate(state.step)
    for group in state.optimiser.param_groups:
        group["lr"] = rate * group["factor"]
    torch.manual_seed(mix(plan.seed, state.step, world.rank))
    state.model.train()
    parts = world.total(*_backward(state, model, course, batches, scale, 1 / taught if taught else 0.0))
    penalties = {} if tutor is None else {tutor.name: parts.pop()}
    loss = math.fsum(parts)
    if not math.isfinite(math.fsum((loss, *penalties.values()))):
        _refuse(state, course, batches, f"loss is {math.fsum((loss, *penalties.values()))}")
    if state.scaler is not None:
        state.scaler.unscale_(state.optimiser)
    penalties |= {penalty.name: penalty.pull(state.model) for penalty in course.penalties}
    moving = [parameter for group in state.optimiser.param_groups for parameter in group["params"]]
    found = [parameter.grad for parameter in moving if parameter.grad is not None]
    total = nn.utils.get_total_norm(found)
    norm = float(total)
    if math.isfinite(norm) and plan.options.max_grad_norm:
        nn.utils.clip_grads_with_norm_(moving, plan.options.max_grad_norm, total)
    if state.scaler is not None:
        state.scaler.step(state.optimiser)
        state.scaler.update()
        if not math.isfinite(norm):
            state.optimiser.zero_grad(set_to_none=True)
            return None
    elif not math.isfinite(norm):
        _refuse(state, course, batches, f"gradient norm is {norm}")
    else:
        state.optimiser.step()
    if course.tend is not None:
        course.tend(state.model, state.optimiser, state.step + 1, plan.steps)
    state.optimiser.zero_grad(set_to_none=True)
    state.step += 1
    epoch = state.step / plan.steps_per_epoch
    own = [value * sum(rows.values()) / max(1, rows[name]) for name, value in zip(names, parts, strict=True)]
    losses = {name: value for name, value in zip(names, own, strict=True) if name and rows[name]}
    count, supervised = int(sum(rows.values())), sum(targets.values())
    return Step(state.step, epoch, loss, rate, norm, count, supervised, int(tokens), int(padded), losses, penalties)


def _backward(
    state: State,
    model: nn.Module,
    course: Course,
    batches: Sequence[Batch],
    scale: Mapping[str, float],
    taught: float = 0.0,
) -> list[float]:
    """Adds the gradients of this process's batches; its share of the mean loss, of each part of the task by itself,
    and then of what the tutor minds, if there is one.

    scale: what a part's summed loss is multiplied by: its share of the rows, over its supervised targets. taught: the
    same for the tutor's.
    """
    world, loss = course.world, dict.fromkeys(parts_of(course.task), 0.0)
    tutor, minded = course.tutor, 0.0
    for place, batch in enumerate(batches):
        last = place == len(batches) - 1
        with _unsynchronised(model, last):
            with autocast(course.plan.precision, world.device):
                shown = None if tutor is None else tutor.shown(state.model, course.task, batch)
                given = called(model, course.task, batch, **({} if tutor is None else tutor.asks))
                part = course.task.loss(course.task.outputs(given, batch), batch) * scale.get(batch.part, 0.0)
            part = part if batch.rows else part * 0.0
            loss[batch.part] += float(part.detach())
            if tutor is not None and shown is not None:
                own = tutor.loss(given, shown, batch) * (taught if batch.rows else 0.0)
                minded += float(own.detach())
                part = part + own
            part = part * world.size  # gradients are averaged over processes, and a sum is wanted
            torch.autograd.backward(part if state.scaler is None else state.scaler.scale(part))
    return [*loss.values(), *([] if tutor is None else [minded])]


def _unsynchronised(model: nn.Module, last: bool) -> AbstractContextManager[None]:
    if isinstance(model, DistributedDataParallel) and not last:
        return model.no_sync()
    return nullcontext()


def _refuse(state: State, course: Course, batches: Sequence[Batch], what: str) -> None:
    """Ends training before a step that would spoil the weights, naming the rows and the tensor."""
    broken = next(
        (
            name
            for name, parameter in state.model.named_parameters()
            if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all())
        ),
        None,
    )
    state.optimiser.zero_grad(set_to_none=True)
    rows = [row for batch in batches for row in _broken_rows(state, course, batch)]
    where = f"rows {rows}" if rows else f"a batch of rows {[row for batch in batches for row in batch.rows]}"
    tensor = f", first in the gradient of {broken}" if broken else ""
    raise TrainingStopped(
        f"step {state.step + 1}: the {what} in {where} of the training split{tensor}; no step was taken; "
        "try a lower train.learning_rate, or train.precision=float32, or look at these rows with `tunesmith show`"
    )


def _broken_rows(state: State, course: Course, batch: Batch) -> list[int]:
    """The rows of `batch` whose own outputs are not finite."""
    with torch.no_grad(), autocast(course.plan.precision, course.world.device):
        outputs = forward(state.model, course.task, batch)
    if len(outputs) != len(batch.rows):  # rows of several sequences, or packed ones
        return list(batch.rows)
    finite = torch.isfinite(outputs).flatten(1).all(dim=1).tolist()
    return [row for row, fine in zip(batch.rows, finite, strict=True) if not fine]
