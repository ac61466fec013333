"""The verbs that write files, each with small inputs of its own."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

import latens
from latens.cli.main import main
from latens.data.files import TEMPORARY
from latens.inference.batch import FAILURES
from latens.inference.claims import CLAIMS

# Files that grow with every run, and the report of `grade`, which says how many photographs an earlier run graded.
SUMMARIES = {"images.csv", "names.csv", "names.html"}  # of `parts --teach`, of the images without an error
JOURNALS = {CLAIMS, FAILURES, "made-with.json", ".latens.jsonl", "graded.jsonl", "report.html"}


class Case(NamedTuple):
    name: str
    prepare: Callable[[Path], None]  # writes the inputs into a folder
    words: tuple[str, ...]  # the command line, run inside of that folder
    long: bool = False  # only with --campaign-seconds


def images(folder: Path, *, count: int = 2, scale: int = 1) -> None:
    """Images of smooth noise, 40 x 48 times `scale`."""
    rng = np.random.default_rng(0)
    (folder / "in").mkdir()
    for name in "abc"[:count]:
        small = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
        small.resize((48 * scale, 40 * scale), Image.Resampling.BICUBIC).save(folder / "in" / f"{name}.png")


def one_image(folder: Path) -> None:
    images(folder, count=1)


def by(*words: str) -> Callable[[Path], None]:
    """Inputs that another verb makes of the images."""

    def prepare(folder: Path) -> None:
        images(folder)
        made = [word.replace("@", f"{folder}/") for word in words]
        assert main([*made, "--format", "quiet"]) == 0

    return prepare


def with_depth(folder: Path) -> None:
    images(folder)
    (folder / "depths").mkdir()
    for number, name in enumerate("ab"):
        np.save(folder / "depths" / f"{name}.npy", np.linspace(5, 80 + number, 40 * 48, dtype=np.float32).reshape(40, 48))


def with_marks(folder: Path) -> None:
    """Images, of which two have label maps of two names."""
    images(folder)
    (folder / "marked").mkdir()
    for name in "ab":
        Image.open(folder / "in" / f"{name}.png").save(folder / "marked" / f"{name}.png")
        labels = np.zeros((40, 48), np.uint8)
        labels[:20], labels[20:, 24:] = 1, 2
        Image.fromarray(labels).save(folder / "marked" / f"{name}_label.png")


def with_model(folder: Path) -> None:
    images(folder)
    source = Path(latens.__file__).parent / "weights" / "haze_dehazenet"
    shutil.copytree(source, folder / "model")


def trays(folder: Path) -> None:
    from latens.systems.seedlings.simulator.photograph import photograph

    (folder / "in").mkdir()
    for day in (5, 6):
        made = photograph(3, 0, day, rows=3, cols=4, preset="easy")
        Image.fromarray(made.pixels).save(folder / "in" / f"T0_day{day}.png")


def clip(folder: Path) -> None:
    sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
    from clip_maker import make_clip

    (folder / "in").mkdir()
    make_clip(folder / "in" / "clip.mp4", times=range(3), size=(64, 64))


def coded_clip(folder: Path) -> None:
    clip(folder)
    assert main(["video", "compress", f"{folder}/in/clip.mp4", "-o", f"{folder}/clip.ltv", "--format", "quiet"]) == 0


CPU = ("--device", "cpu")
CONVERT = ("convert", "coco:found,in", "--to")
SEGMENTED = by("segment", "@in", "-o", "@found", *CPU)
CASES = [
    Case("compress", images, ("compress", "in", "-o", "out", *CPU)),
    Case("compress beside", images, ("compress", "in", *CPU)),
    Case("decompress", by("compress", "@in", "-o", "@coded", *CPU), ("decompress", "coded", "-o", "out", *CPU)),
    Case("segment", images, ("segment", "in", "-o", "out", *CPU)),
    Case("segment beside", one_image, ("segment", "in/a.png", *CPU)),
    Case("dehaze", images, ("dehaze", "in", "-o", "out", *CPU)),
    Case("dehaze a clip", clip, ("dehaze", "in/clip.mp4", "-o", "out/clear.mp4", *CPU)),
    Case("haze", images, ("haze", "in", "-o", "out", "--save-depth", "depths", *CPU)),
    Case("haze by depth maps", with_depth, ("haze", "in", "-o", "out", "--depth", "depths", *CPU)),
    Case("dehaze with a model folder", with_model, ("dehaze", "in", "-o", "out", "--model", "model", *CPU)),
    Case("parts by examples", with_marks, ("parts", "in", "-o", "out", "--teach", "marked", *CPU), long=True),
    Case("parts", images, ("parts", "in", "-o", "out", *CPU)),
    Case("density", images, ("density", "in", "-o", "out/scores.csv", *CPU)),
    Case("density pack", images, ("density", "pack", "in", "-o", "out/images.ltp")),
    Case("density unpack", by("density", "pack", "@in", "-o", "@p.ltp"), ("density", "unpack", "p.ltp", "-o", "out")),
    Case("grade", trays, ("grade", "in", "-o", "out", "--rows", "3", "--cols", "4", *CPU)),
    Case(
        "convert",
        SEGMENTED,
        (*CONVERT, "coco", "-o", "out/all.json"),
    ),
    Case("to labelme", SEGMENTED, (*CONVERT, "labelme", "-o", "out")),
    Case("to labels", SEGMENTED, (*CONVERT, "labels", "-o", "out")),
    Case("video compress", clip, ("video", "compress", "in/clip.mp4", "-o", "out/small.mp4")),
    Case("video compress size", clip, ("video", "compress", "in/clip.mp4", "-o", "out/small.mp4", "--size", "6kB")),
    Case("video decompress", coded_clip, ("video", "decompress", "clip.ltv", "-o", "out/clear.mp4")),
    Case("video frames", coded_clip, ("video", "decompress", "clip.ltv", "-o", "out/frames/")),
    Case("video compress ltv", clip, ("video", "compress", "in/clip.mp4", "-o", "out/clip.ltv", "--quality", "2")),
]


def names_and_bytes(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def unfinished(found: dict[str, bytes], results: dict[str, bytes]) -> list[str]:
    """Names of files that are neither complete results nor temporary files; journals and summaries may lack some results."""
    others = [name for name, data in found.items() if data != results.get(name)]
    return [name for name in others if not (is_temporary(name) or is_journal(name) or Path(name).name in SUMMARIES)]


def differences(found: dict[str, bytes], results: dict[str, bytes]) -> list[str]:
    """Names of results that are missing or other than they should be, and of files too many."""
    missing_or_many = {name for name in found.keys() ^ results.keys() if Path(name).name != CLAIMS and not is_weight(name)}
    other = {name for name in found.keys() & results.keys() if not is_journal(name) and found[name] != results[name]}
    return sorted(missing_or_many | other)


def is_temporary(name: str) -> bool:
    return any(TEMPORARY.fullmatch(part) for part in Path(name).parts)


def is_journal(name: str) -> bool:
    return Path(name).name in JOURNALS or is_weight(name)


def is_weight(name: str) -> bool:
    """True for files of a model, whose names hold part of their hash if an unfinished model was in the folder."""
    return Path(name).parent.name == "names"
