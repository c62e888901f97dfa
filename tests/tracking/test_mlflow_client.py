import json
import logging
import os
import re
import subprocess
import sys
import textwrap
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import uvicorn
from alembic.util.exc import CommandError
from mlflow import MlflowClient
from mlflow.pyfunc import scoring_server

from raydc.cli import main as cli
from raydc.core.storage import Store
from raydc.pipelines.report import report
from raydc.tracking import mlflow_client, registry
from raydc.tracking.mlflow_client import RegistryAway, RegistryError
from raydc.tracking.mlflow_options import PICKLES, RETRIES, TIMEOUT
from raydc.tracking.payloads import example_rows
from raydc.tracking.tracker import RecordPending, Tracker
from raydc.training.labels import Asked
from raydc.training.model import TRUST, ClusteringModel
from raydc.training.model_files import ModelError, facts_of
from tests.support import run_cases
from tests.support.servers import free_port

PASSWORD = "hunter2"


@pytest.fixture(scope="module")
def run(table_run):
    return table_run


@pytest.fixture
def client(mlflow_uri):
    return MlflowClient(mlflow_uri)


def test_a_run_is_found_again_by_its_key(client, mlflow_uri):
    config = {
        "method": {"name": "dec", "nu": 1.0},
        "data": {"path": f"s3://me:{PASSWORD}@bucket/x"},
        "long": "x" * 9000,
    }
    first = mlflow_client.start_run("tests", "a name", "found-again", config, mlflow_uri)
    assert mlflow_client.start_run("tests", "a name", "found-again", config, mlflow_uri) == first
    assert mlflow_client.start_run("tests", "a name", "another", {}, mlflow_uri) != first
    found = client.get_run(first)
    assert found.info.run_name == "a name"
    assert found.data.params["method.nu"] == "1.0"
    assert found.data.params["data.path"] == "s3://***@bucket/x"
    assert len(found.data.params["long"]) <= 6000 and found.data.params["long"].endswith("(truncated)")
    versions = json.loads(Path(client.download_artifacts(first, "environment.json")).read_text())
    assert {"python", "torch", "mlflow"} <= set(versions)


def test_more_parameters_than_one_request_takes(client, mlflow_uri):
    config = {f"group{i}": {f"setting{j}": i * j for j in range(25)} for i in range(10)}
    run_id = mlflow_client.start_run("tests", "x", "many-parameters", config, mlflow_uri)
    assert len(client.get_run(run_id).data.params) == 250


def test_a_doubled_run_is_marked_and_the_oldest_kept(client, mlflow_uri, monkeypatch):
    experiment = mlflow_client._experiment(client, mlflow_uri, "tests")
    older = client.create_run(experiment, tags={"raydc.run_key": "doubled"}).info.run_id
    real, calls = mlflow_client._find_run, []

    def blind_once(*arguments):  # as if the older one had been made in between
        calls.append(arguments)
        return None if len(calls) == 1 else real(*arguments)

    monkeypatch.setattr(mlflow_client, "_find_run", blind_once)
    assert mlflow_client.start_run("tests", "x", "doubled", {}, mlflow_uri) == older
    assert mlflow_client.start_run("tests", "x", "doubled", {}, mlflow_uri) == older
    runs = client.search_runs([experiment], f"tags.`raydc.duplicate_of` = '{older}'")
    assert [run.info.status for run in runs] == ["KILLED"]


