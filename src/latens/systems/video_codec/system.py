"""The record of the video codec: training, application, evaluation, timing, tables, figures and demo."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from latens.contract import Evaluation, Example, System
from latens.data.image_output import write_image
from latens.data.source import Source
from latens.systems.video_codec.artifacts import ARTIFACTS
from latens.systems.video_codec.bench import cases
from latens.systems.video_codec.demo import section
from latens.systems.video_codec.evaluate import QUICK, VideoEvaluation, evaluate
from latens.systems.video_codec.predict import VideoCodec, load
from latens.systems.video_codec.recipes import RECIPES, VideoTraining
from latens.systems.video_codec.streets import KIND, LABELS
from latens.systems.video_codec.trainable import build

EXAMPLE_SIZE = (72, 96)  # height and width in pixels
EXAMPLE_FRAMES = 8


def example(folder: Path) -> Example:
    """A small data set: two clips of a bright disk that moves over a pattern, with masks, and images with label maps."""
    height, width = EXAMPLE_SIZE
    rows, columns = np.mgrid[:height, :width]
    rng = np.random.default_rng(0)
    clips = folder / "clips"
    for name in ("one", "two"):
        waves = [90 + 50 * np.sin(rows / rng.uniform(3, 9) + columns / rng.uniform(3, 9)) for _ in range(3)]
        pattern = np.stack(waves, axis=-1)
        for index in range(EXAMPLE_FRAMES):
            disk = (rows - height // 2) ** 2 + (columns - 30 - 3 * index) ** 2 < 15**2
            pixels = np.where(disk[..., None], (230, 200, 120), np.roll(pattern, index, axis=1)).astype(np.uint8)
            write_image(clips / name / "frames" / f"{index:05d}.png", Image.fromarray(pixels))
            write_image(clips / name / "masks" / f"{index:05d}.png", Image.fromarray(255 * disk.astype(np.uint8)))
    streets = Source(KIND, str(folder / "streets"))
    for part in ("train", "val"):
        labels = np.select([rows > height * 0.6, np.abs(columns - width // 2) < 12], [3, 8], rng.integers(3)).astype(np.uint8)
        pixels = (40 + 20 * labels[..., None] + rng.integers(0, 40, (height, width, 3))).astype(np.uint8)
        write_image(streets.path / part / "one.png", Image.fromarray(pixels))
        write_image(streets.path / part / f"one{LABELS}", Image.fromarray(labels))
    source = Source("clips", str(clips))
    light = {"data.crop": "64", "data.batch": "1", "data.shrink": "1.0"}
    return Example("clip", [source], [clips / "one" / "frames"], [source, streets], light=light)


def apply(codec: VideoCodec, path: Path) -> Mapping[str, np.ndarray]:
    """The bytes of the file, and the decoded frames."""
    blob = codec.compress(path, quality=1, fps=25)
    frames = np.stack([frame.pixels for frame in codec.frames(blob)])
    return {"file": np.frombuffer(blob, dtype=np.uint8), "decoded": frames}


SYSTEM = System[VideoTraining, VideoCodec](
    name="video_codec",
    title="Clips with a sharp region into small files",
    recipes=RECIPES,
    example=example,
    build=build,
    load=load,
    apply=apply,
    evaluation=Evaluation(options=VideoEvaluation(), run=evaluate, quick=QUICK, name="video_codec", files=("video.jsonl",)),
    cases=cases,
    artifacts=ARTIFACTS,
    demo=section,
)
