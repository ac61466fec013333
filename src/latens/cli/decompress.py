"""`latens decompress`"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from latens.catalogue import default_model
from latens.cli.batch import FileBatch, save_image
from latens.cli.common import PARTIAL, Force, Output, ReadComputeOptions, To
from latens.cli.engines import EngineOptions
from latens.cli.pipes import Name, check_name
from latens.cli.watching import WatchOptions
from latens.errors import Corrupt, StreamError, Truncated
from latens.launch import announce
from latens.progress import OnProgress

if TYPE_CHECKING:
    from collections.abc import Callable

    from latens.inference.batch import Job
    from latens.systems.image_codec.predict import ImageCodec

ENDINGS = frozenset({".ltn"})


def decompress(
    inputs: Annotated[list[str], Parameter(help="Files, folders, patterns such as 'small/*.ltn', or -.")],
    /,
    *,
    out: Output = None,
    to: To = None,
    partial: Annotated[
        bool,
        Parameter(show_default=False, help="Decode the intact parts of a damaged file; the rest is gray."),
    ] = False,
    model: Annotated[str | None, Parameter(help="Folder of the model that wrote the file, if it is not a bundled one.")] = None,
    name: Name = None,
    watching: WatchOptions = WatchOptions(),  # noqa: B008
    force: Force = False,
    engine: EngineOptions = EngineOptions(),  # noqa: B008
    options: ReadComputeOptions = ReadComputeOptions(),  # noqa: B008
) -> int:
    """Decompress .ltn files into images: .png unless --to or the ending of OUT selects another format.

    Each file names the model that wrote it. Bundled models are found; --model is the folder of another one.

        latens decompress photo.ltn -o photo.png
        latens decompress small/ -o album/ --to webp
    """
    from latens.data.inputs import find_inputs
    from latens.inference.batch import plan_jobs
    from latens.inference.finished import MODEL, Request

    check_name(name, inputs)

    def find() -> list[Job]:
        return plan_jobs(find_inputs(inputs, ENDINGS, name=name), out, f".{to or 'png'}")

    batch = FileBatch(watching.jobs(inputs, out, find), out, options, force=force)
    batch.check_image_ending(to)

    from latens.inference.device import choose_device
    from latens.systems.image_codec.predict import bundled_model_of, load

    choose_device(options.device, options.threads)  # a wrong one is an error of the call, not of a file
    codec = load(model, device=options.device, threads=options.threads) if model else None
    damaged: list[str] = []
    announced: set[str] = set()

    def codec_of(blob: bytes) -> ImageCodec:
        """The codec of the model that a file names; its first file announces it."""
        nonlocal codec
        if codec is None:
            codec = load(bundled_model_of(blob) or default_model("image_codec"), device=options.device, threads=options.threads)
        found = codec.codec_of(blob)
        if found.model_id not in announced:
            announced.add(found.model_id)
            announce(found)
        return found

    def work(job: Job, on_progress: OnProgress) -> dict[str, Any]:
        record = decompress_one(codec_of, job, partial=partial, to=to)
        if record["damaged"]:
            damaged.append(str(job.input))
        return record

    request = Request("decompressing", {"partial": partial}, ignored=MODEL)
    return batch.run(work, request, with_sizes=True).exit_status or (PARTIAL if damaged else 0)


def decompress_one(
    codec_of: Callable[[bytes], ImageCodec], job: Job, *, partial: bool, to: str | None = None
) -> dict[str, Any]:
    """Decompress one file; return the record of the result. `codec_of` chooses its codec, `to` is the format of a pipe."""
    from latens.codes.stream import StreamLimits
    from latens.data.files import read_bytes

    started = time.perf_counter()
    blob = read_bytes(job.input, limit=StreamLimits().file_bytes)
    codec = codec_of(blob)
    try:
        image = codec.decompress(blob, partial=partial)
    except (Corrupt, Truncated) as error:
        error.hint = error.hint or next_step(blob, partial=partial)
        raise
    damaged = image.info.pop("latens_damaged", [])
    notes = save_image(job, image, to)
    seconds = time.perf_counter() - started
    lost = f"; damaged, lost: {', '.join(map(str, damaged))}" if damaged else ""
    return {
        "width": image.width,
        "height": image.height,
        "mode": image.mode,
        "model": codec.name,
        "seconds": round(seconds, 3),
        "damaged": list(damaged),
        "notes": notes,
        "text": f"{job.output}: {image.width} x {image.height}, {seconds:.2f} s{lost}{''.join(f'; {note}' for note in notes)}",
    }


def next_step(blob: bytes, *, partial: bool) -> str:
    """Hint for a damaged file: recover the intact parts if the header can be read."""
    from latens.systems.image_codec.format import read_coded_image

    try:
        found = read_coded_image(blob, partial=True)
    except StreamError:
        return "copy or download the file again; its header is damaged, so --partial cannot help"
    if partial:
        return "copy or download the file again"
    intact = sum(band is not None for band in found.bands)
    return f"copy it again, or add --partial: {intact} of {len(found.bands)} bands of rows are intact, the rest becomes gray"
