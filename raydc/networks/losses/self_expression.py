"""Self-expression (section 2.4 of the taxonomy). Ji et al., NeurIPS 2017, arXiv:1709.02508. One number a row."""

from torch import Tensor

from raydc.core.autocast import full_precision


@full_precision
def self_expression(z: Tensor, expressed: Tensor) -> Tensor:
    """||z - expressed||^2 / 2 of each row [B], where `expressed` are the rows of C Z."""
    return (z - expressed).flatten(1).square().sum(1) / 2


@full_precision
def coefficient_energy(coefficients: Tensor) -> Tensor:
    """||c||^2 of each row [B] of C [B, N]: the L2 penalty."""
    return coefficients.square().sum(1)