def test_settings_of_the_process_stay(mlflow_uri, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "6")
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "true")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT", raising=False)
    before = mlflow.get_tracking_uri()
    registry.champion("nobody", mlflow_uri)
    environment = dict(os.environ)
    with mlflow_client.asking(mlflow_uri):
        assert RETRIES.get() == 0, "MLflow would create things twice"
        assert PICKLES.get() is False and TIMEOUT.get() == 20
        assert dict(os.environ) == environment and mlflow.get_tracking_uri() == before
        with ThreadPoolExecutor(1) as elsewhere:
            assert elsewhere.submit(RETRIES.get).result() == 6, "other threads of this process"
            assert elsewhere.submit(PICKLES.get).result() is True
    assert PICKLES.get() is True, "other models of this process"
    assert dict(os.environ) == environment
    assert mlflow.get_tracking_uri() == before
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere")
    registry.champion("nobody", mlflow_uri)
    assert mlflow_client.find() == "http://elsewhere", "the environment still counts"
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "6"
    with pytest.raises(RegistryError, match=r"does not write its password down"):
        mlflow_client.find("http://***@server")


def test_a_database_that_cannot_be_opened_is_an_mlflow_that_is_away(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("mlflow.store.db.utils.MAX_RETRY_COUNT", 1)  # not a minute and a half of them
    uri = "sqlite:////proc/raydc.db"
    with pytest.raises(RegistryAway, match=r"MLflow at sqlite:.*; check --tracking-uri"):
        mlflow_client.start_run("tests", "x", "away", {}, uri)
    tracker = Tracker(str(tmp_path / "out"), uri, every=0.02)
    tracker.start("tests", "x", "away", {})
    with pytest.raises(RecordPending, match="messages for MLflow are kept"):
        tracker.finish(patience=0.1)
    command = ["assign", "--model=models:/digits@champion", "--data=digits", f"--out={tmp_path / 'new'}"]
    assert cli.main([*command, f"--tracking-uri={uri}"]) == cli.UNAVAILABLE == 69
    assert "check --tracking-uri" in capsys.readouterr().err


@pytest.fixture(scope="module")
def recorded(run, mlflow_uri):
    """A finished run put on record whole: (run id, model URI)."""
    tracker = Tracker(run, mlflow_uri)
    tracker.start("tests", "recorded", "recorded", {"method": {"name": "kmeans"}})
    summary = json.loads(Path(run, "summary.json").read_text())
    tracker.log_summary({**summary, "warnings": ["careful"]})
    tracker.log_files()
    tracker.log_model()
    paths = tracker.finish()
    assert mlflow_client.log_model(Path(run, "model"), paths["mlflow run"], mlflow_uri) == paths["model"]  # not twice
    return paths["mlflow run"], paths["model"]


@pytest.fixture
def served(recorded, mlflow_uri, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    mlflow.set_tracking_uri(mlflow_uri)
    yield mlflow.pyfunc.load_model(recorded[1])
    mlflow.set_tracking_uri(None)


def rows(count=20):
    return run_cases.table(count, seed=3).to_pandas()


def test_the_record_holds_scores_and_files(recorded, client):
    run_id, _ = recorded
    found = client.get_run(run_id).data
    assert {"final.score", "final.balance", "labels.acc", "rows", "found"} <= set(found.metrics)
    assert found.tags["raydc.warnings"] == "careful"
    assert {item.path for item in client.list_artifacts(run_id)} >= {"config.yaml", "summary.json", "assignments"}


def test_mlflow_says_nothing_between_our_lines(recorded, run, mlflow_uri, capfd):
    """Of raydc's own requests; what else the process does with MLflow is logged as it wishes."""
    run_id = mlflow_client.start_run("tests", "quiet", "quiet", {"a": 1}, mlflow_uri)
    mlflow_client.log_model(Path(run, "model"), run_id, mlflow_uri)
    registry.register(recorded[1], "quiet", "q" * 64, recorded[0], None, mlflow_uri)
    mlflow_client.set_status(recorded[0], "finished", mlflow_uri)
    assert capfd.readouterr() == ("", "")
    theirs = logging.getLogger("mlflow")
    level = theirs.level  # a command that ran before in this process has made it quieter
    try:
        theirs.setLevel(logging.WARNING)
        logging.getLogger("mlflow.tracking").warning("of the process")
        assert "of the process" in capfd.readouterr().err
    finally:
        theirs.setLevel(level)


def test_the_model_belongs_to_its_run_and_lies_beside_the_store(recorded, client, mlflow_uri):
    model = client.get_logged_model(recorded[1].removeprefix("models:/"))
    assert model.source_run_id == recorded[0] and str(model.status) == "READY"
    assert Path(mlflow_uri.removeprefix("sqlite:///")).parent.as_uri() in model.artifact_location


def test_predict_takes_frames_by_name_and_arrays_of_any_type(served, run):
    frame = rows()
    expected = ClusteringModel.load(Path(run, "model")).predict(frame)
    x = frame[[*run_cases.COLUMNS]].to_numpy()
    turned = frame[[*reversed(frame.columns)]].astype({"height": "float32"}).set_index("id")
    for given in (frame, turned, x, x.astype(np.float32)):
        found = served.predict(given)
        assert [*found.columns] == ["cluster", *TRUST]
        assert found["cluster"].dtype == np.int64 and {found[name].dtype for name in TRUST} == {np.dtype(np.float32)}
        assert found["agreement"].isna().all() and found["distance"].between(0, 1).all()
        np.testing.assert_array_equal(found["cluster"], expected)
    assert served.predict(turned).index.tolist() == turned.index.tolist()
    whole = np.clip(x.round(), 0, 99)
    for kind in (np.uint8, np.int16, np.int32, np.int64, np.float16, np.float32, np.float64):
        np.testing.assert_array_equal(served.predict(whole.astype(kind)), served.predict(whole))


def test_soft_predictions_are_memberships(served, run):
    frame = rows()
    found = served.predict(frame, params={"soft": True})
    expected = ClusteringModel.load(Path(run, "model")).memberships(frame)
    assert [*found.columns] == ["cluster", *TRUST, "p0", "p1", "p2"]
    np.testing.assert_allclose(found[["p0", "p1", "p2"]], expected)
    assert found["p0"].dtype == np.float32
    assert len(served.predict(frame, params={"soft": False}).columns) == 4


def test_outliers_are_told_apart_when_asked_for(served, run):
    frame = rows()
    frame.loc[3, [*run_cases.COLUMNS]] = 1e3
    model = ClusteringModel.load(Path(run, "model"))
    found = served.predict(frame, params={"outliers": 0.05})
    np.testing.assert_array_equal(found["cluster"], model.predict(frame, Asked(outliers=0.05)))
    assert found["cluster"][3] == -1 and (served.predict(frame)["cluster"] >= 0).all()
    assert [*served.predict(frame, params={"soft": True, "level": 3}).columns][-3:] == ["p0", "p1", "p2"]


def test_what_the_model_cannot_take_is_named(served):
    with pytest.raises(ValueError, match="width"):
        served.predict(rows().drop(columns=["width"]))
    with pytest.raises(ValueError, match=r"\(20, 3\)"):
        served.predict(np.zeros((20, 3)))


def test_signature_and_example(served):
    signature = served.metadata.signature
    assert signature.inputs is None  # MLflow's check would refuse float64 for float32, and arrays for columns
    assert signature.outputs.input_names() == ["cluster", *TRUST, "p0", "p1", "p2"]
    assert [parameter.name for parameter in signature.params] == ["soft", "outliers", "level"]
    assert served.metadata.metadata["raydc"]["columns"] == [*run_cases.COLUMNS]
    example = served.input_example
    assert [*example.columns] == [*run_cases.COLUMNS]
    assert len(served.predict(example)) == len(example)


def test_nothing_in_the_model_is_pickled(recorded, mlflow_uri, tmp_path):
    location = MlflowClient(mlflow_uri).get_logged_model(recorded[1].removeprefix("models:/")).artifact_location
    folder = mlflow.artifacts.download_artifacts(location, dst_path=str(tmp_path))
    names = {path.name for path in Path(folder).rglob("*") if path.is_file()}
    assert not {name for name in names if name.endswith((".pkl", ".pickle", ".cloudpickle", ".joblib"))}


def test_it_loads_where_raydc_is_not_installed(recorded, mlflow_uri, tmp_path, run):
    """In a process of its own that finds neither this checkout nor Ray nor Optuna, only what travels with the model."""
    np.save(tmp_path / "x.npy", rows()[[*run_cases.COLUMNS]].to_numpy())
    (tmp_path / "program.py").write_text(
        textwrap.dedent(
            """
            import importlib.abc, importlib.util, sys
            class Blocked(importlib.abc.MetaPathFinder):
                def find_spec(self, name, path=None, target=None):
                    if name.split(".")[0] in ("ray", "optuna", "matplotlib", "rich"):
                        raise ModuleNotFoundError(f"blocked: {name}")
            sys.meta_path.insert(0, Blocked())
            checkout = sys.argv[1]
            sys.path = [entry for entry in sys.path if entry not in ("", checkout)]
            sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
            assert importlib.util.find_spec("raydc") is None
            import mlflow, numpy as np
            mlflow.set_tracking_uri(sys.argv[2])
            model = mlflow.pyfunc.load_model(sys.argv[3])
            print("FOUND", model.predict(np.load("x.npy"))["cluster"].tolist())
            import raydc
            print("FROM", raydc.__file__)
            """
        )
    )
    checkout = str(Path(mlflow_client.__file__).parents[2])
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [sys.executable, "program.py", checkout, mlflow_uri, recorded[1]]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    answer = dict(line.split(" ", 1) for line in done.stdout.splitlines() if line.startswith(("FOUND", "FROM")))
    assert not answer["FROM"].startswith(checkout)
    assert json.loads(answer["FOUND"]) == ClusteringModel.load(Path(run, "model")).predict(rows()).tolist()


def test_versions_and_aliases(recorded, mlflow_uri, client, run):
    run_id, uri = recorded

    def aliases():
        return {name: int(version) for name, version in client.get_registered_model("shapes").aliases.items()}

    assert registry.champion("shapes", mlflow_uri) is None
    for _ in range(2):  # idempotent by checksum
        assert registry.register(uri, "shapes", "a" * 64, run_id, {"score": "1"}, mlflow_uri) == 1
        assert aliases() == {"champion": 1}
    assert registry.register(uri, "shapes", "b" * 64, run_id, None, mlflow_uri) == 2
    assert aliases() == {"champion": 1, "challenger": 2}
    assert registry.register(uri, "shapes", "c" * 64, run_id, None, mlflow_uri) == 3
    assert aliases() == {"champion": 1, "challenger": 3}
    assert registry.champion("shapes", mlflow_uri) == (1, {"score": "1", "raydc.sha256": "a" * 64})
    registry.promote("shapes", 3, mlflow_uri)
    assert aliases() == {"champion": 3}
    assert client.get_model_version("shapes", "1").run_id == run_id
    with pytest.raises(RegistryError, match=r"has no version 9; it has @champion \(version 3\), /3, /2, /1"):
        registry.promote("shapes", 9, mlflow_uri)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "a\\b", "a:b", "a b", "x" * 129, "a\0", "a\n", "a'b", "%2e"]
)
def test_names_that_are_none(name, mlflow_uri):
    with pytest.raises(ValueError, match="expected a model name"):
        registry.register("models:/m-0", name, "0", tracking_uri=mlflow_uri)


