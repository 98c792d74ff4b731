"""One run's training: the page that takes steps and logs, judges, saves and stops."""

import resource
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.nn import Module

from tunesmith import commit
from tunesmith.batch import Encoded
from tunesmith.contracts import Adapted, Corpus, Record, Step
from tunesmith.errors import Interrupted, TrainingStopped, UserError
from tunesmith.forward import Inference, all_outputs
from tunesmith.given import Outputs
from tunesmith.run import Run
from tunesmith.train.checkpoint import Checkpoints, load_weights
from tunesmith.train.journal import Journal, read_journal
from tunesmith.train.loop import Course, State, steps
from tunesmith.train.optimiser import make_optimiser
from tunesmith.train.signals import Wish
from tunesmith.train.stopping import Watch
from tunesmith.train.trackers import Tracked, Tracker, open_trackers, values

Measure = Callable[[Module, Outputs, Sequence[Record]], dict[str, float | None]]


class Teller(Protocol):
    """Who is told how training goes."""

    def step(self, step: Step, of: int) -> None:
        """An update was made."""

    def say(self, line: str) -> None:
        """Something worth a line happened."""


@dataclass(frozen=True)
class Session:
    """Everything that training needs.

    encoded: the splits as the model sees them. measure: the task's metrics, by name, of the model that gave these
    outputs on these validation records. metric: the name of the one to watch, and whether higher is better.
    probe: what else is measured of the model at every `probe_every` evaluations, by name.
    """

    run: Run
    corpus: Corpus
    adapted: Adapted
    encoded: Mapping[str, Encoded]
    course: Course
    measure: Measure
    metric: str
    higher_is_better: bool
    facts: Mapping[str, Any] = field(default_factory=dict)
    probe: Callable[[Module], Mapping[str, Any]] = lambda model: {}
    probe_every: int | None = None

    def probes_at(self, step: int) -> bool:
        """Whether it is probed after this step, which must be one after which the model is evaluated."""
        every = self.probe_every
        return every is not None and (sorted(self.course.plan.marks).index(step) + 1) % every == 0


@dataclass(frozen=True)
class Outcome:
    """How training ended. weights_of: the step whose weights the model now has; reason: why it stopped."""

    steps: int
    weights_of: int
    reason: str


def train(session: Session, wish: Wish, teller: Teller) -> Outcome:
    """Trains from the newest valid checkpoint, or from the start; the model ends with the weights that were asked for.

    Raises Interrupted after saving when a signal came, and TrainingStopped when a loss or gradient is not finite.
    """
    run, course, world = session.run, session.course, session.course.world
    options = course.plan.options
    checkpoints = Checkpoints(run.checkpoints, run.run_id) if world.main else None
    world.barrier()
    checkpoints = checkpoints or Checkpoints(run.checkpoints, run.run_id)
    model = session.adapted.model
    scaler = torch.amp.GradScaler(world.device.type) if course.plan.precision == "float16" else None
    state = State(model, make_optimiser(model, session.adapted, options, course.undecayed), scaler)
    watch = Watch(options.stop, session.higher_is_better)
    desk = _Desk(session, checkpoints, state, watch, teller)
    try:
        if world.main:  # a full disk is told now, not hours later
            commit.require_space(run.checkpoints, checkpoints.space(state, session.adapted.trainable, options.keep))
        layers = 1 + max(group["turn"] for group in state.optimiser.param_groups)
        if (line := course.plan.unfreezing(layers)) is not None:
            teller.say(line)
        desk.resume()
        desk.track()
        reason = _follow(desk, wish)
    except TrainingStopped:
        desk.save()
        raise
    finally:
        desk.close()
    best = _settle(desk)
    return Outcome(state.step, best, reason)


def _follow(desk: "_Desk", wish: Wish) -> str:
    """Takes steps until the plan, the watch or a signal ends it; why it ended."""
    session, state, watch = desk.session, desk.state, desk.watch
    plan, world = session.course.plan, session.course.world
    began = time.monotonic()
    if not watch.over:
        for step in steps(state, session.course):
            desk.log(step, time.monotonic() - began)
            if step.step in plan.marks:
                desk.judge(step)
            if plan.saves_at(step.step):
                desk.save()
            if watch.over and step.step < plan.steps:
                break
            (signals,) = world.total(float(wish.signal or 0))
            if signals and step.step < plan.steps:
                desk.save()
                raise Interrupted(
                    int(signals / world.size) or 2, f"saved after step {step.step}; the same command goes on from there"
                )
            began = time.monotonic()
    reason = "early stop" if watch.over and state.step < plan.steps else "planned end"
    desk.write({"event": "end", "step": state.step, "reason": reason, "weights_of": desk.wanted()})
    return reason


def _settle(desk: "_Desk") -> int:
    """Gives the model the best weights, where that is wanted; the step that its weights are of."""
    best = desk.wanted()
    if best == desk.state.step:
        return best
    folder = desk.checkpoints.path(best)
    try:
        commit.verify(folder)
    except commit.Broken as error:
        desk.teller.say(f"the best checkpoint is spoiled ({error}); the last weights are used instead")
        return desk.state.step
    load_weights(desk.state.model, folder)
    return best


