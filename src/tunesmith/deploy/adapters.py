"""Several trained models side by side, which hold what they have in common once: adapters over one base, above all."""

from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from typing import Any

from torch import nn

from tunesmith.deploy.predictor import Predictor, Predictors
from tunesmith.errors import UserError, nearest, shown
from tunesmith.given import Answer
from tunesmith.several import share_equal


class Adapters:
    """Predictors by name, each with its own task, head and method; each call says which of them answers.

    Every one has modules of its own, so that nothing is switched; parameters with the same name and the same values
    exist once. Calls from several threads are answered one after the other.
    """

    def __init__(self, openers: Mapping[str, Callable[[], Predictor | Predictors]]) -> None:
        """openers: what opens each. While one is opened its base is held twice for a moment."""
        self._lock = Lock()
        self._known: dict[str, nn.Parameter] = {}
        self._models: dict[str, Predictor | Predictors] = {}
        self.shared = 0
        """Numbers that would be held once more if each were opened alone."""
        for name, opener in openers.items():
            self._models[name] = opened = opener()
            for predictor in opened.parts.values() if isinstance(opened, Predictors) else (opened,):
                self.shared += share_equal(predictor.model, self._known)

    @property
    def names(self) -> tuple[str, ...]:
        """What the models are called, in the order in which they were given."""
        return tuple(self._models)

    def __getitem__(self, name: str) -> Predictor | Predictors:
        """The model called so; to be asked by one thread at a time. Raises UserError for a name that none has."""
        if name not in self._models:
            raise UserError(f"model {shown(name)}", "is not here", nearest(name, self._models))
        return self._models[name]

    @property
    def parameters(self) -> int:
        """Numbers that are held, each counted once."""
        held = {id(p): p.numel() for one in self._each() for p in one.model.parameters()}
        return sum(held.values())

    def ask(self, name: str, rows: Sequence[Mapping[str, Any]], first: int = 1) -> list[Answer]:
        """What the model called `name` answers to each row. first, and what is raised: as of one `Predictor`."""
        predictor = self[name]
        with self._lock:
            return predictor.ask(rows, first)

    def _each(self) -> list[Predictor]:
        found = []
        for one in self._models.values():
            found += list(one.parts.values()) if isinstance(one, Predictors) else [one]
        return found
