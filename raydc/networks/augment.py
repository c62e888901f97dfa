"""Augmentations, drawn and applied on the rows' device, a batch at a time. All are off unless a setting says so."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from raydc.core.settings import Settings

MOVES = ("shift", "rotate", "zoom", "crop")
"""Settings that resample images; other rows they leave as they are."""


class Augment(Settings):
    """How far each row is changed, every row by its own draw. The first five are for images alone."""

    shift: float = Field(0.0, ge=0, lt=1)
    """Images are moved by up to this share of their height and width."""
    rotate: float = Field(0.0, ge=0, le=180)
    """Images are turned by up to so many degrees, either way."""
    zoom: float = Field(0.0, ge=0, lt=1)
    """Images are enlarged or reduced by up to this share."""
    crop: float = Field(0.0, ge=0, lt=1)
    """Images lose up to this share of their height and width, anywhere, and are enlarged to what they were."""
    interpolation: Literal["bilinear", "nearest"] = "bilinear"
    """How images are resampled: nearest keeps them as sharp as they were, bilinear blurs them a little."""
    noise: float = Field(0.0, ge=0)
    """Standard deviation of normal noise, in units of the scaled rows."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of a row's values set to zero."""

    def idle(self, shape: tuple[int, ...]) -> dict[str, str]:
        if len(shape) != 3:
            return dict.fromkeys(
                [*MOVES, "interpolation"], "it moves images, and these rows are none without data.shape"
            )
        return {} if self.moves else {"interpolation": "nothing moves the images"}

    @property
    def moves(self) -> bool:
        """Whether images are resampled."""
        return any(getattr(self, name) for name in MOVES)

    def __call__(self, x: Tensor) -> Tensor:
        """x [B, ...] changed, from torch's global generator; x itself where nothing is asked for."""
        if self.moves and x.dim() == 4 and len(x):
            grid = F.affine_grid(self.transforms(x), list(x.shape), align_corners=False)
            # what comes in from outside is what the border shows, for zero is no background in every scaling
            x = F.grid_sample(x, grid, self.interpolation, padding_mode="border", align_corners=False)
        if self.noise:
            x = x + self.noise * torch.randn_like(x)
        if self.dropout:
            x = x * (torch.rand_like(x) >= self.dropout)
        return x

    def transforms(self, x: Tensor) -> Tensor:
        """Affine maps [B, 2, 3] from places in the new images to places in x [B, C, H, W], both in [-1, 1]."""

        def drawn(*shape: int) -> Tensor:
            """Uniform in [-1, 1)."""
            return 2 * torch.rand(len(x), *shape, device=x.device, dtype=x.dtype) - 1

        angle = drawn() * math.radians(self.rotate)
        cut = 1 - self.crop * (drawn() + 1) / 2
        size = cut / (1 + self.zoom * drawn())
        height, width = x.shape[2:]
        turned = torch.stack([angle.cos(), -angle.sin() * height / width, angle.sin() * width / height, angle.cos()], 1)
        # [-1, 1] is two sides long; a cropped window may lie wherever it fits
        offset = 2 * self.shift * drawn(2) + (1 - cut)[:, None] * drawn(2)
        return torch.cat([size[:, None, None] * turned.view(-1, 2, 2), offset[:, :, None]], 2)
