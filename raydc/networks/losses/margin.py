"""Multi-class large margins. Crammer & Singer, Journal of Machine Learning Research 2001."""

import torch
import torch.nn.functional as F
from torch import Tensor

from raydc.core.autocast import full_precision


@full_precision
def margin_violation(scores: Tensor, labels: Tensor) -> Tensor:
    """max(0, 1 - (own score - largest other)) of each row [B], of scores [B, K] and labels [B].

    A score of 0 counts as another cluster's, so that one cluster alone has a margin too.
    """
    own = scores.gather(1, labels[:, None])[:, 0]
    others = scores.scatter(1, labels[:, None], -torch.inf)
    return (1 - own + F.pad(others, (0, 1)).amax(1)).clamp_min(0)
