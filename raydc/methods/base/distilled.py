"""What methods have in common whose clusters are those of a shallow method, which a network learns."""

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from raydc.clustering import Clusters, views
from raydc.clustering.metrics.graph import distinct, encoded
from raydc.clustering.views import View
from raydc.core.schedule import Clustering, Optimizer
from raydc.data import Batch, Shard
from raydc.methods.base.method import Method, StepState, in_batches
from raydc.networks.classifier import Classifier
from raydc.networks.losses.information import cross_entropy, likeliest, probabilities

VOTES = 5
"""Nearest rows with a cluster whose commonest one another row learns."""
ViewName = Literal[
    "auto",
    "principal components",
    "rows",
    "standardised",
    "cosine",
    "cosine of principal components",
    "whitened",
    "cosine of whitened",
]


class DistilledMethod(Method):
    """A shallow method clusters a sample of the rows, the others are put where their nearest rows are, and a network
    learns it all by cross-entropy. It alone answers, for old rows and new ones.

    A subclass says how a sample is clustered.
    """

    follows_neighbours: ClassVar[bool] = False
    """Whether it maximises how well clusters follow a neighbour graph: by that score it looks better than it is."""

    class Config(Method.Config):
        network: Classifier = Classifier(hidden=(512,))
        view: ViewName = "auto"
        """Where the shallow method sees the rows; auto: where the communities of their neighbours are clearest."""
        most: int = Field(4000, ge=2)
        """Rows that it clusters at most, drawn at random."""
        cluster: Clustering = Clustering(length="600 steps", optimizer=Optimizer(lr=1e-3), update_every="200 steps")

    quick: ClassVar[dict[str, Any]] = {"network.hidden": (64,), "cluster.length": "100 steps"}
    config: Config

    def __init__(self, config: Config, shape: tuple[int, ...]) -> None:
        super().__init__(config, shape)
        self.net = config.network.build(shape, config.n_clusters)
        self.register_buffer("learnt", torch.zeros((), dtype=torch.float64))
        self.learnt: Tensor
        """Share of the training rows of which the network says what the shallow method does."""

    def cluster_sample(self, rows: NDArray[np.float32], seed: int) -> NDArray[np.int64]:
        """The shallow method's clusters [n], in [0, K), of a sample of the rows in their view [n, F]."""
        raise NotImplementedError

    def check(self, total: int) -> None:
        if total < self.n_clusters:
            raise ValueError(f"{total} rows cannot form {self.n_clusters} clusters")
        if self.config.most < self.n_clusters:
            raise ValueError(f"most: {self.config.most} rows cannot form {self.n_clusters} clusters; take more of them")

    def init_clusters(self, shard: Shard, clusters: Clusters) -> Tensor:
        draws = torch.Generator().manual_seed(clusters.seed % 2**63)
        places = torch.randperm(shard.total, generator=draws)[: self.config.most].sort().values
        own = shard.among(places)
        thinned = shard.thinned(places, shard[own].flatten(1))
        sample = thinned.gather(shard[own].flatten(1)).float().cpu().numpy()
        view = self._view(sample, clusters)
        seen = view.apply(sample)

        def everywhere() -> Tensor:
            """Of all rows; -1 of those out of the sample."""
            labels = torch.full((shard.total,), -1)
            labels[places] = torch.from_numpy(self.cluster_sample(seen, clusters.seed % 2**31))
            return labels

        known = clusters.label_on_one_worker(everywhere)
        if shard.total > self.config.most:
            place = nearest_of(view, seen, thinned.gather(known[own]).cpu(), self.n_clusters)
            known = torch.where(known < 0, shard.map(lambda x: in_batches(place, x)[0]), known)
        self.rows["known"] = known
        return known

    def _view(self, sample: NDArray[np.float32], clusters: Clusters) -> View:
        kept = sample[distinct(sample)]
        few = len(kept) <= views.NEIGHBOURS
        found = {view.name: view for view in views.views(sample if few else kept)}
        if few or self.config.view != "auto":
            return found["rows" if self.config.view == "auto" else self.config.view]

        def clearest() -> int:
            weighed = bool(encoded(sample - sample.min(0)))
            return [*found].index(views.choose(kept, clusters.seed % 2**31, weighed).view.name)

        return [*found.values()][clusters.choose_on_one_worker(clearest)]

    def clustering_loss(self, batch: Batch, state: StepState) -> Tensor:
        known = F.one_hot(self.rows["known"][batch.row], self.n_clusters)
        return batch.mean(cross_entropy(known, self.net(batch.x)))

    def update_clusters(self, shard: Shard, clusters: Clusters, state: StepState) -> Tensor:
        return super().finalize_clusters(shard, clusters)

    def finalize_clusters(self, shard: Shard, clusters: Clusters) -> Tensor:
        labels = super().finalize_clusters(shard, clusters)
        self.learnt.copy_(clusters.total((labels == self.rows["known"]).sum()) / shard.total)
        return labels

    def features(self, x: Tensor) -> Tensor:
        return probabilities(self.net(x))

    def decide(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return likeliest(self.net(x))


class DistilledGraphMethod(DistilledMethod):
    """One whose shallow method clusters the graph of nearest neighbours."""

    follows_neighbours: ClassVar[bool] = True

    class Config(DistilledMethod.Config):
        neighbours: int = Field(15, ge=1)
        """Of a row, at least, in the graph that is clustered."""

    config: Config


def nearest_of(
    view: View, seen: NDArray[np.float32], labels: Tensor, n_clusters: int
) -> Callable[[Tensor], tuple[Tensor]]:
    """Of rows [B, ...] the commonest label [B] among the VOTES nearest of `seen` [n, F], in a view, with labels [n]."""
    centre = seen.mean(0, dtype=np.float64)
    points = torch.from_numpy(seen - centre)
    squares, votes = points.square().sum(1), F.one_hot(labels, n_clusters)

    def place(x: Tensor) -> tuple[Tensor]:
        there = torch.from_numpy(view.apply(x.flatten(1).float().cpu().numpy()) - centre)
        near = (squares - 2 * there @ points.T).topk(min(VOTES, len(points)), largest=False).indices
        return (votes[near].sum(1).argmax(1).to(x.device),)

    return place
