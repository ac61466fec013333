"""`latens app`"""

from __future__ import annotations

import logging
import time
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from latens.cli.common import OutputOptions, Reporter, parse_size
from latens.cli.stopping import until_stopped

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"


def app(
    *,
    host: Annotated[str, Parameter(help="Address to listen on; 0.0.0.0 lets other machines use the page.")] = LOOPBACK,
    port: Annotated[
        int | None, Parameter(validator=Number(gte=1, lte=65535), help="Port (default: the first free one from 7860).")
    ] = None,
    largest: Annotated[str, Parameter(help="Largest size of an uploaded file.")] = "500MB",
    options: OutputOptions = OutputOptions(),  # noqa: B008
) -> None:
    """Open a local page for all systems: drop files, change knobs, compare, download. Ends with Ctrl-C.

    Every result is made by the command of the same name. Uploads and results are in a private folder that is removed at the
    end. Needs the extra: pip install 'latens[app]'.

        latens app
        latens app --port 8080
    """
    from latens.app.serve import served
    from latens.local_server import is_loopback

    if not is_loopback(host):
        logger.warning("the page has no password: everybody who reaches %s can use it", host)
    with served(host=host, port=port, largest=parse_size(largest, "--largest")) as address, until_stopped():
        Reporter(options).result({"address": address}, f"the page is at {address} (end it with Ctrl-C)")
        while True:
            time.sleep(3600)
