"""Code: completed, filled in, or written from words, and judged by running it."""

import ast
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator
from transformers import PreTrainedTokenizerBase

from tunesmith.batch import Example
from tunesmith.contracts import Codec, Family, Record, Specimen
from tunesmith.errors import BadRow, UserError, named, shown
from tunesmith.given import Decoding, Outputs, Predictions, objects
from tunesmith.options import PATH
from tunesmith.tasks.base import in_front
from tunesmith.tasks.replies import (
    DecodingOptions,
    WrittenTask,
    continued_ids,
    decoder_row,
    end_of,
    exact_ids,
    pair_row,
    plain_ids,
    start_of,
)
from tunesmith.tasks.text import frame, read_text

BY_TESTS = ("pass_at_1", "pass_at_10")
BY_RESULT = ("execution_accuracy",)
ALWAYS = ("same_text", "chrf", "reply_nll", "stop_rate")
INFILL = (
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
)
"""The control tokens of models that can fill in: Code Llama, Qwen and StarCoder 2, StarCoder, DeepSeek Coder."""
LOST = "tokenizer_changes_it"
"""Why a row of code is refused: T5's tokenizers and those like them know no line breaks, for instance."""
SQLITE = b"SQLite format 3\0"
"""How a database file begins that is not empty."""
FENCE = re.compile(r"^[ \t]*```.*\n?", re.MULTILINE)
TOKENS = "the model's tokenizer has no tokens to fill in with"
WRITTEN = (
    ("def thank(", "you):\n return 1", "assert thank(2) == 1"),
    ("def late(", "x):\n return x", "assert late(3) == 3"),
    ("def now(", "):\n return 2", "assert now() == 2"),
)


class Solutions(tuple[str, ...]):
    """Right texts, with what others are judged by: tests, the name of a function, a database's script."""

    judged: Mapping[str, str]

    def __new__(cls, texts: Sequence[str], judged: Mapping[str, str]) -> Self:
        made = super().__new__(cls, texts)
        made.judged = judged
        return made


