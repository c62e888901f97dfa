"""The benchmarks run, go on where they were stopped, and measure what they say. Sizes here are tiny."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import heads, neighbours, quality, selection, steadiness, training_speed
from raydc.core.settings import SettingsError
from raydc.data import ArraySource, DataSettings

TINY = ["network.hidden=[32]", "network.latent=4", "denoise.length=1", "pretrain.length=2", "cluster.length=3"]


def blobs(rows: int = 240) -> ArraySource:
    draw = np.random.default_rng(0)
    y = np.arange(rows) % 3
    x = 8 * np.eye(3, 12)[y] + draw.normal(size=(rows, 12))
    return ArraySource(x.astype(np.float32), y, settings=DataSettings(path="blobs"))


def study(out: Path) -> quality.Study:
    settings = quality.settings_of([f"method.{change}" for change in TINY], ["dec"])
    return quality.Study(blobs(), settings, "default", 3, str(out))


def test_settings_must_belong_to_a_method() -> None:
    with pytest.raises(SettingsError, match="pretrian"):
        quality.settings_of(["method.pretrian.length=3"], ["dec", "kmeans"])
    assert quality.settings_of(["method.pretrain.length=3"], ["dec", "kmeans"]) == {"method.pretrain.length": 3}


def test_methods_share_pretraining_within_a_seed(tmp_path: Path) -> None:
    runs = study(tmp_path)
    for seed in (0, 1):
        for name in ("dec", "idec"):
            runs.run(name, seed)
    found = {(result.name, result.seed): result for result in runs.results}
    assert sorted(found) == [(name, seed) for name in ("ae_kmeans", "dec", "idec") for seed in (0, 1)]
    for (name, seed), result in found.items():
        assert [*result.epochs] == (["denoise", "pretrain"] if name == "ae_kmeans" else ["cluster"])
        assert result.shared_cpu == (0 if name == "ae_kmeans" else found["ae_kmeans", seed].cpu)
        assert result.acc > 0.9  # three blobs far apart
    assert found["dec", 0].key != found["dec", 1].key


def test_another_network_is_pretrained_for_itself(tmp_path: Path) -> None:
    runs = study(tmp_path)
    runs.run("dec", 0)
    runs.run("aljalbout", 0)  # another code size, batch and scaling
    assert [result.name for result in runs.results] == ["ae_kmeans", "dec", "ae_kmeans as aljalbout", "aljalbout"]


def test_a_stopped_study_goes_on_and_a_finished_one_trains_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = quality.in_process

    def stopped(job: Any, store: Any, on_epoch: Any) -> Any:
        return whole(job, store, lambda progress: on_epoch(progress) or True)

    monkeypatch.setattr(quality, "in_process", stopped)
    runs = study(tmp_path)
    runs.run("ae_kmeans", 0)
    assert runs.results == [] and runs.unfinished() == ["ae_kmeans seed 0 (interrupted)"]

    monkeypatch.setattr(quality, "in_process", whole)
    runs = study(tmp_path)
    runs.run("ae_kmeans", 0)
    assert runs.results[0].epochs == {"denoise": 1, "pretrain": 2} and runs.unfinished() == []

    monkeypatch.setattr(quality, "in_process", None)
    again = study(tmp_path)
    again.run("ae_kmeans", 0)
    assert again.results == runs.results


def test_the_number_of_clusters_is_that_of_the_classes_unless_given(tmp_path: Path) -> None:
    assert quality.Study(blobs(), {}, "default", None, str(tmp_path)).k == 3
    assert quality.Study(blobs(), {}, "default", 5, str(tmp_path)).config("kmeans", 0).method.n_clusters == 5


def test_the_table_names_everything(tmp_path: Path) -> None:
    arguments = f"--data digits --limit 150 --methods kmeans --seeds 2 --set method.restarts=2 --out {tmp_path}"
    quality.main(arguments.split())
    text = (tmp_path / "table.md").read_text()
    for name in ("kmeans", "scikit-learn k-means", "Ward", "kNN-spectral", "150 rows", "method.restarts=2"):
        assert name in text
    saved = [json.loads((tmp_path / f"results/kmeans-{seed}.json").read_text()) for seed in (0, 1)]
    mean, spread = 100 * np.mean([s["acc"] for s in saved]), 100 * np.std([s["acc"] for s in saved], ddof=1)
    assert f"| kmeans | 2 | {mean:.1f} ± {spread:.1f} |" in text


def test_large_sets_are_subsampled_for_shallow_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "SUBSAMPLE", 60)
    source = blobs()
    x = quality._matrix(source)
    for name in ("Ward", "kNN-spectral"):
        labels = quality.SHALLOW[name](x, 3, 0)
        assert quality.accuracy(quality.contingency(labels, np.arange(len(x)) % 3, 3, 3)) == 1.0


def test_speed_times_every_stage_and_leaves_clustpy_out(capsys: pytest.CaptureFixture[str]) -> None:
    x = training_speed.open_rows(None, 64, 12)
    assert x.shape == (64, 12) and x.square().mean().item() == pytest.approx(1, abs=1e-5)
    training_speed.peers(x, 32, 2, 1, None)
    shown = capsys.readouterr().out
    assert "ClustPy is left out" in shown
    assert [shown.count(stage) for stage in ("pretraining", "idec")] == [2, 2]


def test_a_contender_in_another_interpreter_answers_or_says_why_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.ones(8, 5)
    answer = {"dec": {"cpu": 1.5}}
    script = f"import sys\nfor line in sys.stdin: print('noise'); print('answer ' + '{json.dumps(answer)}', flush=True)"
    monkeypatch.setattr(training_speed, "CLUSTPY", script)
    contender = training_speed.ClustPy(sys.executable, x, 4, 2, str(tmp_path))
    assert contender.measure(0) == contender.measure(1) == answer
    contender.close()

    monkeypatch.setattr(training_speed, "CLUSTPY", "raise ImportError('no such package')")
    contender = training_speed.ClustPy(sys.executable, x, 4, 2, str(tmp_path))
    with pytest.raises(SystemExit, match="no such package"):
        contender.measure(0)
    contender.process.communicate()


@pytest.mark.slow
def test_two_workers_are_timed(capsys: pytest.CaptureFixture[str]) -> None:
    training_speed.workers(training_speed.open_rows(None, 128, 12), 32, 1, 1, bf16=False)
    shown = capsys.readouterr().out
    assert "CPU-ms a step" in shown and " 1.00 " in shown


def test_a_criterion_that_ranks_as_the_classes_do_loses_nothing() -> None:
    truth = {0: 0.5, 1: 0.6, 2: 0.8, 3: 0.1}
    right = selection.rate({0: -3.0, 1: -2.0, 2: -1.0}, truth, guarded=[3])
    assert right == {
        "trials": 4, "rho": 1, "tau": 1, "rho unguarded": 1, "regret": 0, "normalised": 0, "top": 1,
    }  # fmt: skip
    wrong = selection.rate({0: 3.0, 1: 2.0, 2: 1.0}, truth, guarded=[])
    assert (wrong["trials"], wrong["rho"], wrong["regret"]) == (3, -1, pytest.approx(0.3))
    assert wrong["normalised"] == pytest.approx(0.3 / 0.3) and wrong["top"] == 1


def test_intervals_keep_the_cases_of_a_set_together() -> None:
    lines = [{"set": name} for name in ("a", "a", "b", "c")]
    assert selection.interval(lines[:3], [0.0, 1.0, 0.5]) == "0.500"
    assert selection.interval(lines, [0.5, 0.5, 0.5, 0.5]) == "0.500 [0.50, 0.50]"
    assert selection.interval(lines, [0.0, 1.0, 0.5, 0.5]) == "0.500 [0.50, 0.50]"


@pytest.mark.slow
def test_selection_sees_classes_only_when_it_evaluates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--quick", "--rows", "300", "--out", str(tmp_path)]
    selection.main(["search", *arguments])
    frozen = {path: path.read_bytes() for path in tmp_path.glob("*/frozen.json")}
    assert {path.parent.name for path in frozen} == {
        f"{s}-0-{k}" for s in ("digits", "none") for k in ("fixed", "free")
    }
    assert not [path for path in tmp_path.rglob("*") if "class" in path.name]
    monkeypatch.setattr(selection, "tune", None)  # evaluation trains nothing
    selection.main(["evaluate", *arguments])
    assert {path: path.read_bytes() for path in tmp_path.glob("*/frozen.json")} == frozen
    found = json.loads((tmp_path / "evaluation.json").read_text())["digits-0-fixed"]
    assert set(found["lines"]["neighbour_score"]) == set(selection.MEASURES)
    assert "Failures:" in (tmp_path / "table.md").read_text()


def test_steadiness_sets_what_searches_return_beside_the_spread_of_trainings() -> None:
    found = [
        {"name": f"seed {n}", "method": "imsat", "scores": (0.9 + n / 50, 0.8), "spread": [0.01, 0.02]}
        for n in range(3)
    ]
    last = steadiness.table(found).split("\n")[-1]
    assert last == (
        "over 3 searches: ACC 0.920 ± 0.020, NMI 0.800 ± 0.000; over one winner's trainings ± 0.010, ± 0.020"
    )
    names = [variant.name for variant in steadiness.variants(2)]
    assert names == ["seed 0", "seed 1", "noise", "one process", "two"]


def test_neighbours_in_cells_are_measured_beside_what_is_installed(capsys: pytest.CaptureFixture[str]) -> None:
    neighbours.main(["--sizes=1500", "--features=16", "--count=5", "--probes=12", "--searches", "cells"])
    found = re.search(r"1500 rows x 16, cells, 12 probes: recall ([\d.]+)", capsys.readouterr().out)
    assert found is not None and float(found[1]) > 0.9


def test_embeddings_are_directions_of_principal_components(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    np.savez(tmp_path / "rows.npz", X=draw.normal(size=(60, 9)) + 3, y=np.arange(60) % 3)
    with np.load(heads.prepared(str(tmp_path / "rows.npz"), 40, 5, tmp_path / "out")) as made:
        assert made["X"].shape == (40, 5) and made["y"].shape == (40,)
        np.testing.assert_allclose(np.linalg.norm(made["X"], axis=1), 1, rtol=1e-5)
