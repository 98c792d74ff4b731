"""Which evaluation was the best, and whether to go on."""

from dataclasses import asdict, dataclass
from typing import Any

from tunesmith.train.options import StopOptions


@dataclass
class Watch:
    """The best value so far of one metric, and how many evaluations brought nothing better since."""

    options: StopOptions
    higher_is_better: bool
    best: float | None = None
    best_step: int | None = None
    since: int = 0

    def see(self, step: int, value: float | None) -> bool:
        """Takes the value measured after `step`; whether it is the best so far. None is never better."""
        if value is not None and self._better(value):
            self.best, self.best_step, self.since = value, step, 0
            return True
        self.since += 1
        return False

    def _better(self, value: float) -> bool:
        if self.best is None:
            return True
        gain = value - self.best if self.higher_is_better else self.best - value
        return gain > self.options.min_change

    @property
    def over(self) -> bool:
        """Whether patience has run out."""
        return self.options.patience is not None and self.since >= self.options.patience

    def state(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name in ("best", "best_step", "since")}

    def restore(self, state: dict[str, Any]) -> None:
        self.best, self.best_step, self.since = state["best"], state["best_step"], state["since"]
