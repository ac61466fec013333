"""An S3 server on loopback that refuses some requests and cuts some answers after their work is done (needs moto[server]).

python benchmarks/faulty_s3.py --port 5052 --refused 0.02 --cut 0.01
AWS_ENDPOINT_URL=http://127.0.0.1:5052 AWS_ALLOW_HTTP=true latens compress s3://archive/photos -o s3://archive/ltn ...
"""

from __future__ import annotations

import argparse
import random
import socket
from collections.abc import Callable, Iterable
from typing import Any

DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class Faulty:
    """Answers 503 before, or closes the connection after, a share of the requests with a body or for one."""

    def __init__(self, application: Application, refused: float, cut: float, read_only: bool) -> None:
        self.application, self.refused, self.cut, self.read_only = application, refused, cut, read_only
        self.choice = random.Random(0)
        self.counts = {"requests": 0, "refused": 0, "cut": 0}

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        self.counts["requests"] += 1
        if self.choice.random() < self.refused:
            self.counts["refused"] += 1
            start_response("503 Slow Down", [("Content-Length", "0")])
            return [b""]
        if self.read_only and environ["REQUEST_METHOD"] != "GET":
            start_response("403 Forbidden", [("Content-Type", "application/xml"), ("Content-Length", str(len(DENIED)))])
            return [DENIED]
        answer = self.application(environ, start_response)
        if self.choice.random() < self.cut:
            self.counts["cut"] += 1
            print(self.counts, flush=True)
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=5052)
    parser.add_argument("--refused", type=float, default=0.02)
    parser.add_argument("--cut", type=float, default=0.01)
    parser.add_argument("--read-only", action="store_true", help="answer 403 to everything but reading")
    parser.add_argument("--bucket", default="archive")
    given = parser.parse_args()
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import run_simple
    from werkzeug.test import Client

    application = DomainDispatcherApplication(create_backend_app)
    Client(application).put(f"/{given.bucket}", base_url="http://s3.amazonaws.com")
    run_simple("127.0.0.1", given.port, Faulty(application, given.refused, given.cut, given.read_only), threaded=True)


if __name__ == "__main__":
    main()
