"""A service without models (`tests.serve.capitals`): python -m tests.serve.toy SETTINGS"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Sequence

from latens.errors import UsageError
from latens.serve import server
from latens.serve.service import Service
from latens.serve.settings import Endpoint, Option, Query, Settings

TARGET = "tests.serve.capitals:open_worker"
NAMES = ("seconds", "exit", "fail")


def words(query: Query) -> list[str]:
    for name, _ in query:
        if name not in NAMES:
            raise UsageError("no such option", where=name)
    return [f"{name}={value}" for name, value in query]


def media_type(words: Sequence[str], head: bytes) -> str:
    return "text/plain; charset=utf-8"


def main() -> None:
    given = json.loads(sys.argv[1])
    server.HEAD_SECONDS, server.LINGER = 2.0, 1.0
    if descriptors := given.pop("descriptors", None):
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
    help_text = "Write a text in capitals."
    options = (Option(name="seconds", help="Time to wait.", kind="number"),)
    endpoint = Endpoint(name="shout", help=help_text, options=options, words=words, media_type=media_type, together=True)
    sock = server.listening("127.0.0.1", 0)
    names = frozenset({"127.0.0.1"})
    settings = Settings(target=TARGET, names=names, **given)
    if not server.run(Service(settings), [endpoint], sock, lambda: print(sock.getsockname()[1], flush=True)):
        sys.exit("requests were cut off")


if __name__ == "__main__":
    main()