class _Desk:
    """The things that training is logged, judged and saved with; only the main process writes."""

    def __init__(self, session: Session, checkpoints: Checkpoints, state: State, watch: Watch, teller: Teller) -> None:
        self.session, self.checkpoints, self.state, self.watch, self.teller = session, checkpoints, state, watch, teller
        self.main = session.course.world.main
        run = session.run
        self.journal = Journal(run.journal) if self.main else None
        self.timing = Journal(run.timing) if self.main else None
        self.trackers: list[Tracker] = []

    def close(self) -> None:
        for journal in (self.journal, self.timing):
            if journal is not None:
                journal.close()
        for tracker in self.trackers:
            tracker.close()

    def wanted(self) -> int:
        """The step whose weights the model is to end with."""
        best = self.watch.best_step if self.watch.options.restore_best else None
        return self.state.step if best is None else best

    def track(self) -> None:
        """Opens the trackers, where training begins or goes on."""
        if self.main:
            names, run = self.session.course.plan.options.trackers, self.session.run
            self.trackers = open_trackers(names, Tracked(run.folder, run.run_id, self.state.step))

    def write(self, event: dict[str, Any]) -> None:
        if self.journal is not None:
            self.journal.write(event)

    def log(self, step: Step, seconds: float) -> None:
        if self.journal is None or self.timing is None:
            return
        self.journal.step(step)
        self.timing.write({"step": step.step, "seconds": round(seconds, 6)})
        for tracker in self.trackers:
            tracker.write(step.step, values({"event": "step", **asdict(step)}))
        with suppress(BrokenPipeError):  # whoever listened has left; the work goes on
            self.teller.step(step, self.session.course.plan.steps)

    def judge(self, step: Step) -> None:
        """Measures the model on the validation split, and remembers whether it is the best so far."""
        session = self.session
        if "validation" not in session.encoded:
            return
        course, records = session.course, session.corpus.splits["validation"]
        run = Inference(course.world, course.plan.precision)
        padding = replace(course.padding, pack=None)
        passed = all_outputs(self.state.model, course.task, session.encoded["validation"], padding, run)
        loss = passed.mean_loss
        metrics = session.measure(self.state.model, passed.outputs, records)
        watched = loss if session.metric == "loss" else metrics[session.metric]
        better = self.watch.see(step.step, watched)
        event = {
            "event": "evaluation",
            "step": step.step,
            "epoch": step.epoch,
            "loss": loss,
            "metrics": metrics,
            "best": better,
            **({"losses": passed.losses} if course.task.parts else {}),
            **({"retention": session.probe(self.state.model)} if session.probes_at(step.step) else {}),
        }
        self.write(event)
        if self.main:
            for tracker in self.trackers:
                tracker.write(step.step, values(event))
            told = {"validation loss": loss, **(passed.losses if course.task.parts else {})}
            if session.metric != "loss":
                told[session.metric] = watched
            shown = ", ".join(f"{name} {'not defined' if v is None else f'{v:.4f}'}" for name, v in told.items())
            self.teller.say(f"step {step.step}: {shown}{' (best)' if better else ''}")

    def save(self) -> None:
        """Writes a checkpoint, and then deletes those that are no longer needed."""
        if self.journal is not None:
            rest = {"journal": self.journal.size(), "watch": self.watch.state()}
            self.checkpoints.save(self.state, self.session.adapted.trainable, rest, dict(self.session.facts))
            keep = self.session.course.plan.options.keep
            for warning in self.checkpoints.rotate(keep, self.watch.best_step):
                self.teller.say(warning)
        self.session.course.world.barrier()

    def resume(self) -> None:
        """Goes back to the newest valid checkpoint, if there is one."""
        world = self.session.course.world
        folder, refused = self.checkpoints.newest() if self.main else (None, [])
        world.barrier()
        if not self.main:
            folder, _ = self.checkpoints.newest()
        for line in refused:
            self.teller.say(f"checkpoint refused: {line}")
        if folder is None:
            if self.journal is not None and self.timing is not None:
                self.journal.cut(0)
                self.timing.cut(0)
            return
        self._same_ground(folder)
        saved = self.checkpoints.restore(folder, self.state)
        self.watch.restore(saved.rest["watch"])
        if self.journal is not None:
            self.journal.cut(saved.rest["journal"])
        self.teller.say(f"going on after step {saved.step} ({folder.name})")

    def _same_ground(self, folder: Any) -> None:
        """Refuses other data; says what else differs from when the checkpoint was written."""
        before, now = commit.verify(folder).facts, self.session.facts
        for key, what in (("data", "data"), ("base", "a base model with weights")):
            if before.get(key) != now.get(key):
                raise UserError(
                    str(folder.name),
                    f"was trained on {what} {str(before.get(key))[:12]}, now it is {str(now.get(key))[:12]}",
                    "bring it back, or start another run with --run",
                )
        for key in sorted(set(before) | set(now)):
            if before.get(key) != now.get(key):
                self.teller.say(
                    f"{key} was {before.get(key)} and is {now.get(key)}: the results will not be the same to the byte"
                )


def cost(run: Run, journal: list[dict[str, Any]], total_seconds: float) -> dict[str, Any]:
    """What the training of a run cost, over all the times that it was interrupted.

    Bytes are of this process: its largest resident set, or the most GPU memory that was in use.
    """
    taken: dict[int, float] = {}
    for event in read_journal(run.timing):
        taken[event["step"]] = event["seconds"]
    done = [event for event in journal if event["event"] == "step"]
    seconds = sum(taken.get(event["step"], 0.0) for event in done)
    tokens = sum(event["tokens"] for event in done)
    return {
        "train_seconds": seconds,
        "total_seconds": total_seconds,
        "steps": len(done),
        "tokens": tokens,
        "padded_tokens": sum(event["padded"] for event in done),
        "tokens_per_second": tokens / seconds if seconds else None,
        "peak_memory_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else _largest_resident(),
    }


def _largest_resident() -> int:
    """Bytes of this process's largest resident set. What getrusage says also counts the process that started it."""
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.is_file() else []:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