@pytest.mark.parametrize(
    "uri",
    ["models:/../../x/1", "models:/a", "models:/a/newest", "models:/a/b/c", "models:/a@", "runs:/x/model", "models:"],
)
def test_uris_that_are_none(uri, mlflow_uri):
    with pytest.raises(RegistryError, match="expected models:/NAME@ALIAS"):
        registry.load(uri, mlflow_uri)


def test_load_by_every_kind_of_name(recorded, mlflow_uri, run):
    run_id, uri = recorded
    expected = ClusteringModel.load(Path(run, "model")).weights_hash()
    version = registry.register(uri, "named", mlflow_client.sha256_of(Path(run, "model")), run_id, None, mlflow_uri)
    uris = ["models:/named@champion", f"models:/named/{version}", uri, f"runs:/{run_id}/model", run, f"{run}/model"]
    for name in uris:
        assert registry.load(name, mlflow_uri).weights_hash() == expected
    assert registry.load("models:/named/latest", mlflow_uri).weights_hash() == expected
    with pytest.raises(RegistryError, match=r"has no alias 'nobody'; it has @champion \(version 1\), /1"):
        registry.load("models:/named@nobody", mlflow_uri)
    with pytest.raises(RegistryError, match=r"has no version 7; it has @champion \(version 1\), /1"):
        registry.load("models:/named/7", mlflow_uri)
    with pytest.raises(RegistryError, match=r"no registered model 'namd' .*; did you mean named\?"):
        registry.load("models:/namd/latest", mlflow_uri)
    with pytest.raises(ModelError, match="no model at"):
        registry.load(f"{run}/nowhere", mlflow_uri)


