"""The trials of a comparison as plain data: which recipe each of them carries out, and where."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.adapting import require_heads
from tunesmith.contracts import Foundation
from tunesmith.errors import UserError
from tunesmith.pipeline import window
from tunesmith.prepare.corpus import read_corpus, without
from tunesmith.prepare.encode import encode_corpus
from tunesmith.recipe import Recipe, recipe_from
from tunesmith.search.variants import Variant
from tunesmith.select.foundation import open_foundation
from tunesmith.train.plan import make_plan
from tunesmith.world import alone

FACTORS = (1 / 3, 1.0, 3.0)
"""What a method's own rate is multiplied by in its probes."""
PROBED_SHARE = 0.2
"""Of the steps of a trial, how many a probe takes."""


@dataclass(frozen=True)
class Ground:
    """What all trials share. rows: of each split. judged: the split that they are judged on. steps: that each takes."""

    rows: dict[str, int]
    judged: str
    steps: int
    fingerprint: str

    @property
    def probed_steps(self) -> int:
        return max(1, round(PROBED_SHARE * self.steps))


def survey(recipe: Recipe, foundation: Foundation, base: Path, cache: Path) -> Ground:
    """The rows as every trial will see them; encoding them here leaves them in the cache for all."""
    corpus = read_corpus(recipe.data, recipe.task, base=base, seed=recipe.seed)
    kept = cache if recipe.data.cache else None
    most = window(foundation, recipe)
    encoded = encode_corpus(corpus, foundation.codec, most, cache=kept, world=alone())
    corpus = without(corpus, {split: rows.refused for split, rows in encoded.items()})
    rows = {split: len(records) for split, records in corpus.splits.items()}
    judged = next(name for name in ("test", "validation", "train") if rows.get(name))
    plan = make_plan(
        recipe.train, rows=len(encoded["train"]), seed=recipe.seed, peak=recipe.method.learning_rate, precision=""
    )
    if not plan.steps:
        raise UserError("train.max_steps", "is 0, so no method would learn anything", "leave it out")
    return Ground(rows, judged, plan.steps, corpus.fingerprint)


def suited(variants: Sequence[Variant], recipe: Recipe, base: Path) -> tuple[Foundation, list[Variant], dict[str, str]]:
    """The model without its weights, the methods that it and the task can take, and why not, by name, of the others.

    Raises UserError where none is left, and for a model that no method could take.
    """
    foundation = open_foundation(recipe.model, base)
    able, refused = [], {}
    for variant in variants:
        try:
            require_heads(foundation, recipe.task, variant.method)
        except UserError as error:
            refused[variant.name] = str(error)
        else:
            able.append(variant)
    if not able:
        reasons = "; ".join(f"{variant.text}: {refused[variant.name]}" for variant in variants)
        raise UserError("--methods", f"none of them can be used here ({reasons})", "name others")
    return foundation, able, refused


def own_rate(variant: Variant, recipe: Recipe) -> float:
    """The rate that a method has where none is looked for: the recipe's, for the recipe's own kind of method."""
    same = variant.settings["kind"] == recipe.as_mapping()["method"]["kind"]
    return (recipe.train.learning_rate if same else None) or variant.method.learning_rate


def trial_recipe(recipe: Recipe, variant: Variant, *, seed: int, rate: float) -> Recipe:
    """The recipe of one trial: the same rows and as many steps for all, and no more at the end than is compared."""
    train = {"learning_rate": rate, "stop": {"patience": None}}
    return _changed(
        recipe,
        name=None,
        method=dict(variant.settings),
        seed=seed,
        data={"seed": recipe.seed if recipe.data.seed is None else recipe.data.seed},
        train=train,
        evaluate={"baselines": False},
        deploy={"formats": ["auto"], "verify": False},
    )


def probe_recipe(recipe: Recipe, variant: Variant, ground: Ground, *, rate: float) -> Recipe:
    """The recipe of a short trial that is only to show whether a rate suits."""
    whole, steps = trial_recipe(recipe, variant, seed=recipe.seed, rate=rate), ground.probed_steps
    warmup = recipe.train.warmup if recipe.train.warmup < 1 else min(0.5, recipe.train.warmup / ground.steps)
    short: dict[str, Any] = {
        "max_steps": steps,
        "evaluate_every": steps,
        "save_every": None,
        "warmup": warmup,
        "trackers": [],
    }
    return _changed(whole, train=short)


def _changed(recipe: Recipe, **changes: Any) -> Recipe:
    values = recipe.as_mapping()
    for section, change in changes.items():
        old = values[section]
        replaces = section == "method" or not isinstance(change, dict)
        values[section] = change if replaces else _over(old, change)
    return recipe_from(values, "the recipe of a trial")


def _over(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    return {
        **old,
        **{key: _over(old[key], value) if isinstance(value, dict) else value for key, value in new.items()},
    }
