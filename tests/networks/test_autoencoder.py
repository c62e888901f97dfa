"""What each layer of an encoder gives, codes of another size, and a network that begins as the identity."""

import pytest
import torch

from raydc.networks import Network
from raydc.networks.encoder import Encoder
from raydc.networks.mlp import ResidualMLP
from raydc.networks.norm import BatchNorm
from raydc.networks.strided_autoencoder import Strided
from raydc.networks.vae import VariationalNetwork

NETWORKS = [
    Network(hidden=(7, 6), latent=3),
    Network(family="conv", channels=(4, 5), latent=3),
    Strided(family="conv", channels=(4, 5)),
    VariationalNetwork(hidden=(7, 6), latent=3),
]


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: f"{type(network).__name__}-{network.family}")
def test_activations_are_as_wide_as_they_say_and_end_in_the_code(network: Network) -> None:
    net, x = network.build((1, 9, 10)).eval(), torch.rand(4, 1, 9, 10)
    layers = net.activations(x)
    assert (*(layer[0].numel() for layer in layers),) == net.widths and net.widths[-1] == net.latent
    assert torch.equal(layers[-1], net.encode(x)) and all((layer >= 0).all() for layer in layers[:-1])


@pytest.mark.parametrize("network", [NETWORKS[0], NETWORKS[1], NETWORKS[3], Strided(hidden=(7,))])
def test_a_method_may_say_how_large_the_code_is(network: Network) -> None:
    net = network.build((1, 9, 10), 12).eval()
    assert net.latent == 12 and net(torch.rand(2, 1, 9, 10)).flatten(1).shape == (2, 90)


def test_a_residual_network_begins_as_the_identity_and_learns() -> None:
    net, z = ResidualMLP(3, (8,)), torch.randn(5, 3)
    assert torch.equal(net(z), z)
    net(z).square().sum().backward()
    assert (net.layers[-1].weight.grad != 0).any()


@pytest.mark.parametrize("shape", [(1, 12, 12), (6,)])
def test_an_encoder_without_batch_norm_says_the_same_in_training(shape: tuple[int, ...]) -> None:
    plain, normed = (Encoder(channels=4, hidden=(8,), latent=5, norm=norm).build(shape) for norm in (False, True))
    x = torch.rand(6, *shape)
    assert torch.equal(plain.train()(x), plain.eval()(x)) and not torch.equal(normed.train()(x), normed.eval()(x))
    assert not [m for m in plain.modules() if isinstance(m, BatchNorm)]
    assert plain(x).std() > 0.1  # weights of .01 would leave nothing of a row
