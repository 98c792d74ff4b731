"""What a recipe can say about its model."""

from typing import Literal

from pydantic import Field, field_validator

from tunesmith.options import Options


class ModelOptions(Options):
    """Which pre-trained model to start from. A plain text stands for {name: text}."""

    name: str = Field(description="A hub id, a local folder, or `builtin:minilm`.")
    revision: str | None = Field(None, description="Branch, tag or commit of a hub id; the run records the commit.")
    new_tokens: tuple[str, ...] = Field(
        (),
        description="Words that become tokens of their own, each beginning as the mean of the tokens that it was.",
    )
    quantise: Literal["nf4", "int8"] | None = Field(
        None,
        description="Hold the linear layers of the blocks in few bits, under a method that leaves an adapter (in all "
        "stages). nf4: four (QLoRA, arXiv:2305.14314). int8: eight, and what comes in is rounded as well "
        "(arXiv:2208.07339).",
    )
    download: bool = Field(False, description="Fetch a hub id that is not in the local cache.")

    @field_validator("new_tokens")
    @classmethod
    def _words(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        for word in words:
            if not word.strip() or word != word.strip():
                raise ValueError(f"new_tokens: {word!r} is empty or begins or ends with a blank")
        if len(set(words)) < len(words):
            raise ValueError("new_tokens: name each word once")
        return words
