"""Whether a fresh process, with nothing of tunesmith in it, gets the same outputs from an artefact."""

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from tunesmith.batch import collate
from tunesmith.deploy.parcel import Parcel
from tunesmith.errors import CheckFailed

LIMIT = 1e-4
"""Largest difference of outputs in float32, relative to the largest output where that is above 1."""
ROWS_A_BATCH = 8
SECONDS = 600
CHILD = Path(__file__).with_name("parity_child.py")


def check_parity(folder: Path, kind: str, parcel: Parcel) -> dict[str, Any]:
    """{"rows", "max_difference", "limit", "passed"} of the golden rows. Raises CheckFailed when one differs.

    The process gets token ids, loads the artefact as its model card says, and gives outputs back; files carry both.
    """
    golden = parcel.golden
    groups = [
        list(range(at, min(at + ROWS_A_BATCH, len(golden.data)))) for at in range(0, len(golden.data), ROWS_A_BATCH)
    ]
    batches = [collate(golden.data, group, golden.padding) for group in groups]
    with TemporaryDirectory() as place:
        work = Path(place)
        tensors = {f"{n}/{name}": t.numpy() for n, batch in enumerate(batches) for name, t in batch.inputs.items()}
        save_file(tensors, work / "inputs.safetensors")
        request = {
            "artifact": str(folder.resolve()),
            "kind": kind,
            "base": str(parcel.foundation.folder),
            "auto_class": parcel.auto_class,
        }
        (work / "request.json").write_text(json.dumps(request))
        _run(work)
        found = load_file(work / "outputs.safetensors")
    outputs = np.concatenate([found[str(n)] for n in range(len(batches))]).astype(np.float64)
    difference = np.abs(outputs - golden.outputs).reshape(len(outputs), -1).max(axis=1)
    limit = LIMIT * max(1.0, float(np.abs(golden.outputs).max()))
    if not bool((difference <= limit).all()):
        worst = int(np.argmax(difference > limit))
        raise CheckFailed(
            f"the {kind} artefact does not answer like the model that was tuned: row {golden.records[worst].where} "
            f"differs by {difference[worst]:.2e}, allowed is {limit:.2e}; nothing was exported"
        )
    return {"rows": len(outputs), "max_difference": float(difference.max()), "limit": limit, "passed": True}


def _run(work: Path) -> None:
    """Runs the child in isolated mode and offline, with one thread as exact as any other number."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH") if name in os.environ}
    environment = {**kept, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(  # noqa: S603  # our own file, run by this interpreter
        [sys.executable, "-I", str(CHILD), str(work)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise CheckFailed(f"the artefact does not load in a fresh process: {last}; nothing was exported")
