"""`latens serve`"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from latens.arguments import real, whole
from latens.cli.app import LOOPBACK
from latens.cli.common import ReadComputeOptions, Reporter
from latens.durations import parse_duration
from latens.errors import InputError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastapi import FastAPI

    from latens.serve.settings import Endpoint, Settings

logger = logging.getLogger(__name__)

BODY_BYTES = 100_000_000
ALL = "image_codec,amodal,haze,parts,flow,seedlings"
SHORTEST_TOKEN = 16  # characters


def serve(
    *,
    models: Annotated[str, Parameter(help="Names from `latens models`, systems, or folders of trained models.")] = ALL,
    host: Annotated[str, Parameter(help="Address to listen on; 0.0.0.0 lets other machines send requests.")] = LOOPBACK,
    port: Annotated[int, Parameter(validator=Number(gte=0, lte=65535), help="Port; 0 takes a free one.")] = 8080,
    workers: Annotated[int, Parameter(validator=Number(gte=1), help="Processes, each with all models.")] = 2,
    queue: Annotated[
        int, Parameter(validator=Number(gte=0), help="Requests that may wait for a worker; more are answered with 503.")
    ] = 64,
    batch: Annotated[
        int, Parameter(validator=Number(gte=1), help="Waiting requests of density that one worker scores together.")
    ] = 1,
    deadline: Annotated[str, Parameter(help="Time for a body to arrive, and then for its result.")] = "60s",
    token_file: Annotated[Path | None, Parameter(help="File with the token that requests need.")] = None,
    insecure: Annotated[bool, Parameter(show_default=False, help="Let other machines send requests without a token.")] = False,
    options: ReadComputeOptions = ReadComputeOptions(),  # noqa: B008
) -> None:
    """Answer HTTP requests: an image in, a result out. Ends with Ctrl-C or SIGTERM, after the requests that it has accepted.

    A body is the file, options are query parameters of the same names, and the result is what `latens VERB - -o -` writes.
    The page / has a form, /openapi.json the description, /healthz, /readyz and /metrics the state. Bodies have at most 100 MB
    (--limit file_bytes=NUMBER). Needs the extra: pip install 'latens[serve]'.

        latens serve --models image_codec,haze,cells --port 8080
        latens serve --host 0.0.0.0 --token-file token.txt --workers 8
    """
    from latens.local_server import is_loopback, names_of

    token = None if token_file is None else read_token(token_file)
    if token is None and not insecure and not is_loopback(host):
        hint = "add --token-file FILE, or --insecure if everybody who reaches the address may use it"
        raise UsageError("other machines reach this address, and there is no token", where=f"--host {host}", hint=hint)
    settings, offered = prepared(
        models.split(","), workers=workers, queue=queue, batch=batch, deadline=parse_deadline(deadline), token=token,
        options=options, names=names_of(host),
    )  # fmt: skip
    from latens.serve import server
    from latens.serve.service import Service

    service, sock = Service(settings), server.listening(host, port)
    name = f"[{host}]" if ":" in host else host
    address = f"http://{name}:{sock.getsockname()[1]}"

    def say() -> None:
        text = f"the service is at {address} ({', '.join(each.name for each in offered)}); end it with Ctrl-C"
        Reporter(options).result({"address": address, "verbs": [each.name for each in offered]}, text)

    answered = server.run(service, offered, sock, say)
    logger.info("the service has ended; %s", "all accepted requests are answered" if answered else "requests were cut off")


def prepared(
    models: Sequence[str],
    *,
    workers: int,
    queue: int,
    batch: int,
    deadline: float,
    token: str | None,
    options: ReadComputeOptions,
    names: frozenset[str] | None,
) -> tuple[Settings, list[Endpoint]]:
    """Settings and endpoints of a service. Raises UsageError without its packages, and ModelMissing."""
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UsageError("the service needs FastAPI and others", hint="pip install 'latens[serve]'") from error
    from latens import __version__
    from latens.cli import as_request
    from latens.data.limits import current_limits, parse_limits
    from latens.serve.settings import Settings

    served = as_request.served_models(name.strip() for name in models if name.strip())
    limits = parse_limits([f"file_bytes={BODY_BYTES}", *options.limit])
    threads = options.threads or 1
    words = ["--device", options.device, "--threads", str(threads)]
    if limits != current_limits():
        words += ["--limit", f"pixels={limits.pixels},side={limits.side},file_bytes={limits.file_bytes}"]
    settings = Settings(
        target=as_request.TARGET,
        prepare={
            "models": [[each.place, each.system] for each in served],
            "device": options.device,
            "threads": threads,
        },
        workers=workers,
        queue=queue,
        batch=batch,
        deadline=deadline,
        body_bytes=limits.file_bytes,
        token=token,
        names=names,
        threads=threads,
        version=__version__,
    )
    return settings, as_request.endpoints(served, words)


def service(
    models: Sequence[str] = tuple(ALL.split(",")),
    *,
    workers: int = 2,
    queue: int = 64,
    batch: int = 1,
    deadline: float = 60.0,
    token: str | None = None,
    limit: Sequence[str] = (),
    device: str = "auto",
    threads: int = 1,
) -> FastAPI:
    """The application of `latens serve`, for other servers and for Ray Serve; `deadline` is in seconds.

    Its lifespan starts the workers and ends them. The server has to protect it: without a `token` everybody who reaches the
    server can use it. Raises UsageError without FastAPI and for numbers out of range, InputError for a
    short token, and ModelMissing.
    """
    for name, value, least in (("workers", workers, 1), ("queue", queue, 0), ("batch", batch, 1), ("threads", threads, 1)):
        if whole(value, name) < least:
            raise UsageError(f"the least number of {name} is {least}", where=f"latens.service({name}={value})")
    if not real(deadline, "deadline") > 0:
        raise UsageError("a deadline is longer than 0 s", where=f"latens.service(deadline={deadline})")
    if token is not None:
        check_token(token, "latens.service(token=...)")
    options = ReadComputeOptions(limit=list(limit), device=device, threads=threads)
    settings, offered = prepared(
        models, workers=workers, queue=queue, batch=batch, deadline=deadline, token=token, options=options, names=None
    )
    from latens.serve.app import build_app
    from latens.serve.service import Service

    return build_app(Service(settings), offered)


def read_token(path: Path) -> str:
    """The token in a file. Raises UnreadableInput, or InputError for a short one and other characters than ASCII."""
    from latens.data.files import read_bytes

    token = read_bytes(path, limit=4096).decode("latin-1").strip()
    check_token(token, str(path))
    return token


def check_token(token: str, where: str) -> None:
    """Raise InputError for a token that is short, or has other characters than visible ones of ASCII."""
    if len(token) < SHORTEST_TOKEN or not all("!" <= character <= "~" for character in token):
        hint = "make one: python -c 'import secrets; print(secrets.token_urlsafe())'"
        raise InputError(f"a token is one word of at least {SHORTEST_TOKEN} ASCII characters", where=where, hint=hint)


def parse_deadline(text: str) -> float:
    """Seconds of a deadline. Raises UsageError for none."""
    seconds = parse_duration(text)
    if seconds <= 0:
        raise UsageError("a deadline is longer than 0 s", where=f"--deadline {text}")
    return seconds
