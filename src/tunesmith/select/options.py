"""What a recipe can say about its model."""

from pydantic import Field

from tunesmith.options import Options


class ModelOptions(Options):
    """Which pre-trained model to start from. A plain text stands for {name: text}."""

    name: str = Field(description="A hub id, a local folder, or `builtin:minilm`.")
    revision: str | None = Field(None, description="Branch, tag or commit of a hub id; the run records the commit.")
    download: bool = Field(False, description="Fetch a hub id that is not in the local cache.")