SPACE = {"raydc.reference": "a" * 16}
STABLE = {"raydc.stability_score": "0.5", "raydc.spread": "0.1"}


@pytest.mark.parametrize(
    ("name", "ours", "theirs", "said"),
    [
        ("alike", SPACE | STABLE, SPACE | STABLE, ""),
        (
            "elsewhere",
            SPACE | STABLE,
            {"raydc.reference": "b" * 16} | STABLE,
            f"neighbours in {'a' * 16}, .* in {'b' * 16}: other",
        ),
        ("nowhere", SPACE | STABLE, STABLE, f"neighbours in {'a' * 16}, the champion's of no space on record"),
        ("unsearched", SPACE | STABLE, SPACE, "the champion has no score of stability"),
        ("untried", SPACE, SPACE | STABLE, "it has no score of stability"),
        ("trained", SPACE, SPACE, "neither has a score of stability"),
    ],
)
def test_what_cannot_be_set_against_the_champion_is_said(recorded, client, mlflow_uri, name, ours, theirs, said):
    run_id, uri = recorded
    better = ours | ({"raydc.stability_score": "0.9"} if "raydc.spread" in ours else {})
    registry.register(uri, name, "1" * 64, run_id, theirs, mlflow_uri)
    registry.register(uri, name, "2" * 64, run_id, better, mlflow_uri, "better")
    standing = registry.standing_of(name, 2, mlflow_uri)
    tag = client.get_model_version(name, "2").tags.get(registry.NOT_COMPARED, "")
    if said:
        assert re.search(said, tag) and standing == f"challenger; {tag}"
        assert tag.startswith("not compared with version 1, the champion: ")
    else:
        assert (standing, tag) == ("champion", "")


