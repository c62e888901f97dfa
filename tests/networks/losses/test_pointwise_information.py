"""TEMI's loss by hand."""

import torch

from raydc.networks.losses.pointwise_information import neighbour_losses


def test_the_loss_of_pairs_by_hand() -> None:
    draw = torch.Generator().manual_seed(0)
    student, teacher = (torch.rand(5, 2, 3, generator=draw, dtype=torch.float64).softmax(2) for _ in range(2))
    marginal = torch.rand(2, 3, generator=draw, dtype=torch.float64).softmax(1)
    pairs = [(0, 1), (3, 4), (0, 2)]
    expected = torch.zeros(2, dtype=torch.float64)
    for i, j in pairs:
        weight = (teacher[i] * teacher[j]).sum(1).mean()
        for a, b in ((i, j), (j, i)):
            inside = ((student[a] * teacher[b]) ** 0.6 / marginal).sum(1)
            expected -= weight * inside.log() / (2 * len(pairs))
    found = neighbour_losses(student, teacher, torch.tensor(pairs), marginal, 0.6)
    torch.testing.assert_close(found, expected)


def test_the_loss_has_gradients_where_a_probability_is_zero() -> None:
    student = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]], requires_grad=True)
    teacher = student.detach().flip(0)
    neighbour_losses(student, teacher, torch.tensor([[0, 1]]), torch.tensor([[1.0, 0.0]]), 0.6).sum().backward()
    assert student.grad is not None and student.grad.isfinite().all()
