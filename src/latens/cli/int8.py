"""`latens int8`"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from latens.cli.common import Force, Model, OutputOptions, Reporter, human_size
from latens.errors import OutputExists

logger = logging.getLogger(__name__)


def int8(
    model: Model,
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"], help="Folder of the smaller model.")],
    force: Force = False,
    options: OutputOptions = OutputOptions(),  # noqa: B008
) -> None:
    """Store the large weights of a model in eight bits, which about halves its size.

    The result is another model, with its own hash and slightly different outputs; evaluate it before use. A model that stores
    only its changes of a bundled one becomes a whole model, which is not smaller.

        latens int8 runs/embryo/best -o small
        latens evaluate amodal --model small
    """
    from latens.data.folders import check_writable
    from latens.hub import CONFIG, int8_model, locate

    source = locate(model)
    check_writable(out)
    if (out / CONFIG).exists() and not force:
        raise OutputExists("this folder already holds a model", where=str(out), hint="choose another -o, or add --force")
    int8_model(source, out)
    sizes = [sum(path.stat().st_size for path in folder.glob("*.safetensors")) for folder in (source, out)]
    if sizes[1] >= sizes[0]:
        logger.warning(
            "%s: not smaller than %s, whose weights are in eight bits already or changes of another model", out, source
        )
    record = {"folder": str(out), "bytes": sizes[1], "bytes_before": sizes[0]}
    Reporter(options).result(record, f"{out}: {human_size(sizes[1])}, before {human_size(sizes[0])}")