def test_a_changed_artifact_is_refused(mlflow_uri, recorded):
    run_id, uri = recorded
    registry.register(uri, "changed", "0" * 64, run_id, None, mlflow_uri)  # not the checksum of these files
    with pytest.raises(ModelError, match="damaged"):
        registry.load("models:/changed@champion", mlflow_uri)
    client = MlflowClient(mlflow_uri)
    client.create_registered_model("foreign")
    location = client.get_logged_model(uri.removeprefix("models:/")).artifact_location
    client.create_model_version("foreign", location, run_id=run_id)
    with pytest.raises(RegistryError, match="not registered by raydc"):
        registry.load("models:/foreign/1", mlflow_uri)


def test_a_recorded_run_can_be_fetched_and_drawn(recorded, mlflow_uri, run, tmp_path):
    run_id, _ = recorded
    registry.fetch(run_id, tmp_path / "fetched", mlflow_uri)
    for name in ("config.yaml", "summary.json", "metrics.jsonl"):
        assert Path(tmp_path, "fetched", name).read_bytes() == Path(run, name).read_bytes()
    table = pq.read_table(tmp_path / "fetched" / "assignments")
    assert table.equals(pq.read_table(Path(run, "assignments")))
    drawn = report(run_id, str(tmp_path / "report"), mlflow_uri)
    assert "index.html" in drawn and Store(str(tmp_path / "report")).list() == sorted(drawn)
    with pytest.raises(RegistryError, match="MLflow run id"):
        registry.fetch("../x", tmp_path / "no", mlflow_uri)


