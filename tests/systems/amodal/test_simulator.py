"""Simulated images: reproducible, consistent with their truth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latens.data.annotations import to_document
from latens.data.instances import Collection, Sample, paint, scene_of
from latens.data.source import parse_source
from latens.errors import InputError
from latens.systems.amodal.config import EmbryoConfig, ShapesConfig
from latens.systems.amodal.dataset import Annotated, HeldOut, SampleSource, concatenate, rotated
from latens.systems.amodal.dataset import open_source as open_parsed
from latens.systems.amodal.simulator.embryos import Cells, embryo, pack
from latens.systems.amodal.simulator.nuclei import NucleiImage, composite, read_nuclei, split_of
from latens.systems.amodal.simulator.shapes import shapes


def open_source(value: str) -> SampleSource:
    return open_parsed(parse_source(value))


def drawn(seed: int, kind: str, size: int = 128) -> Sample:
    rng = np.random.default_rng(seed)
    if kind == "embryo":
        return embryo(rng, EmbryoConfig(size=size))
    return shapes(rng, ShapesConfig(size=size, opaque=kind == "opaque"))


@pytest.mark.parametrize("kind", ["embryo", "opaque", "translucent"])
def test_images_are_reproducible_and_the_truth_is_consistent(kind: str) -> None:
    for seed in range(6):
        one, two = drawn(seed, kind), drawn(seed, kind)
        assert np.array_equal(one.image, two.image)
        assert all(np.array_equal(a, b) for a, b in zip(one.layers, two.layers, strict=True))
        assert not np.array_equal(one.image, drawn(seed + 100, kind).image)
        layers = one.layers
        assert one.image.shape == (128, 128, 3)
        assert one.image.dtype == np.uint8
        assert layers.amodal.any((1, 2)).all()
        assert not (layers.visible & ~layers.amodal).any()
        assert layers.visible.sum(0).max() <= 1
        assert np.array_equal(layers.visible.any(0), layers.amodal.any(0))
        assert np.array_equal(layers.occlusion, layers.amodal.sum(0) > 1)
        assert sorted(layers.layer) == list(range(len(layers.layer)))


def test_embryos_have_two_to_eight_cells_of_one_volume_inside_the_zona() -> None:
    counts = set()
    for seed in range(60):
        cells = pack(np.random.default_rng(seed), EmbryoConfig())
        counts.add(len(cells.radius))
        out = np.sqrt((cells.center**2).sum(1)) + cells.radius
        assert (out <= cells.zona + 1e-6).all()
        share = (cells.radius**3).sum() ** (1 / 3) / cells.zona  # cleavage preserves the volume
        assert 0.78 <= share <= 0.9
    assert counts == set(range(2, 9))


def test_images_of_translucent_cells_do_not_determine_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells and focal plane mirrored in depth give the same image and the opposite order: order accuracy is at best 50 %."""
    config = EmbryoConfig(size=96)

    class Mirrored(np.random.Generator):
        """The same random numbers, except for the position of the focal plane, whose sign is reversed."""

        def uniform(self, low: float = 0.0, high: float = 1.0, size: int | None = None) -> Any:  # type: ignore[override]
            value = super().uniform(low, high, size)
            return -value if (low, high) == (-0.5, 0.5) else value

    for seed in range(4):
        one = embryo(np.random.default_rng(seed), config)
        with monkeypatch.context() as patched:

            def upside_down(rng: np.random.Generator, config: EmbryoConfig) -> Cells:
                cells = pack(rng, config)
                return cells._replace(center=cells.center * [1, 1, -1])

            patched.setattr("latens.systems.amodal.simulator.embryos.pack", upside_down)
            other = embryo(Mirrored(np.random.PCG64(seed)), config)
        assert np.array_equal(one.image, other.image)
        assert np.array_equal(one.layers.amodal, other.layers.amodal)
        assert other.layers.layer.tolist() == (len(one.layers.layer) - 1 - one.layers.layer).tolist()


def test_overlapping_cells_show_both_outlines_unless_opaque() -> None:
    # The cell behind contributes to the image inside the overlap for translucency 1, but not for 0.
    behind = []
    for translucency in (1.0, 0.0):
        sample = embryo(np.random.default_rng(5), EmbryoConfig(size=256, cells=(4, 4), translucency=translucency))
        rows, columns = np.nonzero(sample.layers.occlusion)
        behind.append(sample.image[rows, columns, 0].astype(float))
    assert np.abs(behind[0] - behind[1]).mean() > 3


