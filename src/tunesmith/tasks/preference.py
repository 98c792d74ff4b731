"""Which replies people prefer, learned directly, without a model of rewards between (DPO and kin)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from scipy.special import expit
from torch import Tensor
from torch.nn import functional

from tunesmith.batch import IGNORED, Batch, Column, Encoded, Example, Ragged
from tunesmith.contracts import Codec, Family, Record, Specimen
from tunesmith.errors import BadRow, UserError, shown
from tunesmith.given import Answer, Outputs, Predictions, objects
from tunesmith.tasks.base import TaskOptions, in_front, numbers_of
from tunesmith.tasks.chat import Asked
from tunesmith.tasks.chat_format import chat_format
from tunesmith.tasks.graded import NLL, TARGETS, token_sums
from tunesmith.tasks.labels import label_name
from tunesmith.tasks.preference_rows import Writer, example, mismatched, parted, read_texts, read_turns

METRICS = ("reward_accuracy", "reward_margin")
KTO_METRICS = ("roc_auc", "accuracy", "mcc")
REFERENCE = "reference"
DESIRABLE = "desirable"
CHOSEN, REJECTED = 0, 1
OWN, ANOTHER = 0, 1
"""The sequences of a row with `kto`: the prompt with its own reply, and with that of another row."""
LABELS = BAD, GOOD = ("bad", "good")
SERVES = {
    **dict.fromkeys(("completion", "label", "desirable", "undesirable"), ("kto",)),
    **dict.fromkeys(("chosen", "rejected"), ("dpo", "ipo", "orpo", "simpo")),
    "label_smoothing": ("dpo",),
    "margin": ("simpo",),
}
"""The criteria that a key has an effect with, of keys that have not with every one."""
VERDICTS = {**dict.fromkeys(("true", "1", GOOD), GOOD), **dict.fromkeys(("false", "0", BAD), BAD)}
JUDGED = (
    ("where is my parcel", "thank you, it is late", "never"),
    ("the kettle is broken", "please, a refund now", "terrible"),
    ("cancel my order", "good morning, now", "slow, never again"),
)
PAIRS = tuple({"prompt": prompt, "chosen": good, "rejected": bad} for prompt, good, bad in JUDGED)
TURNS = tuple({**pair, "prompt": [{"role": "user", "content": pair["prompt"]}]} for pair in PAIRS)
VOTES = tuple(
    {"prompt": prompt, "completion": reply, "label": label}
    for prompt, good, bad in JUDGED
    for reply, label in ((good, True), (bad, False))
)


class Preference(TaskOptions):
    """A reply that is preferred to another, or called good or bad by itself."""

    families: ClassVar[frozenset[Family]] = frozenset({Family.DECODER})
    version: ClassVar[int] = 2
    specimens: ClassVar[tuple[Specimen, ...]] = (
        Specimen({"criterion": "dpo"}, PAIRS),
        Specimen({"criterion": "ipo"}, PAIRS),
        Specimen({"criterion": "orpo"}, PAIRS),
        Specimen({"criterion": "simpo", "beta": 2.0}, PAIRS),
        Specimen({"criterion": "kto", "beta": 1.0}, VOTES),
        Specimen({"criterion": "dpo"}, TURNS),
    )

    prompt: str = Field(
        "prompt",
        description="Column of the prompt, a text or a list of messages; not needed where both replies begin with it.",
    )
    chosen: str = Field("chosen", description="Column of the preferred reply, which may hold the prompt before it.")
    rejected: str = Field("rejected", description="Column of the other reply, which may hold the prompt before it.")
    completion: str = Field("completion", description="With kto: column of the reply.")
    label: str = Field("label", description="With kto: column that says whether the reply is good: true or false.")
    conversations: bool | None = Field(
        None,
        description="Write prompts and replies with the model's chat template, a text as a user's turn; "
        "None: where the training rows hold messages.",
    )
    criterion: Literal["dpo", "ipo", "orpo", "simpo", "kto"] = Field(
        "dpo",
        description="`dpo` (arXiv:2305.18290), `ipo` (arXiv:2310.12036), without a reference `orpo` (arXiv:2403.07691) "
        "or `simpo` (arXiv:2405.14734), and for single replies that are good or bad `kto` (arXiv:2402.01306).",
    )
    beta: float = Field(
        0.1, gt=0, description="How much the tuned model is held to the base; for orpo the weight of odds."
    )
    label_smoothing: float = Field(0.0, ge=0, lt=0.5, description="With dpo: share of pairs that may be the wrong way.")
    margin: float = Field(0.5, ge=0, description="With simpo: how much better the chosen reply has to be.")
    desirable: float = Field(1.0, gt=0, description="With kto: weight of the good replies.")
    undesirable: float = Field(1.0, gt=0, description="With kto: weight of the bad replies.")
    metric: str | None = Field(None, description="Main metric; None: reward_accuracy, or roc_auc with kto.")

    @model_validator(mode="after")
    def _has_effect(self) -> Self:
        for key, criteria in SERVES.items():
            unset = getattr(self, key) == type(self).model_fields[key].default
            if self.criterion not in criteria and not unset:
                expected = f"it is for {', '.join(criteria)}"
                raise ValueError(f"{key}: has no effect with criterion {self.criterion}; {expected}")
        return self

    @property
    def compares(self) -> bool:
        return self.criterion not in ("orpo", "simpo")

    @property
    def _single(self) -> bool:
        """Whether a row has one reply, which is good or bad."""
        return self.criterion == "kto"

    @property
    def _replies(self) -> Mapping[str, str]:
        """The columns of a row's replies, by what they are."""
        if self._single:
            return {"completion": self.completion}
        return {"chosen": self.chosen, "rejected": self.rejected}

    @property
    def fields(self) -> tuple[str, ...]:
        return (*self.inputs, self.label) if self._single else tuple(self._replies.values())

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.prompt, *self._replies.values())

    @property
    def metrics(self) -> tuple[str, ...]:
        return in_front(self.metric, KTO_METRICS if self._single else METRICS)

    @property
    def baselines(self) -> tuple[str, ...]:
        return ("majority", "tfidf_logistic") if self._single else ()

    def auto_class(self, family: Family) -> str:
        return "AutoModelForCausalLM"

    def head(self) -> Mapping[str, Any]:
        return {}

    def read(self, row: Mapping[str, Any], *, with_target: bool = True) -> tuple[Mapping[str, Any], Any]:
        row = row if self._single else parted(row, self.prompt, self._replies)
        turns = self.conversations
        if turns is None:
            turns = any(isinstance(row.get(column), list | tuple) for column in self.inputs)
        inputs = (read_turns if turns else read_texts)(row, self.prompt, self._replies)
        if self._single:
            return inputs, self._verdict(row.get(self.label)) if with_target else None
        if inputs["chosen"] == inputs["rejected"]:
            raise BadRow(self.rejected, "the chosen reply", "another one", "same_replies")
        return inputs, () if with_target else None

    def _verdict(self, value: Any) -> str:
        """`good` or `bad`. Raises BadRow for anything that does not plainly say so."""
        name = label_name(value, self.label)
        if name not in VERDICTS:
            raise BadRow(self.label, shown(value), "true or false, 1 or 0, good or bad", "bad_label")
        return VERDICTS[name]

    def learn(self, records: Sequence[Record]) -> Self:
        verdicts = {record.target for record in records} if self._single else set()
        if len(verdicts) == 1:
            found = f"only {verdicts.pop()} replies in the training rows"
            raise UserError(f"column {shown(self.label)}", found, "at least one good and one bad are needed")
        if self.conversations is not None or not records:
            return self
        return self.model_copy(update={"conversations": _holds_turns(records[0])})

    def check(self, record: Record) -> None:
        if self.conversations is not None and _holds_turns(record) != self.conversations:
            forms = ("a text", "messages")
            found, expected = forms if self.conversations else reversed(forms)
            hint = "`conversations: true` takes texts for turns"
            raise BadRow(self.prompt, found, f"{expected}, as in the first training row; {hint}", "mixed_prompts")

    def columns(self) -> Mapping[str, Column]:
        verdict = {DESIRABLE: Column(0, per="row", role="target")} if self._single else {}
        reference = {REFERENCE: Column(0.0, per="row", role="target")} if self.compares else {}
        return {"labels": Column(IGNORED, role="target"), **reference, **verdict}

    def encode(self, records: Sequence[Record], codec: Codec, max_tokens: int) -> Sequence[Example]:
        """Both replies behind the same prompt, as sequences of their own; a long prompt loses its start.

        With `kto` the second one is another row's reply behind this prompt, from which the distance between tuned model
        and base is estimated; a row without a label, which is only asked about, has none.
        """
        writer = Writer(codec.tokenizer, max_tokens)
        rows = []
        for place, record in enumerate(records):
            more: dict[str, Sequence[float]] = {}
            try:
                lines = writer.behind(record.inputs["prompt"], [record.inputs[name] for name in self._replies])
            except BadRow as error:
                rows.append(Example(record.row, {}, refused=error.reason))
                continue
            if self._single and record.target is not None:
                lines = [*lines, mismatched(writer, records, place) or lines[OWN]]
                more = {DESIRABLE: [int(record.target == GOOD)]}
            rows.append(example(record.row, lines, more))
        return rows

    def furnish(self, codec: Codec) -> None:
        """Gives the tokenizer the template that its model was tuned with, where it has none."""
        if self.conversations and not codec.tokenizer.chat_template:
            codec.tokenizer.chat_template = chat_format(codec.tokenizer).source

    def stratum(self, record: Record) -> str | None:
        return str(record.target) if self._single else None

    def refer(self, data: Encoded, values: Sequence[NDArray[np.float64]]) -> Encoded:
        """The rows with the log-likelihoods that the base gives their sequences."""
        sums = np.concatenate([np.zeros(0), *(-value[:, NLL] for value in values)]).astype(np.float64)
        offsets = np.cumsum([0, *(len(value) for value in values)]).astype(np.int64)
        return Encoded({**data.columns, REFERENCE: Ragged(sums, offsets)}, data.rows, data.cut, data.refused)

    def graded(self, batch: Batch) -> bool:
        needed = [*([REFERENCE] if self.compares else ()), *([DESIRABLE] if self._single else ())]
        return all(name in batch.targets for name in needed)

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
        if self.criterion == "kto":
            return self._kto(gain, batch.targets[DESIRABLE][:, 0] == 1)
        if self.criterion == "ipo":
            mean = gain / tokens
            return ((mean[:, CHOSEN] - mean[:, REJECTED] - 1 / (2 * self.beta)) ** 2).sum()
        gap = self.beta * (gain[:, CHOSEN] - gain[:, REJECTED])
        kept = (1 - self.label_smoothing) * functional.logsigmoid(gap)
        return -(kept + self.label_smoothing * functional.logsigmoid(-gap)).sum()

    def _kto(self, gain: Tensor, good: Tensor) -> Tensor:
        """How far good replies are from having gained more than others on average, and bad ones from less; summed.

        gain: [B, 2] in log-likelihood over the base. good: [B]. The average of what replies of other rows gain
        estimates the distance (KL) of the tuned model from the base. It is taken over the rows that share a forward
        pass, as in the paper, so that dividing a batch otherwise changes the loss; no gradient runs through it.
        Source: Ethayarajh et al. 2024, arXiv:2402.01306, section 4.1, as TRL's KTOTrainer has it.
        """
        distance = gain[:, ANOTHER].detach().mean().clamp(min=0)
        ahead = torch.where(good, gain[:, OWN] - distance, distance - gain[:, OWN])
        losses = torch.sigmoid(-self.beta * ahead)
        return self.desirable * losses[good].sum() + self.undesirable * losses[~good].sum()

    def gold(self, records: Sequence[Record]) -> Predictions:
        if self._single:
            gold = np.array([LABELS.index(record.target) for record in records], dtype=np.int64)
            scores = np.zeros((len(records), len(LABELS)))
            return Predictions(numbers_of(records), gold, np.zeros_like(gold), scores, LABELS)
        nothing = objects([()] * len(records))
        return Predictions(numbers_of(records), nothing, nothing, None, (), "scores")

    def predictions(self, outputs: Outputs, records: Sequence[Record]) -> Predictions:
        """`right` where the chosen reply has the higher reward; margin: by how much. With kto, labels."""
        if self._single:
            scores = self._verdicts(outputs)
            return replace(self.gold(records), answers=scores.argmax(axis=-1), scores=scores)
        rewards = self._rewards(outputs)
        margin = rewards[:, CHOSEN] - rewards[:, REJECTED]
        extras = {"right": (margin > 0).astype(np.float64), "margin": margin, "pairs": np.ones(len(margin))}
        return replace(self.gold(records), extras=extras)

    def _rewards(self, outputs: Outputs) -> NDArray[np.float64]:
        """[N, 2]: beta times the gain over the base in log-likelihood, or where there is no base the mean of it."""
        sums, tokens = _likelihoods(outputs, 2)
        base = outputs.data.columns.get(REFERENCE)
        if self.criterion in ("dpo", "ipo") and base is not None:
            gain = sums - base.values.reshape(-1, 2)
            return np.asarray(self.beta * (gain if self.criterion == "dpo" else gain / tokens))
        return np.asarray(self.beta * sums / tokens)

    def _verdicts(self, outputs: Outputs) -> NDArray[np.float64]:
        """[N, 2] shares of LABELS: good is the sigmoid of beta times the gain over the base in log-likelihood.

        Of a model that is asked without its base, good is the likelihood of the reply a token (its geometric mean):
        that puts replies in order, but half of it is no natural limit.
        """
        sums, tokens = _likelihoods(outputs, 1)
        base = outputs.data.columns.get(REFERENCE)
        if base is None:
            good = np.exp(sums / tokens)[:, OWN]
        else:
            good = expit(self.beta * (sums[:, OWN] - base.values[base.offsets[:-1]]))
        return np.stack([1 - good, good], axis=1)

    def answers(self, outputs: Outputs, records: Sequence[Record]) -> list[Answer]:
        """Which reply has the higher reward; with kto, whether the reply is good.

        Both are said of the gain over the base: of a model that is asked without it only how likely each reply is,
        a token (its geometric mean), since the likelier one need not be the one that has gained more.
        """
        if self.compares and REFERENCE not in outputs.data.columns:
            sums, tokens = _likelihoods(outputs, len(self._replies))
            names = ("likelihood",) if self._single else ("chosen_likelihood", "rejected_likelihood")
            return [Answer(dict(zip(names, row, strict=True))) for row in np.exp(sums / tokens).tolist()]
        rows, names = (self._verdicts, LABELS) if self._single else (self._rewards, ("chosen", "rejected"))
        found = []
        for row in rows(outputs).tolist():
            scores = dict(zip(names, row, strict=True))
            found.append(Answer(max(scores, key=lambda name: scores[name]), scores))
        return found


def _holds_turns(record: Record) -> bool:
    return isinstance(record.inputs["prompt"], Asked)


def _likelihoods(outputs: Outputs, replies: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """[N, replies] sums of log-likelihood of each row's first replies, and their tokens."""
    found = np.array([value[:replies, [NLL, TARGETS]] for value in outputs.values]).reshape(-1, replies, 2)
    return -found[..., 0], found[..., 1]
