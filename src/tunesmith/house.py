"""What the stages of a run share."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tunesmith.batch import Encoded, Padding
from tunesmith.contracts import Corpus
from tunesmith.recipe import Recipe
from tunesmith.run import Run
from tunesmith.training import Teller
from tunesmith.world import World


class Screen(Teller, Protocol):
    """Who is told how the run goes."""

    def stage(self, name: str, what: str) -> None:
        """A stage begins."""


@dataclass(frozen=True)
class House:
    """What all stages share: the recipe, the run's folder, where its relative paths start, the world, the screen."""

    recipe: Recipe
    run: Run
    base: Path
    world: World
    screen: Screen

    def keep(self, name: str, data: Any) -> None:
        """Writes a JSON file of the run, on the main process."""
        if self.world.main:
            self.run.write_json(name, data)


@dataclass(frozen=True)
class Prepared:
    """The rows, encoded for the model, and the longest row in tokens."""

    corpus: Corpus
    encoded: Mapping[str, Encoded]
    padding: Padding
    max_tokens: int

    @property
    def judged(self) -> str:
        """The split that the tuned model is judged on."""
        return next(name for name in ("test", "validation", "train") if self.corpus.splits.get(name))
