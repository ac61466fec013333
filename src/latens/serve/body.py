"""Bodies of requests and of answers: files on the disk, so that their size takes no memory."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping
from pathlib import Path

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from latens.data.files import write_error
from latens.serve.problems import GONE, SLOW_BODY, Problem

PIECE = 1 << 16  # bytes


class ClientGone(Problem):
    """The client closed its connection; the answer is not sent."""

    def __init__(self) -> None:
        super().__init__(GONE, "ClientGone", "the client left")


async def save_body(receive: Receive, path: Path, *, limit: int, seconds: float) -> int:
    """Write the body of a request to a file; returns its bytes. Raises Problem (408, 413, 507) or ClientGone."""
    size = 0
    try:
        async with asyncio.timeout(seconds):
            with path.open("wb") as file:
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGone
                    size += file.write(message.get("body", b""))
                    more = message.get("more_body", False)
                    check_size(size, limit)
    except TimeoutError:
        what = f"the body did not arrive within {seconds:g} s; {size:,} bytes of it did"
        raise Problem(SLOW_BODY, "BodyTimeout", what, "send it again; check the connection") from None
    except OSError as error:
        raise Problem.of("StorageFull", str(write_error(path, error))) from error
    return size


def check_size(size: int, limit: int) -> None:
    """Raise Problem (413) for a body above the limit."""
    if size > limit:
        raise Problem.of("LimitExceeded", f"the body is larger than the limit of {limit:,} bytes")


async def disconnected(receive: Receive) -> None:
    """Return when the client closes its connection. For requests whose body is in."""
    while (await receive())["type"] != "http.disconnect":
        pass


class FileAnswer(Response):
    """A file as an answer; its folder is removed at the end.

    A client that takes no piece of it for some seconds loses its connection.
    """

    def __init__(self, path: Path, media_type: str, headers: Mapping[str, str], seconds: float) -> None:
        self.size = path.stat().st_size
        super().__init__(None, 200, {**headers, "content-length": str(self.size)}, media_type)
        self.path, self.seconds = path, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file piece by piece."""
        left = self.size
        try:
            async with asyncio.timeout(self.seconds) as limit:
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                with self.path.open("rb") as file:
                    while True:
                        piece = file.read(PIECE)
                        left -= len(piece)
                        await send({"type": "http.response.body", "body": piece, "more_body": left > 0})
                        if left <= 0:
                            break
                        limit.reschedule(asyncio.get_running_loop().time() + self.seconds)
        except TimeoutError:
            return  # an incomplete answer makes the server close the connection
        finally:
            shutil.rmtree(self.path.parent, ignore_errors=True)
