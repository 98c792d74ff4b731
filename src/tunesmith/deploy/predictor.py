"""A saved model that answers rows."""

import importlib
import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from tunesmith import commit
from tunesmith.batch import Encoded, encoded, padding_for
from tunesmith.commit import NOTE
from tunesmith.contracts import Codec, Family, Record, Task
from tunesmith.deploy.export import FORMAT
from tunesmith.errors import BadRow, UserError
from tunesmith.forward import Inference, all_outputs
from tunesmith.generate import Speaker, with_replies
from tunesmith.given import Answer, Outputs, answers_together
from tunesmith.quiet import quiet
from tunesmith.world import World, alone

TaskReader = Callable[[Mapping[str, Any]], Task]
BaseFinder = Callable[[str, str | None], Path]
"""Takes a base model's portable name and revision, gives its folder."""


@dataclass(frozen=True)
class Predictor:
    """A model, how its texts are encoded, and its task, ready to answer. name: the artefact's folder."""

    name: str
    model: nn.Module
    codec: Codec
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
        codec = Codec(tokenizer, Family(note["family"]), model.config)  # type: ignore[arg-type]
        return cls(folder.name, model.to(world.device).eval(), codec, task, note["max_tokens"], world)

    def ask(self, rows: Sequence[Mapping[str, Any]], first: int = 1) -> list[Answer]:
        """An answer for each row, in order. first: the number of the first row in messages.

        Raises UserError that names the row which cannot be read.
        """
        return self.answers(asked(self.task, rows, first))

    def answers(self, records: Sequence[Record]) -> list[Answer]:
        """An answer for each record that is asked about, in order. Raises UserError for one that cannot be read."""
        if not records:
            return []
        if self.task.decoding_for(self.codec) is not None:
            prompts = encoded(self.task.prompts(records, self.codec, self.max_tokens))
            outputs = self._spoken(Outputs([], prompts), records)
        else:
            data = self.read(records)
            for record in records:
                if record.row in data.refused:
                    reason = unreadable(data.refused[record.row])
                    raise UserError(f"{record.source} {record.line}", reason, "leave it out")
            outputs = self.outputs(data, records)
        cut: dict[int, int] = {}
        for row, count in zip(outputs.data.rows.tolist(), outputs.data.cut.tolist(), strict=True):
            cut[row] = cut.get(row, 0) + int(count)
        answers = self.task.answers(outputs, records)
        return [replace(answer, cut=cut.get(record.row, 0)) for answer, record in zip(answers, records, strict=True)]

    def read(self, records: Sequence[Record]) -> Encoded:
        """The records as the model sees them; `refused` holds those of which it cannot."""
        return encoded(self.task.encode(records, self.codec, self.max_tokens))

    def outputs(self, data: Encoded, records: Sequence[Record]) -> Outputs:
        """What the model gives for each of the records that `data` holds, and what it writes to them."""
        padding = padding_for(self.task.columns(), self.codec.tokenizer.pad_token_id)
        passed = all_outputs(self.model, self.task, data, padding, Inference(self.world))
        return self._spoken(passed.outputs, records)

    def _spoken(self, outputs: Outputs, records: Sequence[Record]) -> Outputs:
        speaker = Speaker(self.codec, self.max_tokens, Inference(self.world))
        return with_replies(self.model, self.task, outputs, records, speaker)


@dataclass(frozen=True)
class Predictors:
    """The models of several tasks, each of which answers the rows that are for it. name: the run's folder."""

    name: str
    task: Task
    parts: Mapping[str, Predictor]

    @property
    def max_tokens(self) -> int:
        """The longest row in tokens that all of them read whole."""
        return min(predictor.max_tokens for predictor in self.parts.values())

    def ask(self, rows: Sequence[Mapping[str, Any]], first: int = 1) -> list[Answer]:
        """For each row the answers by task. first, and what is raised: as of one `Predictor`."""
        records = asked(self.task, rows, first)
        own = {name: self.task.of_part(name, records) for name in self.parts}
        found = {name: (asked_of, self.parts[name].answers(asked_of)) for name, asked_of in own.items()}
        return answers_together(records, found)


def asked(task: Task, rows: Sequence[Mapping[str, Any]], first: int = 1) -> list[Record]:
    """The rows as the task reads them without their answers. Raises UserError that names the first bad one.

    first: the number of the first row in messages.
    """
    records = []
    for place, row in enumerate(rows):
        try:
            inputs, _ = task.read(row, with_target=False)
        except BadRow as error:
            raise UserError(f"input {first + place}", str(error), "mend or leave out this row") from error
        records.append(Record(place, "input", first + place, inputs, None))
    return records


def unreadable(reason: str) -> str:
    """What is said of a row that a task refuses for `reason`."""
    return f"cannot be read by this model: {reason.replace('_', ' ')}"


def _full(folder: Path, note: Mapping[str, Any]) -> nn.Module:
    model: nn.Module = _load(note["auto_class"], folder, None)
    return model


def _adapted(folder: Path, note: Mapping[str, Any], find_base: BaseFinder) -> nn.Module:
    from peft import PeftModel

    load: Callable[[Any, str], nn.Module] = PeftModel.from_pretrained
    module, _, name = note.get("loader", "").partition(":")
    if module.startswith("tunesmith.adapt.") and name == "load":  # a file does not say which other code is run
        load = getattr(importlib.import_module(module), name)
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    base = _load(note["auto_class"], find_base(note["base"], note["base_revision"]), config, note.get("quantised"))
    with quiet():
        if "vocabulary" in note:
            base.resize_token_embeddings(note["vocabulary"], mean_resizing=False)
        return load(base, str(folder))


def _load(auto_class: str, folder: Path, config: Any, quantised: Mapping[str, Any] | None = None) -> Any:
    # A base may have a head of another size, in whose place the adapter brings its own.
    given = {} if config is None else {"config": config, "ignore_mismatched_sizes": True}
    if quantised is not None:
        if importlib.util.find_spec("bitsandbytes") is None:
            raise UserError(str(folder), "is held in few bits, which needs bitsandbytes", "pip install bitsandbytes")
        given["quantization_config"] = transformers.BitsAndBytesConfig(**quantised)  # type: ignore[no-untyped-call]
    with quiet():
        return getattr(transformers, auto_class).from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, **given
        )
