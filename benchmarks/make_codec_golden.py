"""Golden files of the image codec: a tiny frozen model and .ltn files written with it, for `test_golden.py`.

    python benchmarks/make_codec_golden.py tests/golden/image_codec
    python benchmarks/make_codec_golden.py tests/golden/image_codec_context --recipe context_tiny

Every later version must decode these files, so they are made only once. The script refuses to write into an existing folder.
New kinds of files go into a new folder with a model of their own.

    model/       trained by `latens train image_codec --recipe RECIPE` on photographs of scikit-image (public domain or CC0)
    NAME.ltn     written with that model
    NAME.png     the decoded image, with transforms in float32
    golden.json  for every file: size, mode, and SHA-256 of the latents: the symbols of z and of y, and the means of y in
                 1/1024, each as little-endian int32 in the order (channel, row, column)
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import latens
from latens.systems.image_codec.format import read_coded_image
from latens.systems.image_codec.predict import ImageCodec

PHOTOGRAPHS = Path(str(files("skimage"))) / "data"
TRAINED_ON = ("astronaut.png", "chelsea.png", "coffee.png", "hubble_deep_field.jpg", "rocket.jpg")
SETTINGS = {
    "tiny": ("model.hidden=16", "model.latent=16", "model.hyper=16", "run.steps=2000", "run.validate_every=500"),
    "context_tiny": ("model.latent=16", "run.steps=400", "run.validate_every=200"),
}
QUALITY, REFINE_STEPS = 1.5, 60


def photograph(name: str, top: int, left: int, height: int, width: int) -> Image.Image:
    """Part of a photograph that the wheel of scikit-image contains."""
    with Image.open(PHOTOGRAPHS / name) as image:
        return image.crop((left, top, left + width, top + height))


def with_alpha(image: Image.Image) -> Image.Image:
    """The image with an alpha channel that rises from left to right and has a hole."""
    rows, columns = np.mgrid[0 : image.height, 0 : image.width]
    alpha = np.where(np.hypot(rows - 30, columns - 40) < 15, 0, 255 * columns // image.width)
    image.putalpha(Image.fromarray(alpha.astype(np.uint8)))
    return image


def images() -> dict[str, Image.Image]:
    """One image of each kind. `tall` has two bands of latent rows."""
    color = photograph("coffee.png", 120, 280, 64, 96)
    return {
        "color": color,
        "refined": color,
        "gray": photograph("camera.png", 100, 200, 80, 64),
        "alpha": with_alpha(photograph("chelsea.png", 80, 120, 64, 80)),
        "gray_alpha": with_alpha(photograph("camera.png", 200, 100, 64, 80)),
        "odd": photograph("astronaut.png", 60, 190, 61, 77),
        "pixel": Image.new("RGB", (1, 1), (200, 90, 20)),
        "tall": photograph("retina.jpg", 150, 700, 1090, 16).convert("L"),
    }


def command(*words: object) -> None:
    """Run `latens` on one thread. Raises CalledProcessError."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([sys.executable, "-m", "latens", *map(str, words)], env=environment, check=True)


def train(recipe: str, target: Path, scratch: Path) -> None:
    """Train the model and copy its best weights to `target`."""
    photos = scratch / "photos"
    photos.mkdir()
    for name in TRAINED_ON:
        shutil.copy(PHOTOGRAPHS / name, photos)
    settings = [word for setting in SETTINGS[recipe] for word in ("--set", setting)]
    command("train", "image_codec", "--recipe", recipe, "--data", photos, "-o", scratch / "run", *settings)
    shutil.copytree(scratch / "run" / "best", target)


def latent_hashes(codec: ImageCodec, blob: bytes) -> dict[str, str]:
    """SHA-256 of the decoded integers."""
    symbols, _ = codec.decode_symbols(read_coded_image(blob), partial=False)
    means = symbols.parameters.mean.double() * 1024
    assert torch.equal(means, means.round())
    parts = {"z": symbols.z, "y": symbols.y, "mean": means}
    return {name: hashlib.sha256(value.numpy().astype("<i4").tobytes()).hexdigest() for name, value in parts.items()}


def encode(codec: ImageCodec, folder: Path, name: str, image: Image.Image) -> dict[str, Any]:
    """Write NAME.ltn and NAME.png; returns the record for golden.json."""
    source, stream = folder / f"{name}.png", folder / f"{name}.ltn"
    image.save(source)
    refine = ["--refine", REFINE_STEPS] if name == "refined" else []
    command("compress", source, "-o", stream, "--model", folder / "model", "--quality", QUALITY, *refine)
    blob = stream.read_bytes()
    decoded = codec.decompress(blob)
    decoded.save(source, optimize=True)  # in place of the source, which is not kept
    return {"size": list(decoded.size), "mode": decoded.mode, "latents": latent_hashes(codec, blob)}


def main(folder: Path, recipe: str) -> None:
    if folder.exists():
        sys.exit(f"{folder} exists: golden files are made only once; give a new folder for new kinds of files")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / "golden"
        made.mkdir()
        train(recipe, made / "model", Path(scratch))
        codec = latens.load(made / "model", device="cpu")
        codec.precision = "float32"  # the reference images must not depend on the bfloat16 support of this machine
        record = {
            "made_by": "benchmarks/make_codec_golden.py",
            "with": {"latens": latens.__version__, "torch": torch.__version__, "python": platform.python_version()},
            "latents": "SHA-256 of little-endian int32: symbols of z, symbols of y, means of y times 1024",
            "files": {name: encode(codec, made, name, image) for name, image in images().items()},
        }
        (made / "golden.json").write_text(json.dumps(record, indent=2) + "\n")
        shutil.copytree(made, folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--recipe", choices=SETTINGS, default="tiny")
    arguments = parser.parse_args()
    main(arguments.folder, arguments.recipe)
