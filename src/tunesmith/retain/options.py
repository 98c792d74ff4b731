"""What a recipe can say about keeping what the base model can do."""

from typing import Literal, Self

from pydantic import Field, model_validator

from tunesmith.options import PATH, Options

READ_AS = "`own`: rows of the run's own task; `language`: texts (column `text`), where the head is a language model's."


class ReplayOptions(Options):
    """Rows of earlier or general data among the training rows."""

    source: str = Field(description="File, folder or `hub:` data set that the rows come from.", json_schema_extra=PATH)
    task: Literal["own", "language"] = Field("own", description=f"How its rows are read. {READ_AS}")
    share: float = Field(
        0.1, gt=0, lt=1, description="Share of the rows of all updates; the training rows stay as many as without."
    )


class EwcOptions(Options):
    """Elastic weight consolidation."""

    weight: float = Field(gt=0, description="How hard a weight is held, times its Fisher information.")
    rows: int = Field(256, ge=1, description="Rows that the Fisher information is estimated on, one at a time.")
    source: str | None = Field(
        None,
        description="Where these rows come from: of what shall not be forgotten; None: the source of `replay`.",
        json_schema_extra=PATH,
    )
    task: Literal["own", "language"] = Field("own", description=f"How its rows are read. {READ_AS}")


class DistilOptions(Options):
    """Distillation from the frozen base."""

    weight: float = Field(gt=0, description="Weight of the distance from the base beside the task's loss.")
    temperature: float | None = Field(
        None,
        gt=0,
        description="Divides the outputs that are compared; None: 1. Not for hidden states, which have none.",
    )


class InterpolateOptions(Options):
    """Weights between the base and the tuned model."""

    steps: int = Field(10, ge=1, description="The way from the base to the tuned model is tried in so many steps.")
    margin: float = Field(
        0.01, ge=0, description="How much worse than the best of them the validation score may be for less forgetting."
    )


class RetainOptions(Options):
    """What holds the model to what its base can do."""

    replay: ReplayOptions | None = Field(
        None, description="Mix rows of earlier or general data into training (arXiv:1902.10486)."
    )
    l2_sp: float | None = Field(
        None,
        gt=0,
        description="Weight of the pull of each moving pre-trained weight to where it began (arXiv:1802.01483).",
    )
    ewc: EwcOptions | None = Field(
        None, description="The same pull, by how much the base's answers depend on each weight (arXiv:1612.00796)."
    )
    distil: DistilOptions | None = Field(
        None, description="Hold outputs, or under a new head hidden states, to the base's (arXiv:1606.09282)."
    )
    interpolate: InterpolateOptions | None = Field(
        None, description="End with weights between base and tuned model, chosen on validation rows (arXiv:2109.01903)."
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.ewc is not None and self.ewc.source is None and self.replay is None:
            raise ValueError("ewc: needs a source: rows of what shall not be forgotten")
        return self

    @property
    def sources(self) -> dict[str, str]:
        """The sources of rows, by the keys that name them."""
        named = {"replay": self.replay, "ewc": self.ewc}
        return {key: one.source for key, one in named.items() if one is not None and one.source is not None}

    @property
    def pulls(self) -> tuple[str, ...]:
        """The cures that need weights of the base that move."""
        named = {"l2_sp": self.l2_sp, "ewc": self.ewc, "interpolate": self.interpolate}
        return tuple(key for key, one in named.items() if one is not None)
