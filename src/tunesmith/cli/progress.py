"""How a run goes, as it goes: a bar on a terminal, a line now and then elsewhere."""

import time
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from tunesmith.cli.screen import clean, console
from tunesmith.contracts import Step

SECONDS_BETWEEN_LINES = 10.0
"""Where there is no terminal to draw a bar on."""
SMOOTHING = 0.9


class RunProgress:
    """Tells stages, notes and steps. Use it as a context: the bar is taken away at its end."""

    def __init__(self) -> None:
        self.console = console()
        self.bar = Progress(
            BarColumn(),
            TextColumn("{task.completed}/{task.total} steps"),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        )
        self.task: TaskID | None = None
        self.loss: float | None = None
        self.tokens = 0
        self.since = self.told = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._put_away()

    def _put_away(self) -> None:
        if self.bar.live.is_started:  # stopping one that never started prints an empty line
            self.bar.stop()

    def stage(self, name: str, what: str) -> None:
        """A stage begins."""
        self._put_away()
        if self.task is not None:  # what comes next counts its own steps
            self.bar.remove_task(self.task)
            self.task = self.loss = None
        self.console.print(Text.assemble((f"{name:<9}", "bold"), clean(what)))

    def say(self, line: str) -> None:
        """Something worth a line happened."""
        self.console.print(Text(" " * 9 + clean(line)))

    def step(self, step: Step, of: int) -> None:
        """An update was made."""
        self.loss = step.loss if self.loss is None else SMOOTHING * self.loss + (1 - SMOOTHING) * step.loss
        now = time.monotonic()
        if self.task is None:
            # the first step of a run that goes on is not step 1, and its own time is not known
            self.since, self.tokens = now, 0
            self.task = self.bar.add_task("", total=of, completed=step.step)
            if self.console.is_terminal:
                self.bar.start()
        else:
            self.tokens += step.tokens
        words = f"epoch {step.epoch:.1f}  loss {self.loss:.4f}  rate {step.learning_rate:.1e}"
        if self.tokens:
            words += f"  {self.tokens / (now - self.since):,.0f} tokens/s"
        if self.console.is_terminal:
            self.bar.update(self.task, completed=step.step, total=of, description=words)
        elif now - self.told >= SECONDS_BETWEEN_LINES or step.step == of:
            self.told = now
            self.say(f"step {step.step}/{of}  {words}")
