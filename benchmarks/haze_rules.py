"""The rules of `latens dehaze` (exposure, bound, color, borders, transparency), each method with and without them.

    python benchmarks/haze_rules.py rooms nyu_depth/ --border 12     # PSNR and SSIM of dim rooms, held-out scenes only
    python benchmarks/haze_rules.py rooms nyu_depth_small/
    python benchmarks/haze_rules.py rooms camvid:camvid/val/ --draws 2   # also streets with labels, all of them
    python benchmarks/haze_rules.py size hazy/                       # the same photograph at a quarter of its size
    python benchmarks/haze_rules.py borders hazy/                    # bars, white frames, transparent parts
    python benchmarks/haze_rules.py photographs hazy/ -o sheet.png   # contact sheet and statistics; --fade adds FADE
    python benchmarks/haze_rules.py speed hazy/                      # CPU time of 1920 x 1080, alternating

Without the rules: the methods as published, as Table 1 runs them. Every line is JSON; the last lines are means.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import torch
from PIL import Image, ImageDraw

from latens.data.images import IMAGE_ENDINGS, read_image
from latens.data.source import Source, parse_source
from latens.data.tensors import to_pixels
from latens.metrics.image import psnr, ssim
from latens.systems.haze.predict import Haze, load
from latens.systems.haze.protocol import Protocol, hazy_scene
from latens.systems.haze.rules import Controls
from latens.systems.haze.scenes import LABEL_KIND, find_labeled, find_scenes, load_scene

HELD_OUT = 1150  # NYU scenes from this index on are never trained on
BRIGHTNESS = (1.0, 0.5, 0.25, 0.125)
BAR, FRAME = 0.12, 20  # of the height; pixels
CAPTION = 16  # rows
KEPT = 0.5  # share of the lost brightness that is restored, in the last column of the sheet
Row = dict[str, object]
T = TypeVar("T")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=tuple(KINDS))
    parser.add_argument("source", type=parse_source, metavar="FOLDER", help="a folder; for `rooms` also camvid:FOLDER")
    parser.add_argument("--methods", nargs="+", default=["physical"])
    parser.add_argument("--model", default="haze")
    parser.add_argument("--border", type=int, default=0)
    parser.add_argument("--side", type=int, default=240)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--scenes", type=int, default=0, help="number of scenes or photographs, evenly spaced; 0: all")
    parser.add_argument("--first", type=int, default=HELD_OUT, help="first number; rooms without a number all count")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-o", "--out", type=Path, default=Path("sheet.png"))
    parser.add_argument("--fade", help="a Python with the package fade-python")
    arguments = parser.parse_args()
    haze = load(arguments.model, device="cpu", threads=arguments.threads)
    cv2.setNumThreads(arguments.threads)
    for row in KINDS[arguments.what](haze, arguments):
        print(json.dumps(row), flush=True)


def rooms(haze: Haze, arguments: argparse.Namespace) -> Iterator[Row]:
    """PSNR and SSIM of dim rooms or streets. The result is divided by the brightness again, before it is compared."""
    protocol = Protocol(side=arguments.side, draws=arguments.draws, border=arguments.border)
    source: Source = arguments.source
    scenes = find_labeled(source.path) if source.kind == LABEL_KIND else find_scenes(source.path)
    found = [scene for scene in scenes if scene.number is None or scene.number >= arguments.first]
    sums: dict[tuple[str, float], list[tuple[float, float]]] = {}
    for index, path in enumerate(some(found, arguments.scenes)):
        scene = load_scene(path, side=protocol.side, border=protocol.border)
        for draw in range(protocol.draws):
            sample = hazy_scene(scene, index, draw, protocol)
            clear = to_pixels(sample.clear[0])
            for brightness in BRIGHTNESS:
                hazy = to_pixels(brightness * sample.hazy[0])
                for name, act in both(haze, arguments.methods):
                    made = np.clip(np.rint(act(hazy) / brightness), 0, 255).astype(np.uint8)
                    sums.setdefault((name, brightness), []).append((psnr(made, clear), ssim(made, clear) or 0))
    for (name, brightness), values in sums.items():
        means = np.mean(values, 0)
        yield {
            "method": name,
            "brightness": brightness,
            "images": len(values),
            "psnr": round(float(means[0]), 2),
            "ssim": round(float(means[1]), 3),
        }


def size(haze: Haze, arguments: argparse.Namespace) -> Iterator[Row]:
    """Mean difference in gray levels of a photograph dehazed and reduced, and reduced and dehazed; change of dehazing."""
    table: dict[str, list[float]] = {}
    for path in photographs(arguments):
        image = read_image(path).pixels
        small = reduced(image)
        for name, act in both(haze, arguments.methods):
            large_result, small_result = act(image), act(small)
            away = float(np.abs(reduced(large_result).astype(float) - small_result).mean())
            change = float(np.abs(large_result.astype(float) - image).mean())
            table.setdefault(name, []).append(away)
            yield {"image": path.stem, "method": name, "levels": round(away, 2), "change": round(change, 1)}
    for name, values in table.items():
        yield {"method": name, "mean_levels": round(statistics.mean(values), 2), "worst_levels": round(max(values), 2)}


def borders(haze: Haze, arguments: argparse.Namespace) -> Iterator[Row]:
    """Mean change inside of bars and frames against the same pixels alone; of visible pixels, with other hidden colors."""
    table: dict[tuple[str, str], list[float]] = {}
    for path in photographs(arguments):
        image = read_image(path).pixels
        for name, act in both(haze, arguments.methods):
            for kind, bordered, inner in bordered_images(image):
                alone = act(np.ascontiguousarray(bordered[inner])).astype(float)
                away = float(np.abs(act(bordered)[inner] - alone).mean())
                table.setdefault((name, kind), []).append(away)
        for method in arguments.methods:
            results = [haze.dehaze_pixels(part, method, alpha=alpha) for part, alpha in garbled(image)]
            shown = next(garbled(image))[1] > 0
            away = float(np.abs(results[0][shown].astype(float) - results[1][shown]).max())
            table.setdefault((f"{method} + rules", "other colors under alpha 0, largest"), []).append(away)
    for (name, kind), values in table.items():
        yield {"method": name, "kind": kind, "mean": round(statistics.mean(values), 2), "worst": round(max(values), 2)}


def bordered_images(image: np.ndarray) -> Iterator[tuple[str, np.ndarray, tuple[slice, slice]]]:
    """Name, image with border, and where the image is inside."""
    height, width = image.shape[:2]
    bar = round(BAR * height)
    for name, color in (("black", 0), ("white", 255)):
        for kind, (rows, columns) in {"bars": (bar, 0), "side bars": (0, bar), "frame": (FRAME, FRAME)}.items():
            canvas = np.full((height + 2 * rows, width + 2 * columns, 3), color, np.uint8)
            inner = (slice(rows, rows + height), slice(columns, columns + width))
            canvas[inner] = image
            yield f"{name} {kind}", canvas, inner
    canvas = np.full((height + 2 * bar, width, 3), 0, np.uint8)
    canvas[bar : bar + height] = image
    decoded = cv2.imdecode(cv2.imencode(".jpg", canvas, [cv2.IMWRITE_JPEG_QUALITY, 80])[1], cv2.IMREAD_COLOR)
    yield "black bars, JPEG 80", np.asarray(decoded), (slice(bar, bar + height), slice(None))


def garbled(image: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The image with a transparent third, white and noise below it."""
    alpha = np.full(image.shape[:2], 255, np.uint8)
    alpha[:, : image.shape[1] // 3] = 0
    for fill in (np.full_like(image, 255), np.random.default_rng(0).integers(0, 256, image.shape, dtype=np.uint8)):
        yield np.where(alpha[..., None] > 0, image, fill), alpha


def contact_sheet(haze: Haze, arguments: argparse.Namespace) -> Iterator[Row]:
    """The sheet: input, without rules, with rules, with half of the brightness kept. Rows: statistics of results."""
    acts = list(both(haze, arguments.methods))
    kept = Controls(keep_brightness=KEPT)
    acts += [(f"{m} + rules, keep {KEPT}", partial(haze.dehaze_pixels, method=m, controls=kept)) for m in arguments.methods]
    table: list[Row] = []
    tiles, everything = [], []
    for path in photographs(arguments):
        image = read_image(path).pixels
        views = [image, *(act(image) for _, act in acts)]
        table += [
            {"image": path.stem, "method": name, **statistics_of(image, made)}
            for (name, _), made in zip(acts, views[1:], strict=True)
        ]
        everything.append(views)
        tiles.append(tile(path.stem, views))
    save_sheet(tiles, arguments.out)
    if arguments.fade:
        found = iter(fade(arguments.fade, [view for views in everything for view in views]))
        values = [[next(found) for _ in views] for views in everything]
        for index, row in enumerate(table):
            of_image, of_method = divmod(index, len(acts))
            row["fade"], row["fade_of_input"] = values[of_image][1 + of_method], values[of_image][0]
    yield from table
    for name, _ in acts:
        yield summary([row for row in table if row["method"] == name], name)


def save_sheet(tiles: list[np.ndarray], out: Path) -> None:
    """Two columns of tiles of one width."""
    half = -(-len(tiles) // 2)
    columns = [np.concatenate(part) for part in (tiles[:half], tiles[half:]) if part]
    highest = max(map(len, columns))
    padded = [np.pad(column, ((0, highest - len(column)), (0, 8), (0, 0)), constant_values=255) for column in columns]
    Image.fromarray(np.concatenate(padded, 1)).save(out)


def summary(rows: list[Row], name: str) -> Row:
    numbers = {key: [float(str(row[key])) for row in rows] for key in rows[0] if key not in ("image", "method")}
    return {
        "method": name,
        "images": len(rows),
        **{f"mean_{key}": round(statistics.mean(values), 3) for key, values in numbers.items()},
        "clipped_above_10_percent": sum(value > 10 for value in numbers["clipped_percent"]),
        "chroma_gain_above_6": sum(value > 6 for value in numbers["chroma_gain"]),
    }


def statistics_of(image: np.ndarray, made: np.ndarray) -> Row:
    """Pixels with a new color 0, chroma gained by the haziest 5 % (largest smoothed minimum of the colors), mean brightness."""
    clipped = 100 * float(((made.min(2) == 0) & (image.min(2) > 0)).mean())
    dark = cv2.erode(image.min(2), np.ones((15, 15), np.uint8))
    haziest = dark >= np.quantile(dark, 0.95)
    before, after = (chroma(view)[haziest].mean() for view in (image, made))
    return {
        "clipped_percent": round(clipped, 1),
        "chroma_gain": round(float(after - before), 1),
        "brightness_ratio": round(float(made.mean() / image.mean()), 3),
    }


def chroma(pixels: np.ndarray) -> np.ndarray:
    lab = cv2.cvtColor(pixels.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    return np.asarray(np.hypot(lab[..., 1], lab[..., 2]))


def fade(python: str, views: list[np.ndarray]) -> list[float]:
    """Fog density without reference (Choi et al. 2015) of every view, by a Python that has the package fade-python."""
    program = "import sys; from pyfade import fade; [print(float(fade(path))) for path in sys.argv[1:]]"
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{index}.png" for index in range(len(views))]
        for path, view in zip(paths, views, strict=True):
            Image.fromarray(view).save(path)
        done = subprocess.run([python, "-c", program, *map(str, paths)], check=True, capture_output=True, text=True)
    return [round(float(line), 3) for line in done.stdout.split()]


def tile(name: str, views: list[np.ndarray], width: int = 300) -> np.ndarray:
    height = round(width * views[0].shape[0] / views[0].shape[1])
    joined = np.concatenate([cv2.resize(view, (width, height), interpolation=cv2.INTER_AREA) for view in views], 1)
    head = Image.new("RGB", (joined.shape[1], CAPTION), "white")
    ImageDraw.Draw(head).text((4, 2), name, "black")
    return np.concatenate([np.asarray(head), joined])


def speed(haze: Haze, arguments: argparse.Namespace) -> Iterator[Row]:
    """CPU and wall time of 1920 x 1080, the least of alternating runs, because other processes only add to it."""
    image = cv2.resize(read_image(next(iter(photographs(arguments)))).pixels, (1920, 1080), interpolation=cv2.INTER_CUBIC)
    acts = list(both(haze, arguments.methods))
    times: dict[str, list[float]] = {name: [] for name, _ in acts}
    walls: dict[str, list[float]] = {name: [] for name, _ in acts}
    for turn in range(8):
        for name, act in acts:
            started, wall = time.process_time(), time.perf_counter()
            act(image)
            if turn:
                times[name].append(time.process_time() - started)
                walls[name].append(time.perf_counter() - wall)
    for name, values in times.items():
        plain = min(times[name.removesuffix(" + rules")])
        yield {
            "method": name,
            "cpu_ms": round(1e3 * min(values)),
            "wall_ms": round(1e3 * min(walls[name])),
            "times_faster": round(plain / min(values), 2),
        }


def both(haze: Haze, methods: list[str]) -> Iterator[tuple[str, Callable[[np.ndarray], np.ndarray]]]:
    """Name and function of every method, as published and with the rules."""
    for method in methods:
        yield method, partial(haze.published_pixels, method=method)
        yield f"{method} + rules", partial(haze.dehaze_pixels, method=method)


def photographs(arguments: argparse.Namespace) -> list[Path]:
    """Images of the folder; of several files with the same content, the first."""
    paths = sorted(path for path in arguments.source.path.rglob("*") if path.suffix.lower() in IMAGE_ENDINGS)
    alone = {path.read_bytes(): path for path in reversed(paths)}
    return some(sorted(alone.values()), arguments.scenes)


def some(found: list[T], count: int) -> list[T]:
    """At most `count` items, evenly spaced; 0: all."""
    if not count or len(found) <= count:
        return found
    return [found[round(place)] for place in np.linspace(0, len(found) - 1, count)]


def reduced(image: np.ndarray) -> np.ndarray:
    """The image at a quarter of its size in both directions."""
    height, width = image.shape[:2]
    return cv2.resize(image, (width // 4, height // 4), interpolation=cv2.INTER_AREA)


KINDS: dict[str, Callable[[Haze, argparse.Namespace], Iterator[Row]]] = {
    "rooms": rooms,
    "size": size,
    "borders": borders,
    "photographs": contact_sheet,
    "speed": speed,
}

if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
