"""Small files with the names that the documents use, for the tests that run their commands."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageDraw

from latens.data.samples import photographs
from latens.systems.amodal.cells.simulate import simulated_image
from latens.systems.amodal.config import EmbryoConfig
from latens.systems.amodal.simulator.embryos import embryo
from latens.systems.haze.simulator.streets import street
from latens.systems.seedlings.simulator.photograph import draw_camera, photograph

SIZE = (144, 96)  # width and height of photographs and streets
FRAMES = 8


def lay_out(folder: Path) -> None:
    """Write all files into an empty folder."""
    write_photographs(folder)
    write_streets(folder)
    write_clip(folder / "clip.mp4", folder / "masks")
    for name in ("dashcam.mp4", "talk.mp4"):
        shutil.copy(folder / "clip.mp4", folder / name)
    write_cells(folder)
    write_trays(folder)
    write_tables(folder)
    write_annotations(folder)
    (folder / "benchmarks").symlink_to(Path(__file__).parent.parent / "benchmarks")


def write_photographs(folder: Path) -> None:
    """Photographs as files and in the folders of the documents, and marked ones beside label maps."""
    photos = [Image.open(each.path).convert("RGB") for each in photographs()]
    for name, photo in zip(("photo.jpg", "photo.png", "a.png"), photos, strict=True):
        photo.resize(SIZE).save(folder / name)
    photos[0].resize((32, 32)).save(folder / "b.png")
    photos[0].resize((320, 64)).save(folder / "panorama.tif")
    for place in ("album", "photos", "more", "images", "kodak", "originals", "marked", "album/trip"):
        (folder / place).mkdir(parents=True)
        for number, photo in enumerate(photos):
            photo.rotate(90 * (place == "more")).resize(SIZE).save(folder / place / f"{number}.png")
    for number in range(len(photos)):  # left half tree, right half sky
        label = Image.new("L", SIZE, 1)
        ImageDraw.Draw(label).rectangle((SIZE[0] // 2, 0, *SIZE), fill=2)
        label.save(folder / "marked" / f"{number}_label.png")
    (folder / "marked/labels.txt").write_text("1 tree\n2 sky\n")


def write_streets(folder: Path) -> None:
    """Streets with depth, and in haze."""
    for place in ("streets", "foggy", "sunny", "scenes"):
        (folder / place).mkdir()
    for number in range(2):
        made = street(number, SIZE[::-1])
        clear = Image.fromarray(made.image)
        depth = np.where(np.isfinite(made.depth), made.depth, 0).astype(np.float32)
        t = np.exp(-0.02 * np.where(depth > 0, depth, 500))[..., None]
        hazy = Image.fromarray((made.image * t + 215 * (1 - t)).astype(np.uint8))
        for place, image in (("streets", clear), ("sunny", clear), ("scenes", clear), ("foggy", hazy)):
            image.save(folder / place / f"{number}.png")
        np.save(folder / f"scenes/{number}_depth.npy", depth)
    clear.save(folder / "street.jpg")
    hazy.save(folder / "foggy.jpg")
    np.save(folder / "street.npy", depth)
    write_disparity(folder, clear, depth)
    relative = np.where(depth > 0, depth / depth.max(), 1)
    Image.fromarray(np.rint(60000 * relative + 1).astype(np.uint16)).save(folder / "street.png")


def write_disparity(folder: Path, clear: Image.Image, depth: np.ndarray) -> None:
    """A street in the folders of Cityscapes, and its disparity map beside it."""
    pixels = np.where(depth > 0, 2262.5 * 0.2093 / np.maximum(depth, 1), 0)
    disparity = Image.fromarray(np.rint(256 * pixels + 1).astype(np.uint16) * (depth > 0))
    camera = {"intrinsic": {"fx": 2262.5}, "extrinsic": {"baseline": 0.2093}}
    for place in ("leftImg8bit", "disparity", "camera"):
        (folder / place / "train/aachen").mkdir(parents=True)
    clear.save(folder / "leftImg8bit/train/aachen/aachen_0_leftImg8bit.png")
    disparity.save(folder / "disparity/train/aachen/aachen_0_disparity.png")
    (folder / "camera/train/aachen/aachen_0_camera.json").write_text(json.dumps(camera))
    clear.save(folder / "road.png")
    disparity.save(folder / "road_disparity.png")


def write_clip(path: Path, masks: Path) -> None:
    """A clip of a bright disk that moves over a pattern, and masks of the disk."""
    width, height = SIZE
    rows, columns = np.mgrid[:height, :width]
    pattern = np.stack([110 + 60 * np.sin(rows / 7 + columns / each) for each in (5, 9, 14)], axis=-1)
    masks.mkdir()
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.thread_count = 1  # as in clip_maker
        for number in range(FRAMES):
            disk = (rows - height // 2) ** 2 + (columns - 40 - 3 * number) ** 2 < 20**2
            pixels = np.where(disk[..., None], (230, 200, 120), np.roll(pattern, number, axis=1)).astype(np.uint8)
            Image.fromarray(255 * disk.astype(np.uint8)).save(masks / f"{number:05d}.png")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def write_cells(folder: Path) -> None:
    """Nuclei, embryos, a stack, and frames."""
    rng = np.random.default_rng(0)
    for place in ("frames", "embryos", "slides"):
        (folder / place).mkdir()
    nuclei = Image.fromarray(simulated_image(rng, 160))
    for name in ("slide.tif", "nuclei.png", "slides/a.png", "slides/b.png"):
        nuclei.save(folder / name)
    embryos = [Image.fromarray(embryo(rng, EmbryoConfig(size=128)).image) for _ in range(2)]
    embryos[0].save(folder / "embryo.png")
    embryos[0].save(folder / "stack.tif", save_all=True, append_images=embryos[1:])
    for number, image in enumerate(embryos):
        image.save(folder / f"frames/{number}.png")
        image.save(folder / f"embryos/{number}.png")


def write_annotations(folder: Path) -> None:
    """An image with a polygon, as labelme saves it."""
    (folder / "drawn").mkdir()
    (folder / "images/embryo.png").write_bytes((folder / "embryo.png").read_bytes())
    (folder / "drawn/embryo.png").write_bytes((folder / "embryo.png").read_bytes())
    corners = [[20, 20], [90, 24], [80, 100], [30, 90]]
    shape: dict[str, Any] = {"label": "cell", "points": corners, "group_id": None, "shape_type": "polygon", "flags": {}}
    document: dict[str, Any] = {
        "version": "5.0.0",
        "flags": {},
        "shapes": [shape],
        "imagePath": "embryo.png",
        "imageData": None,
    }
    size = {"imageData": None, "imageHeight": 128, "imageWidth": 128}
    (folder / "drawn/embryo.json").write_text(json.dumps({**document, **size}))


def write_trays(folder: Path) -> None:
    """A tray, two trays on two days with their lots, and two small trays in one photograph."""
    (folder / "trays").mkdir()
    for tray in range(2):
        for day in (5, 6):
            made = photograph(5, tray, day, preset="easy")
            Image.fromarray(made.pixels).save(folder / f"trays/T{tray}_day{day}.png")
    Image.fromarray(photograph(5, 0, 6, preset="easy").pixels).save(folder / "tray_day6.png")
    camera = draw_camera(5, 0, 6)
    small = [photograph(5, tray, 6, rows=3, cols=5, preset="easy", camera=camera).pixels for tray in range(2)]
    Image.fromarray(np.concatenate(small, axis=1)).save(folder / "two.png")
    (folder / "lots.csv").write_text("tray,lot,seeds\nT0,early,150\nT1,late,150\n")


def write_tables(folder: Path) -> None:
    """Tables of numbers, and a crop of a plant."""
    rng = np.random.default_rng(0)
    for name in ("table.csv", "other.csv"):
        rows = rng.normal(size=(200, 2)) @ np.array([[1.0, 0.6], [0.0, 0.8]])
        np.savetxt(folder / name, rows, delimiter=",", header="length,width", comments="")
    Image.fromarray(rng.integers(60, 180, (64, 64, 3), dtype=np.uint8)).save(folder / "crop.png")