class Code(WrittenTask):
    """A program, a part of one, or a query."""

    version: ClassVar[int] = 1
    keeps_blanks: ClassVar[bool] = True
    specimens: ClassVar[tuple[Specimen, ...]] = (
        Specimen(
            {"test": "check", "decoding": {"max_new_tokens": 24}},
            tuple({"prompt": prompt, "solution": solution, "check": check} for prompt, solution, check in WRITTEN),
        ),
        Specimen(
            {"language": "sql", "prompt": "asked", "solution": "query", "decoding": {"max_new_tokens": 24}},
            ({"asked": "late order", "query": "SELECT 1"}, {"asked": "red lamp", "query": ["SELECT 2", "SELECT 3"]}),
        ),
    )

    prompt: str = Field("prompt", description="Column of what comes before: code, or words that say what is wanted.")
    solution: str = Field("solution", description="Column of the right code, or of a list of right ones.")
    suffix: str | None = Field(None, description="Column of the code behind the gap, for models that can fill in.")
    language: Literal["python", "sql", "other"] = Field("python", description="What the code is written in.")
    test: str | None = Field(
        None,
        description="Column of Python that is run behind the code and fails where it is wrong (HumanEval's `test`).",
    )
    entry_point: str | None = Field(
        None, description="Column of the function's name that `check(…)` of the tests takes."
    )
    database: str | None = Field(
        None,
        json_schema_extra=PATH,
        description="SQLite file that queries are compared on; or, in `schema`, a column with its SQL script.",
    )
    schema_column: str | None = Field(
        None, alias="schema", description="Column of the CREATE and INSERT statements that make the database of a row."
    )
    samples: int = Field(
        1, ge=1, description="Programs written for each prompt, for pass@k; above 1 with a temperature."
    )
    metric: str | None = Field(None, description="Main metric; None: pass_at_1, execution_accuracy or same_text.")
    decoding: DecodingOptions = Field(DecodingOptions(max_new_tokens=256), description="How programs are written.")

    @model_validator(mode="after")
    def _draws(self) -> Self:
        if self.samples > 1 and not self.decoding.temperature:
            raise ValueError("several samples of a prompt are all the same without decoding.temperature")
        return self

    @property
    def fields(self) -> tuple[str, ...]:
        judged = (self.test, self.entry_point, self.schema_column)
        return (*self.inputs, self.solution, *(column for column in judged if column is not None))

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.prompt,) if self.suffix is None else (self.prompt, self.suffix)

    @property
    def metrics(self) -> tuple[str, ...]:
        runs = BY_TESTS[: 1 + (self.samples >= 10)] if self.test is not None else ()
        compared = BY_RESULT if self.database is not None or self.schema_column is not None else ()
        valid = () if self.language == "other" else ("valid_code",)
        known = (*runs, *compared, *ALWAYS[:1], *valid, *ALWAYS[1:])
        return in_front(self.metric, known)

    @property
    def baselines(self) -> tuple[str, ...]:
        return ("nearest_text",)

    def read(self, row: Mapping[str, Any], *, with_target: bool = True) -> tuple[Mapping[str, Any], Any]:
        inputs = {name: read_text(row, name) for name in self.inputs}
        if not with_target:
            return inputs, None
        value = row.get(self.solution)
        texts = list(value) if isinstance(value, list | tuple) else [value]
        if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
            reason = "empty_reply" if all(isinstance(text, str) for text in texts) else "no_text"
            raise BadRow(self.solution, shown(value), "code, or a list of right ones", reason)
        judged = {
            name: read_text(row, column)
            for name, column in (("test", self.test), ("entry_point", self.entry_point), ("schema", self.schema_column))
            if column is not None
        }
        if self.language == "python" and "test" in judged:
            before, behind = inputs[self.prompt], "" if self.suffix is None else inputs[self.suffix]
            for text in texts:
                _require_program(self.solution, before, str(text), behind, judged.get("entry_point"))
        return inputs, Solutions([str(text) for text in texts], judged)

    def learn(self, records: Sequence[Record]) -> Self:
        if self.database is not None:
            _require_database(Path(self.database))
        return self

    def encode(self, records: Sequence[Record], codec: Codec, max_tokens: int) -> Sequence[Example]:
        """The first solution behind its prompt; a prompt that is too long loses its start.

        Refused is code that the tokenizer cannot give back as it is.
        """
        tokenizer, end = codec.tokenizer, end_of(codec.tokenizer)
        made = []
        for record in records:
            prompt, right = self._prompt(record, codec), record.target[0].rstrip()
            before = record.inputs[self.prompt] if self.suffix is None else ""
            decoder = codec.family is Family.DECODER
            solution = continued_ids(tokenizer, before, right) if decoder else exact_ids(tokenizer, right)
            if right not in tokenizer.decode([*prompt, *solution] if decoder else solution):
                made.append(Example(record.row, {}, refused=LOST))
            elif decoder:
                made.append(decoder_row(record.row, prompt, [*solution, end], max_tokens))
            else:
                kept = prompt[max(0, len(prompt) - max_tokens) :]
                made.append(pair_row(record.row, codec, kept, [*solution, end], max_tokens, len(prompt) - len(kept)))
        return made

    def prompts(self, records: Sequence[Record], codec: Codec, max_tokens: int) -> Sequence[Example]:
        room = max_tokens
        if codec.family is Family.DECODER:
            room = max(1, max_tokens - min(self.decoding.max_new_tokens, max_tokens // 2))
        made = []
        for record in records:
            prompt = self._prompt(record, codec)
            kept = prompt[max(0, len(prompt) - room) :]
            made.append(Example(record.row, {"input_ids": kept}, len(prompt) - len(kept)))
        return made

    def _prompt(self, record: Record, codec: Codec) -> list[int]:
        before, after = frame(codec.tokenizer)
        text = plain_ids(codec.tokenizer, record.inputs[self.prompt])
        if self.suffix is not None:
            first, second, third = _infill(codec.tokenizer)
            behind = plain_ids(codec.tokenizer, record.inputs[self.suffix])
            text = [first, *text, second, *behind, third]
        return [*before, *text, *(after if codec.family is Family.ENCODER_DECODER else ())]

    def decoding_for(self, codec: Codec) -> Decoding | None:
        end = end_of(codec.tokenizer)
        start = start_of(codec, [end]) if codec.family is Family.ENCODER_DECODER else None
        forced = codec.config.to_dict().get("forced_bos_token_id") if start is not None else None
        found = self.decoding.decoding([end], forced=forced, start=start, samples=self.samples)
        return replace(found, continues=True)

    def gold(self, records: Sequence[Record]) -> Predictions:
        return self._judged_by(super().gold(records), records)

    def predictions(self, outputs: Outputs, records: Sequence[Record]) -> Predictions:
        return self._judged_by(super().predictions(outputs, records), records)

    def _judged_by(self, found: Predictions, records: Sequence[Record]) -> Predictions:
        """The predictions with what their code is run with, a mapping each row."""
        facts = [
            {
                "language": self.language,
                "prompt": record.inputs[self.prompt],
                "suffix": "" if self.suffix is None else record.inputs[self.suffix],
                "database": self.database,
                **record.target.judged,
            }
            for record in records
        ]
        return replace(found, extras={**found.extras, "program": objects(facts)})


def _require_program(column: str, before: str, text: str, behind: str, entry_point: str | None) -> None:
    """Raises BadRow for right code that can pass no test: it is no Python, or lacks the function that is tested.

    It may stand alone, in a fence of Markdown, or between what comes before and behind it. It is not run.
    """
    found = [tree for part in (text, *FENCE.split(text)) for tree in (_parsed(part), _parsed(before + part + behind))]
    trees = [tree for tree in found if tree is not None]
    if not trees:
        raise BadRow(column, shown(text), "Python, alone or behind its prompt, since it is tested", "broken_code")
    called = re.split(r"\W", entry_point or "", maxsplit=1)[0]  # of `Solution().run` the class
    if called and not any(called in _names(tree) for tree in trees):
        raise BadRow(column, shown(text), f"code that defines {shown(entry_point)}, which is tested", "no_entry_point")


def _parsed(text: str) -> ast.Module | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a strange escape in a string, for one
        try:
            return ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


def _names(tree: ast.Module) -> set[str]:
    """What a program gives a name to, anywhere in it."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.alias):
            found.add(node.asname or node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


def _require_database(path: Path) -> None:
    """Raises UserError for a file that queries cannot be compared on."""
    try:
        with path.open("rb") as file:
            start = file.read(len(SQLITE))
    except OSError as error:
        found = f"{named(path)} cannot be read ({(error.strerror or str(error)).lower()})"
        raise UserError("task.database", found, "name an SQLite file") from error
    if start not in (b"", SQLITE):
        raise UserError("task.database", f"{named(path)} is no SQLite file", "name one")


def _infill(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int, int]:
    """The tokens before the code, before what follows the gap, and before what fills it. Raises UserError."""
    vocabulary = tokenizer.get_vocab()
    for first, second, third in INFILL:
        if first in vocabulary and second in vocabulary and third in vocabulary:
            return vocabulary[first], vocabulary[second], vocabulary[third]
    raise UserError("task.suffix", TOKENS, "leave the key out, or use Code Llama, StarCoder or the like")
