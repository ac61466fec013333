"""`latens export`"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from latens.catalogue import SYSTEMS, default_model, system_of
from latens.cli.common import Force, OutputOptions, Reporter, human_size
from latens.errors import UsageError
from latens.launch import announce

logger = logging.getLogger(__name__)

DESCRIPTION = "graphs.json"


def export(
    what: Annotated[str, Parameter(help=f"A model or its folder, or a system: {', '.join(SYSTEMS)}.")],
    /,
    *,
    out: Annotated[Path | None, Parameter(name=["--out", "-o"], help="Folder of the graphs (default: WHAT-onnx).")] = None,
    force: Force = False,
    options: OutputOptions = OutputOptions(),  # noqa: B008
) -> None:
    """Write the networks of a model as ONNX graphs, with the preprocessing of pixels inside.

    Every graph is compared with the model under onnxruntime at several sizes. graphs.json describes inputs, outputs and the
    largest difference. Needs the extra: pip install 'latens[export]'.

        latens export seedlings
        latens export cells -o cells-onnx
    """
    from latens.contract import open_system
    from latens.data.files import write_atomic
    from latens.data.folders import check_request, check_writable, noting_request
    from latens.inference.onnx import check_packages
    from latens.inference.onnx import export as write_graph

    check_packages()
    system, place = (what, default_model(what)) if what in SYSTEMS else (system_of(what), what)
    opened = open_system(system)
    if opened.graphs is None:
        known = ", ".join(name for name in SYSTEMS if open_system(name).graphs is not None)
        raise UsageError(f"models of {system} are not exported", where=what, hint=f"systems with graphs: {known}")
    folder = out or Path(f"{Path(what).name}-onnx")
    check_writable(folder)
    loaded = opened.load(place, device="cpu")
    announce(loaded)
    graphs = opened.graphs(loaded)
    results = [*(f"{graph.name}.onnx" for graph in graphs), DESCRIPTION]
    request = {"model": loaded.model_id}
    check_request(folder, "export", request, results=results, force=force)
    reporter = Reporter(options)
    with noting_request(folder, "export", request, results=results):
        found = []
        for graph in graphs:
            logger.info("exporting %s ...", graph.name)
            made = write_graph(graph, folder)
            found.append(made._asdict())
            compared = f"difference {made.difference:.1e} at {', '.join(made.compared)}"
            text = f"{folder / made.file}: {human_size(made.bytes)}, {compared}"
            reporter.result({"path": str(folder / made.file), **made._asdict()}, text)
        described = {"system": system, "model": loaded.name, "weights": loaded.model_id, "graphs": found}
        write_atomic(folder / DESCRIPTION, (json.dumps(described, indent=1) + "\n").encode())
