"""DEPICT's autoencoder, VaDE's and IMSAT's networks: shapes, noise, beginnings."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_rand_score

from raydc.clustering.collective import CollectiveClusters
from raydc.core.settings import build
from raydc.data import Shard
from raydc.methods.base import StepState
from raydc.methods.depict import DEPICT
from raydc.networks.classifier import Classifier
from raydc.networks.layered import LayeredNetwork
from raydc.networks.vae import VariationalNetwork
from raydc.training.loop import Loop


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 8, 8), (1, 17, 11), (20,)])
def test_every_layer_is_rebuilt_in_its_own_shape(shape: tuple[int, ...]) -> None:
    net = LayeredNetwork(channels=(5, 6), hidden=(7, 8)).build(shape, 4)
    x = torch.rand(3, *shape)
    activations = net.encode(x)
    rebuilt = net.decode(activations[-1])
    assert torch.equal(activations[0], x) and activations[-1].shape == (3, 4)
    assert [a.shape for a in activations[:-1]] == [r.shape for r in rebuilt]
    assert activations[-1].abs().max() <= 1


def test_depicts_mnist_network_has_the_papers_sizes() -> None:
    net = LayeredNetwork().build((1, 28, 28), 10)
    assert net.shapes == [(1, 28, 28), (50, 13, 13), (50, 7, 7), (10,)]


@pytest.mark.parametrize(("shape", "reached"), [((1, 9, 8), 0.99), ((20,), 3.0)])
def test_the_decoder_begins_at_the_mean_row(shape: tuple[int, ...], reached: float) -> None:
    net = LayeredNetwork(channels=(5, 6), hidden=(7, 8)).build(shape, 4)
    mean = torch.linspace(-reached, reached, math.prod(shape)).view(shape)
    net.begin_at(mean)
    torch.testing.assert_close(net.decode(torch.zeros(2, 4))[0], mean.expand(2, *shape))


def test_codes_keep_their_gradient_under_autocast() -> None:
    net = LayeredNetwork(family="mlp", hidden=(3,)).build((3,), 1)
    with torch.no_grad():
        net.encoder[-1].bias.fill_(4.0)  # tanh(4) is .9993, and 1 in bf16
    with torch.autocast("cpu", torch.bfloat16):
        net.encode(torch.zeros(1, 3))[-1].sum().backward()
    assert net.encoder[-1].bias.grad.item() == pytest.approx(1 - math.tanh(4.0) ** 2, rel=1e-2)


def test_codes_of_images_on_a_plain_background_come_apart() -> None:
    """What all rows have in common must not drive all codes into one corner of tanh."""
    x = torch.from_numpy(load_digits().images[:400, None] / 8 - 1).float()
    config = build(DEPICT.Config, {"n_clusters": 10, "pretrain": {"length": "10 epochs"}}, at="method")
    torch.manual_seed(0)
    shard = Shard.of(x)
    loop = Loop(DEPICT(config, (1, 8, 8)), shard, CollectiveClusters(shard, 0), 100)
    list(itertools.islice(loop, 10))
    with torch.no_grad():
        assert loop.method.features(x).std(0).mean() > 0.2
    trained = loop.method.net.common.clone()
    assert torch.equal(Loop(loop.method, shard, CollectiveClusters(shard, 0), 100).method.net.common, trained)


def test_reconstruction_moves_what_it_rebuilds_too() -> None:
    """With a decoder that gives zeros, an encoder learns from its own activations alone: .1 times their mean square."""
    settings = {"n_clusters": 2, "network": {"family": "mlp", "hidden": (3,)}}
    torch.manual_seed(0)
    method, x = DEPICT(build(DEPICT.Config, settings, at="method"), (5,)), torch.randn(8, 5)
    first = method.net.encoder[0]
    with torch.no_grad():
        for layer in method.net.decoder:
            layer.weight.zero_()
    now = StepState("pretrain", alpha=0.0, progress=0.0, epoch=0, step=0)
    weight, loss = method.loss(Shard.of(x).batch(torch.arange(8)), now, "all")["network"]
    activations = F.leaky_relu(first(x))
    expected = x.square().mean() + 0.1 * activations.square().mean()
    torch.testing.assert_close(weight * loss, expected)
    grads = [torch.autograd.grad(value, first.weight)[0] for value in (weight * loss, expected)]
    assert grads[0].any()
    torch.testing.assert_close(*grads)


def test_noise_drops_inputs_of_all_layers_but_the_codes() -> None:
    net = LayeredNetwork(family="mlp", hidden=(400,)).build((400,), 4)
    torch.manual_seed(0)
    with torch.no_grad():
        for layer in net.encoder:
            layer.weight.fill_(1 / 400)
        clean, noisy = net.encode(torch.ones(1, 400)), net.encode(torch.ones(1, 400), noise=0.5)
        assert torch.equal(clean[0], noisy[0])  # what is handed on is not what the layer sees
        torch.testing.assert_close(clean[1], torch.ones(1, 400))
        assert not torch.equal(noisy[1], clean[1])
        torch.testing.assert_close(noisy[2], torch.tanh(noisy[1].mean()).expand(1, 4))


def test_images_that_are_too_small_are_refused() -> None:
    with pytest.raises(ValueError, match=r"images of \(3, 3\) are too small .* use family=mlp"):
        LayeredNetwork().build((1, 3, 3), 10)


def test_a_vae_is_an_autoencoder_of_its_means() -> None:
    net = VariationalNetwork(hidden=(16,), latent=3).build((2, 4))
    x = torch.rand(5, 2, 4)
    mean, log_variance = net.distribution(x)
    assert torch.equal(net.encode(x), mean) and mean.shape == log_variance.shape == (5, 3)
    torch.testing.assert_close(log_variance, torch.zeros(5, 3), atol=0.1, rtol=0)
    torch.testing.assert_close(net.decode(mean), torch.sigmoid(net.logits(mean)))
    _, first = net.reconstruct_layer(x, 0, 0.0)
    assert 0 < first.min() and first.max() < 1


def test_a_gaussian_vae_has_a_linear_end() -> None:
    net = VariationalNetwork(hidden=(16,), latent=3, likelihood="gaussian").build((8,))
    z = torch.randn(5, 3)
    assert torch.equal(net.decode(z), net.logits(z))


def test_a_classifier_starts_from_uniform_predictions() -> None:
    torch.manual_seed(0)
    p = Classifier(hidden=(32,)).build((1, 4, 4), 3)(torch.randn(50, 1, 4, 4)).softmax(1)
    torch.testing.assert_close(p, torch.full((50, 3), 1 / 3), atol=1e-3, rtol=0)


def test_a_classifier_without_hidden_layers_is_linear() -> None:
    net = Classifier(hidden=()).build((6,), 3)
    x = torch.randn(4, 6)
    torch.testing.assert_close(net(x), x @ net.last.weight.T + net.last.bias)


@pytest.mark.parametrize("agglomerated", [400, 399])
def test_depict_starts_from_agglomeration_on_few_rows_and_from_k_means_on_more(
    agglomerated: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two rings around each other are clusters to the one and not to the other."""
    draw = torch.Generator().manual_seed(0)
    angle = 2 * math.pi * torch.rand(400, generator=draw)
    ring = torch.arange(400) % 2
    x = (1 + 2 * ring)[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
    method = DEPICT(build(DEPICT.Config, {"n_clusters": 2, "agglomerated": agglomerated}, at="method"), (2,))
    monkeypatch.setattr(method, "features", lambda x: x)
    shard = Shard.of(x)
    labels = method.init_clusters(shard, CollectiveClusters(shard, 0))
    assert (adjusted_rand_score(ring, labels) == 1) == (agglomerated == 400)
    torch.testing.assert_close(
        method.theta.data, F.normalize(torch.stack([x[labels == k].mean(0) for k in range(2)]), dim=1)
    )
