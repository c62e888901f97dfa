"""Small runs for tests, in this process or in one that may be killed."""

import json
import os
import sys
from pathlib import Path

from raydc.core.settings import unflatten
from raydc.training.config import RunConfig
from raydc.training.model import ClusteringModel
from raydc.training.trainer import check, train
from tests.support import waiting

TINY = {
    "method.name": "dec",
    "method.n_clusters": 10,
    "method.network.hidden": (32,),
    "method.network.latent": 5,
    "method.denoise.length": "3 epochs",
    "method.pretrain.length": "3 epochs",
    "method.cluster.length": "6 epochs",
    "method.cluster.tolerance": 0.0,
    "data.path": "digits",
    "training.checkpoint_every": 0,
    "training.workers": 0,
}


def config(out: Path, **changes: object) -> RunConfig:
    """The tiny run with some settings changed; dots are written as two underscores."""
    dotted = {key.replace("__", "."): value for key, value in changes.items()}
    return RunConfig.of(unflatten({**TINY, "output.out": str(out), **dotted}))


def in_child(out: Path, failpoint: str = "", **changes: object) -> int:
    """Run it in a process of its own, which the failpoint kills once; the exit code."""
    return alone(config(out, **changes), failpoint)


def alone(run: RunConfig, failpoint: str = "") -> int:
    """The same of any run."""
    out = run.output.out
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    if failpoint:
        env["RAYDC_FAILPOINT"] = f"{failpoint}:{out}.killed"
    settings = json.dumps(run.resolved())
    return waiting.run([sys.executable, "-m", "tests.support.runs", settings], 280, env=env).returncode


def weights(out: Path) -> str:
    return ClusteringModel.load(out / "model").weights_hash()


if __name__ == "__main__":
    train(check(RunConfig.of(json.loads(sys.argv[1]))))
