"""What it costs to read and audit a large file: time, and memory beside what the rows themselves take.

python benchmarks/rows.py [--rows 1000000]

Each part runs in a process of its own. `rows alone` holds the validated rows and nothing else; `read, split and
audited` is all that `tunesmith audit` does. Held twice, the second would be about double the first.
"""

import argparse
import json
import random
import resource
import tempfile
import time
from pathlib import Path

from _bench import fresh, table

WORDS = tuple(f"word{number}" for number in range(20))


def write(path: Path, rows: int) -> None:
    """Rows of 8 to 30 words, one in a hundred a repeat."""
    chance = random.Random(0)
    last = "a first row"
    with path.open("w") as file:
        for row in range(rows):
            if chance.random() >= 0.01:
                last = f"{row} " + " ".join(chance.choices(WORDS, k=chance.randint(8, 30)))
            file.write(json.dumps({"id": row, "text": last, "label": f"label {row % 7}"}) + "\n")


def part(which: str, path: Path) -> dict[str, float]:
    from tunesmith.contracts import Record
    from tunesmith.prepare.corpus import read_corpus
    from tunesmith.prepare.options import DataOptions
    from tunesmith.prepare.sources import read_source
    from tunesmith.tasks.classification import Classification

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    task = Classification()
    if which == "rows":
        kept = [
            Record(number, raw.source, raw.line, *task.read(raw.fields))
            for number, raw in enumerate(read_source(str(path), Path()))
        ]
        count = len(kept)
    else:
        corpus = read_corpus(DataOptions(train=str(path)), task, base=Path(), seed=0)
        count = sum(corpus.ledger.read.values())
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"rows": count, "seconds": seconds, "megabytes": (peak - before) / 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--part", nargs=2)
    options = parser.parse_args()
    if options.part:
        print(json.dumps(part(options.part[0], Path(options.part[1]))))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        write(path, options.rows)
        size = path.stat().st_size / 1e6
        alone, whole = (fresh(__file__, "--part", which, str(path)) for which in ("rows", "audit"))
    print(f"{options.rows:,} rows, {size:.0f} MB of JSONL")
    rows = [
        (name, f"{found['seconds']:.1f} s", f"{found['rows'] / found['seconds']:,.0f}", f"{found['megabytes']:.0f} MB")
        for name, found in (("rows alone", alone), ("read, split and audited", whole))
    ]
    table(("part", "time", "rows/s", "peak memory on top"), rows)
    print(f"ratio of memory {whole['megabytes'] / alone['megabytes']:.2f}")


if __name__ == "__main__":
    main()
