"""Hashes of the outputs of all bundled models and of short trainings, to verify that a change of the code alters none.

    PYTHONPATH=OLD/src python benchmarks/same_outputs.py --write old.json
    PYTHONPATH=NEW/src python benchmarks/same_outputs.py --write new.json
    python benchmarks/same_outputs.py --compare old.json new.json

Both records must come from the same machine and version of torch, because floating-point results differ between processors. The
script runs on one CPU thread. It uses `latens.load`, the methods of the loaded models and the command line. Its inputs are
photographs of scikit-image and images computed with numpy. `segmentation`, `part_code` and `galleries` handle attribute names
that may differ between two versions of latens.

Exit status of `--compare`: 1 if a hash differs or is in only one record. Exit status of `--write`: 1 if an output could not be
computed; the other outputs are written.
"""

from __future__ import annotations

import os

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")  # before numpy and torch are imported

import argparse
import hashlib
import json
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Outputs = Iterator[tuple[str, Any]]  # name of an output; bytes, an array, a PIL image or numbers
SHOWN = 8  # number of listed differences per training and per image of a model
TRAININGS = (
    ("image_codec", "tiny", True),
    ("amodal", "tiny", False),
    ("haze", "tiny", False),
    ("haze", "tiny_mmd", False),
    ("parts", "tiny", True),
)  # system, recipe, True if it needs photographs; the others simulate their data


# Inputs


def photograph(name: str, top: int = 0, left: int = 0, height: int | None = None, width: int | None = None) -> np.ndarray:
    """Part of a photograph that the wheel of scikit-image contains; (H, W, 3) or (H, W), uint8."""
    with Image.open(Path(str(files("skimage"))) / "data" / name) as image:
        pixels = np.asarray(image)
    end = (None if height is None else top + height, None if width is None else left + width)
    return np.ascontiguousarray(pixels[top : end[0], left : end[1]])


