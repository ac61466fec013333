"""A running toy service and what a test asks of it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
SETTLED = 10.0  # seconds within which the service has removed what a request left


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> str:
        found: str = json.loads(self.body)["error"]
        return found


class Running:
    """A service in a process of its own, with a folder of its own for temporary files."""

    def __init__(self, command: list[str], folder: Path, read_port: Callable[[str], int] = int) -> None:
        folder.mkdir()
        self.folder = folder
        self.stderr = folder / "stderr"
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        with self.stderr.open("wb") as errors:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, cwd=ROOT, env=environment(self.temporary), text=True
            )
        assert self.process.stdout is not None
        self.baseline: tuple[int, list[str]] = (0, [])  # state before the first request
        line = self.process.stdout.readline()
        if not line:
            self.stop()
            pytest.fail(self.stderr.read_text())
        self.port = read_port(line)

    def ask(
        self, path: str = "/v1/shout", body: Any = b"a", headers: dict[str, str] | None = None, *, method: str = "POST"
    ) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body if method == "POST" else None, headers or {})
            found = connection.getresponse()
            return Reply(found.status, {name.lower(): value for name, value in found.getheaders()}, found.read())
        finally:
            connection.close()

    def get(self, path: str) -> Reply:
        return self.ask(path, method="GET")

    def send(self, text: str) -> socket.socket:
        """A connection on which these bytes were sent."""
        found = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        found.sendall(text.encode())
        return found

    def state(self) -> tuple[int, list[str]]:
        """Number of open descriptors, and the names of files below the private folder."""
        files = [path.name for path in self.temporary.glob("latens-serve-*/*")]
        return len(os.listdir(f"/proc/{self.process.pid}/fd")), files

    def metric(self, name: str) -> float:
        lines = self.get("/metrics").body.decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    def workers(self) -> list[int]:
        found = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        return [int(pid) for path in found for pid in path.read_text().split()]

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status


def environment(temporary: Path) -> dict[str, str]:
    """Variables of a process whose temporary files lie in a folder, and that finds latens and the tests."""
    return {**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}


@contextmanager
def running(folder: Path, **settings: Any) -> Iterator[Running]:
    found = Running([sys.executable, "-m", "tests.serve.toy", json.dumps(settings)], folder)
    try:
        yield found
    finally:
        found.stop()


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + SETTLED
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Two workers, two places in the queue, bodies of 1,000 bytes, three seconds."""
    folder = tmp_path_factory.mktemp("service") / "toy"
    with running(folder, workers=2, queue=2, body_bytes=1000, deadline=3) as found:
        found.get("/healthz")  # descriptors that stay are open now
        time.sleep(0.3)
        found.baseline = found.state()
        yield found


@pytest.fixture
def toy(shared: Running) -> Iterator[Running]:
    """The shared service; after the test it has the descriptors and files of its start, all workers, and no traceback."""
    errors = shared.stderr.stat().st_size
    yield shared
    until(lambda: shared.metric("latens_workers_ready") == 2)
    until(lambda: shared.state() == shared.baseline)
    assert b"Traceback" not in shared.stderr.read_bytes()[errors:]
