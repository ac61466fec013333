"""The server of the service: sockets, signals, and clients that send no request."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
from collections.abc import Callable, Sequence
from types import FrameType

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from latens.errors import UsageError
from latens.serve.app import build_app
from latens.serve.problems import BAD_REQUEST, BUSY, Problem
from latens.serve.service import Service
from latens.serve.settings import Endpoint

HEAD_SECONDS = 20.0  # for the head of a first request to arrive
LINGER = 5.0  # seconds that a refused body is still taken from the wire, so that its client can read the answer
BACKLOG = 1024  # connections that the kernel holds for us
SPARE_DESCRIPTORS = 64  # of the service itself and its workers


def _last_answer(status: str, header: str, problem: Problem) -> bytes:
    """Bytes of an answer after which the connection is closed."""
    body = bytes(problem.response().body)
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{header}connection: close\r\ncontent-length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


CROWDED = _last_answer(
    "503 Service Unavailable",
    "retry-after: 5\r\n",
    Problem(BUSY, "TooManyConnections", "the service has too many connections", "try again soon"),
)
NO_REQUEST = _last_answer(
    "400 Bad Request", "", Problem(BAD_REQUEST, "BadRequest", "these bytes are not a request of HTTP/1.1", "use an HTTP client")
)


class Protocol(H11Protocol):
    """HTTP/1.1 with limits: connections, time for a head to arrive, time for a body that goes on after its answer."""

    _head: asyncio.TimerHandle | None = None
    _refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuse the connection if there are too many."""
        super().connection_made(transport)
        if len(self.connections) > most_connections():
            self._refused = True
            transport.write(CROWDED)
            transport.write_eof()
            self.loop.call_later(LINGER, transport.close)  # at once, the answer would be lost with the bytes that still come
        else:
            self._await_head()

    def data_received(self, data: bytes) -> None:
        """Take bytes; those that begin another request have to become its head in time."""
        if self._refused:
            return
        super().data_received(data)
        if not self._lacks_head():
            self._end_of_wait()
        elif self._head is None:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._end_of_wait()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Close the connection some seconds after the answer to a request if its body has not ended until then."""
        answered = self.cycle
        super().on_response_complete()  # may begin the next request
        if self.cycle is answered and self.conn.their_state is h11.SEND_BODY:
            self.loop.call_later(LINGER, self._end_of_body, answered)

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are no request, unless they follow an answer; then close the connection."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.write(NO_REQUEST)
        self.transport.close()

    def _await_head(self) -> None:
        self._head = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _end_of_wait(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _lacks_head(self) -> bool:
        return self.cycle is None or (self.cycle.response_complete and bool(self.conn.trailing_data[0]))

    def _end_of_body(self, answered: RequestResponseCycle) -> None:
        if self.cycle is answered and self.conn.their_state is h11.SEND_BODY:
            self.transport.close()


def most_connections() -> int:
    """Connections at a time: each may need a descriptor for its body, too."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, (min(soft, 1 << 16) - SPARE_DESCRIPTORS) // 2)


class Server(uvicorn.Server):
    """Ends on SIGTERM and Ctrl-C: refuses new requests and answers the accepted ones. A second signal stops at once."""

    def __init__(self, config: uvicorn.Config, service: Service, on_start: Callable[[], None]) -> None:
        super().__init__(config)
        self._service, self._on_start = service, on_start
        self._drain: asyncio.Task[None] | None = None
        self.cut_off = False  # a second signal left requests without an answer

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen, then say so."""
        await super().startup(sockets)
        if self.started:
            self._on_start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the connections. From Python 3.12 on, a closed server would wait for those that a second signal cuts off."""
        if self.force_exit:
            self.cut_off = bool(self.server_state.tasks)
            for connection in list(self.server_state.connections):
                connection.transport.abort()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called by a signal."""
        if self._service.stopping:
            self.should_exit = self.force_exit = True
            return
        self._service.stopping = True
        asyncio.get_running_loop().call_soon_threadsafe(self._begin_drain)

    def _begin_drain(self) -> None:
        async def drain() -> None:
            await self._service.drained()
            self.should_exit = True

        self._drain = asyncio.create_task(drain())


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens on an address. Raises UsageError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
        found.listen(BACKLOG)
    except OSError as error:
        found.close()
        what = f"the service cannot listen here: {error.strerror or error}"
        raise UsageError(what, where=f"{host}:{port}", hint="choose another --port or --host") from error
    return found


def run(service: Service, endpoints: Sequence[Endpoint], sock: socket.socket, on_start: Callable[[], None]) -> bool:
    """Serve on a socket until a signal; `on_start` is called when workers are ready. Raises LatensError.

    Returns False if a second signal ended it while requests were without an answer.
    """
    app = build_app(service, endpoints)
    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level=logging.CRITICAL,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(max(1, service.settings.deadline)),
    )

    async def serve() -> bool:
        async with service.open():
            server = Server(config, service, on_start)
            await server.serve([sock])
            return not server.cut_off

    try:
        return asyncio.run(serve())
    except KeyboardInterrupt:  # before it listens
        return True
