"""What a training takes, told from its settings alone, so that every machine orders trials alike: the cheap ones first.

Seconds would be truer and another number each time.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from raydc import methods
from raydc.core.settings import SettingsError
from raydc.data import DataError
from raydc.methods.base import Method
from raydc.pipelines.train import phase_steps
from raydc.search.evaluation import Context, Task

BASELINE_STEPS = 1000
"""Steps at most of the autoencoder that every search compares with: it sets a bar, and `ae_kmeans` is there to be
searched in its own space."""


def work(context: Context, point: Mapping[str, Any]) -> float:
    """Operations of a training, in the order of magnitude: steps x rows of a batch x operations of a row's features.

    0 where no network is trained. Infinite where the settings cannot be trained, which the trial itself then says.
    """
    name = str(point["method.name"])
    if not methods.load(name).trains:
        return 0.0
    try:
        job = context.planned(Task(0, 0, dict(point)))
        with torch.random.fork_rng([]):
            steps, method = sum(phase_steps(job).values()), job.method().eval()
        row = job.scaling.apply(context.rows[:1]).view(-1, *context.shape)
        return float(steps * job.batch_size * _operations(method, row))
    except (SettingsError, DataError, ValueError, MemoryError):
        return float("inf")


def _operations(method: Method, row: torch.Tensor) -> int:
    """Operations of the features of a row [1, ...]; where a method has none for new rows, two for each weight."""
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            method.features(row)
    except NotImplementedError:
        return 2 * sum(weights.numel() for weights in method.parameters())
    return int(counter.get_total_flops())


def capped(context: Context, first: Sequence[dict[str, Any]], most: int = BASELINE_STEPS) -> list[dict[str, Any]]:
    """The baselines, the autoencoder's phases shortened alike to so many steps together.

    The first of them is the default configuration, which stays what it is, as do lengths that are fixed.
    """
    return [first[0], *(_shortened(context, point, most) for point in first[1:])]


def _shortened(context: Context, point: dict[str, Any], most: int) -> dict[str, Any]:
    if point["method.name"] != "ae_kmeans":
        return point
    steps = {name: n for name, n in phase_steps(context.planned(Task(0, 0, point))).items() if n}
    if (total := sum(steps.values())) <= most:
        return point
    return point | {f"method.{name}.length": f"{max(n * most // total, 1)} steps" for name, n in steps.items()}
