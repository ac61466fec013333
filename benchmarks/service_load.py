"""Load on `latens serve` at a multiple of its capacity, with arrivals that do not wait for answers.

    python benchmarks/service_load.py --seconds 300 --factor 2

A service is started on a free port of this machine. Its capacity is measured with one request for each worker at a time. Then
requests arrive at random moments (Poisson, seeded) at `factor` times this rate, each on a connection of its own; a few are
half-sent bodies, clients that leave, images that are too large, and texts. Printed as JSON: answers by status, times of the
accepted, times of refusals on the clock of the service (header Server-Timing), memory of all processes, descriptors and files
before and after.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from skimage import data

ODD = {"half body": 0.01, "leaves": 0.01, "bomb": 0.01, "text": 0.01}  # shares of arrivals
SAMPLE = 5.0  # seconds between looks at the memory
WARM = 20.0  # seconds of measuring the capacity


class Answer(NamedTuple):
    kind: str
    status: int  # 0: none
    seconds: float  # of the client
    server_ms: float | None


def photograph(side: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(data.astronaut()[:side, 100 : 100 + side]).save(buffer, "PNG")
    return buffer.getvalue()


def bomb() -> bytes:
    """A PNG whose header promises 400 million pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


class Client:
    """Sends requests of one kind each and keeps the answers."""

    def __init__(self, port: int, path: str, body: bytes) -> None:
        self.port, self.path = port, path
        self.bodies = {"photograph": body, "half body": body, "leaves": body, "bomb": bomb(), "text": b"no image"}
        self.answers: list[Answer] = []

    async def send(self, kind: str) -> None:
        started = time.perf_counter()
        status, server_ms = 0, None
        try:
            status, server_ms = await self._exchange(kind)
        except (OSError, asyncio.IncompleteReadError):
            pass
        self.answers.append(Answer(kind, status, time.perf_counter() - started, server_ms))

    async def _exchange(self, kind: str) -> tuple[int, float | None]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            body = self.bodies[kind]
            head = f"POST {self.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            writer.write(head.encode() + (body[: len(body) // 2] if kind == "half body" else body))
            await writer.drain()
            if kind == "leaves":
                await asyncio.sleep(0.2)
                return 0, None
            lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            await reader.read()
            timing = next((line for line in lines if line.lower().startswith("server-timing:")), "")
            total = timing.rpartition("total;dur=")[2]
            return int(lines[0].split()[1]), float(total) if total else None
        finally:
            writer.close()


class Service:
    """`latens serve` in a process of its own."""

    def __init__(self, folder: Path, words: Sequence[str]) -> None:
        self.folder = folder
        command = [sys.executable, "-m", "latens", "serve", "--port", "0", "--format", "json", *words]
        environment = {**os.environ, "TMPDIR": str(folder)}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)
        assert self.process.stdout is not None
        self.port = int(json.loads(self.process.stdout.readline())["address"].rpartition(":")[2])

    def processes(self) -> list[int]:
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        return [self.process.pid, *(int(pid) for path in tasks for pid in path.read_text().split())]

    def megabytes(self) -> list[float]:
        """Resident memory of the service and its workers."""
        found = []
        for pid in self.processes():
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            found.append(sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1000)
        return found

    def left(self) -> dict[str, int]:
        files = [path for path in self.folder.glob("latens-serve-*/*")]
        return {"descriptors": len(os.listdir(f"/proc/{self.process.pid}/fd")), "files": len(files)}


async def closed_loop(client: Client, clients: int, seconds: float) -> float:
    """Requests a second of clients that each send one request at a time."""
    end = time.perf_counter() + seconds

    async def one() -> None:
        while time.perf_counter() < end:
            await client.send("photograph")

    await asyncio.gather(*(one() for _ in range(clients)))
    return len(client.answers) / seconds


async def open_loop(client: Client, service: Service, rate: float, seconds: float, seed: int) -> list[list[float]]:
    """Arrivals at a rate; returns samples of the memory."""
    draw = random.Random(seed)
    samples, tasks = [], set()
    start = time.perf_counter()
    at, sampled = start, start - SAMPLE
    while (now := time.perf_counter()) < start + seconds:
        if now - sampled >= SAMPLE:
            samples.append(service.megabytes())
            sampled = now
        at += draw.expovariate(rate)
        await asyncio.sleep(max(0.0, at - time.perf_counter()))
        kind = draw.choices([*ODD, "photograph"], [*ODD.values(), 1 - sum(ODD.values())])[0]
        task = asyncio.create_task(client.send(kind))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    return samples


def spread(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    return {f"p{part}": round(float(np.percentile(values, part)), 3) for part in (50, 99)} | {"most": round(max(values), 3)}


async def campaign(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    names = ("models", "workers", "queue", "batch", "deadline")
    service = Service(folder, [word for name in names for word in (f"--{name}", str(getattr(given, name)))])
    try:
        body = photograph(given.side)
        capacity = await closed_loop(Client(service.port, given.path, body), given.clients or given.workers, WARM)
        before = service.left()
        client = Client(service.port, given.path, body)
        samples = await open_loop(client, service, given.factor * capacity, given.seconds, given.seed)
        await asyncio.sleep(1.0)
        after = service.left()
        end = service.megabytes()
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        metrics = (await reader.read()).decode()
        writer.close()
    finally:
        service.process.send_signal(signal.SIGTERM)
        status = service.process.wait(120)
    photographs = [answer for answer in client.answers if answer.kind == "photograph"]
    accepted = [answer for answer in photographs if answer.status == 200]
    refused = [answer for answer in client.answers if answer.status == 503]
    totals = [sum(sample) for sample in [*samples, end]]
    return {
        "capacity, requests a second": round(capacity, 2),
        "arrivals": len(client.answers),
        "arrivals a second": round(len(client.answers) / max(given.seconds, 1), 2),
        "answers": {kind: dict(Counter(each.status for each in client.answers if each.kind == kind)) for kind in client.bodies},
        "accepted, seconds of the client": spread([answer.seconds for answer in accepted]),
        "refused, ms on the clock of the service": spread([each.server_ms for each in refused if each.server_ms is not None]),
        "refused, seconds of the client": spread([answer.seconds for answer in refused]),
        "memory, MB: first, last, least, most": [round(each) for each in (totals[0], totals[-1], min(totals), max(totals))],
        "memory at the end, MB: service, workers": [round(each) for each in end],
        "worker deaths": float(metrics.partition("\nlatens_worker_deaths_total ")[2].partition("\n")[0]),
        "left before": before,
        "left after": after,
        "exit status after SIGTERM": status,
        "load average": os.getloadavg()[1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--factor", type=float, default=2, help="arrivals in units of the capacity")
    parser.add_argument("--models", default="image_codec_joint")
    parser.add_argument("--path", default="/v1/compress?quality=3")
    parser.add_argument("--side", type=int, default=256, help="pixels of the photograph")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--clients", type=int, help="that measure the capacity (default: as many as workers)")
    parser.add_argument("--queue", type=int, default=16)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--deadline", default="30s")
    parser.add_argument("--seed", type=int, default=0)
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(campaign(parser.parse_args(), Path(folder)))
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
