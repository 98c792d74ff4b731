"""What tasks know of the layer that their answers come out of."""

import torch
from torch import Tensor, nn

from tunesmith.contracts import Family

FAMILIES = frozenset(Family)
AUTO_CLASS = "AutoModelForSequenceClassification"


def output_layer(model: nn.Module, width: int) -> nn.Linear:
    """The trainable linear layer that makes the `width` outputs: the last one of that size."""
    layers = [
        module
        for module in model.modules()
        if isinstance(module, nn.Linear) and module.out_features == width and module.weight.requires_grad
    ]
    if not layers:
        raise ValueError(f"the model has no trainable layer with {width} outputs")
    return layers[-1]


def wide(values: Tensor) -> Tensor:
    """float32, or wider when the input is."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
