"""The way of a request: admission, body, a place in the queue, a worker, the answer."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import itertools
import logging
import math
import shutil
import time
from collections.abc import AsyncIterator, Hashable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from latens.errors import LatensError
from latens.local_server import is_foreign, private_folder
from latens.serve.batches import Batches
from latens.serve.body import ClientGone, FileAnswer, check_size, disconnected, save_body
from latens.serve.metrics import Metrics
from latens.serve.pool import Pool, WorkerDied
from latens.serve.problems import BUG, BUSY, FORBIDDEN, TOO_LATE, UNAUTHORIZED, WRONG_MEDIA, Problem
from latens.serve.settings import Endpoint, Settings

logger = logging.getLogger(__name__)
PREFIX = "latens-serve-"  # of private folders
LONGEST_WAIT = 60  # seconds of Retry-After
SMOOTHING = 0.1  # weight of the newest time of work in its mean


class Times(NamedTuple):
    """Seconds on the clock of `time.perf_counter`."""

    came: float  # head of the request
    placed: float | None = None
    done: float | None = None

    def header(self) -> str:
        """Value of the header Server-Timing, in milliseconds."""
        now = time.perf_counter()
        parts = {"total": now - self.came}
        if self.placed is not None:
            parts = {"body": self.placed - self.came, "work": (self.done or now) - self.placed} | parts
        return ", ".join(f"{name};dur={1000 * seconds:.2f}" for name, seconds in parts.items())


class Service:
    """Accepts at most `queue` requests more than it has workers; `open` starts and ends its workers."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.accepted = 0  # requests with a place, waiting or at work
        self.stopping = False
        self._numbers = itertools.count()
        self._mean = 1.0  # seconds of work on a task
        self._pool: Pool | None = None
        self._batches: Batches | None = None
        self._folder = Path()
        workers = settings.workers
        self.metrics = Metrics(
            waiting=lambda: max(0, self.accepted - workers),
            working=lambda: min(self.accepted, workers),
            ready=lambda: self._pool.ready if self._pool else 0,
        )

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Context with ready workers and a private folder. Raises the LatensError of a worker that cannot start."""
        with ExitStack() as stack:
            self._folder = stack.enter_context(private_folder(PREFIX))
            self._pool = pool = Pool(self.settings, self._folder, self.metrics.deaths.inc)
            self._batches = Batches(pool, self.settings.batch)
            await pool.start()
            try:
                yield
            finally:
                self.stopping = True
                await pool.close()

    @property
    def is_ready(self) -> bool:
        return self._pool is not None and self._pool.ready > 0 and not self.stopping

    async def drained(self) -> None:
        """Refuse new requests; return when the accepted ones are answered, at the latest after the deadline."""
        self.stopping = True
        end = time.monotonic() + self.settings.deadline
        while self.accepted and time.monotonic() < end:
            await asyncio.sleep(0.05)

    def check_rights(self, request: Request) -> None:
        """Raise Problem without the token (401), or for a request of another site's page (403)."""
        headers = {name: value.decode("latin-1").lower() for name, value in request.scope["headers"]}
        if self.settings.token is None:
            if is_foreign(headers, self.settings.names):
                what = "the request names another host, or comes from a page of another site"
                raise Problem(FORBIDDEN, "Forbidden", what, "use the address that the service printed")
            return
        given = request.headers.get("authorization", "").partition(" ")
        right = hmac.compare_digest(given[2].strip().encode(), self.settings.token.encode())
        if given[0].lower() != "bearer" or not right:
            hint = "send the header Authorization: Bearer TOKEN"
            what = "the token is missing or wrong"
            raise Problem(UNAUTHORIZED, "Unauthorized", what, hint, {"WWW-Authenticate": "Bearer"})

    async def handle(self, endpoint: Endpoint, request: Request) -> Response:
        """Answer a request of an endpoint; errors become answers."""
        times = Times(time.perf_counter())
        error = ""
        try:
            response = await self._answered(endpoint, request, times)
        except Problem as problem:
            if isinstance(problem, ClientGone):
                self.metrics.cancelled.labels("client left").inc()
            response, error = problem.response(), problem.error
            response.headers["Server-Timing"] = times.header()
        except Exception:
            logger.exception("internal error (please report)")
            bug = Problem(BUG, "InternalError", "internal error (please report)", "the log of the service shows where")
            response, error = bug.response(), bug.error
        status = str(response.status_code)
        self.metrics.requests.labels(endpoint.name, status, error).inc()
        self.metrics.seconds.labels(endpoint.name, status).observe(time.perf_counter() - times.came)
        return response

    async def _answered(self, endpoint: Endpoint, request: Request, times: Times) -> Response:
        self.check_rights(request)
        self._check_place()
        try:
            words = endpoint.words(request.query_params.multi_items())
        except LatensError as error:
            raise Problem.of(type(error).__name__, str(error)) from error
        check_head(request, self.settings.body_bytes)
        folder = self._folder / str(next(self._numbers))
        folder.mkdir()
        try:
            size = await save_body(
                request.receive, folder / "body", limit=self.settings.body_bytes, seconds=self.settings.deadline
            )
            self.metrics.bytes_in.labels(endpoint.name).inc(size)
            self._check_place()
            times = times._replace(placed=time.perf_counter())
            same = tuple(words) if endpoint.together and self.settings.batch > 1 else None
            answer = await self._worked({"words": words, "folder": str(folder)}, same, request)
            times = times._replace(done=time.perf_counter())
            self._note(endpoint, times)
            if "error" in answer:
                raise Problem.of(answer["error"], answer["message"])
            with (folder / "result").open("rb") as file:
                media_type = endpoint.media_type(words, file.read(64))
            headers = {"Latens-Result": answer["result"], "Latens-Status": answer["status"], "Server-Timing": times.header()}
            return FileAnswer(folder / "result", media_type, headers, self.settings.deadline)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    async def _worked(self, task: dict[str, Any], same: Hashable | None, request: Request) -> dict[str, Any]:
        """Take a place, and let a worker answer. Raises Problem at the deadline and if the client leaves or the worker dies.

        Tasks that are the `same` may be worked on together.
        """
        assert self._batches is not None
        self.accepted += 1
        work = asyncio.create_task(self._batches.run(task, same))
        gone = asyncio.create_task(disconnected(request.receive))
        try:
            await asyncio.wait({work, gone}, timeout=self.settings.deadline, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            if gone.done():
                raise ClientGone
            self.metrics.cancelled.labels("deadline").inc()
            what = f"there was no result within {self.settings.deadline:g} s; the work is cancelled"
            raise Problem(
                TOO_LATE, "DeadlineExceeded", what, "send a smaller input, or try again when the service is less busy"
            )
        except WorkerDied:
            what = "the process that worked on this request crashed or was killed"
            raise Problem(BUG, "WorkerDied", what, "other requests go on; a smaller input may work") from None
        finally:
            for one in (work, gone):
                one.cancel()
            with contextlib.suppress(asyncio.CancelledError, WorkerDied):
                await work  # a cancelled task has ended its worker before the files are removed
            self.accepted -= 1

    def _check_place(self) -> None:
        """Raise Problem (503) if the service ends or its queue is full."""
        if self.stopping:
            raise Problem(
                BUSY, "Stopping", "the service is ending", "try again soon", {"Retry-After": "5", "Connection": "close"}
            )
        workers = self.settings.workers
        if self.accepted >= workers + self.settings.queue:
            wait = min(LONGEST_WAIT, max(1, math.ceil(self.accepted * self._mean / workers)))
            what = f"all workers are busy and {self.settings.queue} requests wait"
            raise Problem(BUSY, "QueueFull", what, f"try again in {wait} s", {"Retry-After": str(wait)})

    def _note(self, endpoint: Endpoint, times: Times) -> None:
        """Take the time of a task into the estimate of Retry-After and the metrics."""
        seconds = (times.done or 0.0) - (times.placed or 0.0)
        ahead = max(1.0, (self.accepted + 1) / self.settings.workers)
        self._mean += SMOOTHING * (seconds / ahead - self._mean)
        self.metrics.work.labels(endpoint.name).observe(seconds)


def check_head(request: Request, limit: int) -> None:
    """Raise Problem for a body that its head already rules out: forms, compressed bodies, too many bytes."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind.startswith("multipart/"):
        hint = "send the file itself: curl --data-binary @photo.jpg"
        raise Problem(WRONG_MEDIA, "UnsupportedMediaType", "the body is a form, not an image", hint)
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Problem(WRONG_MEDIA, "UnsupportedMediaType", "compressed bodies are not read", "send the file as it is")
    length = request.headers.get("content-length", "")
    check_size(int(length) if length.isdecimal() else 0, limit)
