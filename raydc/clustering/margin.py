"""A Dirichlet process of large-margin clusters, sampled row by row. Chen 2015, arXiv:1501.03084."""

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Reals = NDArray[np.float64]


class MarginSampler:
    """Gibbs sampling of the clusters of rows z [N, D] of length one, with online passive-aggressive steps.

    p(row i in k) ~ n_k exp(s w_k'z_i), n_k the others in it, s the sharpness, and of a new cluster, whose w has the
    prior N(0, I / s), ~ concentration * exp(s / 2). After each row its cluster's w moves towards it, and the rival's
    away, as far as a margin of 1 asks, but no further than `step` (Crammer et al., JMLR 2006). A new cluster's w is its
    first row: one short step from 0 would promise the next row of its kind less than yet another cluster does.
    """

    def __init__(self, z: Reals, labels: Integers, most: int, step: float, seed: int) -> None:
        """From labels [N], -1 where a row has no cluster yet; `most` clusters at most. w starts as clusters' means."""
        self.z, self.labels, self.step = z, labels.copy(), step
        self.counts = np.bincount(labels[labels >= 0], minlength=most)
        self.weights = np.zeros((most, z.shape[1]))
        np.add.at(self.weights, labels[labels >= 0], z[labels >= 0])
        self.weights /= np.maximum(self.counts, 1)[:, None]
        self.draw = np.random.default_rng(seed)

    def sweep(self, concentration: float, sharpness: float, likeliest: bool = False) -> None:
        """All rows once, in random order; each takes a cluster by its probability, or the likeliest."""
        fresh = np.log(concentration) + sharpness / 2
        for row in self.draw.permutation(len(self.z)).tolist():
            self._leave(row)
            scores = self.weights @ self.z[row]
            there = self.counts > 0
            logits = np.full(len(scores), -np.inf)
            logits[there] = sharpness * scores[there] + np.log(self.counts[there])
            if not there.all():
                logits[int(there.argmin())] = fresh
            self._join(
                row, int(np.argmax(logits if likeliest else logits + self.draw.gumbel(size=len(logits)))), scores
            )

    def _leave(self, row: int) -> None:
        label = self.labels[row]
        if label >= 0:
            self.counts[label] -= 1
            if not self.counts[label]:
                self.weights[label] = 0

    def _join(self, row: int, label: int, scores: Reals) -> None:
        """Put a row into a cluster, whose w and the rival's step by the scores [K] of all."""
        self.labels[row] = label
        if not self.counts[label]:
            self.weights[label], scores[label] = self.z[row], 1.0
        self.counts[label] += 1
        others = np.where(self.counts > 0, scores, -np.inf)
        others[label] = -np.inf
        rival = int(others.argmax())
        against = max(float(others[rival]), 0.0)
        moved = 2 if others[rival] > 0 else 1
        tau = min(self.step, max(0.0, 1 - scores[label] + against) / moved)
        self.weights[label] += tau * self.z[row]
        if moved == 2:
            self.weights[rival] -= tau * self.z[row]


def sample_margin_clusters(
    z: Reals,
    labels: Integers,
    *,
    concentration: float,
    sharpness: float,
    most: int,
    step: float,
    sweeps: int,
    seed: int,
) -> Integers:
    """Labels int64 [N], numbered without gaps, after `sweeps` of `MarginSampler` and one that takes the likeliest."""
    sampler = MarginSampler(z, labels, most, step, seed)
    for _ in range(sweeps):
        sampler.sweep(concentration, sharpness)
    sampler.sweep(concentration, sharpness, likeliest=True)
    return np.unique(sampler.labels, return_inverse=True)[1].astype(np.int64)
