"""Texts by static vectors of their tokens, averaged: the weights of WordLlama (MIT), which lie in its wheel.

The wheel's two files are read; nothing of the package is run. Its vectors of 256 numbers are the token embeddings of
large language models, reduced and trained anew for similarity (github.com/dleemiller/WordLlama).
"""

import hashlib
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from scipy import sparse

from raydc.data.encoders.interface import Encoder, EncoderError, needed, version_of

WEIGHTS, TOKENIZER = "weights/l2_supercat_256.safetensors", "tokenizers/l2_supercat_tokenizer_config.json"
PACKAGE, EXTRA = "wordllama", "text"


class StaticVectors(Encoder):
    """The mean of the vectors of a text's tokens; texts without a token have none."""

    takes = "text"
    batch = 256

    def __init__(self) -> None:
        """EncoderError where the wheel, or the tokenizer's library, is missing."""
        tokenizers, found = needed("tokenizers", EXTRA), importlib.util.find_spec(PACKAGE)
        if found is None or not found.submodule_search_locations:
            raise EncoderError(f"data.encoder: {PACKAGE} is missing; install it: pip install 'raydc[{EXTRA}]'")
        folder = Path(found.submodule_search_locations[0])
        weights, tokenizer = (folder / WEIGHTS).read_bytes(), (folder / TOKENIZER).read_bytes()
        self.version, self.digest = version_of(PACKAGE), hashlib.sha256(weights + tokenizer).hexdigest()
        self._vectors = safetensors.numpy.load(weights)["embedding.weight"].astype(np.float32)
        self._tokenizer: Any = tokenizers.Tokenizer.from_str(tokenizer.decode())
        self.width = self._vectors.shape[1]

    def vectors(self, values: list[str]) -> np.ndarray:
        # counts times vectors: a long text takes no more memory than its tokens
        found = [text.ids for text in self._tokenizer.encode_batch_fast(values, add_special_tokens=False)]
        ends = np.cumsum([0, *map(len, found)])
        tokens = np.fromiter((token for ids in found for token in ids), np.int64, ends[-1])
        shape = (len(values), len(self._vectors))
        counts = sparse.csr_array((np.ones(len(tokens), np.float32), tokens, ends), shape=shape)
        total: np.ndarray = counts @ self._vectors
        return total
