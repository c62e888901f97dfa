"""A real MLflow server that can be stopped and started, and a proxy before it that loses answers."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal

from tests.support.waiting import Patience

Fate = Literal["answered", "refused", "answer lost", "too large"]
"""What becomes of a request: passed on; 500 without being passed on; passed on, and 500; 413, not passed on."""


HOP = ("host", "content-length", "transfer-encoding", "connection")
"""Headers that are between two neighbours, not between client and server."""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class MLflowServer:
    """`mlflow server` over sqlite on loopback, in one process."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> "MLflowServer":
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db", "--workers", "1"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        patience = Patience(120)
        while not patience.over():
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=2):
                    return self
            except OSError:
                time.sleep(0.1)
        self.stop()
        raise TimeoutError(f"no MLflow server after 120 s: {(self.folder / 'server.log').read_text()[-2000:]}")

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(timeout=15)
            except subprocess.TimeoutExpired:  # it waits for clients that are gone
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
            self.process = None


class Proxy:
    """Passes requests on to a server, and decides the fate of each by method and path."""

    def __init__(self, server: str, fate: Callable[[str, str], Fate] = lambda method, path: "answered") -> None:
        self.fate, self.asked = fate, list[tuple[str, str, Fate]]()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def handle_any(self) -> None:
                body = self.body()
                fate = proxy.fate(self.command, self.path)
                proxy.asked.append((self.command, self.path, fate))
                code, data, kind = 500, b'{"error_code": "INTERNAL_ERROR", "message": "lost"}', "application/json"
                if fate == "too large":
                    code, data, kind = 413, b"<html>Request Entity Too Large</html>", "text/html"
                elif fate != "refused":
                    headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP}
                    request = urllib.request.Request(server + self.path, body or None, headers, method=self.command)
                    try:
                        answer = urllib.request.urlopen(request, timeout=60)
                    except urllib.error.HTTPError as refusal:
                        answer = refusal
                    with answer:
                        if fate == "answered":
                            code, data = answer.status or 500, answer.read()
                            kind = answer.headers.get("Content-Type", kind)
                self.send_response(code)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def body(self) -> bytes:
                if self.headers.get("Transfer-Encoding") != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length", 0)))
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                return b"".join(parts)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class FirstAnswerLost:
    """Every first POST to a path is applied and its answer lost; the repeat is answered."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def __call__(self, method: str, path: str) -> Fate:
        # a model that was left half gets a new id; of its files, one is enough
        place = f"{method} " + re.sub(r"mlflow-artifacts/.*|m-[0-9a-f]{32}", "", path)
        new = method in ("POST", "PATCH", "PUT") and place not in self.seen
        self.seen.add(place)
        return "answer lost" if new else "answered"
