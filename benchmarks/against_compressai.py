"""Speed and memory of the image codec compared with CompressAI's mbt2018_mean: same weights, same image, alternating runs.

    python3 -m venv peer && peer/bin/pip install compressai==1.2.8 "numpy<2" "torch>=2.14" torchvision safetensors
    python benchmarks/against_compressai.py --compressai-python peer/bin/python --threads 2 --repeats 15

Each side is one persistent process (`compressai_worker.py`, `latens_worker.py`). Weights are random but scaled so that rate and
latents resemble those of a trained model; ours are converted from theirs. A pair is one call of each side, in alternating
order; `faster` is the median over pairs of their time divided by ours. Both sides start and end with uint8 pixels. Our bytes
are a complete file with header and checksums, theirs only the strings.

Start-up time: a new `latens compress` of a small image, from the start of the process to the first byte of the result.
Speeds are not meaningful on a busy machine, so the load average is printed too.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from serving import Answer, Server

HERE = Path(__file__).parent


def main() -> None:
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(arguments.folder or name)
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "image.npy", read_pixels(arguments))
        report = compare(folder, arguments)
        if arguments.start_repeats:
            report["start"] = start_up(folder, arguments.start_model, arguments.start_repeats)
    report["load_average"] = [round(value, 2) for value in os.getloadavg()]
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    print(table(report))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compressai-python", required=True, help="python of an environment with CompressAI")
    parser.add_argument("--image", type=Path, help="a photograph; by default a pattern of --width x --height")
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--height", type=int, default=512)
    parser.add_argument("--hidden", type=int, default=128, help="N")
    parser.add_argument("--latent", type=int, default=192, help="M")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--start-repeats", type=int, default=5, help="runs of the command; 0 skips them")
    parser.add_argument("--start-model", default="image_codec", help="model of those runs: a name or a folder")
    parser.add_argument("--folder", type=Path, help="folder that keeps weights and images")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    return parser.parse_args()


def read_pixels(arguments: argparse.Namespace) -> np.ndarray:
    """uint8 (H, W, 3)."""
    if arguments.image:
        from PIL import Image

        return np.asarray(Image.open(arguments.image).convert("RGB"))
    row, column = np.arange(arguments.height)[:, None, None], np.arange(arguments.width)[None, :, None]
    slopes = 3 * row + 5 * column + 40 * np.arange(3) + row * column // 64
    pixels: np.ndarray = (np.abs(slopes % 512 - 256) * 255 // 256).astype(np.uint8)
    return pixels


def compare(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    threads = str(arguments.threads)
    peer = [arguments.compressai_python, "-W", "ignore", str(HERE / "compressai_worker.py"), threads]
    maker = Server(peer, arguments.threads)
    maker.ask("make", folder=str(folder), hidden=arguments.hidden, latent=arguments.latent)
    maker.close()
    sides = {
        "compressai": Server(peer, arguments.threads),
        "latens": Server([sys.executable, str(HERE / "latens_worker.py"), threads], arguments.threads),
    }
    loaded = {name: side.ask("load", folder=str(folder)) for name, side in sides.items()}
    codec = alternate(sides, "codec", arguments.repeats)
    coder = alternate(sides, "coder", arguments.repeats)
    images = {name: str(folder / f"{name}.npy") for name in sides}
    for name, side in sides.items():
        side.ask("codec", result=images[name])
        side.close()
    pixels = np.load(folder / "image.npy")
    count = pixels.shape[0] * pixels.shape[1]
    return {
        "image": list(pixels.shape),
        "sizes": [arguments.hidden, arguments.latent],
        "versions": {name: answer["versions"] for name, answer in loaded.items()},
        "codec": {part: summary(codec, part) for part in ("compress", "decompress", "both")},
        "coder": {part: summary(coder, part) for part in ("encode", "decode")},
        "bpp": {name: 8 * answers[-1]["bytes"] / count for name, answers in codec.items()},
        "coder_bytes": {name: answers[-1]["bytes"] for name, answers in coder.items()},
        "escapes": coder["latens"][-1]["escapes"],
        "memory_loaded": {name: answer["memory"]["now"] for name, answer in loaded.items()},
        "memory_peak": {name: answers[-1]["memory"]["peak"] for name, answers in codec.items()},
        "psnr_between": psnr(*(np.load(path) for path in images.values())),
    }


def alternate(sides: dict[str, Server], do: str, repeats: int) -> dict[str, list[Answer]]:
    for side in sides.values():
        side.ask(do)  # warm-up
    answers: dict[str, list[Answer]] = {name: [] for name in sides}
    for turn in range(repeats):
        for name in sorted(sides, reverse=turn % 2 == 1):
            answers[name].append(sides[name].ask(do))
    if do == "codec":
        for one in (one for several in answers.values() for one in several):
            one["both"] = {key: one["compress"][key] + one["decompress"][key] for key in ("wall", "cpu")}
    return answers


def summary(answers: dict[str, list[Answer]], part: str) -> dict[str, Any]:
    """Median seconds of both sides, and median, smallest and largest ratio of their time to ours over pairs."""
    out: dict[str, Any] = {}
    for clock in ("wall", "cpu"):
        theirs, ours = ([one[part][clock] for one in answers[name]] for name in ("compressai", "latens"))
        ratios = sorted(a / b for a, b in zip(theirs, ours, strict=True))
        out[clock] = {
            "compressai": statistics.median(theirs),
            "latens": statistics.median(ours),
            "faster": statistics.median(ratios),
            "faster_least": ratios[0],
            "faster_most": ratios[-1],
        }
    return out


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    error = float(np.mean((one.astype(float) - other.astype(float)) ** 2))
    return 10 * float(np.log10(255**2 / max(error, 1e-6)))


def start_up(folder: Path, model: str, repeats: int) -> dict[str, float]:
    """Seconds from the start of `latens compress` on a 256 x 256 image to the first byte and to the end."""
    from PIL import Image

    small = folder / "small.png"
    Image.fromarray(np.resize(np.load(folder / "image.npy"), (256, 256, 3))).save(small)
    command = [sys.executable, "-m", "latens", "compress", str(small), "-o", "-", "--device", "cpu", "--model", model]
    first, whole = [], []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            byte = process.stdout.read(1)
            first.append(time.perf_counter() - started)
            process.stdout.read()
            text = process.stderr.read().decode()
        whole.append(time.perf_counter() - started)
        if process.returncode or not byte:
            raise SystemExit(f"`latens compress` failed with status {process.returncode}: {text}")
    return {"first_byte": statistics.median(first[1:]), "end": statistics.median(whole[1:]), "cold": first[0]}


def table(report: dict[str, Any]) -> str:
    height, width, _ = report["image"]
    lines = [f"{width} x {height}, N {report['sizes'][0]}, M {report['sizes'][1]}; load average {report['load_average']}"]
    lines += [f"{name}: {text}" for name, text in report["versions"].items()]
    lines.append(f"{'':12}{'':6}{'CompressAI':>12}{'latens':>12}{'faster':>9}   least .. most")
    for part, clocks in {**report["codec"], **report["coder"]}.items():
        for clock, row in clocks.items():
            lines.append(
                f"{part:12}{clock:6}{1e3 * row['compressai']:9.1f} ms{1e3 * row['latens']:9.1f} ms{row['faster']:8.2f}x"
                f"   {row['faster_least']:.2f} .. {row['faster_most']:.2f}"
            )
    for name, unit, digits in (
        ("bpp", "", 4),
        ("coder_bytes", "", 0),
        ("memory_loaded", " MiB", 0),
        ("memory_peak", " MiB", 0),
    ):
        row = report[name]
        lines.append(f"{name:18}{row['compressai']:12.{digits}f}{unit:4}{row['latens']:8.{digits}f}{unit}")
    lines.append(f"escapes in the coder's test: {report['escapes']}")
    lines.append(f"PSNR between the two decoded images: {report['psnr_between']:.1f} dB")
    if "start" in report:
        start = report["start"]
        lines.append(f"latens compress, 256 x 256: first byte after {start['first_byte']:.2f} s, end {start['end']:.2f} s")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
