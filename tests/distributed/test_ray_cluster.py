"""Who gets into a Ray cluster, and which clusters raydc goes into."""

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest

from raydc.cli import main as cli
from raydc.distributed import ray_cluster
from raydc.distributed.ray_cluster import NotPermitted, connected, private_token
from tests.cli.test_main import options
from tests.support.ray_nodes import Nodes


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_only_its_owner_reads_a_token(home, monkeypatch):
    path = home / ".ray" / "auth_token"
    private_token()
    assert not path.exists()
    private_token(create=True)
    token = path.read_text()
    assert len(token) == 64 and path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    private_token(create=True)
    assert path.read_text() == token and path.stat().st_mode & 0o777 == 0o600
    other = home / "other"
    other.write_text(token)
    other.chmod(0o640)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(other))
    private_token()
    assert other.stat().st_mode & 0o777 == 0o600
    assert sorted(file.name for file in path.parent.iterdir()) == ["auth_token"]


@pytest.mark.ray
def test_a_cluster_of_our_own_is_reached_from_this_machine_alone_and_is_not_nice(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv(ray_cluster.NICENESS)
    with connected(2):
        import ray

        assert ray.get(ray.remote(lambda: os.nice(0)).remote()) == os.nice(0)
        processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
        listening = [c.laddr.ip for p in processes for c in p.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    assert len(listening) > 4
    assert {address.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}


@pytest.mark.ray
@pytest.mark.slow
def test_workers_of_a_cluster_of_our_own_are_as_nice_as_is_asked(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv(ray_cluster.NICENESS, "7")
    with connected(1):
        import ray

        assert ray.get(ray.remote(lambda: os.nice(0)).remote()) == os.nice(0) + 7


@pytest.mark.ray
def test_a_cluster_that_lets_everybody_in_is_refused(tmp_path, monkeypatch, capsys):
    with Nodes(tmp_path, token=False) as nodes:
        monkeypatch.setenv("RAY_ADDRESS", nodes.address)
        for command in (
            ["train", *options(training__workers=1), f"--out={tmp_path / 'out'}"],
            ["tune", "--data=digits", "--space=dec", f"--out={tmp_path / 'out'}", "--n-clusters=3"],
            ["assign", "--model=models:/digits@champion", "--data=digits", f"--out={tmp_path / 'out'}", "--workers=1"],
        ):
            assert cli.main(command) == cli.NOT_PERMITTED, command
            error = capsys.readouterr().err
            assert "asks for no token" in error and "RAY_AUTH_MODE=token" in error and "--insecure" in error
            assert not (tmp_path / "out").exists()
        with pytest.raises(NotPermitted), connected(1):
            pass
        monkeypatch.setenv(ray_cluster.INSECURE, "1")
        with connected(1):
            import ray

            assert [node["NodeManagerAddress"] for node in ray.nodes()] == ["127.0.0.2"]


def test_no_cluster_at_the_address(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert cli.main(["train", *options(training__workers=1), f"--out={tmp_path / 'out'}"]) == cli.UNAVAILABLE
    assert "no Ray cluster at 127.0.0.1:1" in capsys.readouterr().err


def killed(command: list[str], **options: Any) -> Any:
    return subprocess.CompletedProcess(command, -9, "", "")


def hung(command: list[str], timeout: float, **options: Any) -> Any:
    raise subprocess.TimeoutExpired(command, timeout)


@pytest.mark.parametrize(("becomes", "said"), [(killed, "ended with code -9"), (hung, "no answer in 60 s")])
def test_a_probe_that_never_answers_is_no_cluster(monkeypatch, becomes, said):
    monkeypatch.setattr(subprocess, "run", becomes)
    with pytest.raises(ConnectionError, match=rf"no Ray cluster at nowhere \(RAY_ADDRESS\): .*{said}"):
        ray_cluster._reached_without_token("nowhere")


def test_signals_are_ours_again_when_ray_does_not_start():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(RuntimeError, match="no Ray"), ray_cluster._own_signals():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise RuntimeError("no Ray")
    assert signal.getsignal(signal.SIGTERM) is before


def late(**options: Any) -> None:
    raise Exception("The current node timed out during startup.")


def broken(**options: Any) -> None:
    raise Exception("something else")


def test_a_machine_too_busy_for_ray_is_said_to_be_so(home, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray.init", late)
    with (
        pytest.raises(ConnectionError, match=r"load average \d+ on \d+ CPUs.*the same command goes on"),
        connected(1),
    ):
        pass
    monkeypatch.setattr("ray.init", broken)
    with pytest.raises(Exception, match="something else"), connected(1):
        pass
