"""Which ids repeat, from a sketch of fixed size: exact up to so many ids, a random part of them beyond."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

KEPT = 2**15
"""Ids that a sketch holds, 16 bytes each."""


@dataclass(frozen=True)
class Ids:
    """The ids with the smallest hashes, and how often each came: every row of an id that is held is counted.

    (The k minimum values of Bar-Yossef et al., RANDOM 2002, with counts.) Sketches merge in any order to the same.
    """

    hashes: np.ndarray
    """uint64 [n], ascending."""
    counts: np.ndarray
    """int64 [n]."""
    most: int = KEPT
    """Ids that are held at most."""

    @staticmethod
    def of(ids: np.ndarray, most: int = KEPT) -> "Ids":
        """Of ids [rows], integers or text."""
        whole = ids.astype(object) if ids.dtype.kind == "U" else ids
        hashes, counts = np.unique(pd.util.hash_array(whole, categorize=False), return_counts=True)
        return Ids(hashes[:most], counts[:most].astype(np.int64), most)

    def merged(self, other: "Ids") -> "Ids":
        """Of both."""
        hashes, places = np.unique(np.concatenate([self.hashes, other.hashes]), return_inverse=True)
        counts = np.zeros(len(hashes), np.int64)
        np.add.at(counts, places, np.concatenate([self.counts, other.counts]))
        return Ids(hashes[: self.most], counts[: self.most], self.most)

    @property
    def repeated(self) -> int:
        """Ids, of those held, that more than one row has."""
        return int((self.counts > 1).sum())
