"""The image codec compared with more codecs than `latens evaluate image_codec`: JPEG XL, and AVIF at slower speeds.

    python3 -m venv peer && peer/bin/pip install pillow-jxl-plugin==1.3.8 pillow
    python benchmarks/codec_anchors.py --data kodak/ --jxl-python peer/bin/python -o anchors
    python benchmarks/codec_anchors.py --data photos_lossless/ photos_clean/ --held-out --jxl-python peer/bin/python -o held-out

The report and the rows are those of `latens evaluate image_codec`. The rows of the other codecs are kept in OUT/rows.jsonl and
reused for another --model. The plugin of JPEG XL has a license (GPL) that latens cannot depend on, so it runs in an environment
of its own. With --speeds, AVIF is measured at slower speeds too, at five qualities: speed 0 takes about 33 s per megapixel.
"""

from __future__ import annotations

import argparse
import base64
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, features
from serving import Server

from latens.data.image_output import to_pil
from latens.data.images import IMAGE_ENDINGS, LoadedImage, Pixels
from latens.data.inputs import find_inputs
from latens.data.source import Source
from latens.data.splits import place_of
from latens.errors import InputError
from latens.experiments.codec_rows import OURS
from latens.experiments.rate_distortion import TITLES, RateDistortionResults
from latens.inference.page import Table
from latens.metrics.rate import Curve, compare
from latens.systems.image_codec.baselines import Encoder, avif
from latens.systems.image_codec.config import CropConfig
from latens.systems.image_codec.evaluate import CodecEvaluation, measure_all
from latens.systems.image_codec.predict import load

JXL_QUALITIES = (1, 12, 28, 45, 62, 76, 86, 92)
SLOW_QUALITIES = (4, 22, 40, 54, 68)  # the range of the model in PSNR, at fewer points


def main() -> None:
    arguments = parse_arguments()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    codec = load(arguments.model, device="cpu", threads=arguments.threads)
    options = CodecEvaluation(baselines=tuple(arguments.baselines), ssimulacra2=arguments.ssimulacra2)
    sources = [Source("", str(path)) for path in arguments.images]
    with jpeg_xl(arguments.jxl_python) as found:
        others = [*found, *(each for speed in arguments.speeds for each in slow_avif(speed))]
        results = measure_all(codec, sources, options, arguments.out, others)
    report = results.report("Image codec")
    report.save(arguments.out)
    print(report.table())
    if "AVIF" in results.codecs:
        print("", against_avif(results).text(), sep="\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="images or folders")
    parser.add_argument("--held-out", action="store_true", help="only images whose name training holds out for validation")
    parser.add_argument("--leave-out", nargs="*", default=[], help="names of images to leave out, such as drawings")
    parser.add_argument("--model", default="image_codec_joint")
    parser.add_argument("--baselines", nargs="*", default=CodecEvaluation().baselines, help="codecs of `latens evaluate`")
    parser.add_argument("--jxl-python", help="python of an environment with pillow-jxl-plugin; without it, no JPEG XL")
    parser.add_argument("--speeds", type=int, nargs="*", default=[], help="slower speeds of AVIF, such as 4 0")
    parser.add_argument("--ssimulacra2", action="store_true", help="measure SSIMULACRA2 too, 1.5 s per megapixel and file")
    parser.add_argument("--threads", type=int, default=1, help="of the model; all other codecs use one")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder of the report and the rows")
    arguments = parser.parse_args()
    arguments.images = chosen_files(arguments)
    if not arguments.images:
        parser.error("no image is left")
    if arguments.speeds and not features.check("avif"):
        parser.error("this Pillow was built without AVIF, which --speeds needs")
    return arguments


def chosen_files(arguments: argparse.Namespace) -> list[Path]:
    """The images of --data without --leave-out; with --held-out, those of the validation split of training."""
    files = [file.path for file in find_inputs(arguments.data, IMAGE_ENDINGS)]
    share = CropConfig().validation_share if arguments.held_out else 1.0
    return [path for path in files if place_of(path.name) < share and path.name not in arguments.leave_out]


def slow_avif(speed: int) -> list[Encoder]:
    """The first and the last AVIF baseline of `latens evaluate image_codec` at another speed."""
    return [
        avif(speed=speed, qualities=SLOW_QUALITIES),
        avif("4:4:4", "psnr", speed=speed, qualities=SLOW_QUALITIES),
    ]


def against_avif(results: RateDistortionResults) -> Table:
    """The other codecs relative to AVIF as Pillow writes it: BD-rates and times."""
    rows = []
    for codec in [each for each in results.codecs if each not in (OURS, "AVIF")]:
        deltas = [rate_cell(results.curve("AVIF", measure), results.curve(codec, measure)) for measure in TITLES]
        seconds = results.processor_seconds(codec)
        times = [f"{seconds.encode:.2f}", f"{seconds.decode:.2f}"] if seconds else ["-", "-"]
        rows.append([codec, *deltas, *times])
    return Table(["BD-rate against AVIF", *TITLES.values(), "encode s/Mpx", "decode s/Mpx"], rows)


def rate_cell(anchor: Curve, tested: Curve) -> str:
    """BD-rate in percent; "-" where a measure is missing."""
    if not (anchor.points and tested.points):
        return "-"
    try:
        return f"{compare(anchor, tested).percent:+.1f} %"
    except InputError:
        return "no overlap"


@contextmanager
def jpeg_xl(python: str | None) -> Iterator[list[Encoder]]:
    """JPEG XL in a process of the given Python; nothing without one."""
    if python is None:
        yield []
        return
    server = Server([python, str(Path(__file__).with_name("jxl_worker.py"))], threads=1)

    def encode(image: LoadedImage, quality: int) -> bytes:
        pixels = to_pil(image.pixels, gray=image.gray)
        sent = {"mode": pixels.mode, "size": pixels.size, "pixels": base64.b64encode(pixels.tobytes()).decode()}
        return base64.b64decode(server.ask("encode", quality=quality, **sent)["data"])

    def decode(data: bytes) -> Pixels:
        answer = server.ask("decode", data=base64.b64encode(data).decode())
        return np.asarray(Image.frombytes("RGB", tuple(answer["size"]), base64.b64decode(answer["pixels"])))

    def clock() -> float:
        return float(server.ask("clock")["seconds"])

    try:
        version = server.ask("version")["version"]
        yield [Encoder("JPEG XL", encode, JXL_QUALITIES, (0, 100), version, decode, clock)]
    finally:
        server.close()


if __name__ == "__main__":
    main()
