"""How weights may move: one file a method."""

from tunesmith.catalog import Catalog

METHODS = Catalog(
    "method",
    full="tunesmith.adapt.full:Full",
    lora="tunesmith.adapt.lora:LoRA",  # recipe: {kind: lora, rank: 8}
    adalora="tunesmith.adapt.adalora:AdaLoRA",
    head="tunesmith.adapt.head:Head",
    partial="tunesmith.adapt.partial:Partial",
    bitfit="tunesmith.adapt.partial:BitFit",
    adapter="tunesmith.adapt.adapter:Adapter",  # recipe: {kind: adapter, places: pfeiffer}
    ia3="tunesmith.adapt.ia3:IA3",
    vera="tunesmith.adapt.vera:VeRA",
    loha="tunesmith.adapt.lycoris:LoHa",
    lokr="tunesmith.adapt.lycoris:LoKr",
    oft="tunesmith.adapt.oft:OFT",
    prompt="tunesmith.adapt.prompt:Prompt",
    p_tuning="tunesmith.adapt.prompt:PTuning",
    prefix="tunesmith.adapt.prefix:Prefix",
)
OF_FILES = {
    "LORA": "lora",
    "BOTTLENECK": "adapter",
    "IA3": "ia3",
    "VERA": "vera",
    "LOHA": "loha",
    "LOKR": "lokr",
    "OFT": "oft",
    "PROMPT_TUNING": "prompt",
    "P_TUNING": "p_tuning",
    "PREFIX_TUNING": "prefix",
}
"""The method that an adapter's file is of, by the `peft_type` in it."""
