"""How weights may move: one file a method."""

from tunesmith.catalog import Catalog

METHODS = Catalog(
    "method",
    full="tunesmith.adapt.full:Full",
    lora="tunesmith.adapt.lora:LoRA",  # recipe: {kind: lora, rank: 8}
)
