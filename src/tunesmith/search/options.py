"""What can be said about a comparison of methods."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ValidationError

from tunesmith.errors import UserError
from tunesmith.options import Options

Cost = Literal["parameters", "time", "memory", "size"]


class CompareOptions(Options):
    """How methods are compared on one recipe."""

    methods: tuple[str, ...] = Field(
        ("full", "lora", "adapter", "bitfit", "head"),
        min_length=1,
        description="Methods to compare, with options in brackets: full,'lora(rank=16)','lora(rank=4, dora=true)'.",
    )
    seeds: int = Field(3, ge=1, le=100, description="Trials of each method, with one seed after the other.")
    margin: float = Field(
        0.01, gt=0, description="How much worse than the best still counts as not worse, in units of the main metric."
    )
    cheapest_by: Cost = Field(
        "parameters",
        description="What is meant by cheap: parameters that move, time of training, memory at its peak, or size of "
        "the artefact.",
    )
    rates: Literal["probe", "default"] = Field(
        "probe", description="probe: find each method's learning rate in short trials first. default: its own."
    )
    jobs: int | None = Field(None, ge=1, description="Trials at a time; None: half as many as there are cores.")


def compare_options(values: Mapping[str, Any]) -> CompareOptions:
    """The options with these values. Raises UserError for what cannot be."""
    try:
        return CompareOptions.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"])).replace("_", "-")
        raise UserError(f"--{key}", first["msg"], "see tunesmith compare --help") from error
