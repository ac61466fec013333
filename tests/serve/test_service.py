"""The service on a socket: statuses, limits, slow and leaving clients, workers that die, a full queue, its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.serve.conftest import ROOT, Running, environment, running, until

pytest.importorskip("fastapi", reason="pip install 'latens[serve]'")
pytest.importorskip("prometheus_client", reason="pip install 'latens[serve]'")
pytestmark = pytest.mark.xdist_group("service")

HEAD = "POST /v1/shout{query} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\n\r\n"


def pid_of(service: Running) -> int:
    found: int = json.loads(service.ask().headers["latens-result"])["pid"]
    return found


def test_a_body_becomes_a_result(toy: Running) -> None:
    reply = toy.ask(body=b"small")
    assert (reply.status, reply.body) == (200, b"SMALL")
    assert reply.headers["latens-status"] == "done"
    assert reply.headers["content-type"] == "text/plain; charset=utf-8"
    assert reply.headers["server-timing"].startswith("body;dur=")
    assert toy.ask(body=iter([b"in ", b"pieces"])).body == b"IN PIECES"  # chunked
    assert toy.ask(body=b"").body == b""


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "error"),
    [
        ("/v1/shout?loud=1", b"a", {}, 400, "UsageError"),
        ("/v1/shout", b"a", {"Origin": "http://site.example"}, 403, "Forbidden"),
        ("/v1/shout", b"a", {"Host": "site.example"}, 403, "Forbidden"),
        ("/v1/shout", b"a", {"Host": "["}, 403, "Forbidden"),
        ("/v1/whisper", b"a", {}, 404, "NotFound"),
        ("/v1/shout", b"a" * 1001, {}, 413, "LimitExceeded"),
        ("/v1/shout", b"a", {"Content-Type": "multipart/form-data; boundary=x"}, 415, "UnsupportedMediaType"),
        ("/v1/shout", b"a", {"Content-Encoding": "gzip"}, 415, "UnsupportedMediaType"),
        ("/v1/shout?fail=input", b"a", {}, 422, "Corrupt"),
    ],
)
def test_errors_have_a_status_and_a_class(
    path: str, body: bytes, headers: dict[str, str], status: int, error: str, toy: Running
) -> None:
    reply = toy.ask(path, body, headers)
    assert (reply.status, reply.error) == (status, error)
    assert reply.headers["content-type"] == "application/json"
    assert json.loads(reply.body)["message"]


def test_a_body_without_a_length_is_cut_at_the_limit(toy: Running) -> None:
    reply = toy.ask(body=iter([b"a" * 600] * 3))
    assert (reply.status, reply.error) == (413, "LimitExceeded")


def test_other_methods_and_the_state(toy: Running) -> None:
    assert toy.get("/v1/shout").error == "MethodNotAllowed"
    assert toy.get("/healthz").status == toy.get("/readyz").status == 200
    assert toy.ask().status == 200
    assert toy.metric('latens_requests_total{error="",status="200",verb="shout"}') > 0


@pytest.mark.parametrize("path", ["/", "/page.js", "/page.css", "/openapi.json", "/healthz", "/readyz", "/metrics"])
def test_head_has_the_status_and_headers_of_get_without_its_body(path: str, toy: Running) -> None:
    reply, head = toy.get(path), toy.ask(path, method="HEAD")
    assert (head.status, head.body) == (200, b"")
    varying = {"date"} | ({"content-length"} if path == "/metrics" else set())  # its numbers change between the two requests
    assert int(head.headers["content-length"]) > 0
    assert {name: head.headers[name] for name in head.headers.keys() - varying} == {
        name: reply.headers[name] for name in reply.headers.keys() - varying
    }


def test_head_of_other_addresses_is_refused(toy: Running) -> None:
    assert toy.ask("/v1/shout", method="HEAD").status == 405
    assert toy.ask("/v1/nothing", method="HEAD").status == 404
    refused = toy.ask("/healthz", method="PUT")
    assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD")
    with toy.send("HEAD /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n") as connection:
        with connection.makefile("rb") as answer:
            assert answer.read().endswith(b"\r\n\r\n")  # no byte after the headers


def test_half_bodies_take_no_place(toy: Running) -> None:
    connections = [toy.send(HEAD.format(query="", length=10) + "half") for _ in range(8)]
    assert toy.ask(body=b"whole").body == b"WHOLE"  # the queue has two places
    for connection in connections:
        with connection, connection.makefile("rb") as answer:
            text = answer.read()  # until the service closes the connection
        assert text.startswith(b"HTTP/1.1 408 ")
        assert b"BodyTimeout" in text


def test_connections_without_a_whole_head_are_closed(toy: Running) -> None:
    with toy.send("POST /v1/shout HTT") as first, toy.send(HEAD.format(query="", length=1) + "aPOST /v1/sh") as second:
        assert first.recv(100) == b""
        with second.makefile("rb") as answer:
            assert answer.read().endswith(b"\r\n\r\nA")  # then the connection ends


def test_a_refused_body_that_ends_leaves_its_connection_to_the_next_request(toy: Running) -> None:
    with toy.send(HEAD.format(query="", length=1001)) as connection, connection.makefile("rb") as answer:
        assert answer.readline().startswith(b"HTTP/1.1 413 ")
        last = HEAD.format(query="?seconds=1.5", length=1).replace("\r\n", "\r\nConnection: close\r\n", 1)
        connection.sendall(b"a" * 1001 + last.encode() + b"b")  # longer than a body may go on after its answer
        assert answer.read().endswith(b"\r\n\r\nB")
    with toy.send(HEAD.format(query="", length=1001)) as connection, connection.makefile("rb") as answer:
        assert b"LimitExceeded" in answer.read()  # the body never comes


def test_bytes_that_are_no_request_are_an_answer(toy: Running) -> None:
    chunked = HEAD.replace("Content-Length: {length}", "Transfer-Encoding: chunked\r\nContent-Encoding: gzip").format(query="")
    with toy.send("no request\r\n\r\n") as connection, connection.makefile("rb") as answer:
        text = answer.read()  # until the service closes the connection
        assert text.startswith(b"HTTP/1.1 400 ")
        assert json.loads(text.partition(b"\r\n\r\n")[2])["error"] == "BadRequest"
    with toy.send(chunked) as connection:
        text = b""
        while not text.endswith(b"}"):
            text += connection.recv(4096) or pytest.fail(text.decode())
        assert b"UnsupportedMediaType" in text
        connection.sendall(b"zz\r\n")  # no chunk
        assert connection.recv(4096) == b""


def test_a_task_that_takes_too_long_is_cancelled(toy: Running) -> None:
    before = toy.metric("latens_cancelled_total")
    reply = toy.ask("/v1/shout?seconds=30")
    assert (reply.status, reply.error) == (504, "DeadlineExceeded")
    assert toy.metric("latens_cancelled_total") == before + 1


def test_a_client_that_leaves_ends_its_task(toy: Running) -> None:
    before = toy.metric("latens_cancelled_total")
    toy.send(HEAD.format(query="?seconds=30", length=1) + "a").close()
    until(lambda: toy.metric("latens_cancelled_total") == before + 1)
    until(lambda: toy.metric("latens_working") == 0)
    toy.send(HEAD.format(query="", length=5) + "a").close()  # within its body
    until(lambda: toy.metric("latens_cancelled_total") == before + 2)


def test_a_crash_concerns_one_request(toy: Running) -> None:
    deaths = toy.metric("latens_worker_deaths_total")
    with ThreadPoolExecutor(2) as pool:
        other = pool.submit(toy.ask, "/v1/shout?seconds=1.5", b"other")
        crashed = toy.ask("/v1/shout?exit=3")
        assert (crashed.status, crashed.error) == (500, "WorkerDied")
        assert other.result().body == b"OTHER"
    until(lambda: toy.metric("latens_workers_ready") == 2)
    os.kill(pid_of(toy), signal.SIGKILL)  # a worker without a task
    until(lambda: toy.metric("latens_worker_deaths_total") == deaths + 2)
    assert toy.ask().status == 200


def test_a_killed_worker_at_work_is_an_answer(toy: Running) -> None:
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(toy.ask, "/v1/shout?seconds=1.5") for _ in range(2)]
        until(lambda: toy.metric("latens_working") == 2)
        os.kill(toy.workers()[0], signal.SIGKILL)
        assert sorted(each.result().status for each in asked) == [200, 500]


def test_a_full_queue_refuses_and_says_when_to_come_back(toy: Running) -> None:
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(toy.ask, "/v1/shout?seconds=1", b"waits") for _ in range(4)]
        until(lambda: toy.metric("latens_waiting") == 2)
        refused = toy.ask()
        assert (refused.status, refused.error) == (503, "QueueFull")
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert [each.result().body for each in asked] == [b"WAITS"] * 4
    assert toy.ask().status == 200


def test_equal_requests_that_wait_are_worked_on_together(tmp_path: Path) -> None:
    with running(tmp_path / "batches", workers=1, batch=3, deadline=20) as service, ThreadPoolExecutor(6) as pool:
        first = pool.submit(service.ask, "/v1/shout?seconds=2")
        until(lambda: service.metric("latens_working") == 1)
        asked = [pool.submit(service.ask, "/v1/shout?seconds=0", f"text {number}".encode()) for number in range(4)]
        until(lambda: service.metric("latens_waiting") == 4)  # three are a batch, and the one that leaves joins the fourth
        leaving = service.send(HEAD.format(query="?seconds=0", length=1) + "x")
        until(lambda: service.metric("latens_waiting") == 5)
        leaving.close()
        assert [each.result().body for each in asked] == [b"TEXT 0", b"TEXT 1", b"TEXT 2", b"TEXT 3"]
        sizes = [json.loads(each.result().headers["latens-result"])["together"] for each in [first, *asked]]
        assert sorted(sizes) == [1, 1, 3, 3, 3]
        assert service.metric("latens_worker_deaths_total") == 0


def test_a_bug_is_an_answer(shared: Running) -> None:
    reply = shared.ask("/v1/shout?fail=bug")
    assert (reply.status, reply.error) == (500, "InternalError")
    assert "ZeroDivisionError: by intention" in json.loads(reply.body)["message"]
    assert "Traceback" in shared.stderr.read_text()  # for the operator


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path / "guarded", workers=1, token="0123456789abcdef", deadline=10, descriptors=84) as found:
        yield found


def test_a_token_and_the_end_of_the_service(guarded: Running) -> None:
    right = {"Authorization": "Bearer 0123456789abcdef"}
    for headers in ({}, {"Authorization": "Bearer 0123456789abcdee"}, {"Authorization": "Basic 0123456789abcdef"}):
        reply = guarded.ask(headers=headers)
        assert (reply.status, reply.error) == (401, "Unauthorized")
    assert guarded.get("/metrics").status == 401
    assert guarded.get("/healthz").status == guarded.get("/").status == 200
    assert guarded.ask(headers=right).status == 200
    crowd = [guarded.send("POST") for _ in range(10)]
    assert (guarded.ask(headers=right).status, guarded.ask(headers=right).error) == (503, "TooManyConnections")
    for connection in crowd:
        connection.close()
    until(lambda: guarded.ask(headers=right).status == 200)
    with ThreadPoolExecutor(2) as pool:  # the second one waits for the only worker
        asked = [pool.submit(guarded.ask, "/v1/shout?seconds=1", b"accepted", right) for _ in range(2)]
        time.sleep(0.4)
        guarded.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        refused = guarded.ask(headers=right)
        assert (refused.status, refused.error) == (503, "Stopping")
        assert guarded.get("/readyz").status == 503
        assert [each.result().body for each in asked] == [b"ACCEPTED"] * 2
    assert guarded.process.wait(20) == 0
    assert list(guarded.temporary.iterdir()) == []


def test_a_second_signal_cuts_requests_off(tmp_path: Path) -> None:
    with running(tmp_path / "cut", workers=1) as service, service.send(HEAD.format(query="?seconds=30", length=1) + "a"):
        until(lambda: service.metric("latens_working") == 1)
        for _ in range(2):
            service.process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
        assert service.process.wait(20) == 1
        assert "requests were cut off" in service.stderr.read_text()
        assert "Traceback" not in service.stderr.read_text()
        assert list(service.temporary.iterdir()) == []


def test_a_killed_service_leaves_no_worker_and_the_next_one_no_file(tmp_path: Path) -> None:
    with running(tmp_path / "killed", workers=1) as service:
        (worker,) = service.workers()
        service.process.kill()
        service.process.wait()
        until(lambda: not Path(f"/proc/{worker}").exists())
        left = list(service.temporary.iterdir())
        assert len(left) == 1
        again = [sys.executable, "-m", "tests.serve.toy", json.dumps({"workers": 1, "prepare": {"missing": True}})]
        variables = environment(service.temporary)
        failed = subprocess.run(again, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=60, check=False)
        assert "toy: no such model" in failed.stderr  # a worker that cannot start ends the service
        assert failed.returncode != 0
        assert list(service.temporary.iterdir()) == []
