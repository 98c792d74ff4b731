"""The plain types in which the rooms meet, and what a task and a method must offer.

Shape letters used everywhere: B rows, T tokens, L labels or targets, D width, N rows of a split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module
    from torch.optim import Optimizer
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from tunesmith.batch import Batch, Column, Encoded, Example
    from tunesmith.given import Answer, Decoding, Outputs, Predictions, Worth


class Family(StrEnum):
    """How a pre-trained model is built, which decides what it can learn and how."""

    ENCODER = "encoder"
    DECODER = "decoder"
    ENCODER_DECODER = "encoder-decoder"


VOCABULARY_HEADS = ("AutoModelForCausalLM", "AutoModelForMaskedLM", "AutoModelForSeq2SeqLM")
"""Auto classes whose head is the pre-trained one over the vocabulary."""


@dataclass(frozen=True, slots=True)
class Record:
    """One validated row: what the model is given, and what it should answer.

    row: its number within the split's sources, from 0. source, line: where it was read.
    inputs: the task's inputs by name, mostly texts. target: in the user's terms: a label's name, a tuple of names,
    numbers, a tuple of (start, end, label), right texts, the place of a choice. Both are made of plain values that JSON
    can hold and whose `repr` is the same in every process.
    """

    row: int
    source: str
    line: int
    inputs: Mapping[str, Any]
    target: Any
    group: str | None = None

    @property
    def where(self) -> str:
        return f"{self.source}, line {self.line}"

    @property
    def text(self) -> str:
        """All input texts joined, each once, for looking at, for baselines and for finding duplicates."""
        return "\n".join(dict.fromkeys(str(value) for value in self.inputs.values()))


@dataclass(frozen=True)
class Card:
    """What is known of a pre-trained model without reading its weights."""

    name: str
    revision: str | None
    family: Family
    model_type: str
    parameters: int
    context_tokens: int
    vocabulary: int
    licence: str | None
    languages: tuple[str, ...]
    weights_sha256: str


@dataclass(frozen=True)
class Foundation:
    """A pre-trained model before its weights are read: where it lies, its configuration and its tokenizer.

    portable_name is what an adapter names as its base: a hub id or a folder's name, never a path.
    grown: of each token that was added to the tokenizer's own the tokens that stood for it before.
    quantise: in how few bits the linear layers of its blocks are to be held (`nf4`, `int8`).
    """

    folder: Path
    portable_name: str
    card: Card
    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase
    grown: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    quantise: str | None = None

    @property
    def family(self) -> Family:
        return self.card.family

    @property
    def embedded(self) -> int:
        """Rows of the embeddings, with those of new tokens."""
        return max(self.card.vocabulary, int(getattr(self.config.get_text_config(), "vocab_size", 0)))

    @property
    def codec(self) -> Codec:
        return Codec(self.tokenizer, self.family, self.config)


@dataclass(frozen=True)
class Codec:
    """What encoding needs of a model: its tokenizer, how it is built, and its configuration."""

    tokenizer: PreTrainedTokenizerBase
    family: Family
    config: PretrainedConfig


@dataclass(frozen=True)
class Finding:
    """One result of looking at the data.

    severity: "info", "warning" or "error". rows: examples, as `file, line` texts.
    """

    check: str
    severity: str
    message: str
    count: int = 0
    rows: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ledger:
    """Where every row went. Each row read is counted under exactly one way, so the counts add up to `read`.

    read: rows read by file. ways: rows by what became of them: "train", "validation", "test",
    "skipped:REASON". Raises ValueError when the law does not hold.
    """

    read: Mapping[str, int]
    ways: Mapping[str, int]

    def __post_init__(self) -> None:
        if sum(self.read.values()) != sum(self.ways.values()):
            raise ValueError(f"rows read {dict(self.read)} and rows accounted for {dict(self.ways)} differ")


@dataclass(frozen=True)
class Corpus:
    """The validated rows of each split, and where they came from.

    task: as learned from the training rows. splits: "train", and "validation", "test" where there are any.
    files: sha256 of each file read, by its shown name. fingerprint: one hash over the files' bytes, the
    task's options and the way the rows were split. skipped: a line for each row that went nowhere, with its reason.
    unjudged: of each split, the rows left out because the training rows do not know their answer.
    """

    task: Task
    splits: Mapping[str, Sequence[Record]]
    ledger: Ledger
    findings: tuple[Finding, ...]
    files: Mapping[str, str]
    fingerprint: str
    skipped: tuple[Mapping[str, Any], ...] = ()
    unjudged: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Specimen:
    """Options of a part and raw rows that it can learn by heart: what its contract is tested on."""

    options: Mapping[str, Any]
    rows: tuple[Mapping[str, Any], ...]


class Task(Protocol):
    """What is learned: how a row is read and encoded, which head and loss, how outputs become answers.

    A task is a frozen set of options. `learn` returns a copy that also holds what only the training rows
    can tell (label names, the scale of a target); whatever is asked of a trained task may rely on it. Before rows are
    learned from, only `read`, `stratum`, `auto_class` and the properties are asked.
    """

    families: ClassVar[frozenset[Family]]
    version: ClassVar[int]
    """Raised when `encode` changes its result, so that cached rows are made again."""
    specimens: ClassVar[tuple[Specimen, ...]]
    """One for each way of using the task that has code of its own."""
    outputs_per: ClassVar[Literal["row", "token"]]
    """Whether `outputs` has an entry a row (or a sequence of it), or one a token."""
    packs: ClassVar[bool]
    """Whether rows may stand behind one another in one line: the loss is a sum over tokens of the row alone."""
    untuned: ClassVar[bool]
    """Whether the base model may be able to answer already, so that it is judged before it is tuned."""
    settles: ClassVar[bool]
    """Whether `settle` has something to learn from the tuned model."""

    @property
    def compares(self) -> bool:
        """Whether the loss needs the base model's outputs, which `refer` then takes before the first step."""

    @property
    def parts(self) -> Mapping[str, Task]:
        """The tasks that this one is made of, by name: one backbone, a head each. One that is whole has none."""

    @property
    def variants(self) -> Mapping[str, Task]:
        """The ways to put the task of which the best on the validation rows, before tuning, shall be taken; by name."""

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the columns that a row must have."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the columns that are enough to answer a row."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics that describe this task; the first is the main one."""

    @property
    def baselines(self) -> tuple[str, ...]:
        """Names of the simple models that a tuned one must beat."""

    def auto_class(self, family: Family) -> str:
        """The `transformers` Auto class whose head this task trains."""

    def read(self, row: Mapping[str, Any], *, with_target: bool = True) -> tuple[Mapping[str, Any], Any]:
        """Inputs and target of a raw row. Raises BadRow. Without a target, the second is None."""

    def learn(self, records: Sequence[Record]) -> Self:
        """A copy that knows what the training rows tell. Raises UserError when they cannot be learned from."""

    def suit(self, model: Module) -> Self:
        """A copy that fits this model's head (a head without bias cannot hold a target's mean)."""

    def check(self, record: Record) -> None:
        """Raises BadRow when a learned task cannot grade this record (an unknown label, say)."""

    def head(self) -> Mapping[str, Any]:
        """What the model's configuration must say: number and names of labels, problem type."""

    def columns(self) -> Mapping[str, Column]:
        """The columns of an encoded row that are not the tokenizer's, and how they are padded."""

    def encode(self, records: Sequence[Record], codec: Codec, max_tokens: int) -> Sequence[Example]:
        """Rows, at least one, as the model sees them, in order; without a target an example has no target columns.

        A row that cannot be learned from as it is encoded (nothing of it would be graded) gives an example that says
        why it is `refused`.
        """

    def vary(self, columns: Mapping[str, NDArray[Any]], seed: int) -> Mapping[str, Sequence[float]]:
        """The columns of one example as it is trained on this time; asked of rows with the column DRAWN."""

    def prompts(self, records: Sequence[Record], codec: Codec, max_tokens: int) -> Sequence[Example]:
        """What a text is generated from, an example each record; asked only of tasks with a `decoding_for`."""

    def decoding_for(self, codec: Codec) -> Decoding | None:
        """How the task's answers are generated; None when they are read off one forward pass."""

    def refer(self, data: Encoded, values: Sequence[NDArray[np.float64]]) -> Encoded:
        """The rows with what the base model gave for them, for a task that `compares`."""

    def stratum(self, record: Record) -> str | None:
        """What a split should keep in proportion: the label's name; None where there is no such thing."""

    def weigh(self, records: Sequence[Record]) -> Sequence[float] | None:
        """How often each row is drawn, relative to the others; None for once an epoch."""

    def draws(self, rows: Mapping[str, int]) -> Mapping[str, float] | None:
        """How often rows of each part are drawn, of parts with so many; None for each row once an epoch."""

    def of_part(self, name: str, records: Sequence[Record]) -> list[Record]:
        """The records that serve a part, as its task reads them."""

    def arguments(self, batch: Batch) -> Mapping[str, Tensor]:
        """What the model is called with."""

    def graded(self, batch: Batch) -> bool:
        """Whether the batch holds all that the loss needs."""

    def count(self, batch: Batch) -> float:
        """What the summed loss of `batch` is divided by: its supervised targets, weighted as in the loss."""

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """The loss *summed* over supervised targets, [] in float32 or wider."""

    def outputs(self, model_output: Any, batch: Batch) -> Tensor:
        """What grading needs of a forward pass: [B, ...] a row each, or [B, T, ...] (the logits)."""

    def gold(self, records: Sequence[Record]) -> Predictions:
        """What is right, with empty or zero answers: what simple models learn from."""

    def predictions(self, outputs: Outputs, records: Sequence[Record]) -> Predictions:
        """Outputs of a whole split beside what is right, a row each record."""

    def answers(self, outputs: Outputs, records: Sequence[Record]) -> list[Answer]:
        """The outputs in the user's terms, one each record."""

    def furnish(self, codec: Codec) -> None:
        """Gives the tokenizer what must travel with a model tuned on this task (a chat template, say)."""

    def settle(self, outputs: Outputs, records: Sequence[Record], worth: Worth) -> Self:
        """A copy that knows what the tuned model's outputs on the validation rows tell (a threshold, say).

        worth: how good each row of predictions is by a metric.
        """

    def fold(self, model: Module) -> Self:
        """Moves scaling that was kept outside into the head, so that plain `transformers` answers in user's units.

        Changes the model; returns the task that fits it.
        """


