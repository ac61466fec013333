"""Worker processes: each has one task at a time. A worker that dies, or whose task is cancelled, is replaced; others go on.

Every worker has pipes of its own, so that the end of one concerns no other.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from latens import errors
from latens.errors import LatensError, ModelError
from latens.serve.settings import Settings

logger = logging.getLogger(__name__)
LONGEST_LINE = 16 * 2**20  # bytes of an answer
PAUSES = (0.0, 1.0, 5.0, 30.0)  # seconds before a worker is started again that did not become ready
END = 5.0  # seconds for a worker without a task to end by itself


class WorkerDied(Exception):
    """The worker process of a task ended: a crash, a kill, or too little memory."""


class Worker:
    """A process that answers tasks one by one."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.killed = False

    async def ask(self, task: dict[str, Any]) -> dict[str, Any]:
        """The answer to a task. Raises WorkerDied."""
        assert self.process.stdin is not None
        with contextlib.suppress(ConnectionError):  # it has died, which reading finds
            self.process.stdin.write(json.dumps(task).encode() + b"\n")
            await self.process.stdin.drain()
        return await self.read()

    async def read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        if not line.endswith(b"\n"):
            raise WorkerDied
        found: dict[str, Any] = json.loads(line)
        return found

    def kill(self) -> None:
        self.killed = True
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()


class Pool:
    """A fixed number of workers. `folder` is their working directory; `on_death` is called for each that dies by itself."""

    def __init__(self, settings: Settings, folder: Path, on_death: Callable[[], None] = lambda: None) -> None:
        self._settings, self._folder, self._on_death = settings, folder, on_death
        self._idle: asyncio.Queue[Worker] = asyncio.Queue()
        self._all: set[Worker] = set()
        self._keepers: list[asyncio.Task[None]] = []
        self._closing = False
        self.ready = 0

    async def start(self) -> None:
        """Start all workers and wait until they are ready. Raises the LatensError of a worker that cannot be."""
        first = [asyncio.get_running_loop().create_future() for _ in range(self._settings.workers)]
        self._keepers = [asyncio.create_task(self._keep(future)) for future in first]
        try:
            await asyncio.gather(*first)
        except BaseException:
            await self.close()
            raise

    async def run(self, tasks: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
        """Wait for a worker and give it the tasks that there are then; returns their answers.

        Raises WorkerDied. Cancelling ends the worker, if the tasks have begun.
        """
        worker = await self._idle.get()
        while worker.process.returncode is not None:  # it died without a task
            worker = await self._idle.get()
        try:
            answers: list[dict[str, Any]] = (await worker.ask({"tasks": tasks()}))["answers"]
        except WorkerDied:
            raise
        except BaseException:
            worker.kill()
            await asyncio.shield(worker.process.wait())
            raise
        self._idle.put_nowait(worker)
        return answers

    async def close(self) -> None:
        """End all workers: those with a task at once."""
        self._closing = True
        idle = set()
        while not self._idle.empty():
            idle.add(self._idle.get_nowait())
        for worker in self._all:
            if worker in idle and worker.process.stdin is not None:
                worker.process.stdin.close()
            else:
                worker.kill()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*(worker.process.wait() for worker in self._all)), END)
        for worker in self._all:
            worker.kill()
        for keeper in self._keepers:  # some may pause before the next start
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)

    async def _keep(self, first: asyncio.Future[None]) -> None:
        """Keep one worker alive: start it, wait for its end, start it again."""
        failures = 0
        while not self._closing:
            await asyncio.sleep(PAUSES[min(failures, len(PAUSES) - 1)])
            try:
                worker = await self._ready_worker()
            except LatensError as error:
                if not first.done():
                    first.set_exception(error)
                    return
                failures += 1
                if not self._closing:
                    logger.error("a worker cannot be started: %s", error)
                continue
            failures = 0
            if not first.done():
                first.set_result(None)
            self.ready += 1
            self._idle.put_nowait(worker)
            status = await worker.process.wait()
            self.ready -= 1
            self._all.discard(worker)
            if not self._closing and not worker.killed:
                self._on_death()
                logger.warning("a worker ended (status %d) and is replaced", status)

    async def _ready_worker(self) -> Worker:
        """A new worker that has loaded its models. Raises LatensError."""
        try:
            worker = await self._start()
        except OSError as error:  # of the system: no memory, process or descriptor is left
            what = f"the process of a worker cannot be started: {error.strerror}"
            raise ModelError(what, hint="check the free memory and ulimit -n -u") from error
        self._all.add(worker)
        try:
            await self._made_ready(worker)
        except (LatensError, WorkerDied) as error:
            worker.kill()
            await worker.process.wait()
            self._all.discard(worker)
            raise error if isinstance(error, LatensError) else _not_started() from error
        return worker

    async def _made_ready(self, worker: Worker) -> None:
        said = await worker.ask(dict(self._settings.prepare))
        if "error" in said:
            what, _, hint = said["message"].partition("\n")
            error = ModelError(what, hint=hint or None)
            error.exit_status = getattr(errors, said["error"], ModelError).exit_status
            raise error

    async def _start(self) -> Worker:
        threads = str(self._settings.threads)
        # Workers find the modules that this process finds, wherever it was started.
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "latens.serve.worker", self._settings.target),
            stdin=pipe,
            stdout=pipe,
            env=environment,
            cwd=self._folder,
            limit=LONGEST_LINE,
            start_new_session=True,  # Ctrl-C reaches the service alone, which then ends its workers
        )
        return Worker(process)


def _not_started() -> LatensError:
    return ModelError("a worker ended before it was ready", hint="its messages are above; check the free memory")
