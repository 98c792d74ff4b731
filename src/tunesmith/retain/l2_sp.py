"""L2-SP: pre-trained weights decay to where they began instead of to zero (arXiv:1802.01483, section 3.1)."""

from collections.abc import Mapping

from torch import Tensor

from tunesmith.retain.pull import Pull


def l2_sp(weight: float, anchors: Mapping[str, Tensor]) -> Pull:
    """The penalty ½ · weight · Σ (w − w₀)². The head, which begins at random, decays to zero as before."""
    return Pull("l2_sp", weight, anchors, undecayed=frozenset(anchors))
