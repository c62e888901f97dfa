"""Encoders and decoders of GMVAE fit rows of any shape."""

import pytest
import torch

from raydc.networks.mixture_vae import MixtureNetwork


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 15, 14), (1, 9, 7), (20,)])
def test_rows_of_any_shape_come_back(shape: tuple[int, ...]) -> None:
    sizes = MixtureNetwork(channels=(2, 3, 4), hidden=(8,), latent=5, style=3, prior=6)
    net = sizes.build(shape, clusters=4)
    (mean, log_variance), (style, _) = net.encode(torch.rand(6, *shape))
    assert mean.shape == log_variance.shape == (6, 5) and style.shape == (6, 3)
    assert net.decoder(mean).shape == (6, torch.Size(shape).numel())
    clusters, widths = net.clusters(style)
    assert clusters.shape == widths.shape == (6, 4, 5)
    assert sizes.convolutional(shape) == (shape[-1] >= 14 and len(shape) == 3)
