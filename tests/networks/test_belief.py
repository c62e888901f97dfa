"""Deep belief networks."""

import torch

from raydc.networks import DeepBeliefNetwork, Network
from raydc.networks.losses.margin import margin_violation


def test_a_layers_gradient_is_the_difference_of_correlations() -> None:
    """CD-1 by hand: <v h> of the rows less that of their reconstructions, for weights and both biases."""
    torch.manual_seed(0)
    net = Network(family="dbn", hidden=(5,), latent=3).build((7,))
    assert isinstance(net, DeepBeliefNetwork) and net.layers == 2
    x = torch.rand(20, 7)
    for layer, below in enumerate([x, net.activations(x)[0].detach()]):
        up, back = net.encoder[layer], net.decoder[1 - layer].bias
        torch.manual_seed(1)
        net.zero_grad()
        net.layer_error(x, layer, 0.0).mean().backward()
        torch.manual_seed(1)
        with torch.no_grad():
            p = torch.sigmoid(up(below))
            down = (torch.rand_like(p) < p).float() @ up.weight + back
            again = torch.sigmoid(down) if layer else down
            q = torch.sigmoid(up(again))
        torch.testing.assert_close(up.weight.grad, -(p.T @ below - q.T @ again) / 20)
        torch.testing.assert_close(up.bias.grad, -(p - q).mean(0))
        torch.testing.assert_close(back.grad, -(below - again).mean(0))


def test_a_machine_learns_to_give_rows_back() -> None:
    torch.manual_seed(0)
    net = Network(family="dbn", hidden=(), latent=20).build((8,))
    x = torch.eye(8)[torch.randint(8, (200,))] * 2
    rule = torch.optim.Adam(net.layer_parameters(0), 0.02)
    for _ in range(300):
        rule.zero_grad()
        net.layer_error(x, 0, 0.0).mean().backward()
        rule.step()
    assert (net(x) - x).square().mean() < x.var(0).mean() / 3


def test_the_margin_is_to_the_largest_other_score_or_to_zero() -> None:
    scores = torch.tensor([[2.0, 0.5, 0.0], [0.2, 0.7, 0.1], [-1.0, -2.0, -0.5]])
    assert torch.equal(margin_violation(scores, torch.tensor([0, 0, 2])), torch.tensor([0.0, 1.5, 1.5]))
    assert torch.equal(margin_violation(torch.tensor([[0.25]]), torch.tensor([0])), torch.tensor([0.75]))
