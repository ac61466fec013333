"""Three promises of haze, measured with the bundled models: visibility, clips without flicker, large images without seams.

    python benchmarks/haze_promises.py visibility SCENES       # clear images with depth in meters
    python benchmarks/haze_promises.py clips FOGGY             # hazy photographs; simulated streets are added
    python benchmarks/haze_promises.py large PHOTO [--model FOLDER]

visibility: beta regressed from the 8-bit output, its input and the depth, against the request, over 20 steps from 60 to 1500 m;
for depth that is given and depth that is predicted.
clips: a window that pans by whole pixels over an image, with the noise of a camera; the mean difference of neighboring frames
along that motion, output over input. Once as it is, and once with each divided by the contrast of its clip.
large: 3840 x 2160 in strips or pieces against the same in one go, in 8-bit steps; CPU time and peak memory of a fresh process.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from latens.data.images import IMAGE_ENDINGS, read_image
from latens.inference.memory import peak_memory
from latens.systems.haze import bands, translation
from latens.systems.haze.formation import MEAN_AIRLIGHT, beta_of_visibility
from latens.systems.haze.predict import MAX_DEPTH, Haze, load
from latens.systems.haze.scenes import HELD_OUT_SEED, find_scenes, load_scene
from latens.systems.haze.simulator.streets import street

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "systems" / "haze"))
from oracles import measure_beta

AIRLIGHT = torch.full((3,), MEAN_AIRLIGHT)
FRAMES, STEP, NOISE = 12, 3, 2.0  # of a clip; pixels a frame; gray levels of 255
METHODS = ("physical", "dcp", "bccr")
WIDTH, HEIGHT = 3840, 2160


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("visibility", "clips", "large"))
    parser.add_argument("path", type=Path)
    parser.add_argument("--model", default="haze")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--step", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.what == "large" and not arguments.step:
        rows = large(arguments)
    else:
        haze = load(arguments.model, device="cpu", threads=arguments.threads)
        if arguments.step:
            rows = iter([in_this_process(haze, arguments)])
        else:
            rows = visibility(haze, arguments.path) if arguments.what == "visibility" else clips(haze, arguments)
    for row in rows:
        print(json.dumps(row), flush=True)


def visibility(haze: Haze, folder: Path) -> Iterator[dict[str, object]]:
    scenes = [load_scene(found) for found in find_scenes(folder) if not found.form.relative]
    for scene, given in itertools.product(scenes, (True, False)):
        clear = haze.tensor(scene.image)
        depth = torch.from_numpy(scene.depth if given else haze.depth(scene.image, max_depth=MAX_DEPTH))[None]
        asked = [beta_of_visibility(meters) for meters in np.geomspace(60, 1500, 20)]
        found = [
            measure_beta(haze.tensor(made)[0], clear[0], depth, AIRLIGHT)
            for made in (np.asarray(haze.haze(scene.image, beta=beta, depth=scene.depth if given else None)) for beta in asked)
        ]
        yield {
            "image": scene.name,
            "depth": "given" if given else "predicted",
            "worst_percent": round(100 * max(abs(f / a - 1) for f, a in zip(found, asked, strict=True)), 2),
            "monotone": all(a > b for a, b in itertools.pairwise(found)),
        }


def clips(haze: Haze, arguments: argparse.Namespace) -> Iterator[dict[str, object]]:
    for name, image in panoramas(arguments.path):
        frames = panned(image, np.random.default_rng(0))
        for method in arguments.methods:
            steady = list(haze.dehaze_clip(iter(frames), method=method))
            alone = [np.asarray(haze.dehaze(frame, method=method)) for frame in frames]
            row: dict[str, object] = {"image": name, "method": method}
            for label, made in (("clip", steady), ("frame_by_frame", alone)):
                ratio = moving_error(made) / moving_error(frames)
                row[label] = round(ratio, 3)
                row[f"{label}_by_contrast"] = round(ratio * contrast(frames) / contrast(made), 3)
            yield row


def panoramas(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Hazy photographs, then simulated streets in haze of 150 m, as they are without noise."""
    for path in sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_ENDINGS):
        yield path.stem, read_image(path).pixels.astype(np.float32)
    for seed in range(HELD_OUT_SEED, HELD_OUT_SEED + 4):
        made = street(seed, (360, 640))
        t = np.exp(-beta_of_visibility(150) * np.minimum(made.depth, 400))[..., None]
        yield f"street{seed}", (made.image * t + 255 * MEAN_AIRLIGHT * (1 - t)).astype(np.float32)


def panned(image: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    width = image.shape[1] - (FRAMES - 1) * STEP
    views = (image[:, index * STEP : index * STEP + width] for index in range(FRAMES))
    return [np.clip(np.rint(view + rng.normal(0, NOISE, view.shape)), 0, 255).astype(np.uint8) for view in views]


def moving_error(frames: Sequence[np.ndarray]) -> float:
    pairs = itertools.pairwise(frame.astype(np.float32) for frame in frames)
    return float(np.mean([np.abs(before[:, STEP:] - after[:, :-STEP]).mean() for before, after in pairs]))


def contrast(frames: Sequence[np.ndarray]) -> float:
    return float(np.mean([frame.std() for frame in frames]))


def large(arguments: argparse.Namespace) -> Iterator[dict[str, object]]:
    """Each method in a process of its own, so that the peak of memory is its own."""
    for method in arguments.methods:
        command = [sys.executable, __file__, "large", str(arguments.path), "--step", method]
        command += ["--model", str(arguments.model), "--threads", str(arguments.threads)]
        yield json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def in_this_process(haze: Haze, arguments: argparse.Namespace) -> dict[str, object]:
    photo = Image.open(arguments.path).convert("RGB").resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    pixels = np.asarray(photo)
    started = time.process_time()
    made = np.asarray(haze.dehaze(pixels, method=arguments.step))
    row: dict[str, object] = {"method": arguments.step, "cpu_s": round(time.process_time() - started, 2)}
    row["peak_mib"] = round(peak_memory() / 2**20)
    translation.TILE = 2 * WIDTH  # translators: one piece, so normalized by the same statistics
    bands.BAND_PIXELS = WIDTH * HEIGHT
    whole = np.asarray(haze.dehaze(pixels, method=arguments.step))
    row["most_steps_apart"] = int(np.abs(whole.astype(int) - made).max())
    return row


if __name__ == "__main__":
    main()
