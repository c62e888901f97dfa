"""Batch norm whose statistics are those of the global batch, on CPU and GPU, also where a worker holds no rows."""

import torch
from torch import Tensor, nn

from raydc.distributed import collectives


class BatchNorm(nn.Module):
    """Ioffe & Szegedy, ICML 2015, arXiv:1502.03167, over all workers' rows; for [B, C] and [B, C, H, W].

    `tracking` off (see `batch_statistics_only`) leaves the running statistics untouched.
    """

    def __init__(self, features: int, momentum: float = 0.1, eps: float = 1e-5, affine: bool = True) -> None:
        super().__init__()
        self.momentum, self.eps, self.tracking = momentum, eps, True
        self.weight = nn.Parameter(torch.ones(features)) if affine else None
        self.bias = nn.Parameter(torch.zeros(features)) if affine else None
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(features))
        self.running_mean: Tensor
        self.running_var: Tensor

    def forward(self, x: Tensor) -> Tensor:
        alone = collectives.workers() == 1 and x.numel() > x.shape[1]
        if alone or not self.training:
            return self._fused(x)
        with torch.autocast(x.device.type, enabled=False):
            wide = x if x.dtype == torch.float64 else x.float()
            mean, var = self._statistics(wide)
            view = (1, -1, *[1] * (x.dim() - 2))
            y = (wide - mean.view(view)) * torch.rsqrt(var + self.eps).view(view)
            if self.weight is not None and self.bias is not None:
                y = y * self.weight.view(view) + self.bias.view(view)
        return y.to(x.dtype)

    def _fused(self, x: Tensor) -> Tensor:
        """torch's own kernel, one pass where the formula above takes ten; it sums over this worker's rows alone."""
        kept = self.tracking or not self.training
        mean, var = (self.running_mean, self.running_var) if kept else (None, None)
        return torch.batch_norm(x, self.weight, self.bias, mean, var, self.training, self.momentum, self.eps, True)

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance of the global batch; the running ones follow in unbiased form."""
        over = [d for d in range(x.dim()) if d != 1]
        own = torch.cat([x.sum(over), x.new_tensor([x.numel() / max(x.shape[1], 1)])])
        sums = collectives.differentiable_total(own)
        count = sums[-1].detach().clamp_min(1)
        mean = sums[:-1] / count
        view = (1, -1, *[1] * (x.dim() - 2))
        # a second pass, not E[x^2] - mean^2: that one cancels in fp32 where the mean is large
        var = collectives.differentiable_total((x - mean.view(view)).square().sum(over)) / count
        if self.tracking:
            with torch.no_grad():
                self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
                unbiased = var * count / (count - 1).clamp_min(1)
                self.running_var.lerp_(unbiased.to(self.running_var), self.momentum)
        return mean, var


class batch_statistics_only:
    """Within it, batch norms normalise by the batch but leave their running statistics alone (IMSAT's VAT passes)."""

    def __init__(self, network: nn.Module) -> None:
        self.norms = [m for m in network.modules() if isinstance(m, BatchNorm)]

    def __enter__(self) -> None:
        for norm in self.norms:
            norm.tracking = False

    def __exit__(self, *problem: object) -> None:
        for norm in self.norms:
            norm.tracking = True
