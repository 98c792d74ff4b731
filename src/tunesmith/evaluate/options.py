"""What a recipe can say about the final evaluation."""

from pydantic import Field

from tunesmith.options import Options


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
    resamples: int = Field(
        1000, ge=100, description="Bootstrap resamples behind each interval and permutations behind each test."
    )
    level: float = Field(0.95, gt=0.5, lt=1, description="Confidence level of the intervals.")
