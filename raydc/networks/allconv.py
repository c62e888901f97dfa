"""The all-convolutional classifier of DAC (Chang et al., ICCV 2017) by its authors' code, and a twin for vectors."""

import logging
from itertools import pairwise
from typing import Literal

from pydantic import Field, PositiveInt
from torch import nn

from raydc.core.settings import Settings
from raydc.networks.convolution import NO_CONV, NO_MLP, Conv2d
from raydc.networks.init import begin
from raydc.networks.norm import BatchNorm

log = logging.getLogger("raydc")
CONV = ("channels", "depth", "pooling", "pooled_norm")
"""Settings of the network for images."""


class ConvClassifier(Settings):
    """Sizes of a classifier whose last layers start as identities, so that it starts from what random features tell."""

    channels: tuple[PositiveInt, ...] = (64, 128)
    """Channels of the conv stages; each ends in 2x2 pooling."""
    depth: int = Field(3, ge=1)
    """3x3 convolutions in a stage, not padded unless an image is smaller than 28 pixels."""
    pooling: Literal["ceil", "floor"] = "ceil"
    """Whether pooling takes what an odd side leaves over, or drops it."""
    pooled_norm: bool = False
    """Whether a batch norm stands behind each pooling, and behind the average over places."""
    hidden: tuple[PositiveInt, ...] = (500, 500)
    """Widths of the hidden layers of the mlp, for rows that are no images."""

    def idle(self, shape: tuple[int, ...]) -> dict[str, str]:
        return {"hidden": NO_MLP} if len(shape) == 3 else dict.fromkeys(CONV, NO_CONV)

    def build(self, shape: tuple[int, ...], n_clusters: int) -> nn.Sequential:
        """x [B, *shape] to logits [B, K], none of them negative."""
        layers = []
        width = shape[0]
        if len(shape) == 3:
            padding = "same" if min(shape[1:]) < 28 else "valid"
            side = min(shape[1:])
            for channels in self.channels:
                if padding == "valid" and side <= 2 * self.depth:
                    raise ValueError(
                        f"images of {shape[1:]} are too small for {len(self.channels)} stages of {self.depth} "
                        "convolutions: take fewer channels or less depth"
                    )
                side -= 2 * self.depth
                side = -(-side // 2) if self.pooling == "ceil" else side // 2
                for _ in range(self.depth):
                    layers += _block(Conv2d(width, channels, 3, padding=padding, bias=False), channels)
                    width = channels
                layers += [nn.MaxPool2d(2, ceil_mode=self.pooling == "ceil"), *self._behind_pool(width)]
            layers += _block(Conv2d(width, n_clusters, 1, bias=False), n_clusters)
            layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), *self._behind_pool(n_clusters)]
        else:
            log.warning("rows of shape %s are no images: an mlp %s is used instead of conv", shape, self.hidden)
            for a, b in pairwise([width, *self.hidden, n_clusters]):
                layers += _block(nn.Linear(a, b, bias=False), b)
        begin(nn.Sequential(*layers), "kaiming_normal")
        for _ in range(2):
            same = nn.Linear(n_clusters, n_clusters, bias=False)
            nn.init.eye_(same.weight)
            layers += _block(same, n_clusters)
        return nn.Sequential(*layers)

    def _behind_pool(self, width: int) -> list[nn.Module]:
        return [BatchNorm(width)] if self.pooled_norm else []


def _block(layer: nn.Module, width: int) -> list[nn.Module]:
    """A layer, batch norm and ReLU."""
    return [layer, BatchNorm(width), nn.ReLU()]
