"""The build of a model before its weights are read."""

import torch
import transformers
from transformers import PretrainedConfig, PreTrainedModel

from tunesmith.quiet import quiet


def skeleton(config: PretrainedConfig, auto_class: str) -> PreTrainedModel:
    """A model of this kind whose tensors take no memory and hold no values."""
    with torch.device("meta"), quiet():
        model: PreTrainedModel = getattr(transformers, auto_class).from_config(config)
    return model
