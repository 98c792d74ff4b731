"""A saved model that answers rows."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedTokenizerBase

from tunesmith import commit
from tunesmith.batch import Encoded, encoded, padding_for
from tunesmith.contracts import Answer, Record, Task
from tunesmith.deploy.export import FORMAT, NOTE
from tunesmith.errors import BadRow, UserError
from tunesmith.forward import Inference, all_outputs
from tunesmith.quiet import quiet
from tunesmith.world import World, alone

TaskReader = Callable[[Mapping[str, Any]], Task]
BaseFinder = Callable[[str, str | None], Path]
"""Takes a base model's portable name and revision, gives its folder."""


@dataclass(frozen=True)
class Predictor:
    """A model, its tokenizer and its task, ready to answer. name: the artefact's folder."""

    name: str
    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    task: Task
    max_tokens: int
    world: World

    @classmethod
    def open(cls, folder: Path, *, read_task: TaskReader, find_base: BaseFinder) -> "Predictor":
        """The predictor in an artefact's folder, after its checksums were found right.

        Raises UserError for a folder that is no artefact, and commit.Broken for one that was damaged.
        """
        try:
            note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise UserError(
                str(folder), "holds no model made by tunesmith", "give a run's folder, or its artifact"
            ) from None
        if note.get("format") != FORMAT:
            raise UserError(
                str(folder), f"has format {note.get('format')}, this version reads {FORMAT}", "export it again"
            )
        commit.verify(folder)
        task, world = read_task(note["task"]), alone()
        model = _adapted(folder, note, find_base) if note["kind"] == "adapter" else _full(folder, note)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        return cls(folder.name, model.to(world.device).eval(), tokenizer, task, note["max_tokens"], world)

    def ask(self, rows: Sequence[Mapping[str, Any]]) -> list[Answer]:
        """An answer for each row, in order. Raises UserError that names the row which cannot be read."""
        records = []
        for place, row in enumerate(rows):
            try:
                inputs, _ = self.task.read(row, with_target=False)
            except BadRow as error:
                raise UserError(f"input {place + 1}", str(error), "mend or leave out this row") from error
            records.append(Record(place, "input", place + 1, inputs, None))
        if not records:
            return []
        data = self._encoded(records)
        answers = [self.task.answer(row) for row in self._outputs(data)]
        return [replace(answer, cut=int(cut)) for answer, cut in zip(answers, data.cut, strict=True)]

    def outputs(self, records: Sequence[Record]) -> NDArray[np.float64]:
        """The model's outputs of each record: [N, ...]."""
        return self._outputs(self._encoded(records))

    def _encoded(self, records: Sequence[Record]) -> Encoded:
        return encoded(self.task.encode(records, self.tokenizer, self.max_tokens))

    def _outputs(self, data: Encoded) -> NDArray[np.float64]:
        padding = padding_for(self.task.columns(), self.tokenizer.pad_token_id)
        return all_outputs(self.model, self.task, data, padding, Inference(self.world))


def _full(folder: Path, note: Mapping[str, Any]) -> nn.Module:
    model: nn.Module = _load(note["auto_class"], folder, None)
    return model


def _adapted(folder: Path, note: Mapping[str, Any], find_base: BaseFinder) -> nn.Module:
    from peft import PeftModel

    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    base = _load(note["auto_class"], find_base(note["base"], note["base_revision"]), config)
    with quiet():
        return PeftModel.from_pretrained(base, str(folder))


def _load(auto_class: str, folder: Path, config: Any) -> Any:
    given = {} if config is None else {"config": config}
    with quiet():
        return getattr(transformers, auto_class).from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, **given
        )
