"""What a recipe can say about the final evaluation."""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from tunesmith.options import PATH, Options


class ProbeOptions(Options):
    """Something that tuning may spoil, measured before and after it."""

    name: str = Field(min_length=1, description="What it is called in what is told of it.")
    kind: Literal["drift", "own", "general", "masked"] = Field(
        "drift",
        description="drift: how alike hidden states are (linear CKA, arXiv:1905.00414). own: rows of the run's own "
        "task, by its metrics. general: texts (column `text`), by a language model's perplexity. masked: texts, by the "
        "masked head that the base came with, behind the tuned encoder.",
    )
    source: str | None = Field(
        None,
        description="Where its rows come from; None: the validation rows, for drift alone. Of drift, texts (column "
        "`text`) under a language model's head, else rows of the own task, which need no labels.",
        json_schema_extra=PATH,
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.kind != "drift" and self.source is None:
            raise ValueError(f"source: kind {self.kind} needs rows of its own")
        return self


class EvaluateOptions(Options):
    """How the tuned model is judged."""

    baselines: bool = Field(True, description="Judge simple models on the same rows, and test the difference.")
    validation_replies: int = Field(
        0, ge=0, description="Texts generated at each evaluation while training, for the metrics that need them."
    )
    general: str | None = Field(
        None,
        description="File of general texts (column `text`) on which a language model's perplexity is measured before "
        "and after tuning.",
    )
    probes: tuple[ProbeOptions, ...] = Field(
        (), description="What is measured before and after tuning, to see what is lost: a list of the keys below."
    )
    probe_every: int | None = Field(
        None, ge=1, description="Put the probes also at every so many evaluations while training; None: never."
    )
    resamples: int = Field(
        1000, ge=100, description="Bootstrap resamples behind each interval and permutations behind each test."
    )
    level: float = Field(0.95, gt=0.5, lt=1, description="Confidence level of the intervals.")

    @field_validator("probes")
    @classmethod
    def _named(cls, probes: tuple[ProbeOptions, ...]) -> tuple[ProbeOptions, ...]:
        names = [probe.name for probe in probes]
        if len(set(names)) < len(names):
            raise ValueError("each probe needs a name of its own")
        return probes

    @model_validator(mode="after")
    def _needed(self) -> Self:
        if self.probe_every is not None and not self.probes:
            raise ValueError("probe_every: there are no probes to put")
        return self
