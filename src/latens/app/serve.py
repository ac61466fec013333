"""Serving of the page: private temporary folder, loopback, no look-up of another host by the server."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from latens.errors import UsageError

logger = logging.getLogger(__name__)

LARGEST_JSON = 64 * 2**20  # bytes of the body of a request that is no upload
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class NoForeignFiles:
    """ASGI middleware that refuses requests whose files are addresses: Gradio would fetch them."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 400 or 413."""
        kinds = [value for name, value in scope.get("headers", ()) if name == b"content-type"]
        if scope["type"] != "http" or scope["method"] != "POST" or not any(b"json" in kind for kind in kinds):
            await self.app(scope, receive, send)
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if len(body) > LARGEST_JSON:
                await _answer(send, 413, "the request is too large")
                return
            if not message.get("more_body", False):
                break
        if names_an_address(body):
            await _answer(send, 400, "files are uploaded, not fetched from an address")
            return
        sent = False

        async def again() -> MutableMapping[str, Any]:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, again, send)


def names_an_address(body: bytes) -> bool:
    """True if a JSON body has a file whose path is an address."""
    try:
        found = json.loads(body)
    except ValueError:
        return False
    return any("://" in path for path in _paths(found))


def _paths(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("path"), str):
            yield value["path"]
        for inner in value.values():
            yield from _paths(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _paths(inner)


async def _answer(send: Send, status: int, text: str) -> None:
    data = json.dumps({"detail": text}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": data})


@contextmanager
def private_folder() -> Iterator[Path]:
    """A folder for uploads and results that only this user can read; it is removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="latens-app-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def served(*, host: str, port: int | None, largest: int) -> Iterator[str]:
    """Serve the page until the block ends; yields its address. `largest` bytes are taken of an uploaded file.

    Raises UsageError if Gradio is missing or the port is taken.
    """
    if find_spec("gradio") is None:
        raise UsageError("the page needs gradio", hint="pip install 'latens[app]'")
    with private_folder() as folder:
        os.environ.update(GRADIO_TEMP_DIR=str(folder / "uploads"), GRADIO_ANALYTICS_ENABLED="False")
        from latens.app.page import CSS, Desk, build
        from latens.app.runner import Runner

        runner = Runner()
        page = build(Desk(runner, folder / "runs"))
        try:
            runner.warm()
            _, address, _ = page.queue(max_size=16).launch(
                server_name=host,
                server_port=port,
                share=False,
                quiet=True,
                prevent_thread_lock=True,
                max_file_size=largest,
                allowed_paths=[str(folder / "runs")],
                footer_links=[],
                ssr_mode=False,
                enable_monitoring=False,
                app_kwargs={"middleware": _middleware(), "docs_url": None, "redoc_url": None},
                css=CSS,
            )
            yield address
        except OSError as error:
            hint = "choose another --port"
            raise UsageError(f"the page cannot be served ({error})", where=f"{host}:{port}", hint=hint) from error
        finally:
            page.close(verbose=False)
            runner.close()


def _middleware() -> list[Any]:
    from starlette.middleware import Middleware

    return [Middleware(NoForeignFiles)]
