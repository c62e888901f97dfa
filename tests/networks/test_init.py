"""The first weights of every autoencoder, by the name of their scheme, and a decoder with the encoder's weights."""

import math
from typing import get_args

import pytest
import torch

from raydc.methods.dsc import Strided
from raydc.networks import Network
from raydc.networks.init import Initial

DEVIATIONS = {
    "fan_in": lambda inputs, outputs: 1 / math.sqrt(3 * inputs),
    "glorot": lambda inputs, outputs: math.sqrt(2 / (inputs + outputs)),
    "kaiming": lambda inputs, outputs: math.sqrt(2 / inputs),
    "kaiming_normal": lambda inputs, outputs: math.sqrt(2 / inputs),
    "lecun_normal": lambda inputs, outputs: 1 / math.sqrt(inputs),
    "normal": lambda inputs, outputs: 0.01,
}


@pytest.mark.parametrize("initial", get_args(Initial))
def test_weights_begin_with_the_deviation_that_the_scheme_names(initial: Initial) -> None:
    """Of linear and convolutional layers, and of those that a decoder transposes."""
    torch.manual_seed(0)
    of = DEVIATIONS[initial]
    linear = Network(hidden=(300,), latent=100, initial=initial).build((50,))
    conv = Network(family="conv", channels=(30,), kernel=5, latent=100, initial=initial).build((8, 10, 10))
    strided = Strided(family="conv", channels=(30,), kernel=5, initial=initial).build((8, 10, 10))
    cases = [
        *[(linear.encoder[0], 50, 300), (linear.decoder[0], 100, 300), (conv.encoder[0], 8 * 25, 30 * 25)],
        *[(strided.encoder[0], 8 * 25, 30 * 25), (strided.decoder[0], 30 * 25, 8 * 25)],
    ]
    for layer, inputs, outputs in cases:
        assert float(layer.weight.detach().std()) == pytest.approx(of(inputs, outputs), rel=0.05)
        assert not layer.bias.any()


def test_a_tied_decoder_has_the_encoders_weights_and_biases_of_its_own() -> None:
    net = Network(hidden=(7, 6), latent=3, tied=True).build((5,))
    assert [name for name in net.state_dict() if name.startswith("decoder")] == [f"decoder.{i}.bias" for i in range(3)]
    z = torch.randn(4, 3)
    first, second, last = (layer.weight for layer in net.encoder)
    expected = torch.relu(torch.relu(z @ last) @ second) @ first
    torch.testing.assert_close(net.decode(z), expected)
    net(torch.randn(4, 5)).sum().backward()
    before = net.decode(z)
    with torch.no_grad():
        first += first.grad
    assert not torch.equal(net.decode(z), before)
    assert len([*net.parameters()]) == 9


def test_a_layer_is_pretrained_on_clean_rows_and_dropped_hidden_values() -> None:
    """DEC's Caffe code: rows and the code stay as they are; a hidden layer's inputs and outputs are dropped."""
    net = Network(hidden=(50, 40), latent=3).build((30,))
    x = torch.rand(20, 30)
    with torch.no_grad():
        _, first = net.reconstruct_layer(x, 0, 1 - 1e-9)
        assert torch.equal(first, net.decoder[-1](torch.zeros(20, 50)))
        torch.manual_seed(0)
        kept = torch.nn.functional.dropout(torch.relu(net.encoder[0](x)), 0.5)
        torch.manual_seed(0)
        assert torch.equal(net.reconstruct_layer(x, 0, 0.5)[1], net.decoder[-1](kept))
        below, last = net.reconstruct_layer(x, 2, 1 - 1e-9)
        assert below.any() and torch.equal(last, torch.relu(net.decoder[0](net.encoder[2](torch.zeros(20, 40)))))
