"""The image codec's section of the demo, on a small photograph and a codec with known results."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from latens.data.samples import Photograph
from latens.inference.page import Columns, Compare, Figure, Gallery, Page, Section
from latens.metrics.image import psnr
from latens.systems.image_codec.demo import CROP, CURVE, SHOWN
from latens.systems.image_codec.demo import section as show


def make(disguise: Any, album: Path, out: Path) -> Section:
    return show(disguise, out / "image_codec", photos=[Photograph("waves", "Waves", "nobody", album / "waves.png")])


def details_of(section: Section) -> list[Figure]:
    (gallery,) = section.parts[0].blocks
    assert isinstance(gallery, Gallery)
    return [figure for figure in gallery.figures if figure.image]


def compared_in(section: Section) -> list[Compare]:
    columns = section.blocks[1]
    assert isinstance(columns, Columns)
    return [block for block in columns.blocks if isinstance(block, Compare)]


def test_files_have_the_sizes_on_the_page(disguise: Any, album: Path, tmp_path: Path) -> None:
    section = make(disguise, album, tmp_path)
    original = np.asarray(Image.open(album / "waves.png"))
    folder = tmp_path / "image_codec"
    captions = [figure.caption for figure in details_of(section)]
    for quality in SHOWN:
        blob = (folder / f"waves_q{quality:g}.ltn").read_bytes()
        assert blob == disguise.compress(Image.open(album / "waves.png"), quality=quality)
        decoded = np.asarray(Image.open(folder / f"waves_q{quality:g}.png"))
        assert np.array_equal(decoded, np.asarray(disguise.decompress(blob)))
        bpp = 8 * len(blob) / (64 * 48)
        assert f"{bpp:.3f} bpp, {len(blob):,} bytes, {psnr(original, decoded):.2f} dB" in captions
        jpeg = (folder / f"waves_q{quality:g}_same_size.jpg").read_bytes()
        assert len(jpeg) >= len(blob)
        assert any(f"{len(jpeg):,} bytes" in caption for caption in captions)


def test_comparisons_show_the_decoded_pixels(disguise: Any, album: Path, tmp_path: Path) -> None:
    first, last = compared_in(make(disguise, album, tmp_path))
    folder = tmp_path / "image_codec"
    assert np.array_equal(pixels(first.before), opened(folder / f"waves_q{SHOWN[0]:g}_same_size.jpg"))
    assert np.array_equal(pixels(first.after), opened(folder / f"waves_q{SHOWN[0]:g}.png"))
    assert np.array_equal(pixels(last.before), opened(album / "waves.png"))
    assert np.array_equal(pixels(last.after), opened(folder / f"waves_q{SHOWN[-1]:g}.png"))
    size = (folder / f"waves_q{SHOWN[0]:g}.ltn").stat().st_size
    assert f"{size:,} bytes" in first.caption


def test_details_have_one_position(disguise: Any, album: Path, tmp_path: Path) -> None:
    details = details_of(make(disguise, album, tmp_path))
    assert len(details) == 1 + 2 * len(SHOWN)
    assert {pixels(figure).shape for figure in details} == {(min(48, CROP[1]), min(64, CROP[0]), 3)}


def opened(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def pixels(figure: Figure) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(figure.image)).convert("RGB"))


def test_the_table_has_all_rates_and_the_page_is_self_contained(disguise: Any, album: Path, tmp_path: Path) -> None:
    section = make(disguise, album, tmp_path)
    html = Page("demo", [section]).html()
    for quality in CURVE:
        size = len(disguise.compress(Image.open(album / "waves.png"), quality=quality))
        assert f"{8 * size / (64 * 48):.4f}" in html
    assert "against AVIF" in html
    assert html.count("<img") == 4 + 7 + 1
