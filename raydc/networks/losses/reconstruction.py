"""Non-clustering losses of autoencoders (section 2.3 of the taxonomy). One number a row; the batch reduces them."""

from torch import Tensor

from raydc.core.autocast import full_precision


@full_precision
def mean_squared_error(x: Tensor, decoded: Tensor) -> Tensor:
    """||x - decoded||^2 / D of each row [B]: the mean over features (the scale of DEC-keras and IDEC)."""
    return (x - decoded).flatten(1).square().mean(1)


@full_precision
def squared_error(x: Tensor, decoded: Tensor) -> Tensor:
    """||x - decoded||^2 of each row [B]: the sum over features (eq. 1; the scale of DCN)."""
    return (x - decoded).flatten(1).square().sum(1)
