"""How settings of a shipped recipe are chosen: cross-validation of its training rows; its test rows are never read.

python benchmarks/folds.py [NAME] [--folds 3] [key=value …]

NAME is a recipe of recipes/, support-desk-intent when left out. Each fold is judged by a model that was trained on the
other folds without early stopping, beside the baselines.
"""

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from _bench import ROOT, table

from tunesmith import api
from tunesmith.recipe import Recipe


def rows_of(recipe: Recipe) -> list[str]:
    sources = [recipe.data.train] if isinstance(recipe.data.train, str) else recipe.data.train
    return [line for source in sources for line in (ROOT / "recipes" / source).read_text("utf-8").splitlines()]


def judged(path: Path, train: list[str], held: list[str], settings: list[str], folder: Path) -> dict[str, Any]:
    """What `evaluation.json` says of one fold."""
    for name, lines in (("train", train), ("held", held)):
        (folder / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines), "utf-8")
    plain = ["data.validation=0", "train.evaluate_every=100000", "deploy.verify=false"]
    ends = ["train.stop.patience=null", "train.stop.restore_best=false"]
    data = [f"data.train={folder}/train.jsonl", f"data.test={folder}/held.jsonl"]
    run = api.run(path, overrides=[*settings, *plain, *ends, *data], folder=folder / "run")
    found: dict[str, Any] = run.read_json("evaluation.json")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", default="support-desk-intent")
    parser.add_argument("settings", nargs="*", metavar="key=value")
    parser.add_argument("--folds", type=int, default=3)
    options = parser.parse_args()
    path = ROOT / "recipes" / f"{options.name}.yaml"
    lines = rows_of(api.load_recipe(path))
    fold = np.random.default_rng(7).permutation(len(lines)) % options.folds
    found = []
    for number in range(options.folds):
        train = [line for line, place in zip(lines, fold, strict=True) if place != number]
        held = [line for line, place in zip(lines, fold, strict=True) if place == number]
        with tempfile.TemporaryDirectory() as folder:
            found.append(judged(path, train, held, options.settings, Path(folder)))
    metric = found[0]["main"]
    by_name = {"tunesmith": [one["metrics"][metric]["value"] for one in found]}
    for place, baseline in enumerate(found[0]["baselines"]):
        by_name[baseline["name"]] = [one["baselines"][place]["metrics"][metric]["value"] for one in found]
    header = ("model", metric, *(f"fold {number + 1}" for number in range(options.folds)))
    table(header, [(name, *(f"{v:.3f}" for v in (statistics.mean(vs), *vs))) for name, vs in by_name.items()])


if __name__ == "__main__":
    main()
