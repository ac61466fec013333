"""Engines: processes of this machine, or of a Ray cluster. Both run `latens.jobs.worker.answer` on tasks."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import selectors
import subprocess
import sys
from typing import Any, Literal, Protocol

from latens.errors import UsageError
from latens.jobs.job import Task
from latens.jobs.shard import sweep

logger = logging.getLogger(__name__)

Name = Literal["local", "ray"]
Answer = dict[str, Any] | list[Any]
OBJECT_STORE = 80 * 2**20  # bytes: tasks are small, images go through files
END = 10.0  # seconds for a worker to end by itself


class Engine(Protocol):
    """Workers, each of which has at most one task."""

    @property
    def free(self) -> int:
        """Number of workers without a task."""

    def submit(self, task: Task) -> None:
        """Give a task to a free worker."""

    def wait(self) -> tuple[Task, Answer | None]:
        """The next task that ends; None in place of an answer if its worker died, which is then replaced."""

    def close(self) -> None:
        """End all workers."""


class LocalEngine:
    """Worker processes of this machine. They end when this process dies."""

    def __init__(self, workers: int) -> None:
        self._threads = max(1, cores() // workers)
        self._idle = [self._start() for _ in range(workers)]
        self._busy: dict[str, subprocess.Popen[str]] = {}
        self._selector = selectors.DefaultSelector()

    def _start(self) -> subprocess.Popen[str]:
        words = [sys.executable, "-m", "latens.jobs.worker"]
        threads = os.environ.get("OMP_NUM_THREADS", str(self._threads))
        # Workers find the modules that this process finds, wherever it was started.
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "PYTHONPATH": os.pathsep.join(sys.path)}
        pipe = subprocess.PIPE
        # A session of its own: Ctrl-C reaches the driver alone, which then ends the workers.
        return subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True, env=environment, start_new_session=True)

    @property
    def free(self) -> int:
        return len(self._idle)

    def submit(self, task: Task) -> None:
        process = self._idle.pop()
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(OSError):  # it has died, which `wait` finds
            process.stdin.write(task.dump() + "\n")
            process.stdin.flush()
        self._busy[task.journal] = process
        self._selector.register(process.stdout, selectors.EVENT_READ, task)

    def wait(self) -> tuple[Task, Answer | None]:
        key, _ = self._selector.select()[0]
        task: Task = key.data
        self._selector.unregister(key.fileobj)
        process = self._busy.pop(task.journal)
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.endswith("\n"):
            _end(process)
            self._idle.append(self._start())
            return task, None
        self._idle.append(process)
        return task, json.loads(line)

    def close(self) -> None:
        for process in self._busy.values():
            process.kill()
        for process in [*self._idle, *self._busy.values()]:
            _end(process)
        self._selector.close()
        sweep()


def _end(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(OSError):
        process.stdin.close()
    try:
        process.wait(END)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()


def cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class RayWorker:
    """The actor of a worker."""

    def answer(self, text: str) -> str:
        from latens.jobs.worker import answer

        return answer(text)


class RayEngine:
    """Actors on the Ray cluster of RAY_ADDRESS, or on a cluster of this machine that is started and ended with the job.

    All machines need latens, and see the folders of inputs and outputs under the same paths, or use addresses.
    """

    def __init__(self, workers: int, gpus: float = 0) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError as error:
            raise UsageError("the engine ray needs Ray", hint="pip install 'latens[cluster]'") from error
        self._ray: Any = ray
        if os.environ.get("RAY_ADDRESS"):
            ray.init(log_to_driver=False, logging_level=logging.ERROR)
        else:
            logger.warning("Ray listens on all network interfaces of this machine; ~/.ray/auth_token is its password")
            ray.init(
                num_cpus=max(workers, cores()),
                include_dashboard=False,
                object_store_memory=OBJECT_STORE,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        self._actor = ray.remote(num_cpus=1, num_gpus=gpus)(RayWorker)
        self._idle = [self._actor.remote() for _ in range(workers)]
        self._busy: dict[Any, tuple[Task, Any]] = {}

    @property
    def free(self) -> int:
        return len(self._idle)

    def submit(self, task: Task) -> None:
        actor = self._idle.pop()
        self._busy[actor.answer.remote(task.dump())] = (task, actor)

    def wait(self) -> tuple[Task, Answer | None]:
        ready, _ = self._ray.wait(list(self._busy), num_returns=1)
        task, actor = self._busy.pop(ready[0])
        try:
            answer: Answer = json.loads(self._ray.get(ready[0]))
        except self._ray.exceptions.RayError:
            self._idle.append(self._actor.remote())
            return task, None
        self._idle.append(actor)
        return task, answer

    def close(self) -> None:
        self._ray.shutdown()


def start(name: Name, workers: int | None, gpus: float, *, most: int) -> Engine:
    """An engine with a number of workers (default: one for every core), but not more than `most`. Raises UsageError."""
    count = min(workers or cores(), most)
    if name == "ray":
        return RayEngine(count, gpus)
    if gpus:
        raise UsageError("the engine local shares no GPUs", where="--gpu-per-worker", hint="use --engine ray")
    return LocalEngine(count)
