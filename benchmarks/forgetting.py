"""What a second task costs the first: MiniLM learns movie reviews, then news, with and without a cure.

TUNESMITH_BENCH_DATA=FOLDER python benchmarks/forgetting.py [NAME …] [--kept FOLDER] [--seeds N]

Movie reviews are learned once a seed; each cure then learns news from there. Printed are the accuracy of news, that of
movie reviews by the head that they left on the backbone that came after (backward transfer, with the paired bootstrap's
interval for the first seed), and the drift of hidden states (CKA), means over seeds. The rows judged are those of the
test file of movie reviews, and of the development file of news, which nothing here was chosen by. With --kept the runs
stay, and the same command goes on where it was stopped.
"""

import argparse
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from _bench import data, table

from tunesmith import api
from tunesmith.figures import figures
from tunesmith.run import Run
from tunesmith.transfer import transferred

FIRST = {
    "data": {"train": "movie_reviews/train.jsonl.gz", "validation": 0.05, "test": "movie_reviews/test.jsonl.gz"},
    "train": {"epochs": 3, "batch_size": 32, "learning_rate": 2e-4},
}
FIRST_TOKENS, SECOND_TOKENS, RATE = 128, 64, 3e-4
SECOND = {"train": "ag_news/train.jsonl.gz", "validation": 0.05, "test": "ag_news/dev.jsonl.gz"}
CURES: Mapping[str, Mapping[str, Any]] = {
    "none": {},
    "harmful: rate x 20, 64 rows": {"data": {"limit": 64}, "train": {"learning_rate": 20 * RATE, "epochs": 40}},
    "rate / 3": {"train": {"learning_rate": RATE / 3}},
    "l2_sp 0.01": {"retain": {"l2_sp": 0.01}},
    "l2_sp 0.1": {"retain": {"l2_sp": 0.1}},
    "l2_sp 1": {"retain": {"l2_sp": 1.0}},
    "distil 1": {"retain": {"distil": {"weight": 1.0}}, "train": {"dropout": 0.0}},
    "distil 10": {"retain": {"distil": {"weight": 10.0}}, "train": {"dropout": 0.0}},
    "interpolate": {"retain": {"interpolate": {"margin": 0.01}}},
    "top 2 layers": {"method": {"kind": "partial", "top": 2}, "train": {"learning_rate": RATE}},
    "lora r = 8": {"method": {"kind": "lora", "rank": 8}, "train": {"learning_rate": None}},
    "lora r = 2": {"method": {"kind": "lora", "rank": 2}, "train": {"learning_rate": None}},
    "head": {"method": "head", "train": {"learning_rate": None}},
}


def first(seed: int, kept: Path, place: Path) -> Run:
    common = {"model": "builtin:minilm", "task": {"kind": "classification"}, "method": "full", "seed": seed}
    recipe = {**common, **FIRST, "deploy": {"verify": False}, "evaluate": {"baselines": False}}
    recipe["data"] = {**FIRST["data"], "max_tokens": FIRST_TOKENS}
    return api.run(recipe, folder=kept / f"first-{seed}", base=place)


def second(name: str, seed: int, kept: Path, place: Path) -> Run:
    cure = CURES[name]
    train = {"epochs": 1, "batch_size": 32, "learning_rate": RATE, **cure.get("train", {})}
    recipe = {
        "model": str((kept / f"first-{seed}" / "artifact").resolve()),
        "task": {"kind": "classification"},
        "data": {**SECOND, "max_tokens": SECOND_TOKENS, **cure.get("data", {})},
        "method": cure.get("method", "full"),
        "train": {key: value for key, value in train.items() if value is not None},
        "retain": cure.get("retain", {}),
        "deploy": {"verify": False},
        "evaluate": {"baselines": False, "probes": [{"name": "hidden states"}]},
        "seed": seed,
    }
    slug = "".join(c if c.isalnum() else "-" for c in name)
    return api.run(recipe, folder=kept / f"{slug}-{seed}", base=place)


def measured(names: list[str], seeds: int, kept: Path, place: Path) -> None:
    rows = []
    for name in names:
        gains, left, drifts, said = [], [], [], ""
        for seed in range(seeds):
            begun, run = first(seed, kept, place), second(name, seed, kept, place)
            found = run.read_json("evaluation.json")
            gains.append(found["metrics"]["accuracy"]["value"])
            drifts.append(found["retention"][0]["cka"])
            cell = transferred([("movies", begun), ("news", run)])["cells"][2][0]
            left.append(cell["change"]["value"])
            said = said or "[{low:+.3f}, {high:+.3f}]".format(**cell["change"])
        mean = [figures(statistics.mean(values))[0] for values in (gains, drifts)]
        rows.append((name, mean[0], f"{statistics.mean(left):+.3f} {said}", mean[1]))
        print(*rows[-1], flush=True)
    print()
    table(("cure", "news", "movie reviews, change", "CKA"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(CURES))
    parser.add_argument("--kept", type=Path, help="a folder that the runs are kept in")
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    place = data("movie_reviews", "ag_news")
    if place is not None:
        with tempfile.TemporaryDirectory() as passing:
            measured(asked.names or list(CURES), asked.seeds, asked.kept or Path(passing), place)


if __name__ == "__main__":
    main()
