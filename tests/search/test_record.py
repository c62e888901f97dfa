"""Pictures and records of a search, from a summary made by hand."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.text import Text

from raydc.cli import main as cli
from raydc.core.storage import Occupied, Store
from raydc.data import Scaling
from raydc.methods.kmeans import KMeans
from raydc.pipelines.report import words
from raydc.search import TuneSettings, page, pictures
from raydc.search.record import evidence, record, tune_and_record
from raydc.tracking import registry
from raydc.tracking.payloads import beats
from raydc.tracking.tracker import Tracker
from raydc.training.model import ClusteringModel, Replica
from tests.pipelines.report.test_report import overlaps


def entry(number: int, method: str, score: float, status: str = "finished", **point: Any) -> dict[str, Any]:
    return {
        "number": number,
        "replica": 0,
        "baseline": number < 2,
        "method": method,
        "point": {"method.name": method, **point},
        "settings": {"method.name": method, "method.n_clusters": 3, **point},
        "status": status,
        "problems": [] if status == "finished" else ["the reason"],
        "score": score,
        "measures": {} if status == "failed" else {"neighbour_score": score, "modularity": score / 2},
        "history": [] if status == "failed" else [[3, score - 0.1], [10, score]],
        "n_clusters": 3,
        "loss": None,
        "seconds": 1.5,
        "weights": "",
    }


@pytest.fixture
def summary() -> dict[str, Any]:
    trials = [
        entry(0, "kmeans", 0.5),
        entry(1, "ward", 0.55),
        entry(2, "dec", 0.6, **{"method.nu": 0.7, "method.update": "1 epochs"}),
        entry(3, "dec", 0.2, "stopped", **{"method.nu": 1.7, "method.update": "3 epochs"}),
        entry(4, "dec", -1.0, "guarded", **{"method.nu": 1.2, "method.update": "1 epochs"}),
        entry(5, "dec", -1.0, "failed", **{"method.nu": 1.3, "method.update": "1 epochs"}),
    ]
    finalists = [
        {"number": 0, "modularity": 0.4, "stability": 0.8, "score": 0.36, "spread": 0.01},
        {"number": 2, "modularity": 0.5, "stability": 0.7, "score": 0.42, "spread": 0.02},
    ]
    return {
        "winner": trials[2] | {"weights": "abc"},
        "best": 2,
        "criterion": "selector",
        "structure": True,
        "null": {"columns": [0.1, 0.2], "gaussian": [0.1, 0.3]},
        "notes": ["a note"],
        "reference": "the rows, 100 rows, sha256 0123",
        "view": "whitened, modularity of communities 0.810 (rows 0.700)",
        "trials": trials,
        "finalists": finalists,
        "importance": {"method.nu": 0.8, "method.update": 0.2},
        "k curve": {
            "raw k-means": {"2": 0.3, "3": 0.5, "4": 0.4},
            "band": {"2": [0.2, 0.3], "3": [0.4, 0.5], "4": [0.3, 0.4]},
            "trials": {"3": 0.6},
            "listed": [3, 2],
        },
        "scales": {
            "range": [2, 4],
            "at edge": False,
            "listed": [
                {"k": 3, "number": 2, "method": "dec", "value": 0.42, "stability": 0.7, "score": 0.42, "spread": 0.02}
                | {"clear": 2, "merged": [], "split": []},
                {"k": 2, "number": 0, "method": "kmeans", "value": 0.36, "stability": 0.8, "score": 0.36, "spread": 0.0}
                | {"clear": 2, "merged": [[0, 2]], "split": [[1, 2]]},
            ],
            "tree": {"joins": [[0, 2, 0.8], [0, 1, 0.0]], "jaccard": [0.5, 0.7, 0.9, 0.8, 1.0], "ids": [0, 1, 2]},
        },
        "verdict": {"clear": [1, 2], "doubtful": [0], "nowhere": 0.1, "bar": 0.75, "asked": "replicas", "rows": 27},
        "clusters": [{"cluster": k, "rows": 9, "jaccard": 0.5 + 0.2 * k, "agreement": 0.9} for k in range(3)],
        "criteria": {"selector": {"0": 0.36, "2": 0.42}, "ace": {"0": None, "2": 0.5}},
        "cost": {"trainings": 9, "seconds of trials": 9.0, "seconds of replicas": 3.0},
        "seconds": 9.0,
    }


def test_every_picture_is_drawn(summary: dict[str, Any]) -> None:
    drawn = pictures.draw(summary)
    assert {*drawn} == {"settings", "importance", "stability", "rungs", "clusters", "k-curve", "merge-tree"}
    assert all(png.startswith(b"\x89PNG") for png in drawn.values())


def test_finalists_that_lie_together_are_named_apart(summary: dict[str, Any]) -> None:
    finalist = summary["finalists"][1]
    summary["finalists"] = [finalist | {"number": number, "stability": 0.7 + number / 1e4} for number in range(24)]
    summary["trials"] = [entry(number, "ae_kmeans", 0.5) for number in range(24)]
    figure = pictures.stability(summary)
    assert figure is not None
    named = [text for text in figure.axes[0].texts if "ae_kmeans" in text.get_text()]
    figure.draw_without_rendering()
    places = [Text.get_window_extent(text) for text in named]  # an annotation's own takes its line in
    assert len(named) == 24 and not overlaps(places)
    assert all(figure.bbox.x1 > place.x1 and figure.bbox.y1 > place.y1 for place in places)


def test_the_page_holds_everything(summary: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "another.png").write_bytes(b"of somebody's")
    written = page.write(summary | {"notes": ["a <note>"]}, pictures.draw(summary), Store(tmp_path))
    names = {"settings", "importance", "stability", "rungs", "clusters", "k-curve", "merge-tree"}
    assert set(written) == {"index.html", *(f"{name}.png" for name in names)}
    assert {path.name for path in tmp_path.iterdir()} == {"another.png", *written}
    text = (tmp_path / "index.html").read_text()
    assert text.count("data:image/png") == 7 and "a &lt;note&gt;" in text
    for shown in ("trial 2 of 6, dec", "0.42", "the reason", "sha256 0123", "method.nu", "K is a matter of scale"):
        assert shown in text
    assert "3 clusters: 2 clear, 1 doubtful (0)" in text and "clusters 0 and 2 merge, cluster 1 into 2 parts" in text
    assert "selector 0.420, the highest of the finalists" in text and words.gloss("ace") in text
    order = [text.index(f"<td>{number}</td><td>{t}</td>") for number, t in ((2, "dec"), (0, "kmeans"))]
    assert order == sorted(order), "the table stands in the order of the number that chooses"


def test_the_page_holds_the_report_of_the_winners_run(summary: dict[str, Any], tmp_path: Path) -> None:
    written = page.write(summary, {}, Store(tmp_path), ({"sizes.png": b"png"}, ["<p>of the run</p>"]))
    assert {*written} == {"index.html", "run-sizes.png"} and "<p>of the run</p>" in (
        tmp_path / "index.html"
    ).read_text()


def test_pictures_without_values_are_left_out(summary: dict[str, Any]) -> None:
    bare = summary | {"finalists": [], "importance": {}, "clusters": [], "trials": summary["trials"][:2]}
    bare["k curve"] = {"raw k-means": {"3": 0.5}, "band": {}, "trials": {}, "listed": []}
    bare["scales"] = summary["scales"] | {"tree": {"joins": [[0, 1, 1.0]], "jaccard": None, "ids": [0, 1]}}
    assert [*pictures.draw(bare)] == ["rungs"]


def test_a_champion_is_beaten_by_more_than_the_spread_on_the_same_rows(summary: dict[str, Any]) -> None:
    ours = evidence(summary)
    assert ours["raydc.stability_score"] == "0.42" and ours["raydc.reference"] == "0123"
    theirs = ours | {"raydc.stability_score": "0.39"}
    assert beats(ours, theirs)
    assert not beats(ours, theirs | {"raydc.spread": "0.03"})
    assert not beats(ours, theirs | {"raydc.reference": "4567"})
    assert not beats(ours, {"raydc.method": "dec"})


def test_a_search_is_recorded_by_one_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = TuneSettings(data={"path": "digits"}, space="s.py", out=str(tmp_path / "out"))  # type: ignore[arg-type]
    context = SimpleNamespace(store=Store(settings.out))
    monkeypatch.setattr("raydc.search.record.check", lambda settings, watch: SimpleNamespace(context=context))
    monkeypatch.setattr("raydc.search.record.tune_alone", lambda checked, watch: {})

    def again(settings: TuneSettings, summary: dict[str, Any]) -> dict[str, str]:
        with pytest.raises(Occupied):
            tune_and_record(settings)
        return {"output": "here"}

    monkeypatch.setattr("raydc.search.record.record", again)
    assert tune_and_record(settings) == ({}, {"output": "here"})


def test_trials_that_are_not_over_are_not_recorded(
    summary: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[str] = []
    monkeypatch.setattr(Tracker, "start", lambda *args: None)
    monkeypatch.setattr(Tracker, "log_trial", lambda self, trial: logged.append(trial["name"]))
    monkeypatch.setattr(Tracker, "finish", lambda self: {})
    summary["trials"][5]["status"] = "lost"
    (tmp_path / "tune.json").write_text(json.dumps({"id": "f" * 32}))
    (tmp_path / "search.json").write_text(json.dumps(summary))
    record(TuneSettings(data={"path": "digits"}, space="s.py", out=str(tmp_path)), summary)  # type: ignore[arg-type]
    assert logged == ["0 kmeans", "1 ward", "2 dec", "3 dec", "4 dec"]


@pytest.mark.slow
def test_a_search_is_recorded_once(summary: dict[str, Any], tmp_path: Path) -> None:
    out, uri = tmp_path / "out", f"sqlite:///{tmp_path}/mlflow.db"
    method = KMeans(KMeans.Config(n_clusters=3), (4,))
    torch.nn.init.normal_(method.centroids)
    scaling = Scaling("none", np.zeros((), np.float32), np.ones((), np.float32))
    other = KMeans(KMeans.Config(n_clusters=3), (4,)).eval()
    other.centroids.copy_(method.centroids[[1, 2, 0]])
    replicas = (Replica(other, np.array([1, 2, 0])), Replica(other, np.array([1, 0, 2])))
    ClusteringModel("kmeans", method, scaling, (4,), replicas=replicas).save(out / "model")
    (out / "tune.json").write_text(json.dumps({"id": "f" * 32}))
    (out / "search.json").write_text(json.dumps(summary))
    (out / "report").mkdir()
    (out / "report" / "k-curve.old.png").write_bytes(b"of a search that was begun anew")
    settings = TuneSettings(data={"path": "digits"}, space="s.py", out=str(out), register_as="digits", tracking_uri=uri)  # type: ignore[arg-type]
    first = record(settings, summary)
    pages = {path.name: path.read_bytes() for path in (out / "report").iterdir()}
    assert "index.html" in pages and "k-curve.old.png" not in pages
    assert record(settings, summary) == first
    assert first["registered as"] == "models:/digits/1 (champion)"
    assert registry.load("models:/digits@champion", uri).weights_hash()
    champion = registry.champion("digits", uri)
    assert champion is not None and champion[1]["raydc.stability_score"] == "0.42"
    for run, to in ((str(out), tmp_path / "again"), (first["mlflow run"], tmp_path / "from MLflow")):
        assert cli.main(["report", f"--run={run}", f"--out={to}", f"--tracking-uri={uri}"]) == 0
        assert {path.name: path.read_bytes() for path in to.iterdir()} == pages
    import mlflow.pyfunc
    from mlflow import MlflowClient

    mlflow.set_tracking_uri(uri)
    served = mlflow.pyfunc.load_model("models:/digits@champion").predict(method.centroids.numpy())
    mlflow.set_tracking_uri(None)
    assert served["cluster"].tolist() == [0, 1, 2] and served["agreement"].tolist() == [0.5, 1, 0.5]

    client = MlflowClient(tracking_uri=uri)
    runs = client.search_runs(["1"])
    children = {run.info.run_name: run for run in runs if "mlflow.parentRunId" in run.data.tags}
    assert len(runs) == 7 and len(children) == 6
    assert {run.data.tags["mlflow.parentRunId"] for run in children.values()} == {first["mlflow run"]}
    assert children["2 dec"].data.params["method.nu"] == "0.7"
    assert children["2 dec"].data.metrics["final.neighbour_score"] == 0.6
    assert client.get_run(first["mlflow run"]).data.metrics["final.neighbour_score"] == 0.6
    history = client.get_metric_history(children["2 dec"].info.run_id, "score")
    assert [(point.step, point.value) for point in history] == [(3, 0.5), (10, 0.6)]
    assert children["5 dec"].info.status == "FAILED" and children["3 dec"].info.status == "FINISHED"

    method.centroids.mul_(2)
    ClusteringModel("kmeans", method, scaling, (4,)).save(out / "model")
    (out / "tune.json").write_text(json.dumps({"id": "e" * 32}))
    assert record(settings, summary)["registered as"] == "models:/digits/2 (challenger)"
    assert registry.champion("digits", uri)[0] == 1  # type: ignore[index]
    assert (
        record(settings.model_copy(update={"promote": True}), summary)["registered as"] == "models:/digits/2 (champion)"
    )
    assert registry.champion("digits", uri)[0] == 2  # type: ignore[index]
