"""The same run with several seeds: what a single one does not tell, mean and deviation, and how far they agree."""

import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from statistics import fmean, stdev
from typing import Any

import numpy as np

from raydc.clustering.metrics.external import ari, contingency
from raydc.core.settings import SettingsError
from raydc.core.storage import Store
from raydc.pipelines.train import View, of_vectors, train_and_record
from raydc.training.config import RunConfig
from raydc.training.summary import assignments

RESULT = "seeds.json"


def seeds_of(text: str) -> list[int]:
    """The seeds of 0..4 or 0,3,5. SettingsError for anything else, and for fewer than two."""
    ends = re.fullmatch(r"(\d+)\.\.(\d+)", text)
    listed = re.fullmatch(r"\d+(,\d+)*", text)
    seeds = [*range(int(ends[1]), int(ends[2]) + 1)] if ends else [*map(int, text.split(","))] if listed else []
    if len({*seeds}) != len(seeds) or len(seeds) < 2:
        raise SettingsError(f"--seeds: expected two seeds or more, such as 0..4 or 0,3,5, got {text!r}")
    return seeds


def train_over_seeds(
    config: RunConfig, seeds: Sequence[int], view: Callable[[], View], stop: threading.Event | None = None
) -> dict[str, Any]:
    """Train with each of the seeds, one after the other, into directories of their own; what they come to together.

    Seed 3 of runs/a is runs/a/seed-3, an ordinary run. Running it again repeats nothing. `seeds.json` holds what is
    returned: of each measure, and of each score against labels, the values, their mean and their sample deviation; and
    the mean adjusted Rand index of two seeds' clusters, which needs no labels. Raises as `train_and_record` does, and
    SettingsError where the run would be registered: a name is one model's.
    """
    if config.output.register_as:
        raise SettingsError(
            "output.register_as: several seeds make several models; leave it out, and register the one that you choose"
        )
    store = Store(config.output.out)
    config = of_vectors(config, view().note, stop)
    summaries = []
    for seed in seeds:
        output = config.output.model_copy(update={"out": (store / f"seed-{seed}").root})
        training = config.training.model_copy(update={"seed": seed})
        summaries.append(train_and_record(replace(config, training=training, output=output), view(), stop))
    result = {"seeds": [*seeds], "measures": spread(summaries), "agreement": agreement(store, seeds)}
    store.write_text(RESULT, json.dumps(result, indent=1))
    return result


def spread(summaries: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of what all of the runs measured: values in the order of the runs, their mean and sample deviation."""
    measured = [{"clusters": one["found"], **one["measures"], **(one["labels"] or {})} for one in summaries]
    return {
        name: {"values": values, "mean": fmean(values), "deviation": stdev(values)}
        for name in measured[0]
        if all(isinstance(one.get(name), (int, float)) for one in measured)
        for values in [[one[name] for one in measured]]
    }


def agreement(store: Store, seeds: Sequence[int]) -> float:
    """Mean adjusted Rand index of the clusters of each two seeds."""
    labels = [_labels(store / f"seed-{seed}") for seed in seeds]
    return fmean(
        ari(contingency(one, other, int(one.max()) + 1, int(other.max()) + 1)) for one, other in combinations(labels, 2)
    )


def _labels(run: Store) -> np.ndarray:
    return np.concatenate([table["cluster"].to_numpy() for table in assignments(run)])
