"""Deep Continuous Clustering. Shah & Koltun 2018, arXiv:1803.01449.

Every row i has a trainable representative u_i beside its code z_i. The rows' mutual neighbours, joined by a minimum
spanning forest, pull their representatives together through a robust penalty whose scales are annealed (graduated
non-convexity); clusters are the connected components of what came within delta, so their number is found, not given.

From the authors' code: normalisation by the batch (rows times features), degrees n_i as weights, lambda and the scales'
starts and floors, biases at twice the rate, Adam's beta1 = .99, 128 edges a step. Its stop rule reads the wrong way
round; here the intended one holds: at the floor, stop when fewer than .1% of the edges change between same and other
cluster. Decided here: rows are scaled to a mean square of 1 over all rows, not each; autoencoder as DEC's; an update is
due every 20 epochs, and is both the annealing step and the look at the components. Every worker knows all edges.
"""

import math
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import BeforeValidator, Field
from torch import Tensor, nn

from raydc.clusters import Clusters
from raydc.clusters.graph import components, largest_laplacian_eigenvalue, mutual_neighbour_edges
from raydc.data import Batch, Shard
from raydc.losses.continuous import geman_mcclure
from raydc.losses.reconstruction import mean_squared_error
from raydc.methods.base import AutoencoderMethod, Card, Group, Now, Parts, Player
from raydc.phases import Optimiser, Phase


def _found(value: Any) -> Any:
    if value != 0:
        raise ValueError("dcc finds the number of clusters in the rows: leave it out, or take another method")
    return value


