"""Serving of the page: private temporary folder, loopback, no look-up of another host by the server."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from latens.errors import UsageError
from latens.local_server import is_foreign, names_of, private_folder

PREFIX = "latens-app-"  # of private folders
LARGEST_JSON = 64 * 2**20  # bytes of the body of a request that is no upload
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Guard:
    """ASGI middleware that refuses requests of other sites, and requests whose files are addresses: Gradio would fetch them.

    `names` are the hosts by which the page may be called; None allows all of them.
    """

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], names: frozenset[str] | None) -> None:
        self.app, self.names = app, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 400, 403 or 413."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name: value.decode("latin-1").lower() for name, value in scope["headers"]}
        if is_foreign(headers, self.names):
            await _answer(send, 403, "this page is only used from its own address")
            return
        if scope["method"] != "POST" or headers.get(b"content-type", "").startswith("multipart/"):
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
def served(*, host: str, port: int | None, largest: int) -> Iterator[str]:
    """Serve the page until the block ends; yields its address. `largest` bytes are taken of an uploaded file.

    Raises UsageError if Gradio is missing, the port is taken or the host is not of this machine.
    """
    if find_spec("gradio") is None:
        raise UsageError("the page needs gradio", hint="pip install 'latens[app]'")
    with private_folder(PREFIX) as folder:
        os.environ.update(GRADIO_TEMP_DIR=str(folder / "uploads"), GRADIO_ANALYTICS_ENABLED="False", NO_PROXY="*", no_proxy="*")
        from latens.app.page import Desk, build
        from latens.app.runner import Runner

        runner = Runner()
        page = build(Desk(runner, folder / "runs"))
        try:
            runner.warm()
            try:
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
                    app_kwargs={"middleware": _middleware(host), "docs_url": None, "redoc_url": None},
                )
            except OSError as error:
                hint = "choose another --port or --host"
                what = "the page cannot listen here: the port is taken, or the host is no address of this machine"
                raise UsageError(what, where=_place(host, port), hint=hint) from error
            yield address
        finally:
            runner.close()  # first: a command that runs would write into the folder again
            logging.getLogger("uvicorn.error").disabled = True  # it logs that requests are cut
            if (server := getattr(page, "server", None)) is not None:
                server.force_exit = True  # or it waits for browsers to leave
            page.close(verbose=False)


def _place(host: str, port: int | None) -> str:
    return host if port is None else f"{host}:{port}"


def _middleware(host: str) -> list[Any]:
    from starlette.middleware import Middleware

    return [Middleware(Guard, names_of(host))]
