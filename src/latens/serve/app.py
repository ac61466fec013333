"""The application: addresses, their description (OpenAPI), and a page with a form."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, Response

from latens.serve import metrics
from latens.serve.problems import BAD_METHOD, BUSY, NOT_FOUND, Problem
from latens.serve.service import Service
from latens.serve.settings import Endpoint, Option

PAGES = {"/": ("page.html", "text/html"), "/page.js": ("page.js", "text/javascript"), "/page.css": ("page.css", "text/css")}
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
}
ANSWERS = {
    200: "The result. Latens-Result has its record as JSON, Latens-Status is done, or partial for a target that was missed or "
    "parts that are lost.",
    400: "An option is unknown or wrong.",
    401: "The token is missing or wrong.",
    403: "The request names another host, or comes from a page of another site.",
    408: "The body did not arrive in time.",
    413: "The body, or the image in it, is larger than the limits.",
    415: "The body is a form, or compressed.",
    422: "The body is not what the verb reads, or damaged.",
    500: "The worker crashed, or an internal error.",
    503: "The queue is full, or the service is ending; Retry-After says when to try again.",
    504: "The work took longer than the deadline.",
    507: "The disk of the service is full.",
}
PROBLEM = {
    "type": "object",
    "required": ["error", "message"],
    "properties": {
        "error": {"type": "string", "description": "class of the error, as in the Python library"},
        "message": {"type": "string"},
        "hint": {"type": "string", "description": "what to do next"},
    },
}
BINARY = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


def build_app(service: Service, endpoints: Sequence[Endpoint]) -> FastAPI:
    """The application of a service. Its lifespan starts and ends the workers, for servers that run lifespans."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with service.open():
            yield

    app = FastAPI(title="latens", version=service.settings.version, docs_url=None, redoc_url=None, lifespan=lifespan)
    for endpoint in endpoints:
        app.add_api_route(
            f"/v1/{endpoint.name}",
            _handler(service, endpoint),
            methods=["POST"],
            summary=endpoint.help,
            response_class=Response,
            openapi_extra=described(endpoint),
        )
    _add_state(app, service)
    for path, (name, media_type) in PAGES.items():
        app.add_api_route(path, _page(name, media_type), include_in_schema=False)
    _add_head(app)
    _add_errors(app, [f"/v1/{endpoint.name}" for endpoint in endpoints])
    return app


def _handler(service: Service, endpoint: Endpoint) -> Callable[[Request], Awaitable[Response]]:
    async def handle(request: Request) -> Response:
        return await service.handle(endpoint, request)

    handle.__name__ = endpoint.name
    return handle


def _add_state(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", summary="The process answers.", response_class=Response)
    async def healthz() -> Response:
        return Response(json.dumps({"status": "ok", "version": service.settings.version}), media_type="application/json")

    @app.get("/readyz", summary="Workers are ready, and the service is not ending.", response_class=Response)
    async def readyz() -> Response:
        if not service.is_ready:
            return Problem(BUSY, "NotReady", "no worker is ready", "try again soon", {"Retry-After": "5"}).response()
        return Response(json.dumps({"status": "ready"}), media_type="application/json")

    @app.get("/metrics", summary="Numbers for Prometheus.", response_class=Response)
    async def numbers(request: Request) -> Response:
        try:
            service.check_rights(request)
        except Problem as problem:
            return problem.response()
        return Response(service.metrics.text(), headers={"Content-Type": metrics.MEDIA_TYPE})


def _add_head(app: FastAPI) -> None:
    """Answer HEAD as GET; the server leaves the body out."""
    for route in list(app.routes):
        if isinstance(route, APIRoute) and "GET" in (route.methods or ()):  # other routes of the framework have HEAD already
            app.add_api_route(route.path, route.endpoint, methods=["HEAD"], include_in_schema=False)


def _page(name: str, media_type: str) -> Callable[[], Awaitable[Response]]:
    async def page() -> Response:
        return FileResponse(Path(__file__).parent / name, media_type=media_type, headers=PAGE_HEADERS)

    return page


def _add_errors(app: FastAPI, known: Sequence[str]) -> None:
    @app.exception_handler(HTTPException)
    async def error_of_framework(request: Request, error: HTTPException) -> Response:
        path = request.url.path
        if error.status_code == NOT_FOUND:
            hint = f"known: {', '.join(known)} (those of latens serve --models)"
            problem = Problem(NOT_FOUND, "NotFound", f"there is no {path}", hint)
        elif error.status_code == BAD_METHOD:
            hint = "send POST with a body" if path in known else "send GET"
            problem = Problem(BAD_METHOD, "MethodNotAllowed", f"{path} does not take {request.method}", hint)
        else:
            problem = Problem(error.status_code, "HTTPError", str(error.detail))
        problem.headers |= dict(error.headers or {})
        if error.status_code == BAD_METHOD:  # the framework names the methods of the first route only
            problem.headers["Allow"] = "POST" if path in known else "GET, HEAD"
        return problem.response()


# ---------------------------------------------------------------------------------------------------------- OpenAPI


def described(endpoint: Endpoint) -> dict[str, Any]:
    """The description of an endpoint in OpenAPI."""
    problem = {"application/json": {"schema": PROBLEM}}
    return {
        "parameters": [_described(option) for option in endpoint.options],
        "requestBody": {"required": True, "content": BINARY},
        "responses": {
            str(status): {"description": text, "content": BINARY if status == 200 else problem}
            for status, text in ANSWERS.items()
        },
    }


def _described(option: Option) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": option.kind}
    if option.choices:
        schema["enum"] = list(option.choices)
    return {"name": option.name, "in": "query", "required": False, "description": option.help, "schema": schema}
