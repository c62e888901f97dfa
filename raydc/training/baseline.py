"""What the training rows were like, so that later rows can be compared with them: part of a model, a few KB.

Sizes of clusters and how far rows were trusted are counted from the assignments of all training rows, which lie there
at the end of a training; the inputs from the rows' profile. So no row is read again, and counts are the same on any
number of workers.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from raydc.clustering.distances import FAR, Counts
from raydc.data.marginals import Inputs, edges_of
from raydc.training.model_files import BASELINE, BASELINE_COUNTS


@dataclass(frozen=True)
class Trusted:
    """How a column of trust is spread in each cluster."""

    edges: NDArray[np.float64]
    """[E] ascending."""
    counts: NDArray[np.int64]
    """[K, E + 1], rows of each of the method's clusters between edges."""


@dataclass(frozen=True)
class Baseline:
    """The training rows, counted."""

    sizes: NDArray[np.int64]
    """[K], rows of each of the method's clusters."""
    trust: Mapping[str, Trusted]
    inputs: Inputs

    def files(self) -> dict[str, bytes]:
        """As files by name."""
        about, arrays = self.inputs.parts()
        arrays = {f"inputs.{name}": array for name, array in arrays.items()} | {"sizes": self.sizes}
        for name, found in self.trust.items():
            arrays |= {f"trust.{name}.edges": found.edges, f"trust.{name}.counts": found.counts}
        text = json.dumps({"inputs": about, "trust": [*self.trust]}, indent=1, ensure_ascii=False)
        packed = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        return {BASELINE: text.encode(), BASELINE_COUNTS: safetensors.numpy.save(packed)}

    @staticmethod
    def of(files: Mapping[str, bytes]) -> "Baseline":
        """What `files` gave; KeyError, TypeError, ValueError or SafetensorError where they are damaged."""
        about, arrays = json.loads(files[BASELINE]), safetensors.numpy.load(files[BASELINE_COUNTS])
        inputs = {name.removeprefix("inputs."): array for name, array in arrays.items() if name.startswith("inputs.")}
        trust = {
            name: Trusted(arrays[f"trust.{name}.edges"], arrays[f"trust.{name}.counts"]) for name in about["trust"]
        }
        return Baseline(arrays["sizes"], trust, Inputs.whole(about["inputs"], inputs))


def trusted_of(counts: Counts) -> Trusted:
    """Bins of a column of trust, whose values are in [0, 1], and how many rows of each cluster they hold."""
    values = counts.middle
    edges = np.unique(
        np.append(edges_of(values, counts.rows, (0.0, 1.0)), np.nextafter(np.float32(FAR), np.float32(2)))
    )
    held = np.zeros((len(counts.cut), len(edges) + 1), np.int64)
    np.add.at(held, (counts.cluster, np.searchsorted(edges, values, side="right")), counts.rows)
    return Trusted(edges, held)


def trusted_like(found: Trusted, values: NDArray[Any], groups: NDArray[np.int64], many: int) -> NDArray[np.int64]:
    """Other rows in the same bins, int64 [groups, E + 1]: of values [n] of rows in groups [n] of so `many`."""
    bins = found.counts.shape[1]
    places = groups * bins + np.searchsorted(found.edges, values, side="right")
    return np.bincount(places, minlength=many * bins).reshape(many, bins)
