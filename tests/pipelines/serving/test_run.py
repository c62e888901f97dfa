"""A real server: what it answers, and what is lost when a replica dies, another champion comes, or it is ended."""

import http.client
import json
import os
import signal
import subprocess
import sys
import threading

import grpc
import numpy as np
import psutil
import pytest
from sklearn.datasets import load_digits

from benchmarks.serve import another_champion, kill_one, load, register, serving
from raydc.cli.main import main
from raydc.core.settings import SettingsError
from raydc.distributed import ray_cluster
from raydc.distributed.ray_cluster import NotPermitted
from raydc.pipelines.serving.run import serve, words_of
from raydc.pipelines.serving.settings import Serving
from raydc.tracking import registry
from raydc.training.model_files import ModelError
from tests.support.servers import free_port


def never(started: object) -> None:
    raise AssertionError("a server was started")


def asked(port: int, method: str, path: str, body: str | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request(method, path, body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    return answer.status, answer.read()


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"host": "0.0.0.0"}, NotPermitted, "give a token"),
        ({"model": "nowhere"}, ModelError, "no model at"),
        ({"token_file": "nowhere"}, SettingsError, "cannot be read"),
    ],
)
def test_what_cannot_be_served_is_refused_before_anything_starts(table_run, monkeypatch, settings, error, said):
    monkeypatch.setattr(ray_cluster, "connected", never)
    with pytest.raises(error, match=said):
        wanted = Serving.model_validate({"model": table_run, "port": free_port()} | settings)
        serve(wanted, never, threading.Event(), never)


def test_a_port_that_is_taken_is_named(table_run, monkeypatch):
    monkeypatch.setattr(ray_cluster, "connected", never)
    with http.client.socket.socket() as taken:  # type: ignore[attr-defined]
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"--port {port}"):
            serve(Serving(model=table_run, port=port), never, threading.Event(), never)


def test_packages_that_are_missing_are_named_with_the_extra(table_run, monkeypatch, capsys):
    monkeypatch.setattr("raydc.pipelines.serving.run.NEEDED", ("a_package_that_is_not_there",))
    assert main(["serve", "--model", table_run]) == 64
    assert "raydc[serve]" in capsys.readouterr().err


def test_what_the_server_says_of_itself_in_a_line():
    assert words_of({"model": "models:/a/3", "problem": None}) == "models:/a/3 answers"
    assert (
        words_of({"model": "models:/a/3", "problem": "no such file"}) == "models:/a/3 goes on answering: no such file"
    )
    assert words_of(None) == "no replica answers in 2 seconds"


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1800)
def test_no_request_is_lost_to_a_kill_or_a_new_champion_and_the_end_answers_what_is_in_hand(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    for seed in (0, 1):
        register(tmp_path, uri, seed)
    options = ("--model", "models:/digits@champion", "--tracking-uri", uri, "--poll", "0.5", "--replicas", "2")
    with serving(tmp_path, *options) as server:
        rows = load_digits().data
        status, body = asked(server.port, "POST", "/assign?level=4", json.dumps({"rows": rows.tolist()}))
        found = registry.load("models:/digits/1", uri).assign(rows)
        assert status == 200
        told = json.loads(body)["rows"]
        assert np.array_equal(np.array([row["distance"] for row in told], np.float32), found.distance)
        with load(server.port, 4) as seen:
            kill_one(server, 2)
        assert not seen.lost and seen.models == {"models:/digits/1"}
        with load(server.port, 4) as seen:
            another_champion(seen, uri, 2)
        assert not seen.lost and seen.models == {"models:/digits/1", "models:/digits/2"}
        # who has no token of the cluster cannot call what listens at every address
        addresses = [
            f"127.0.0.1:{connection.laddr.port}"
            for replica in server.replicas()
            for connection in psutil.Process(replica).net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN and connection.laddr.ip in ("::", "0.0.0.0")
        ]
        assert addresses
        for address in addresses:
            with grpc.insecure_channel(address) as channel:
                call = channel.unary_unary("/ray.serve.ASGIService/HandleRequest")
                with pytest.raises(grpc.RpcError) as refused:
                    call(b"", timeout=20)
            assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED, (address, refused.value)
        with load(server.port, 4) as seen:
            while len(seen.ended) < 20:
                pass
            server.process.send_signal(signal.SIGTERM)
            server.process.wait(timeout=120)
        assert server.process.returncode == 0
        assert {"500", "503", "408"}.isdisjoint(seen.lost), seen.lost


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_cluster_that_asks_for_no_token_serves_nobody(table_run):
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, "-m", "raydc", "serve", "--model", table_run, "--port", str(free_port())]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert ended.returncode == 77 and "asks for no token" in ended.stderr, ended.stderr