def parts_of(task: Task) -> Mapping[str, Task]:
    """The parts of a task by name; one that is whole is its own only part, without a name."""
    return task.parts or {"": task}


@dataclass(frozen=True)
class Adapted:
    """A model that is ready to be tuned, and what of it may move.

    trainable: names of the parameters that move. head: names of the modules that the task added.
    notes: what was chosen automatically, to be printed and kept.
    rates: what the learning rate of some parameters is multiplied by. knows: whether the head came with the model and
    means the task's labels. penalties: what an update minds beside the loss. tend: what is done after an update.
    """

    model: PreTrainedModel | Module
    trainable: tuple[str, ...]
    head: tuple[str, ...]
    notes: tuple[str, ...] = ()
    rates: Mapping[str, float] = field(default_factory=dict)
    knows: bool = False
    penalties: tuple[Penalty, ...] = ()
    tend: Tend | None = None


class Penalty(Protocol):
    """Something beside the task's loss that pulls at weights."""

    @property
    def name(self) -> str:
        """What the journal calls it."""

    @property
    def undecayed(self) -> frozenset[str]:
        """The parameters whose decay to zero it takes the place of."""

    def pull(self, model: Module) -> float:
        """Adds its gradient to that of the parameters, once an update; its value, the same in every process."""


class Tend(Protocol):
    """What a method does after an update, while its gradients are still there."""

    def __call__(self, model: Module, optimiser: Optimizer, step: int, steps: int) -> None:
        """step: the update, from 1, of so many. What must be known later belongs in the optimiser's state."""


