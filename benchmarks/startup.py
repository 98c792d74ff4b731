"""How soon the command line answers, and that it does so without torch.

python benchmarks/startup.py [--times 7]
"""

import argparse
import statistics
import subprocess
import time

from _bench import PYTHON, table

LISTED = "import sys; from tunesmith.cli.app import app; print(' '.join(sorted(sys.modules)))"
HEAVY = ("torch", "transformers", "sklearn", "scipy", "matplotlib")
COMMANDS = ("--help", "run --help", "schema")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=7)
    times = parser.parse_args().times
    tunesmith = PYTHON.with_name("tunesmith")
    rows = []
    for command in COMMANDS:
        taken = []
        for _ in range(times):
            began = time.perf_counter()
            subprocess.run([tunesmith, *command.split()], check=True, capture_output=True)
            taken.append(time.perf_counter() - began)
        rows.append((f"tunesmith {command}", f"{statistics.median(taken):.2f} s", f"{max(taken):.2f} s"))
    table(("command", f"median of {times}", "slowest"), rows)
    modules = subprocess.run([PYTHON, "-c", LISTED], check=True, capture_output=True, text=True).stdout.split()
    table(("library", "imported by --help"), [(name, "yes" if name in modules else "no") for name in HEAVY])


if __name__ == "__main__":
    main()
