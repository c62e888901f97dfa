"""Texts as numbers without a model: tf-idf of their words, then a truncated singular value decomposition."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import eigsh
from threadpoolctl import threadpool_limits

WORD = re.compile(r"\w\w+")
"""Words are runs of two letters, digits or underscores and more, in lower case."""
VOCABULARY = 4096
"""Words that are kept at most: those in most texts."""
COMMON = 0.5
"""Share of the texts beyond which a word tells none apart."""
COUNTED = 2**20
"""Words whose texts are counted at the same time; beyond it, those seen once are forgotten."""
COMPONENTS = 64
"""Numbers that a text becomes, at most."""


def words_of(text: str) -> list[str]:
    """The words of a text, in order."""
    return WORD.findall(text.lower())


def counted(texts_with: Counter[str], text: str, times: int) -> int:
    """Add a text that comes so many times to the number of texts with each word; returns how many words it has."""
    words = words_of(text)
    for word in set(words):
        texts_with[word] += times
    if len(texts_with) > COUNTED:
        for word in [word for word, count in texts_with.items() if count == 1]:
            del texts_with[word]
    return len(words)


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Words and their weights: a text becomes tf-idf [V] of length one, or zeros where it holds none of them.

    idf = ln((1 + n) / (1 + texts with the word)) + 1, as scikit-learn has it.
    """

    words: tuple[str, ...]
    idf: np.ndarray
    """float64 [V]."""

    @staticmethod
    def of(counts: Counter[str], texts: int) -> "Vocabulary":
        """The words in most of so many texts, but for those in one alone and those in more than half of them."""
        fit = {word: count for word, count in counts.items() if 2 <= count <= max(2, COMMON * texts)}
        chosen = sorted(sorted(fit, key=lambda word: (-fit[word], word))[:VOCABULARY])
        idf = [math.log((1 + texts) / (1 + fit[word])) + 1 for word in chosen]
        return Vocabulary(tuple(chosen), np.array(idf))

    @cached_property
    def places(self) -> dict[str, int]:
        """Of each word."""
        return {word: place for place, word in enumerate(self.words)}

    def occurrences(self, texts: Sequence[str]) -> sparse.csr_array:
        """How often each text has each word, CSR float64 [n, V], words in order."""
        columns, values, ends = list[int](), list[int](), [0]
        for text in texts:
            found = Counter(place for word in words_of(text) if (place := self.places.get(word)) is not None)
            at = sorted(found)
            columns += at
            values += [found[place] for place in at]
            ends.append(len(columns))
        shape = (len(texts), len(self.words))
        return sparse.csr_array(
            (np.array(values, np.float64), np.array(columns, np.int64), np.array(ends)), shape=shape
        )

    def weighed(self, texts: Sequence[str]) -> sparse.csr_array:
        """Texts as tf-idf, CSR float64 [n, V]."""
        found = self.occurrences(texts)
        found.data *= self.idf[found.indices]
        squares = found.data * found.data
        for start, end in pairwise(found.indptr):
            if start < end:
                found.data[start:end] /= math.sqrt(math.fsum(squares[start:end]))
        return found


def components(gram: np.ndarray) -> np.ndarray:
    """The leading right singular vectors [V, k] of rows whose sum of products is `gram` [V, V], the largest first.

    Each has its largest entry positive, so that the same rows give the same vectors.
    """
    most = min(COMPONENTS, len(gram) - 1)
    if most < 1:
        return np.eye(len(gram))
    with threadpool_limits(1):  # the bits of sums must not depend on how many threads there are
        values, vectors = eigsh(gram, most, v0=np.ones(len(gram)))
    kept = np.argsort(-values, kind="stable")[: int((values > values.max() * 1e-9).sum())]
    vectors = vectors[:, kept]
    largest = np.abs(vectors).argmax(axis=0)
    found: np.ndarray = vectors * np.sign(vectors[largest, np.arange(len(kept))])
    return found


def projected(weighed: sparse.csr_array, directions: np.ndarray) -> np.ndarray:
    """Rows on these directions [V, k], each of length one, or zero where nothing of it lies there; float64 [n, k]."""
    x = np.asarray(weighed @ directions)
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(length > 1e-12, length, 1.0)
