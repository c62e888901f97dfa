"""DAC as its authors' code has it for MNIST. Chang, Wang, Meng, Xiang & Pan, ICCV 2017 (`dac` is the paper's).

When it comes to a chunk of 1000 rows, all pairs of them are taken for one cluster or two, by one threshold on the
cosine of their label features, and are learned as that in five passes, by the square of what the cosine is off. The
threshold falls from .9 to .5 over training. Where `dac` leaves pairs out that are not sure, and learns them as soon as
they are seen, here all count, and what was said of them stands for forty steps.

From that code: RMSprop of decay .9 and rate .001, pooling that drops odd sides, batch norms behind both poolings and
the average over places, 20 rounds of the rows, batches of 128 and dac's augmentation. Its log has .956 after one round,
.988 after seven and .981 at the end. Decided here: the threshold falls with every chunk, not every round; label
features on which pairs are told have the batch norms of the chunk, not running ones; chunks are drawn anew each round.
Not taken from it: rows less their mean, which batch norm takes away but at borders; a shift of brightness by .05.
"""

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from raydc.clustering import Clusters
from raydc.core.schedule import Clustering, Optimizer
from raydc.data import Batch, Shard
from raydc.data.chunks import Chunks
from raydc.methods.base import MethodInfo, StepState
from raydc.methods.dac import DAC
from raydc.networks.allconv import ConvClassifier
from raydc.networks.losses.pairwise import cosines, pairwise_squares
from raydc.networks.norm import batch_statistics_only


class DACCode(DAC):
    info: ClassVar[MethodInfo] = MethodInfo(
        source="Chang et al. 2017, their code",
        architecture="CNN",
        features="softmax output of length one",
        network_loss="none",
        clustering_loss="squares of pairs' errors",
        combination="clustering loss only",
        updates="pairs told anew for each chunk of rows, by a falling threshold",
    )

    class Config(DAC.Config):
        network: ConvClassifier = ConvClassifier(pooling="floor", pooled_norm=True)
        upper: float = Field(0.9, gt=0, le=1)
        """Cosine above which a pair is taken for one cluster, at the start; it falls to `lower`."""
        lower: float = Field(0.5, ge=0, lt=1)
        """The same at the end."""
        chunk: int = Field(1000, ge=2)
        """Rows whose pairs are told at once, at most."""
        passes: int = Field(5, ge=1)
        """How often a chunk is gone through; an epoch goes through every row as often."""
        cluster: Clustering = Clustering(length="20 epochs", optimizer=Optimizer(name="rmsprop", lr=1e-3, decay=0.9))

        recipes: ClassVar[dict[str, dict[str, Any]]] = {}

    quick: ClassVar[dict[str, Any]] = DAC.quick | {"chunk": 200, "cluster.length": "10 epochs"}
    config: Config
    threshold: Tensor

    def __init__(self, config: Config, shape: tuple[int, ...]) -> None:
        super().__init__(config, shape)
        self.chunks = Chunks(config.chunk, config.passes)
        self.register_buffer("threshold", torch.tensor(config.upper))

    def batches(self, shard: Shard, batch_size: int, phase: str) -> int:
        return self.chunks.batches(shard.total, batch_size)

    def sample_batch(self, shard: Shard, phase: str, seed: int, index: int, count: int) -> Batch:
        return self.chunks.batch(shard, seed, index, count)

    def clustering_loss(self, batch: Batch, state: StepState) -> Tensor:
        if "chunk" in batch.extra:  # it begins
            with torch.no_grad(), batch_statistics_only(self.net):
                seen = self.features(batch.extra["chunk_rows"])
            self.rows["seen"][batch.extra["chunk"]] = seen.to(self.rows["seen"])
            self.threshold.fill_(self.config.upper - state.progress * (self.config.upper - self.config.lower))
        seen = batch.gather(self.rows["seen"][batch.row])
        learned = batch.gather(self.features(self.config.augment(batch.x)))
        return pairwise_squares(cosines(learned, learned), cosines(seen, seen) > self.threshold)

    def init_clusters(self, shard: Shard, clusters: Clusters) -> Tensor:
        self.rows["seen"] = shard.map(self.features)
        return super().init_clusters(shard, clusters)
