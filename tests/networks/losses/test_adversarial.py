"""The two sides of a GAN, by hand, and the networks that play them."""

import math
from functools import partial

import pytest
import torch

from raydc.core.settings import build
from raydc.data import Shard
from raydc.methods.base import StepState
from raydc.methods.catgan import CatGAN
from raydc.networks.gan import AdversarialNetwork, ScoreAndCode
from raydc.networks.losses.adversarial import code_error, taken_for_fake, taken_for_real

HEAD = partial(ScoreAndCode, clusters=5, continuous=2)


def test_scores_by_hand() -> None:
    score = torch.tensor([0.0, math.log(3.0)])  # D = 1/2, 3/4
    torch.testing.assert_close(taken_for_real(score), torch.tensor([math.log(2), math.log(4 / 3)]))
    torch.testing.assert_close(taken_for_fake(score), torch.tensor([math.log(2), math.log(4)]))


def test_scores_at_the_corners_have_gradients() -> None:
    score = torch.tensor([-1e4, 1e4], requires_grad=True)
    (taken_for_real(score) + taken_for_fake(score)).sum().backward()
    assert score.grad is not None and score.grad.isfinite().all()


def test_code_error_by_hand() -> None:
    codes, predicted = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.zeros(2, 2)
    torch.testing.assert_close(code_error(codes, predicted), torch.tensor([0.5, 2.0]))
    torch.testing.assert_close(code_error(codes[:, :0], predicted[:, :0]), torch.zeros(2))


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 8, 8), (1, 9, 7), (20,), (1, 3, 3)])
def test_generator_and_critic_fit_rows_of_any_shape(shape: tuple[int, ...]) -> None:
    net = AdversarialNetwork(hidden=(16, 16), channels=(4, 8)).build(shape, 12, HEAD)
    made = net.generator(torch.randn(6, 12))
    assert made.shape == (6, *shape)
    score, logits, codes = net.critic(made)
    assert score.shape == (6,) and logits.shape == (6, 5) and codes.shape == (6, 2)


def test_images_are_made_in_the_unit_interval() -> None:
    net = AdversarialNetwork(hidden=(16, 16), channels=(4, 8)).build((1, 8, 8), 12, HEAD)
    made = net.generator(50 * torch.randn(6, 12))
    assert 0 <= made.min() and made.max() <= 1


def test_networks_for_images_begin_small() -> None:
    torch.manual_seed(0)
    net = AdversarialNetwork().build((1, 28, 28), 74, HEAD)
    for name, value in net.named_parameters():
        if value.dim() > 1:
            assert 0.018 < value.std() < 0.022 and value.mean().abs() < 0.002, name
        elif name.endswith("bias"):
            assert not value.any(), name
        else:
            assert (value - 1).abs().max() < 0.1 and value.std() > 0, name


def test_the_critic_drops_and_disturbs_in_training_alone() -> None:
    torch.manual_seed(0)
    x = torch.rand(6, 20)
    for setting in ("dropout", "noise"):
        critic = AdversarialNetwork(hidden=(16, 16), **{setting: 0.5}).build((20,), 12, HEAD).critic
        assert not torch.equal(critic(x)[0], critic(x)[0]), setting
        critic.eval()
        assert torch.equal(critic(x)[0], critic(x)[0]), setting


def catgan_parts(player: str) -> tuple[CatGAN, dict[str, float]]:
    """The parts of a player's loss where the critic of two clusters tells rows by their one value's sign."""
    config = build(CatGAN.Config, {"n_clusters": 2, "network": {"hidden": (1,), "dropout": 0.0}})
    method = CatGAN(config, (1,))
    method.net.generator = torch.nn.Sequential(torch.nn.Linear(config.noise, 1))
    method.net.critic = torch.nn.Linear(1, 2)
    with torch.no_grad():
        method.net.generator[0].weight.zero_()
        method.net.generator[0].bias.fill_(1.0)  # all it makes is 1
        method.net.critic.weight.copy_(torch.tensor([[0.0], [math.log(3)]]))
        method.net.critic.bias.zero_()
    rows = Shard.of(torch.tensor([[1.0], [-1.0]]))  # p of (1/4, 3/4) and (3/4, 1/4)
    parts = method.loss(rows.batch(torch.arange(2)), StepState("adversarial", 0.5, 0.0, 0, 0), player)
    return method, {name: float(value.detach()) for name, (_, value) in parts.items()}


def test_catgans_players_by_hand() -> None:
    of_each = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    method, critic = catgan_parts("critic")
    assert critic == pytest.approx({"network": -of_each, "clustering": of_each - math.log(2)})
    _, generator = catgan_parts("generator")
    assert generator == pytest.approx({"network": of_each, "clustering": -of_each})
    drawn = method.samples(3)
    assert drawn.shape == (2, 3, 1) and (drawn == 1).all()
