"""What a recipe can say about what leaves the house."""

from pydantic import Field

from tunesmith.options import Options


class DeployOptions(Options):
    """What is written for use elsewhere."""

    formats: tuple[str, ...] = Field(
        ("auto",),
        description="Exporters to run: `auto` (suits the method), `safetensors` (a full model, merged), `adapter`.",
    )
    verify: bool = Field(
        True, description="Load each artefact in a fresh process without tunesmith, and compare its outputs."
    )
    licence: str | None = Field(None, description="Licence named on the model card; None: the base model's.")
