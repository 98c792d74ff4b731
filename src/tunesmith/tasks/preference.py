"""Which of two replies people prefer, learned directly, without a model of rewards between (DPO and kin)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from tunesmith.batch import IGNORED, PIECES, Batch, Column, Encoded, Example, Ragged
from tunesmith.contracts import Answer, Codec, Family, Outputs, Predictions, Record, Specimen, objects
from tunesmith.errors import BadRow
from tunesmith.tasks.base import TaskOptions, in_front, numbers_of
from tunesmith.tasks.graded import NLL, TARGETS, next_tokens, token_sums
from tunesmith.tasks.replies import FEWEST_PROMPT_TOKENS, end_of, plain_ids
from tunesmith.tasks.text import read_text

METRICS = ("reward_accuracy", "reward_margin")
REFERENCE = "reference"
CHOSEN, REJECTED = 0, 1
JUDGED = (
    ("where is my parcel", "thank you, it is late", "never"),
    ("the kettle is broken", "please, a refund now", "terrible"),
    ("cancel my order", "good morning, now", "slow, never again"),
)


class Preference(TaskOptions):
    """A reply that is preferred to another."""

    families: ClassVar[frozenset[Family]] = frozenset({Family.DECODER})
    version: ClassVar[int] = 1
    compares: ClassVar[bool] = True
    specimens: ClassVar[tuple[Specimen, ...]] = tuple(
        Specimen(
            {"criterion": criterion, **more},
            tuple({"prompt": prompt, "chosen": good, "rejected": bad} for prompt, good, bad in JUDGED),
        )
        for criterion, more in (("dpo", {}), ("ipo", {}), ("orpo", {}), ("simpo", {"beta": 2.0}))
    )

    prompt: str = Field("prompt", description="Column of the prompt.")
    chosen: str = Field("chosen", description="Column of the preferred reply.")
    rejected: str = Field("rejected", description="Column of the other reply.")
    criterion: Literal["dpo", "ipo", "orpo", "simpo"] = Field(
        "dpo",
        description="`dpo` (arXiv:2305.18290), `ipo` (arXiv:2310.12036), and without a reference `orpo` "
        "(arXiv:2403.07691) or `simpo` (arXiv:2405.14734).",
    )
    beta: float = Field(
        0.1, gt=0, description="How much the tuned model is held to the base; for orpo the weight of odds."
    )
    label_smoothing: float = Field(0.0, ge=0, lt=0.5, description="With dpo: share of pairs that may be the wrong way.")
    margin: float = Field(0.5, ge=0, description="With simpo: how much better the chosen reply has to be.")
    metric: str | None = Field(None, description="Main metric; None: reward_accuracy.")

    @property
    def fields(self) -> tuple[str, ...]:
        return (self.prompt, self.chosen, self.rejected)

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.fields

    @property
    def metrics(self) -> tuple[str, ...]:
        return in_front(self.metric, METRICS)

    @property
    def baselines(self) -> tuple[str, ...]:
        return ()

    def auto_class(self, family: Family) -> str:
        return "AutoModelForCausalLM"

    def head(self) -> Mapping[str, Any]:
        return {}

    def read(self, row: Mapping[str, Any], *, with_target: bool = True) -> tuple[Mapping[str, Any], Any]:
        inputs = {
            name: read_text(row, column)
            for name, column in zip(("prompt", "chosen", "rejected"), self.fields, strict=True)
        }
        if inputs["chosen"] == inputs["rejected"]:
            raise BadRow(self.rejected, "the chosen reply", "another one", "same_replies")
        return inputs, () if with_target else None

    def columns(self) -> Mapping[str, Column]:
        return {
            "labels": Column(IGNORED, role="target"),
            REFERENCE: Column(0.0, per="row", role="target"),
        }

    def encode(self, records: Sequence[Record], codec: Codec, max_tokens: int) -> Sequence[Example]:
        """Both replies behind the same prompt, as sequences of their own; a long prompt loses its start."""
        tokenizer = codec.tokenizer
        rows = []
        for record in records:
            prompt = list(tokenizer(record.inputs["prompt"], split_special_tokens=True, verbose=False)["input_ids"])
            if len(prompt) > 1 and prompt[-1] == tokenizer.eos_token_id:
                prompt = prompt[:-1]
            replies = [
                [*plain_ids(tokenizer, record.inputs[name]), end_of(tokenizer)] for name in ("chosen", "rejected")
            ]
            room = max_tokens - max(map(len, replies))
            if room < min(len(prompt), FEWEST_PROMPT_TOKENS):
                rows.append(Example(record.row, {}, refused="reply_too_long"))
                continue
            kept = prompt[max(0, len(prompt) - room) :]
            lines = [[*kept, *reply] for reply in replies]
            marks = [[False] * len(kept) + [True] * len(reply) for reply in replies]
            columns: dict[str, Sequence[float]] = {
                "input_ids": [token for line in lines for token in line],
                "labels": [label for line, mark in zip(lines, marks, strict=True) for label in next_tokens(line, mark)],
                PIECES: [len(line) for line in lines],
            }
            rows.append(Example(record.row, columns, len(prompt) - len(kept)))
        return rows

    def refer(self, data: Encoded, values: Sequence[NDArray[np.float64]]) -> Encoded:
        """The rows with the log-likelihoods that the base gives their two replies."""
        sums = np.array([-value[:, NLL] for value in values], dtype=np.float64).reshape(-1)
        offsets = np.arange(len(data) + 1, dtype=np.int64) * 2
        return Encoded({**data.columns, REFERENCE: Ragged(sums, offsets)}, data.rows, data.cut, data.refused)

    def graded(self, batch: Batch) -> bool:
        return REFERENCE in batch.targets or self.criterion in ("orpo", "simpo")

    def count(self, batch: Batch) -> float:
        return float(len(batch.pieces))

    def outputs(self, model_output: Any, batch: Batch) -> Tensor:
        """[S, 3] sums over the tokens of each reply, as `token_sums` gives them."""
        return token_sums(model_output.logits, batch.targets["labels"])

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        pairs = outputs.reshape(len(batch.pieces), 2, -1)
        likelihood, tokens = -pairs[..., NLL], pairs[..., TARGETS]
        if self.criterion == "orpo":
            mean = likelihood / tokens
            odds = mean - torch.log1p(-torch.exp(mean.clamp(max=-1e-7)))
            gain = functional.logsigmoid(odds[:, CHOSEN] - odds[:, REJECTED])
            return (-mean[:, CHOSEN] - self.beta * gain).sum()
        if self.criterion == "simpo":
            mean = likelihood / tokens
            return -functional.logsigmoid(self.beta * (mean[:, CHOSEN] - mean[:, REJECTED]) - self.margin).sum()
        gain = likelihood - batch.targets[REFERENCE].to(likelihood.dtype)
        if self.criterion == "ipo":
            mean = gain / tokens
            return ((mean[:, CHOSEN] - mean[:, REJECTED] - 1 / (2 * self.beta)) ** 2).sum()
        gap = self.beta * (gain[:, CHOSEN] - gain[:, REJECTED])
        kept = (1 - self.label_smoothing) * functional.logsigmoid(gap)
        return -(kept + self.label_smoothing * functional.logsigmoid(-gap)).sum()

    def gold(self, records: Sequence[Record]) -> Predictions:
        nothing = objects([()] * len(records))
        return Predictions(numbers_of(records), nothing, nothing, None, (), "scores")

    def predictions(self, outputs: Outputs, records: Sequence[Record]) -> Predictions:
        """`right` where the chosen reply has the higher reward; margin: by how much."""
        rewards = self._rewards(outputs)
        margin = rewards[:, CHOSEN] - rewards[:, REJECTED] if len(rewards) else np.zeros(0)
        extras = {"right": (margin > 0).astype(np.float64), "margin": margin, "pairs": np.ones(len(margin))}
        return replace(self.gold(records), extras=extras)

    def _rewards(self, outputs: Outputs) -> NDArray[np.float64]:
        """[N, 2]: beta times the gain over the base in log-likelihood, or where there is no base the mean of it."""
        sums = np.array([[-piece[NLL] for piece in value] for value in outputs.values]).reshape(-1, 2)
        tokens = np.array([[piece[TARGETS] for piece in value] for value in outputs.values]).reshape(-1, 2)
        base = outputs.data.columns.get(REFERENCE)
        if self.criterion in ("dpo", "ipo") and base is not None:
            gain = sums - np.array([base[place] for place in range(len(outputs.data))]).reshape(-1, 2)
            return np.asarray(self.beta * (gain if self.criterion == "dpo" else gain / tokens))
        return np.asarray(self.beta * sums / tokens)

    def answers(self, outputs: Outputs, records: Sequence[Record]) -> list[Answer]:
        """Which reply has the higher reward; of a model that is asked without its base, the likelier one (a token)."""
        found = []
        for row in self._rewards(outputs).tolist():
            scores = {"chosen": row[CHOSEN], "rejected": row[REJECTED]}
            found.append(Answer(max(scores, key=lambda name: scores[name]), scores))
        return found
