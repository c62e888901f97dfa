"""The classifier of DAC in both of its forms."""

from typing import Literal

import pytest
import torch
from torch import nn

from raydc.networks.allconv import ConvClassifier
from raydc.networks.norm import BatchNorm


@pytest.mark.parametrize(("pooling", "side"), [("ceil", 3), ("floor", 2)])
def test_pooling_takes_or_drops_what_an_odd_side_leaves_over(pooling: Literal["ceil", "floor"], side: int) -> None:
    """28 pixels: 22 behind three convolutions, 11 pooled, 5 behind three more."""
    net = ConvClassifier(channels=(4, 6), pooling=pooling).build((1, 28, 28), 3)
    x = torch.rand(2, 1, 28, 28)
    for layer in net[: [*map(type, net)].index(nn.AdaptiveAvgPool2d)]:
        x = layer(x)
    assert x.shape == (2, 3, side, side)


def test_batch_norms_behind_pools_are_three_more() -> None:
    norms = [
        sum(isinstance(layer, BatchNorm) for layer in ConvClassifier(pooled_norm=more).build((1, 28, 28), 3))
        for more in (False, True)
    ]
    assert norms[1] - norms[0] == 3