class DCC(AutoencoderMethod):
    card: ClassVar[Card] = Card(
        source="Shah & Koltun 2018",
        architecture="MLP",
        features="a trainable representative of each row",
        network_loss="autoencoder reconstruction",
        clustering_loss="robust continuous clustering",
        combination="pretraining, then joint training",
        updates="jointly updated, scales annealed",
        after="connected components",
        refuses="dcc's clusters are components of its training rows' graph, of which a new row is no part",
    )

    class Config(AutoencoderMethod.Config):
        n_clusters: Annotated[Literal[0], BeforeValidator(_found)] = 0
        """Not given: the number of clusters is found."""
        neighbours: int = Field(10, ge=1)
        """Nearest rows (by cosine) among which mutual ones are linked."""
        edges: int = Field(128, ge=1)
        """Edges of a global batch, once clustering has begun."""
        settled: float = Field(1e-3, ge=0, lt=1)
        """Stop when fewer than this share of the edges change, once the pairs' scale has reached its floor."""
        cluster: Phase = Phase(
            length="500 epochs", optimiser=Optimiser(beta1=0.99), alpha=0.5, update_every="20 epochs"
        )

        recipes: ClassVar[dict[str, dict[str, Any]]] = {"paper": AutoencoderMethod.Config.recipes["paper"]}

    quick: ClassVar[dict[str, Any]] = AutoencoderMethod.quick | {
        "cluster.length": "60 epochs",
        "cluster.update_every": "3 epochs",
    }
    config: Config

    def __init__(self, config: Config, shape: tuple[int, ...]) -> None:
        super().__init__(config, shape)
        self.register_buffer("scales", torch.ones(2))  # mu1 of rows, mu2 of pairs
        self.register_buffer("floors", torch.ones(2))
        self.register_buffer("delta", torch.zeros(()))
        self.register_buffer("balance", torch.zeros(()))
        self.register_buffer("found", torch.zeros((), dtype=torch.int64))
        self.register_buffer("stop", torch.zeros((), dtype=torch.bool))
        self.scales: Tensor
        self.floors: Tensor
        self.delta: Tensor
        self.balance: Tensor
        self.found: Tensor
        self.stop: Tensor
        self._order: tuple[int, Tensor] = (-1, torch.zeros(0))

    @property
    def n_clusters(self) -> int:
        return int(self.found)

    def phases(self) -> dict[str, Phase]:
        return super().phases() | {"cluster": self.config.cluster}

    def players(self, phase: str) -> dict[str, Player]:
        if phase != "cluster":
            return super().players(phase)
        weights, biases = ([p for p in self.net.parameters() if (p.dim() > 1) == many] for many in (True, False))
        own = Group([self.rows["representative"]], local=True)  # type: ignore[list-item]
        return {"all": Player([Group(weights), Group(biases, rate=2.0), own])}

    def prepare(self, shard: Shard, clusters: Clusters) -> None:
        rows = shard.map(lambda x: F.normalize(x.flatten(1), dim=1))
        near, squared = clusters.neighbours(rows, min(self.config.neighbours, shard.total - 1))
        edges = mutual_neighbour_edges(*(clusters.gather(a).cpu().numpy() for a in (near, squared)))
        self.edges = torch.from_numpy(edges).to(shard.device)
        degree = torch.bincount(self.edges.flatten(), minlength=shard.total).to(torch.get_default_dtype())
        self.weights = degree.mean() / degree[self.edges].prod(1).sqrt()
        self.degree = degree[shard.start : shard.start + len(shard)]
        self.rows["representative"] = nn.Parameter(torch.zeros(len(shard), self.net.latent, device=shard.device))

    def batches(self, shard: Shard, batch_size: int, phase: str) -> int:
        if phase != "cluster":
            return super().batches(shard, batch_size, phase)
        return -(-len(self.edges) // self.config.edges)

    def pick(self, shard: Shard, phase: str, seed: int, index: int, count: int) -> Batch:
        if phase != "cluster":
            return super().pick(shard, phase, seed, index, count)
        many = len(self.edges)
        if self._order[0] != seed:
            self._order = (seed, torch.randperm(many, generator=torch.Generator().manual_seed(seed)))
        chosen = self._order[1][index * many // count : (index + 1) * many // count].to(shard.device)
        positions, ends = self.edges[chosen].unique(return_inverse=True)
        return shard.batch(positions, ends=ends, weight=self.weights[chosen])

    def loss(self, batch: Batch, now: Now, player: str) -> Parts:
        if now.phase != "cluster":
            return super().loss(batch, now, player)
        z, u, degree = self.features(batch.x), self.rows["representative"][batch.row], self.degree[batch.row]
        everyone = batch.gather(u)[batch.extra["ends"]]
        pairs = batch.extra["weight"] * geman_mcclure(everyone[:, 0] - everyone[:, 1], self.scales[1])
        rebuilt, d = mean_squared_error(batch.x.flatten(1), self.net.decode(z).flatten(1)), self.net.latent
        return {
            "network": (1.0, batch.mean(degree * rebuilt)),
            "rows": (1 / d, batch.mean(degree * geman_mcclure(z - u, self.scales[0]))),
            "pairs": (1 / d, self.balance * pairs.sum() / batch.total),
        }

    @torch.no_grad()
    def begin(self, shard: Shard, clusters: Clusters) -> Tensor:
        own = self.rows["representative"]
        noise = 1e-6 * torch.randn(shard.total, self.net.latent)[shard.start :][: len(shard)]
        z = clusters.gather(own.copy_(shard.map(self.features) + noise.to(own)))
        length = self._lengths(z).sort().values
        apart = length[length >= 0.01 * math.sqrt(self.net.latent)]
        length = apart if len(apart) else length
        percent = max(len(length) // 100, 1)
        spread = (z - z.mean(0)).square().sum(1).mean()
        self.delta.copy_(length[:percent].mean())
        self.floors.copy_(torch.stack([spread, length[: min(percent, 250)].mean() / 2]))
        first = torch.stack([(16 * spread).clamp_min(132 * 16), 3 * length[-1] ** 2])
        self.scales.copy_(torch.maximum(first, self.floors))
        smooth = largest_laplacian_eigenvalue(shard.total, self.edges.cpu().numpy(), self.weights.cpu().numpy())
        self.balance.copy_(torch.linalg.matrix_norm(z.double(), 2) / (1 + smooth))
        return self.finish(shard, clusters)

    def update(self, shard: Shard, clusters: Clusters, now: Now) -> Tensor:
        before = clusters.gather(self.rows["label"])[self.edges]
        labels = self.finish(shard, clusters)
        after = clusters.gather(labels)[self.edges]
        changed = (before[:, 0] == before[:, 1]) != (after[:, 0] == after[:, 1])
        self.stop.copy_((self.scales[1] <= self.floors[1]) & (changed.double().mean() < self.config.settled))
        self.scales.copy_(torch.maximum(self.scales / 2, self.floors))
        return labels

    def converged(self) -> bool:
        return bool(self.stop)

    @torch.no_grad()
    def finish(self, shard: Shard, clusters: Clusters) -> Tensor:
        joined = self._lengths(clusters.gather(self.rows["representative"].detach())) < self.delta
        labels = torch.from_numpy(components(shard.total, self.edges[joined].cpu().numpy())).to(shard.device)
        self.found.copy_(labels.max() + 1)
        self.rows["label"] = labels[shard.start : shard.start + len(shard)].clone()
        return self.rows["label"].clone()

    def _lengths(self, u: Tensor) -> Tensor:
        """Distances [E] between the ends of all edges, of everyone's u [N over all workers, D]."""
        return (u[self.edges[:, 0]] - u[self.edges[:, 1]]).norm(dim=1)
