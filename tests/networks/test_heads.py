"""Heads side by side: each is what it would be alone; teachers follow; the best is chosen."""

import torch
import torch.nn.functional as F

from raydc.networks.heads import HeadNetwork, Heads


def by_hand(heads: Heads, x: torch.Tensor, head: int) -> torch.Tensor:
    hidden = F.gelu(x @ heads.weight0[head].T + heads.bias0[head])
    hidden = F.normalize(hidden @ heads.weight1[head].T + heads.bias1[head], dim=1)
    directions = heads.direction[head] / heads.direction[head].norm(dim=1, keepdim=True)
    return hidden @ (heads.length[head, :, None] * directions).T / 0.1


def test_each_head_is_what_it_would_be_alone() -> None:
    torch.manual_seed(0)
    heads, x = Heads(7, (6, 5), 3, 4, 0.1), torch.randn(9, 7)
    with torch.no_grad():
        heads.length += torch.rand(4, 3)
    logits = heads(x)
    assert logits.shape == (9, 4, 3)
    for head in range(4):
        torch.testing.assert_close(logits[:, head], by_hand(heads, x, head))
        torch.testing.assert_close(heads(x, only=head)[:, 0], logits[:, head])
    assert Heads(7, (), 3, 2, 0.1)(x).shape == (9, 2, 3), "without a hidden layer"


def test_a_held_last_layer_learns_nothing_and_passes_gradients_on() -> None:
    heads = Heads(4, (3,), 2, 2, 0.1)
    heads(torch.randn(5, 4), held=True)[..., 0].sum().backward()
    assert heads.direction.grad is None and heads.length.grad is None and heads.weight0.grad.any()


def test_teachers_are_running_means_and_the_head_of_the_lowest_loss_answers() -> None:
    net = HeadNetwork(heads=3, hidden=(4,)).build((2, 3), 2)
    assert not [*net.teacher.parameters()] and net.teacher.state_dict().keys() == net.student.state_dict().keys()
    before = net.teacher.weight0.clone()
    with torch.no_grad():
        net.student.weight0 += 1.0
    net.teacher.follow(net.student, 0.9)
    torch.testing.assert_close(net.teacher.weight0, before + 0.1)
    net.losses += torch.tensor([3.0, -1.0, 2.0])
    for _ in range(2):  # without steps between
        net.choose()
        assert net.best == 1 and not net.losses.any()
    x = torch.randn(5, 2, 3)
    torch.testing.assert_close(net(x), net.teacher(x)[:, 1])
