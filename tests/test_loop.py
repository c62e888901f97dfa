"""When a phase ends."""

import pytest

from raydc.clusters.local import CollectiveClusters
from raydc.data import Shard
from raydc.loop import Loop
from raydc.methods import load
from raydc.settings import build, unflatten
from tests.method_cases import K, blobs


def clustering_steps(x, **cluster: object) -> int:
    """Steps of DEC's clustering phase, in batches of 50 rows."""
    settings = {"network.hidden": (16,), "denoise.length": "0 steps", "pretrain.length": "10 steps"}
    settings |= {f"cluster.{key}": value for key, value in cluster.items()}
    config = build(load("dec").Config, {"n_clusters": K} | unflatten(settings), at="method")
    shard = Shard.of(x)
    loop = Loop(load("dec")(config, tuple(x.shape[1:])), shard, CollectiveClusters(shard, 0), 50)
    for _ in loop:
        pass
    return loop.step - 10


@pytest.mark.parametrize(
    "rows, settings, steps",
    [
        (400, {"tolerance": 0.9}, 144),  # the first epoch of 8 steps that is over 140 steps later
        (7500, {"tolerance": 0.9}, 150),  # an epoch
        (400, {"tolerance": 0.9, "update_every": "90 steps"}, 180),
        (400, {"tolerance": 0.9, "length": "100 steps"}, 100),
        (400, {"tolerance": 0.0, "length": "300 steps"}, 300),
    ],
)
def test_the_stop_rule_compares_labels_that_had_time_to_change(rows, settings, steps):
    x, _ = blobs(load("dec"), rows)
    assert clustering_steps(x, **settings) == steps
