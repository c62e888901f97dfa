"""What a run would do, and what it refuses, before anything is written."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raydc.core.settings import SettingsError, unflatten
from raydc.data import DataError
from raydc.methods import available, load
from raydc.pipelines.train import plan
from raydc.training.config import RunConfig


def asked(folder: Path, name: str, shape: tuple[int, ...] = (1, 12, 12), **settings: Any) -> RunConfig:
    """A run of 90 made-up rows in [0, 16], by the method's own defaults but for these settings."""
    np.save(folder / "rows.npy", np.random.default_rng(0).integers(0, 17, (90, *shape)).astype(np.float32))
    clusters = {} if load(name).finds_clusters() else {"method.n_clusters": 4}
    where = {"data.path": str(folder / "rows.npy"), "output.out": str(folder / "run"), "training.workers": 0}
    return RunConfig.of(unflatten({"method.name": name, **clusters, **where, **settings}))


@pytest.mark.parametrize("name", available())
def test_a_dry_run_of_every_methods_defaults(name, tmp_path):
    found = plan(asked(tmp_path, name))
    assert found.steps.keys() == found.seconds.keys() and not found.steps.keys() & set(found.unknown)
    unknown = dict.fromkeys(["custom", "dac_code", "dcc", "den", "dmc", "dsc", "jule", "temi"], ("cluster",)) | {
        "iec": ("clustering",)
    }
    assert found.unknown == unknown.get(name, ())
    assert not (tmp_path / "run").exists()


def test_rows_outside_the_range_that_a_method_needs_are_told_of_its_real_rows(tmp_path):
    with pytest.raises(ValueError, match="a bernoulli likelihood needs rows in"):
        plan(asked(tmp_path, "vade", **{"data.scaling": "none"}))


@pytest.mark.parametrize(
    ("name", "shape", "settings", "error", "said"),
    [
        ("dac", (1, 28, 28), {"method.network.channels": "16,32,64"}, DataError, "too small for 3 stages of 3 conv"),
        ("depict", (1, 8, 8), {"method.network.channels": "32"}, SettingsError, "as many kernels and paddings as chan"),
        ("depict", (1, 8, 8), {"method.network.kernels": "0,0"}, SettingsError, "method.network.kernels"),
        ("infogan", (1, 8, 8), {"method.network.hidden": "0"}, SettingsError, "method.network.hidden"),
        ("infogan", (6,), {"method.adversarial.length": 0}, SettingsError, "expected adversarial.length above 0"),
        ("jule", (6,), {"method.augment.rotate": 20}, SettingsError, "method.augment.rotate: .* it moves images"),
        ("imsat", (6,), {"method.radius": "inf"}, SettingsError, "method.radius.*finite"),
        ("imsat", (6,), {"method.cluster.length": "1e400"}, SettingsError, "method.cluster.length: expected a length"),
        ("rim", (6,), {"method.recipe": ["paper"]}, SettingsError, "method.recipe: .*string"),
        ("rim", (6,), {"training.device": "cuda"}, SettingsError, "no GPU that torch can use; take auto or cpu"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_any_work(
    name, shape, settings, error, said, tmp_path, monkeypatch
):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(error, match=said):
        plan(asked(tmp_path, name, shape, **settings))
    assert not (tmp_path / "run").exists()
