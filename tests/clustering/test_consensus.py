import torch

from raydc.clustering.collective import CollectiveClusters
from raydc.clustering.consensus import matched_votes
from raydc.data import Shard


def test_clusters_are_matched_by_their_rows_and_never_by_number() -> None:
    reference = torch.tensor([0, 0, 0, 1, 1, 2])
    turned = torch.tensor([2, 2, 1, 0, 0, 1])  # 2 is 0, 0 is 1, and 1 is 2
    labels = torch.stack([turned, reference], 1)
    votes = matched_votes(labels, 1, 3, CollectiveClusters(Shard.of(labels), 0))
    assert votes.sum(1).tolist() == [1.0] * 6
    assert votes[:2].tolist() == [[1.0, 0.0, 0.0]] * 2 and votes[2].tolist() == [0.5, 0.0, 0.5]
    assert votes[3:].tolist() == [[0.0, 1.0, 0.0]] * 2 + [[0.0, 0.0, 1.0]]
