"""What a recipe can say about its data."""

from typing import Literal

from pydantic import Field

from tunesmith.options import Options


class DataOptions(Options):
    """Where the rows are, and how they are divided."""

    train: str | tuple[str, ...] = Field(
        description="File, folder or `hub:NAME[:CONFIG][@SPLIT]` data set to learn from; several in a list."
    )
    validation: str | float = Field(
        0.1, description="Share of the training rows held out to watch training (0 for none), or a source of its own."
    )
    test: str | float = Field(
        0.0, description="Share of the training rows held out for the final score (0 for none), or a source of its own."
    )
    group: str | None = Field(
        None, description="Column whose equal values never cross a split (a customer, a document)."
    )
    on_bad_row: Literal["stop", "skip"] = Field(
        "stop", description="`stop` at the first rows that cannot be used, naming them, or `skip` and count them."
    )
    max_tokens: int | None = Field(
        None,
        ge=4,
        description="Longest row in tokens; longer ones are cut and counted. None: the model's limit, at most 512.",
    )
    limit: int | None = Field(None, ge=1, description="Use only this many rows of each source, from its start.")
    seed: int | None = Field(
        None,
        ge=0,
        lt=2**63,
        description="Decides the split alone, so that runs of other seeds share it; None: the recipe's `seed`.",
    )
    cache: bool = Field(
        True,
        description="Keep encoded rows beside the runs, and use them again while nothing that shapes them changes.",
    )
