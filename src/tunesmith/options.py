"""The base of everything a recipe can set: typed, frozen, and closed to unknown keys."""

from pydantic import BaseModel, ConfigDict


class Options(BaseModel):
    """Typed fields that are the keys of a recipe. Each field's description is its help text."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)
