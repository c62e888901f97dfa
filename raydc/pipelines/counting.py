"""Rows counted while they are assigned, in the bins of the model's training rows."""

import io
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raydc.clustering.distances import FAR
from raydc.data.marginals import Inputs
from raydc.data.source import Block, dense
from raydc.training.model import Assigned, ClusteringModel

FAR_ROWS, FAR_VALUES = 2**11, 2**20
"""Rows that belong nowhere of which it is kept where they lie, and values of them; at most."""


@dataclass(frozen=True)
class Counted:
    """What is kept of rows."""

    inputs: Inputs
    far: NDArray[np.float32]
    """[m, D], where some of the rows lie that are farther out than nearly all of those trained on."""

    @staticmethod
    def of(model: ClusteringModel, block: Block, bad: NDArray[np.bool_] | None, found: Assigned) -> "Counted":
        """Of the rows of a block, those that can be used being assigned as `found`; ValueError without a baseline."""
        if model.baseline is None:
            raise ValueError("the model does not say what its training rows were like")
        x = dense(block.x if bad is None else block.x[~bad.any(axis=1)])
        far = model.located(x[found.distance > FAR][:FAR_ROWS])
        return Counted(model.baseline.inputs.of(block, bad), _some(far))

    def merged(self, other: "Counted") -> "Counted":
        """Of both."""
        return Counted(self.inputs.merged(other.inputs), _some(np.concatenate([self.far, other.far])))

    def written(self) -> bytes:
        """As .npz."""
        about, arrays = self.inputs.parts()
        named: dict[str, Any] = {"about": np.array(json.dumps(about)), "far": self.far, **arrays}
        file = io.BytesIO()
        np.savez(file, **named)
        return file.getvalue()

    @staticmethod
    def read(data: bytes) -> "Counted":
        """What was `written`."""
        with np.load(io.BytesIO(data), allow_pickle=False) as kept:
            arrays = {name: kept[name] for name in kept.files}
        return Counted(Inputs.whole(json.loads(str(arrays.pop("about"))), arrays), arrays.pop("far"))


def counts_of(name: str) -> str:
    """Where the counts of a file of assignments lie. Readers of a folder of Parquet pass over it."""
    return f"_counts/{name.removesuffix('.parquet')}.npz"


def _some(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Evenly spaced ones of rows [n, D], as many as are kept."""
    most = max(1, min(FAR_ROWS, FAR_VALUES // max(1, rows.shape[1])))
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).round().astype(int)]
