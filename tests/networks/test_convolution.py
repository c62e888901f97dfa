"""The convolutions of the networks: what torch's own ones give, however the bias is added."""

import pytest
import torch
import torch.nn.functional as F

from raydc.networks.convolution import Conv2d, ConvTranspose2d
from raydc.networks.strided_autoencoder import StridedAutoencoder


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rest", [0, 1, (1, 0)])
def test_a_transposed_convolution_equals_torchs(bias: bool, rest: int | tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer = ConvTranspose2d(3, 5, 5, 2, 2, rest, bias=bias).double()
    x = torch.rand(2, 3, 4, 6, dtype=torch.float64)
    torch.testing.assert_close(layer(x), F.conv_transpose2d(x, layer.weight, layer.bias, 2, 2, rest))


def test_the_bias_does_not_widen_what_autocast_has_narrowed() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert ConvTranspose2d(3, 5, 4, 2)(torch.rand(2, 3, 4, 4)).dtype == torch.bfloat16


@pytest.mark.parametrize("layer", [Conv2d(3, 5, 3), ConvTranspose2d(3, 5, 3)])
def test_outputs_have_the_channels_last(layer: torch.nn.Module) -> None:
    assert layer(torch.rand(2, 3, 4, 4)).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 7, 10), (1, 17, 11), (2, 5, 5)])
def test_a_strided_autoencoder_rebuilds_images_of_any_size(shape: tuple[int, ...]) -> None:
    net = StridedAutoencoder(shape, (4, 6), 5)
    z = net.encode(torch.rand(3, *shape))
    assert z.shape == (3, net.latent) and net.decode(z).shape == (3, *shape)


def test_a_strided_autoencoder_begins_with_glorots_weights_and_no_bias() -> None:
    torch.manual_seed(0)
    net = StridedAutoencoder((1, 32, 32), (15, 20), 3)
    for layer in [*net.encoder, *net.decoder]:
        assert isinstance(layer, torch.nn.Conv2d | torch.nn.ConvTranspose2d) and layer.bias is not None
        bound = (6 / (9 * (layer.in_channels + layer.out_channels))) ** 0.5
        assert 0.9 * bound < layer.weight.abs().max() <= bound and not layer.bias.any()
