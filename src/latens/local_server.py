"""Rules of servers: private folders, addresses of this machine, requests that a page of another site sends."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from latens.data.files import is_alive

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


def is_loopback(host: str) -> bool:
    """True if only this machine reaches the address."""
    return host in LOOPBACK or host.startswith("127.")


def names_of(host: str) -> frozenset[str] | None:
    """Names by which a server on an address may be called; None, which allows all, if other machines reach it."""
    return frozenset({*LOOPBACK, host.lower()}) if is_loopback(host) else None


def host_name(host: str) -> str:
    """The name of "name:port" or "[address]:port"; empty if it is neither."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:  # a bracket that does not end
        return ""


def is_foreign(headers: Mapping[bytes, str], names: frozenset[str] | None) -> bool:
    """True if a request names another host than those of the server, or comes from a page of another site.

    A site that has its name resolved to this machine is found by its name, and one that sends its requests here by their
    origin. `headers` are in lower case.
    """
    host, origin = headers.get(b"host", ""), headers.get(b"origin")
    if names is not None and host_name(host) not in names:
        return True
    return origin is not None and origin.partition("://")[2] != host


@contextmanager
def private_folder(prefix: str) -> Iterator[Path]:
    """A temporary folder that only this user can read. It is removed at the end; those of killed processes, now.

    `prefix` names the program; the number of the process follows.
    """
    for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        found = re.match(rf"{re.escape(prefix)}(\d+)-", left.name)
        if found and not is_alive(int(found[1])):
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