@pytest.fixture(scope="module")
def nuclei(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen images with six discs each, half of them with a bright background."""
    folder = tmp_path_factory.mktemp("nuclei")
    rows, columns = np.mgrid[0:96, 0:96]
    for number in range(16):
        labels = np.zeros((96, 96), dtype=np.uint16)
        for place in range(6):
            center = (20 + 50 * (place % 2), 16 + 30 * (place // 2))
            labels[np.hypot(rows - center[0], columns - center[1]) < 7 + number % 3] = place + 1
        inside, ground = (200, 10) if number % 2 else (90, 230)
        pixels = np.where(labels[..., None] > 0, inside, ground) + np.zeros(3)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"p{number}_img.png")
        Image.fromarray(labels).save(folder / f"p{number}_lab.png")
    return folder


def test_sources_are_split_by_image(nuclei: Path) -> None:
    names = {split: {source.name for source in read_nuclei(nuclei, split)} for split in ("train", "validation", "test")}
    assert sum(map(len, names.values())) == 16 == len(set().union(*names.values()))
    assert all(split_of(name) == split for split, group in names.items() for name in group)
    with pytest.raises(InputError):
        read_nuclei(nuclei / "nothing", "train")


def by_ground(nuclei: Path, *, dark: bool) -> list[NucleiImage]:
    return [source for source in read_nuclei(nuclei, "train") if source.dark == dark]


def test_intensities_add_or_multiply_where_nuclei_overlap(nuclei: Path) -> None:
    for dark in (True, False):
        for seed in range(20):
            sample = composite(np.random.default_rng(seed), by_ground(nuclei, dark=dark), 128)
            once, twice = sample.layers.amodal.sum(0) == 1, sample.layers.amodal.sum(0) > 1
            if twice.sum() > 50:
                break
        values = [float(sample.image[where].mean()) for where in (sample.layers.amodal.sum(0) == 0, once, twice)]
        assert values == sorted(values, reverse=not dark)
        assert min(abs(np.diff(values))) > 5


def test_opaque_nuclei_hide_what_is_behind(nuclei: Path) -> None:
    sample = composite(np.random.default_rng(3), by_ground(nuclei, dark=False), 128, opaque=True)
    once, twice = sample.layers.amodal.sum(0) == 1, sample.layers.amodal.sum(0) > 1
    assert twice.sum() > 50
    assert abs(float(sample.image[once].mean()) - float(sample.image[twice].mean())) < 8
    again = composite(np.random.default_rng(3), by_ground(nuclei, dark=False), 128, opaque=True)
    assert np.array_equal(sample.image, again.image)


def annotated(tmp_path: Path, count: int) -> Path:
    """An annotation file of `count` images of 40 x 60 with one square each."""
    masks = np.zeros((1, 40, 60), dtype=bool)
    masks[0, 10:30, 10:30] = True
    scenes = []
    for number in range(count):
        Image.fromarray(np.where(masks[0], 200, 10).astype(np.uint8)).save(tmp_path / f"{number}.png")
        scenes.append(scene_of(paint(masks, np.zeros(1)), f"{number}.png"))
    path = tmp_path / "a.json"
    path.write_text(json.dumps(to_document(Collection(categories=("cell",), scenes=tuple(scenes)), "kins2020")))
    return path


@pytest.mark.parametrize("count", [1, 2, 3, 40])
def test_annotated_images_are_split_resized_and_rotated_with_their_truth(count: int, tmp_path: Path) -> None:
    source = open_source(f"kins:{annotated(tmp_path, count)}")
    assert isinstance(source, Annotated)
    train, held = ({scene.file for scene in source.splits[split]} for split in ("train", "validation"))
    assert train
    assert held
    assert count == 1 or not train & held
    for seed in range(4):
        sample = source.draw(np.random.default_rng(seed), 30)
        assert sample.image.shape == (20, 30, 3)
        assert sample.layers.amodal.sum() == 100
        assert sample.image[sample.layers.amodal[0]].mean() > 150  # the mask lies on the square
    turned_sample = rotated(source.held_out("all", 1, 30)[0], 1, mirror=True)
    assert turned_sample.image.shape == (30, 20, 3)
    assert turned_sample.image[turned_sample.layers.amodal[0]].mean() > 150


def test_held_out_images_are_computed_on_access_and_reproducible() -> None:
    made: list[int] = []

    def make(number: int) -> Sample:
        made.append(number)
        return drawn(number, "embryo", 64)

    both = concatenate([HeldOut(make, 2), open_source("simulated:opaque").held_out("test", 3, 64)])
    assert len(both) == 5
    assert made == []
    assert np.array_equal(both[1].image, drawn(1, "embryo", 64).image)
    assert made == [1]
    shapes_alone = open_source("simulated:opaque").held_out("test", 3, 64)
    assert all(np.array_equal(a.image, b.image) for a, b in zip(list(both)[2:], shapes_alone, strict=True))
    for wrong in (5, -1):
        with pytest.raises(IndexError):
            both[wrong]


def test_another_dialect_or_size_is_refused(tmp_path: Path) -> None:
    path = annotated(tmp_path, 2)
    with pytest.raises(InputError, match="kins2020, not cocoa"):
        open_source(f"cocoa:{path}")
    Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(tmp_path / "0.png")
    with pytest.raises(InputError, match="8 x 8"):
        open_source(f"kins:{path},{tmp_path}").held_out("all", 1, 30)[0]
