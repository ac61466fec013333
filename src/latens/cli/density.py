"""`latens density`"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from latens.cli.batch import FileBatch, Readable
from latens.cli.common import Force, ImageComputeOptions, Model, Reporter
from latens.cli.density_folder import COLUMNS, ENDING, Row, line_of, most_unusual, row_of, score_folder
from latens.cli.engines import EngineOptions
from latens.cli.pipes import Name, check_name
from latens.cli.watching import WatchOptions
from latens.errors import InputError, OutputExists, UsageError
from latens.launch import announce

if TYPE_CHECKING:
    import numpy as np

    from latens.data.inputs import InputFile
    from latens.inference.batch import Job
    from latens.systems.flow.predict import DensityModel

logger = logging.getLogger(__name__)
BATCH = 32  # images that are scored together
MAX_IN_GRID = 4096  # samples in one image


def density(
    inputs: Annotated[list[str] | None, Parameter(help="Images, folders or patterns; tables for a model of tables.")] = None,
    /,
    *,
    out: Annotated[
        Path | None,
        Parameter(
            name=["--out", "-o"],
            help="Scores: .csv or a folder. Samples: .png, .npy or a folder; for a model of tables .csv or .npy.",
        ),
    ] = None,
    sample: Annotated[int | None, Parameter(validator=Number(gte=1), help="Number of samples to draw from the model.")] = None,
    certify: Annotated[bool, Parameter(show_default=False, help="Print the proven Lipschitz bound of every block.")] = False,
    draws: Annotated[int, Parameter(validator=Number(gte=1), help="Draws of dequantization noise per score.")] = 4,
    seed: Annotated[int, Parameter(validator=Number(gte=0), help="Seed of the samples.")] = 0,
    temperature: Annotated[float, Parameter(validator=Number(gte=0), help="Factor on the latents of the samples.")] = 1.0,
    model: Model = "flow",
    name: Name = None,
    watching: WatchOptions = WatchOptions(),  # noqa: B008
    force: Force = False,
    engine: EngineOptions = EngineOptions(),  # noqa: B008
    options: ImageComputeOptions = ImageComputeOptions(),  # noqa: B008
) -> int:
    """Score images under a density model (bits per dimension, unusualness), or draw samples from it.

    A score is the mean over draws of noise, with its standard error. "Unusual" is the share of held-out images that are less
    unusual, by typicality, complexity and goodness of fit combined; near 1 the image is unlike the training images.
    The bundled model has learned photographs of 32 x 32 pixels (CIFAR-10), so that many large photographs score near 1. To find
    the odd image among your own, train for hours on usual ones (`latens train flow --data usual/ -o mine`), and give
    --model mine/best. A folder as -o gets a JSON file for every image and the table scores.csv; finished images are skipped.

        latens density images/ -o scores.csv
        latens density inbox/ -o scores/ --watch
        latens density --sample 64 -o samples.png
        latens density - --name photo < photo.jpg
        latens density rows.csv --model runs/flow/best -o scores.csv
    """
    from latens.data.files import STANDARD_STREAM
    from latens.data.folders import check_writable
    from latens.data.images import IMAGE_ENDINGS
    from latens.data.inputs import find_inputs
    from latens.data.placing import only_new
    from latens.inference.batch import plan_jobs

    asked = [bool(inputs), sample is not None, certify]
    if sum(asked) != 1:
        hint = "name images to score, or --sample N, or --certify"
        raise UsageError("choose one of three tasks", where="density", hint=hint)
    if out is not None and out.is_file() and not force:
        raise OutputExists("the output exists already", where=str(out), hint="--force overwrites it; -o names another")
    if out is not None and out != STANDARD_STREAM and not out.exists():  # before the scores are computed
        check_writable(out.parent)
    check_name(name, inputs or [])
    watching.check(inputs or [], out)
    if watching.watch and (not inputs or (out is not None and out.suffix.lower() == ".csv")):
        raise UsageError("scores of a watched folder go into a folder", where="--watch", hint="name a folder with -o")
    batch = None
    if inputs and out is not None and (out.is_dir() or not out.suffix) and out != STANDARD_STREAM:

        def find() -> list[Job]:
            return plan_jobs(find_inputs(inputs, IMAGE_ENDINGS, out, skip_results=True, name=name), f"{out}/", ENDING)

        batch = FileBatch(watching.jobs(inputs, out, find), out, options, force=force)
    elif inputs and out is not None and out != STANDARD_STREAM and out.suffix.lower() != ".csv":
        raise UsageError("scores are written as .csv", where=str(out), hint="name a folder, or a file such as scores.csv")
    from latens.systems.flow.config import VectorFlow
    from latens.systems.flow.predict import load

    reporter = Reporter(options, results_to_stderr=out == STANDARD_STREAM)
    flow = load(model, device=options.device, threads=options.threads)
    announce(flow)
    with only_new([out] if out is not None and not force else []):
        if certify:
            return certificates(flow, reporter)
        if sample is not None:
            draw_samples(flow, sample, out, seed, temperature, force, reporter)
            return 0
        if isinstance(flow.config, VectorFlow):
            for each in inputs or []:
                if out is not None and os.path.realpath(each) == os.path.realpath(out):
                    raise UsageError("the scores would overwrite this table", where=each, hint="name another file with -o")
                flow.check_table(each)
            if batch is not None:
                hint = "name a file such as scores.csv"
                raise UsageError("scores of tables are written as .csv", where=str(out), hint=hint)
            return score_tables(flow, inputs or [], out, reporter)
        if batch is not None and out is not None:
            return score_folder(flow, batch, out, draws, options)
        return score_files(flow, find_inputs(inputs or [], IMAGE_ENDINGS, name=name), out, draws, reporter)


def score_files(flow: DensityModel, files: list[InputFile], out: Path | None, draws: int, reporter: Reporter) -> int:
    """Score images, one line each, and return the exit status: 3 if some could not be read."""
    from latens.data.inputs import shown_name
    from latens.inference.batch import SOME_FAILED
    from latens.systems.flow.predict import one_square

    rows: list[Row] = []
    reading = Readable(files, lambda file: one_square(file.path, flow.config), reporter)  # type: ignore[arg-type]
    readable = iter(reading)
    with reporter.progress(len(files), "scoring") as show:
        while group := list(islice(readable, BATCH)):
            found = flow.density_of([square for _, square in group], draws=draws)
            for (file, _), one in zip(group, found, strict=True):
                plain, place = one.to_dict(), shown_name(file.path, file.relative)
                rows.append(row_of(place, plain))
                reporter.result({"input": place, **plain}, line_of(place, one, draws))
            show(len(rows) + reading.failed)
    if not rows:
        raise InputError("none of the images can be used", where=", ".join(str(file.path) for file in files))
    if out is not None:
        write_csv(out, COLUMNS, rows)
    if len(files) > 1:
        logger.info(summary(rows, reading.failed))
    return SOME_FAILED if reading.failed else 0


def summary(rows: list[Row], failed: int) -> str:
    """Number of scored and failed images, and the most unusual ones."""
    counts = f"{len(rows)} scored" + (f", {failed} failed" if failed else "")
    return "; ".join(part for part in (counts, most_unusual(rows)) if part)


def score_tables(flow: DensityModel, inputs: list[str], out: Path | None, reporter: Reporter) -> int:
    """Print the log-densities of the rows of tables, in nats and the units of the table."""
    rows: list[tuple[Any, ...]] = []
    for name in inputs:
        nats = flow.log_prob(name)
        unusual = flow.unusual_rows(nats)
        rows += [(name, row + 1, f"{n:.6f}", f"{u:.4f}") for row, (n, u) in enumerate(zip(nats, unusual, strict=True))]
        mean = float(nats.mean())
        reporter.result(
            {"input": name, "rows": len(nats), "mean_log_prob": mean},
            f"{name}: {len(nats)} rows, mean log-density {mean:.4f} nats, lowest {float(nats.min()):.4f}",
        )
    if out is not None:
        write_csv(out, ("file", "row", "log_prob", "unusual"), rows)
    return 0


def draw_samples(
    flow: DensityModel, count: int, out: Path | None, seed: int, temperature: float, force: bool, reporter: Reporter
) -> None:
    """Write samples as an image grid, an array, a folder of images, or a table."""
    from latens.data.files import STANDARD_STREAM
    from latens.data.image_output import check_ending
    from latens.systems.flow.config import VectorFlow

    table = isinstance(flow.config, VectorFlow)
    place = out or Path("samples.csv" if table else "samples.png")
    if out is None and place.exists():
        raise OutputExists("the output exists already", where=str(place), hint="name another place with -o")
    if table and place.suffix.lower() not in (".csv", ".npy") and place != STANDARD_STREAM:
        what = f"samples of the model {flow.name} are rows of a table"
        raise UsageError(what, where=str(place), hint="name a .csv or .npy file with -o; images need an image model")
    pieces = flow.sampled(count, seed=seed, temperature=temperature)
    if place.suffix == ".npy":
        shape = (count, flow.model.dims) if table else (count, flow.config.size, flow.config.size, 3)  # type: ignore[union-attr]
        write_array(place, shape, "float64" if table else "uint8", pieces)
    elif table:
        write_csv(place, flow.columns, [tuple(row) for piece in pieces for row in piece.tolist()])
    elif place.suffix:
        if count > MAX_IN_GRID:
            hint = "name a folder or an .npy file with -o"
            raise UsageError(f"{count} samples are too many for one image", where=str(place), hint=hint)
        check_ending(place)
        write_grid(place, list(pieces))
    else:
        if place.is_dir() and any(place.glob("*.png")) and not force:
            hint = "--force adds to it and overwrites; -o names another"
            raise OutputExists("the folder already holds images", where=str(place), hint=hint)
        write_folder(place, pieces)
    reporter.result({"output": str(place), "samples": count}, f"{place}: {count} samples")


def write_grid(place: Path, pieces: list[np.ndarray]) -> None:
    """Write one image of all samples."""
    import math

    import numpy as np
    from PIL import Image

    from latens.data.image_output import write_image
    from latens.systems.flow.drawing import image_grid

    images = np.concatenate(pieces)
    columns = math.ceil(math.sqrt(len(images)))
    enlarge = max(1, 512 // (columns * images.shape[1]))
    write_image(place, Image.fromarray(image_grid(list(images), columns=columns, enlarge=enlarge)))


def write_folder(place: Path, pieces: Iterator[np.ndarray]) -> None:
    """Write a numbered PNG for every sample."""
    from latens.data.files import write_atomic
    from latens.data.image_output import png_bytes

    place.mkdir(parents=True, exist_ok=True)
    number = 0
    for piece in pieces:
        for pixels in piece:
            write_atomic(place / f"{number:06d}.png", png_bytes(pixels))
            number += 1


def write_array(place: Path, shape: tuple[int, ...], dtype: str, pieces: Iterator[np.ndarray]) -> None:
    """Write all samples into one .npy file, piece by piece into a temporary file."""
    import numpy as np

    from latens.data.files import write_error

    spare = place.with_name(f".{place.name}.part")
    try:
        array = np.lib.format.open_memmap(spare, mode="w+", dtype=np.dtype(dtype), shape=shape)
        start = 0
        for piece in pieces:
            array[start : start + len(piece)] = piece
            start += len(piece)
        array.flush()
        del array
        spare.replace(place)
    except OSError as error:
        raise write_error(place, error) from error
    finally:
        spare.unlink(missing_ok=True)


def write_csv(place: Path, columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    """Write a table atomically."""
    from latens.data.csv_files import csv_bytes
    from latens.data.files import write_atomic

    write_atomic(place, csv_bytes([columns, *rows]))


def certificates(flow: DensityModel, reporter: Reporter) -> int:
    """Print the proven bound of every block; return exit status 6 if one is not below 1."""
    from latens.errors import ModelError

    found = flow.certify()
    if not found:
        raise UsageError("this model has no residual blocks: couplings are invertible without a bound", where=flow.name)
    for one in found:
        record = {"block": one.block, "lipschitz": one.lipschitz}
        reporter.result(record, f"{one.block}: {one.lipschitz:.4f}{'' if one.lipschitz < 1 else '  not below 1'}")
    return 0 if all(one.lipschitz < 1 for one in found) else ModelError.exit_status