def test_example_rows_are_what_the_model_takes(run):
    model, facts = ClusteringModel.load(Path(run, "model")), facts_of(Path(run, "model"))
    assert isinstance(example_rows(facts), pd.DataFrame)
    for columns in ((), ("pixels",)):
        assert len(replace(model, columns=columns).predict(example_rows(replace(facts, columns=columns)))) == 2


def test_who_only_reads_makes_no_database(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for uri in ("sqlite:///new.db", f"sqlite:///{tmp_path}/new.db"):
        with pytest.raises(RegistryAway, match=r"new\.db: there is no such file; check --tracking-uri"):
            registry.load("models:/digits@champion", uri)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    "problem", [CommandError("Online migration expected to match one row"), KeyError("a8c4a736bde6"), RuntimeError()]
)
def test_nothing_raw_leaves_mlflow(mlflow_uri, monkeypatch, tmp_path, problem):
    def search_runs(*arguments, **options):
        raise problem

    monkeypatch.setattr(MlflowClient, "search_runs", search_runs)
    with pytest.raises(RegistryAway, match=f"MLflow at sqlite:.*{str(problem) or 'RuntimeError'}"):
        mlflow_client.start_run("tests", "x", "raw", {}, mlflow_uri)
    tracker = Tracker(str(tmp_path / "out"), mlflow_uri, every=0.02)
    tracker.start("tests", "x", "raw", {})
    with pytest.raises(RecordPending, match="messages for MLflow are kept"):
        tracker.finish(patience=0.1)


def test_a_parameter_that_mlflow_refuses_is_left_out_and_named(client, mlflow_uri):
    run_id = mlflow_client.start_run("tests", "x", "odd-parameter", {"good": 1, "not\ngood": 2}, mlflow_uri)
    found = client.get_run(run_id).data
    assert found.params == {"good": "1"} and found.tags["raydc.refused_parameters"] == "not\ngood"


@pytest.fixture
def ask(recorded, mlflow_uri, monkeypatch):
    """Asks the server that `mlflow models serve` starts: a body to its status and answer."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    location = MlflowClient(mlflow_uri).get_logged_model(recorded[1].removeprefix("models:/")).artifact_location
    app, port = scoring_server.init(mlflow.pyfunc.load_model(location)), free_port()
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.05)

    def answer(body: dict) -> tuple[int, dict]:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{port}/invocations", json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as refusal:
            return refusal.code, json.load(refusal)

    yield answer
    server.should_exit = True
    thread.join()


def test_a_served_model_takes_rows_as_json(ask, run):
    frame = rows(5)[[*run_cases.COLUMNS]]
    expected = ClusteringModel.load(Path(run, "model")).predict(frame).tolist()
    split = {"columns": [*frame.columns], "data": frame.to_numpy().tolist()}
    by_name = {name: values.tolist() for name, values in frame.items()}
    for body in ({"dataframe_split": split}, {"dataframe_records": frame.to_dict("records")}, {"inputs": by_name}):
        code, answer = ask(body)
        assert code == 200 and [row["cluster"] for row in answer["predictions"]] == expected
    whole = {"columns": split["columns"], "data": [[1, True, 2, 3][: len(frame.columns)]]}
    assert ask({"dataframe_split": whole})[0] == 200
    assert ask({"dataframe_split": split | {"data": []}}) == (200, {"predictions": []})
    text = {"columns": split["columns"], "data": [["1.5"] * len(frame.columns)]}
    code, answer = ask({"dataframe_split": text})
    assert code == 400 and "expected numbers, got text such as '1.5'" in json.dumps(answer)
