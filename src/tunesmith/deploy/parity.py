"""Whether a fresh process, with nothing of tunesmith in it, gets the same outputs from an artefact."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tunesmith.batch import Encoded, Padding
from tunesmith.contracts import Record, Task
from tunesmith.deploy.parcel import Golden, Parcel
from tunesmith.deploy.parity_child import reduced
from tunesmith.errors import CheckFailed
from tunesmith.forward import JUDGED, batch_of

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
    with TemporaryDirectory() as place:
        work = Path(place)
        tensors = {f"{n}/{name}": t.contiguous() for n, batch in enumerate(golden.batches) for name, t in batch.items()}
        save_file(tensors, work / "inputs.safetensors")
        request = {
            "artifact": str(folder.resolve()),
            "kind": kind,
            "base": str(parcel.foundation.folder),
            "auto_class": parcel.auto_class,
            "loader": parcel.loader,
            "quantised": parcel.quantised,
            "vocabulary": parcel.foundation.embedded if parcel.foundation.grown else None,
        }
        (work / "request.json").write_text(json.dumps(request))
        _run(work)
        found = load_file(work / "outputs.safetensors")
    largest = max(float(values.abs().max()) for batch in golden.outputs for values in batch.values())
    limit, worst = LIMIT * max(1.0, largest), 0.0
    for n, batch in enumerate(golden.outputs):
        for name, values in batch.items():
            difference = (found[f"{n}/{name}"] - values).abs().flatten(1).amax(dim=1)
            if not bool((difference <= limit).all()):
                line = int((difference <= limit).int().argmin())
                raise CheckFailed(
                    f"the {kind} artefact does not answer like the model that was tuned: row "
                    f"{golden.records[golden.places[n][line]].where} differs by {float(difference[line]):.2e}, "
                    f"allowed is {limit:.2e}; nothing was exported"
                )
            worst = max(worst, float(difference.max()))
    return {"rows": len(golden.records), "max_difference": worst, "limit": limit, "passed": True}


def golden(model: nn.Module, task: Task, data: Encoded, padding: Padding, records: Sequence[Record]) -> Golden:
    """What the model, as it is now, gives for these rows. Of rows of several windows every one is compared."""
    number = {record.row: place for place, record in enumerate(records)}
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    batches, outputs, places = [], [], []
    with torch.inference_mode():
        for at in range(0, len(data), ROWS_A_BATCH):
            batch = batch_of(task, data, list(range(at, min(at + ROWS_A_BATCH, len(data)))), padding, JUDGED)
            given = task.arguments(batch.to(device))
            batches.append({name: tensor.cpu() for name, tensor in given.items()})
            outputs.append(reduced(model(**given), given))
            lines = batch.pieces or (1,) * len(batch.rows)
            places.append([number[row] for row, count in zip(batch.rows, lines, strict=True) for _ in range(count)])
    model.train(was_training)
    return Golden(batches, outputs, places, records)


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
