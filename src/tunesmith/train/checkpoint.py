"""The state of training on disk: safetensors and JSON, written so that no instant of being killed can spoil it."""

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tunesmith import commit
from tunesmith.train.loop import State

WEIGHTS, OPTIMISER, REST = "weights.safetensors", "optimizer.safetensors", "state.json"
COPIES = 3
"""AdamW keeps two numbers beside each weight."""


@dataclass(frozen=True)
class Saved:
    """What a checkpoint holds besides tensors. rest: the watch, the journal's size and what else its writer gave."""

    step: int
    rest: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run, in `folder/step-NNNNNNNN/`."""

    def __init__(self, folder: Path, run_id: str) -> None:
        self.folder, self.run_id = folder, run_id
        folder.mkdir(parents=True, exist_ok=True)
        commit.clean(folder)

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def save(self, state: State, trainable: Collection[str], rest: dict[str, Any], facts: dict[str, Any]) -> None:
        """Writes the state after `state.step`; what was there for that step is replaced."""

        def write(folder: Path) -> None:
            save_file(moving(state.model, trainable), folder / WEIGHTS)
            save_file(_optimiser_tensors(state.optimiser), folder / OPTIMISER)
            scaler = None if state.scaler is None else state.scaler.state_dict()
            (folder / REST).write_text(json.dumps({"scaler": scaler, **rest}, sort_keys=True))

        commit.commit_folder(
            self.path(state.step), write, step=state.step, run_id=self.run_id, facts=facts, replace=True
        )

    def newest(self) -> tuple[Path | None, list[str]]:
        """The newest whole checkpoint, and one line for each that was refused."""
        folder, _, broken = commit.newest(self.folder, run_id=self.run_id)
        return folder, [str(reason) for reason in broken]

    def restore(self, folder: Path, state: State) -> Saved:
        """Brings `state` to what `folder` holds."""
        step = commit.verify(folder).step
        load_weights(state.model, folder)
        _restore_optimiser(state.optimiser, load_file(folder / OPTIMISER))
        rest = json.loads((folder / REST).read_text())
        if state.scaler is not None and rest["scaler"] is not None:
            state.scaler.load_state_dict(rest["scaler"])
        state.step = step
        return Saved(step, rest)

    def space(self, state: State, trainable: Collection[str], keep: int) -> int:
        """Bytes that this run's checkpoints still need: the newest `keep`, the best and the one being written."""
        weights = sum(tensor.nbytes for name, tensor in state.model.named_parameters() if name in trainable)
        there = sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())
        return max(0, COPIES * weights * (keep + 2) - there)

    def rotate(self, keep: int, best_step: int | None) -> list[str]:
        """Deletes all but the newest `keep` and the best; what could not be deleted, in words."""
        steps = sorted(int(path.name.removeprefix("step-")) for path in self.folder.glob("step-*"))
        kept = {*steps[-keep:], *([best_step] if best_step is not None else [])}
        return commit.rotate(self.folder, [self.path(step) for step in kept])


def moving(model: nn.Module, trainable: Collection[str]) -> dict[str, Tensor]:
    """The parameters that training changes, by name, each on its own storage."""
    parameters = dict(model.named_parameters())
    return {name: parameters[name].detach().cpu().contiguous() for name in trainable}


def load_weights(model: nn.Module, folder: Path) -> None:
    """Sets the trained parameters to those of a checkpoint."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in load_file(folder / WEIGHTS).items():
            parameters[name].copy_(tensor)


def _named(optimiser: torch.optim.Optimizer) -> list[tuple[str, Tensor]]:
    return [pair for group in optimiser.param_groups for pair in zip(group["names"], group["params"], strict=True)]


def _optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's tensors as `parameter/key`."""
    return {
        f"{name}/{key}": value.detach().cpu().contiguous()
        for name, parameter in _named(optimiser)
        for key, value in optimiser.state.get(parameter, {}).items()
    }


def _restore_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    found: dict[str, dict[str, Tensor]] = {}
    for path, tensor in tensors.items():
        name, _, key = path.rpartition("/")
        found.setdefault(name, {})[key] = tensor
    optimiser.state.clear()
    for name, parameter in _named(optimiser):
        if name in found:  # `step` counters stay float32, moments follow their parameter
            optimiser.state[parameter] = {
                key: value.to(parameter.device) if key == "step" else value.to(parameter)
                for key, value in found[name].items()
            }