def cells(height: int, width: int, seed: int) -> np.ndarray:
    """Bright overlapping discs with a rim on a dark background, and noise; (H, W) uint8."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width]
    side = min(height, width)
    level = np.full((height, width), 70.0)
    for angle in np.arange(4) * np.pi / 2 + rng.uniform(0, 1):
        y, x = height / 2 + 0.17 * side * np.sin(angle), width / 2 + 0.17 * side * np.cos(angle)
        distance = np.hypot(rows - y, columns - x) / (0.2 * side)
        level += 45 / (1 + np.exp((distance - 1) * 25)) + 50 * np.exp(-(((distance - 1) / 0.06) ** 2))
    return np.clip(level + rng.normal(0, 4, level.shape), 0, 255).astype(np.uint8)


def distances(height: int, width: int) -> np.ndarray:
    """Distances in meters of a road that rises to the horizon; (H, W) float32."""
    rows = np.arange(height, dtype=np.float32)[:, None]
    meters: np.ndarray = np.broadcast_to(4 * height / (rows + height / 30), (height, width)).astype(np.float32)
    return meters


def hazed(pixels: np.ndarray) -> np.ndarray:
    """The photograph in haze at the distances above, dense enough that methods reach their lowest transmission."""
    t = np.exp(-0.04 * distances(*pixels.shape[:2]))[..., None]
    foggy: np.ndarray = np.clip(pixels * t + 225 * (1 - t), 0, 255).astype(np.uint8)
    return foggy


def with_alpha(pixels: np.ndarray) -> Image.Image:
    alpha = (np.mgrid[0 : pixels.shape[0], 0 : pixels.shape[1]].sum(0) * 3 % 256).astype(np.uint8)
    return Image.fromarray(np.dstack([pixels, alpha]))


def album(folder: Path) -> Path:
    """Nine photographs for training. Their names determine which are held out, so they must not change."""
    folder.mkdir()
    sources = ("astronaut.png", "chelsea.png", "coffee.png")
    for number in range(9):
        row, column = 20 * number, 15 * number
        Image.fromarray(photograph(sources[number % 3], row, column, 128, 160)).save(folder / f"photo{number}.png")
    return folder


# Adapters: the only places that name attributes of results


def first(result: object, *names: str) -> Any:
    """The first of these attributes that the result has."""
    for name in names:
        if hasattr(result, name):
            return getattr(result, name)
    raise AttributeError(f"{type(result).__name__} has none of {', '.join(names)}")


def segmentation(found: object) -> Outputs:
    layers = first(found, "layers")
    yield "amodal", first(layers, "amodal")
    yield "visible", first(layers, "visible")
    yield "layer", first(layers, "layer", "order")
    yield "category", first(layers, "category", "categories")
    yield "scores", first(found, "scores")
    yield "codes", first(found, "codes")


def part_code(code: object) -> Outputs:
    yield "occurrence", first(code, "occurrence")
    yield "appearance", first(code, "appearance")


def galleries(found: list[Any]) -> Outputs:
    yield "parts", [first(gallery, "part") for gallery in found]
    yield "occurrences", [first(gallery, "occurrences", "occurrence_count") for gallery in found]
    yield "means", np.stack([first(gallery, "mean", "mean_patch") for gallery in found])


# Outputs of the bundled models


def image_codec(folder: Path) -> Outputs:
    """Streams, decoded pixels and estimates; refinement and `inspect` through the command line."""
    import latens

    codec = latens.load("image_codec")
    face = photograph("astronaut.png", 20, 120, 192, 256)
    images: dict[str, Any] = {
        "color": face,
        "gray": Image.fromarray(photograph("camera.png", 100, 150, 160, 128)),
        "alpha": with_alpha(photograph("coffee.png", 100, 200, 90, 130)),
        "odd": photograph("chelsea.png", 50, 100, 67, 113),
        "pixel": np.array([[[200, 90, 20]]], np.uint8),
        "two bands": photograph("retina.jpg", 100, 600, 1100, 72),
        "strips": np.tile(photograph("coffee.png"), (3, 3, 1))[:1150, :1800],
    }
    settings: list[tuple[str, dict[str, Any]]] = [(name, {"quality": 4.0}) for name in images]
    settings += [("color", {"quality": quality}) for quality in (1.0, 2.7, 8.0)]
    settings += [("odd", {}), ("color", {"bpp": 0.5}), ("color", {"psnr": 32.0})]
    for name, target in settings:
        blob = codec.compress(images[name], **target)
        label = " ".join(f"{kind} {value:g}" for kind, value in target.items()) or "default"
        yield f"{name}, {label}/stream", blob
        yield f"{name}, {label}/pixels", codec.decompress(blob)
    estimate = codec.estimate(face, quality=3.3)
    yield "estimate", [estimate.bits_y, estimate.bits_z, estimate.bpp, estimate.psnr]
    yield from _codec_commands(folder, face, codec)


def _codec_commands(folder: Path, face: np.ndarray, codec: Any) -> Outputs:
    source, stream, decoded = (folder / name for name in ("face.png", "face.ltn", "decoded.png"))
    Image.fromarray(face[:96, :128]).save(source)
    latens_command("compress", source, "-o", stream, "--quality", 4, "--refine", 4)
    yield "refined/stream", stream.read_bytes()
    yield "refined/pixels", codec.decompress(stream)
    latens_command("decompress", stream, "-o", decoded)
    yield "refined/decompress", Image.open(decoded)
    record = json.loads(latens_command("inspect", stream, "--format", "json"))
    yield "refined/inspect", [record[name] for name in ("width", "height", "quality", "bytes", "bpp")]
    yield "refined/inspect bits", sorted(record["bits"].values())


def amodal(folder: Path) -> Outputs:
    import latens

    segmenter = latens.load("amodal")
    images = {
        "cells": cells(256, 256, seed=1),
        "wide": cells(150, 301, seed=2),
        "16 bits": cells(200, 180, seed=3).astype(np.uint16) * 31 + 700,
        "coins": photograph("coins.png"),
    }
    found = 0
    for name, pixels in images.items():
        result = segmenter.segment(pixels)
        found += len(result)
        yield from named(name, segmentation(result))
    if not found:
        raise AssertionError("no object was found in any image, so the hashes would not cover masks")


def haze(folder: Path) -> Outputs:
    """Every bundled method on a small image with odd sides, and on one that translators process in pieces."""
    import latens

    models = latens.load("haze")
    street = photograph("motorcycle_left.png", 0, 0, 201, 251)
    foggy, large = hazed(street), hazed(np.tile(photograph("rocket.jpg"), (2, 2, 1))[:620, :900])
    gray = Image.fromarray(foggy[..., 1])
    for method in ("dcp", "bccr", "physical", "mmd", "dehazenet"):
        yield f"dehaze {method}/small", models.dehaze(foggy, method=method)
        yield f"dehaze {method}/large", models.dehaze(large, method=method)
    yield "dehaze default/gray", models.dehaze(gray)
    yield "dehaze default/alpha", models.dehaze(with_alpha(foggy[:80, :90]))
    for method in ("dcp", "physical"):
        frames = [np.roll(foggy, 2 * shift, axis=1) for shift in range(3)]
        yield f"dehaze clip {method}", np.stack(list(models.dehaze_clip(frames, method=method)))
    yield "haze/default", models.haze(street)
    yield "haze/visibility", models.haze(street, visibility=150)
    yield "haze/beta and depth", models.haze(street, beta=0.02, depth=distances(*street.shape[:2]))
    yield "haze/mmd", models.haze(street, method="mmd")
    yield "depth/small", models.depth(street)
    yield "depth/large", models.depth(large)


def parts(folder: Path) -> Outputs:
    import latens

    model = latens.load("parts")
    images = [
        photograph("astronaut.png"),
        photograph("chelsea.png", 0, 0, 211, 307),
        photograph("coffee.png", 90, 150, 250, 180),
    ]
    codes = model.encode(images)
    for number, code in enumerate(codes):
        yield from named(f"code {number}", part_code(code))
        yield f"decoded {number}", model.decode(code)
    yield "swapped", model.decode(model.swap(codes[0], codes[1], codes[0].present()[0]))
    yield "embeddings", model.embed(images)
    yield from named("gallery", galleries(model.gallery(images)))
    yield from named("finer", part_code(model.at(96).encode(images[1])[0]))


def trainings(folder: Path) -> Outputs:
    """Steps and best validation loss of short trainings, and every tensor of the best weights."""
    from safetensors.torch import load_file

    photos = album(folder / "photos")
    for system, recipe, needs_photographs in TRAININGS:
        run = folder / f"{system}-{recipe}"
        data = ["--data", photos] if needs_photographs else []
        result = json.loads(latens_command("train", system, "--recipe", recipe, *data, "-o", run, "--format", "json"))
        yield (
            f"{system} {recipe}/validation loss",
            [result["step"], result["best"]],
        )  # unlike the weights, this is not stored in 16 bits
        for path in sorted((run / "best").glob("*.safetensors")):
            kind = path.stem.partition("-")[0]  # large files are split: model-1, model-2, ...
            for name, tensor in sorted(load_file(path).items()):
                yield f"{system} {recipe}/{kind} {name}", (str(tensor.dtype), tuple(tensor.shape), tensor_bytes(tensor))


def tensor_bytes(tensor: Any) -> bytes:
    import torch

    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())


GROUPS: dict[str, Callable[[Path], Outputs]] = {
    "image_codec": image_codec,
    "amodal": amodal,
    "haze": haze,
    "parts": parts,
    "training": trainings,
}


# Records


def latens_command(*words: object) -> str:
    """Standard output of the command of the same checkout. Prints its errors and raises CalledProcessError if it fails."""
    import latens

    package = str(Path(str(latens.__file__)).resolve().parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([package, os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "latens", *map(str, words)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        done.check_returncode()
    return done.stdout


def named(prefix: str, outputs: Outputs) -> Outputs:
    return ((f"{prefix}/{name}", value) for name, value in outputs)


def fingerprint(value: Any) -> dict[str, str]:
    """SHA-256 of type, shape and bytes of an output, and a description for the list of differences."""
    if isinstance(value, bytes):
        what, data = f"{len(value)} bytes", value
    elif isinstance(value, tuple):
        dtype, shape, data = value
        what = f"{dtype} {shape}"
    else:
        mode = f"{value.mode} " if isinstance(value, Image.Image) else ""
        array = np.ascontiguousarray(value)
        what, data = f"{mode}{array.dtype} {array.shape}", array.tobytes()
        what += f" {array.tolist()}" if isinstance(value, list) and array.size <= 8 else ""
    digest = hashlib.sha256(f"{what}\n".encode() + data).hexdigest()
    return {"sha256": digest, "what": what}


def write(path: Path, chosen: list[str]) -> int:
    import torch

    import latens

    torch.set_num_threads(1)
    about = {
        "latens": str(Path(str(latens.__file__)).parent),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "machine": platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
    }
    outputs: dict[str, dict[str, str]] = {}
    failed = []
    for group in chosen:
        started = time.perf_counter()
        try:
            with tempfile.TemporaryDirectory() as folder:
                for name, value in named(group, GROUPS[group](Path(folder))):
                    if name in outputs:
                        raise AssertionError(f"two outputs are called {name}")
                    outputs[name] = fingerprint(value)
        except Exception:
            traceback.print_exc()
            failed.append(group)
        count = sum(name.startswith(f"{group}/") for name in outputs)
        print(f"{group}: {count} outputs in {time.perf_counter() - started:.1f} s", file=sys.stderr, flush=True)
    path.write_text(json.dumps({"about": about, "outputs": outputs}, indent=1) + "\n")
    if failed:
        print(f"incomplete: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def compare(old: Path, new: Path) -> int:
    """Print all differences between two records; returns 1 if there are any."""
    before, after = (json.loads(path.read_text()) for path in (old, new))
    for key in ("python", "torch", "numpy", "machine", "capability"):
        if before["about"][key] != after["about"][key]:
            print(f"note: {key} was {before['about'][key]}, now {after['about'][key]}: differences may come from it")
    a, b = before["outputs"], after["outputs"]
    differences: dict[str, list[str]] = {}
    for name in sorted({*a, *b}):
        if name not in b:
            line = f"missing   {name}  (only in {old})"
        elif name not in a:
            line = f"new       {name}  (only in {new})"
        elif a[name]["sha256"] != b[name]["sha256"]:
            was, now = a[name]["what"], b[name]["what"]
            line = f"different {name}  ({was if was == now else f'{was} -> {now}'})"
        else:
            continue
        differences.setdefault(name.rpartition("/")[0], []).append(line)
    for prefix, lines in differences.items():
        print("\n".join(lines[:SHOWN]))
        if len(lines) > SHOWN:
            print(f"          and {len(lines) - SHOWN} more of {prefix}")
    total = sum(map(len, differences.values()))
    same = len({*a, *b}) - total
    print(f"{same} outputs are equal, {total} are not" if total else f"all {same} outputs are equal")
    return 1 if total or not same else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--write", type=Path, metavar="FILE.json")
    task.add_argument("--compare", type=Path, nargs=2, metavar=("OLD.json", "NEW.json"))
    parser.add_argument(
        "--only", nargs="+", choices=list(GROUPS), default=list(GROUPS), help="with --write: parts of the record"
    )
    chosen = parser.parse_args()
    return compare(*chosen.compare) if chosen.compare else write(chosen.write, chosen.only)


if __name__ == "__main__":
    sys.exit(main())