class Method(Protocol):
    """How weights may move."""

    moves_base: ClassVar[bool]
    """Whether the base's own weights change; a method that says no is held to bit-equality."""
    learning_rate: ClassVar[float]
    """The rate used when a recipe names none."""
    artifact: ClassVar[str]
    """The name of the exporter that suits it when a recipe names none."""
    starts_at_base: ClassVar[bool]
    """Whether the model's outputs are the base's before the first step."""
    merges: ClassVar[bool]
    """Whether a plain model can hold what was learned."""
    loader: ClassVar[str]
    """The function, as `module:name`, that puts an adapter's file on its base; none where PEFT does it alone."""
    narrow: ClassVar[bool]
    """Whether so little moves that even a few rows may be too much to learn by heart."""

    quantises: ClassVar[bool]
    """Whether the base may be held in few bits."""

    def check(self, model: PreTrainedModel, family: Family, auto_class: str) -> None:
        """Refuses options that this model cannot take, before its weights are read (its tensors hold no values).

        Raises UserError.
        """

    def require_tokens(self, model: PreTrainedModel, family: Family) -> None:
        """Refuses new tokens whose embeddings would not learn, before weights are read. Raises UserError."""

    def positions(self, family: Family) -> int:
        """How many of the positions of a model's own texts are used up by what the method puts before them."""

    def loads_plainly(self, family: Family, auto_class: str, config: PretrainedConfig) -> bool:
        """Whether PEFT alone puts the adapter's file on its base and gives the same outputs."""

    def adapt(
        self, model: PreTrainedModel, codec: Codec, head: Sequence[str], seed: int, rows: Sequence[int] = ()
    ) -> Adapted:
        """The model with exactly the right parameters set to move.

        head: names of the modules that the task added, which always move. rows: of the embeddings, those of new tokens,
        which move as well.
        """

    def merge(self, model: Module) -> PreTrainedModel:
        """A plain model that gives the same outputs without the method's additions. The input is used up."""

    def save(self, model: Module, folder: Path) -> None:
        """Writes what was learned, without the base; asked of methods whose artefact is an adapter."""


@dataclass(frozen=True)
class Step:
    """One update of the weights, as the journal keeps it. Nothing in it depends on the clock.

    loss: mean over supervised targets of the whole optimiser batch. tokens: real ones; padded: with padding.
    gradient_norm: before clipping. losses: of each part of the task, where it has parts, its own mean.
    penalties: what was added to the loss, by name; `loss` is without it.
    """

    step: int
    epoch: float
    loss: float
    learning_rate: float
    gradient_norm: float
    rows: int
    targets: float
    tokens: int
    padded: int
    losses: Mapping[str, float] = field(default_factory=dict)
    penalties: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Interval:
    """A value with the limits that it lies between at the given level."""

    value: float
    low: float
    high: float
    level: float = 0.95


@dataclass(frozen=True)
class Artifact:
    """Something deployable that was written, and what was shown of it."""

    kind: str
    folder: Path
    bytes: int
    parity: Mapping[str, Any]
