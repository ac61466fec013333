"""`latens import`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from latens.cli.common import OutputOptions, Reporter


def import_model(
    checkpoint: Annotated[Path, Parameter(help="A CompressAI mbt2018_mean checkpoint: .safetensors, .pth, .pth.tar or .pt.")],
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"], help="Folder of the model.")],
    options: OutputOptions = OutputOptions(),  # noqa: B008
) -> None:
    """Convert a CompressAI checkpoint (mbt2018_mean) to a latens model folder.

    Weights are read without running code from the file. Pass the folder to --model.

        latens import mbt2018-mean-4.pth.tar -o my-codec
        latens compress photo.png --model my-codec
    """
    from latens.data.folders import check_writable
    from latens.systems.image_codec.convert import import_checkpoint

    check_writable(out)
    config = import_checkpoint(checkpoint, out)
    record = {"folder": str(out), "system": "image_codec", "hidden": config.hidden, "latent": config.latent}
    Reporter(options).result(record, f"{out}: image codec of {config.hidden} hidden and {config.latent} latent channels")
