"""The server of the service: sockets, signals, and clients that send no request."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from latens.errors import UsageError
from latens.serve.app import build_app
from latens.serve.service import Service

HEAD_SECONDS = 20.0  # for the head of a first request to arrive
LINGER = 5.0  # seconds that a refused body is still taken from the wire, so that its client can read the answer
BACKLOG = 1024  # connections that the kernel holds for us
SPARE_DESCRIPTORS = 64  # of the service itself and its workers
_REFUSAL = b'{"error": "TooManyConnections", "message": "the service has too many connections", "hint": "try again soon"}'
CROWDED = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 5\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(_REFUSAL), _REFUSAL)
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
        if self._head is None and self._half_head():
            self._await_head()

    def on_response_complete(self) -> None:
        """Close the connection some seconds after the answer to a request whose body has not ended."""
        super().on_response_complete()
        if self.cycle is not None and self.cycle.more_body:
            self.loop.call_later(LINGER, self.transport.close)

    def _await_head(self) -> None:
        self._head = self.loop.call_later(HEAD_SECONDS, self._end_of_wait)

    def _end_of_wait(self) -> None:
        self._head = None
        if self.cycle is None or self._half_head():
            self.transport.close()

    def _half_head(self) -> bool:
        return (self.cycle is None or self.cycle.response_complete) and bool(self.conn.trailing_data[0])


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

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen, then say so."""
        await super().startup(sockets)
        if self.started:
            self._on_start()

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


def run(service: Service, endpoints: Any, sock: socket.socket, on_start: Callable[[], None]) -> None:
    """Serve on a socket until a signal; `on_start` is called when workers are ready. Raises LatensError."""
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

    async def serve() -> None:
        async with service.open():
            await Server(config, service, on_start).serve([sock])

    with suppress(KeyboardInterrupt):
        asyncio.run(serve())
