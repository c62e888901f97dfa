"""What several clusterings of the same rows agree on."""

import torch
import torch.nn.functional as F
from pydantic import Field
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from raydc.clustering.interface import Clusters
from raydc.core.schedule import Refinement


class Consensus(Refinement):
    """Learning the clusters on which several clusterings agree."""

    agreement: float = Field(0.8, gt=0, le=1)
    """Share of the clusterings that put a row into one cluster, from which on it is learned."""


def matched_votes(labels: Tensor, reference: int, n_clusters: int, clusters: Clusters) -> Tensor:
    """Share of H clusterings that put each row into each cluster [N, K], by labels int64 [N, H] of this worker's rows.

    Clusters of each clustering are matched one to one with those of the `reference`, so that as many rows of all
    workers as can be are in clusters that match (Kuhn, Naval Research Logistics Quarterly 1955).
    """
    own = F.one_hot(labels[:, reference], n_clusters).float()
    votes = torch.zeros_like(own)
    for clustering in labels.T:
        theirs = F.one_hot(clustering, n_clusters).float()
        common = clusters.products(own, theirs).cpu().numpy()
        _, matching = linear_sum_assignment(common, maximize=True)
        votes += theirs[:, torch.from_numpy(matching).to(labels.device)]
    return votes / labels.shape[1]
