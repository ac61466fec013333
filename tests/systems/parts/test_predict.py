"""`Parts`: codes of images of every type, swaps, galleries, reports, errors."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from latens import catalogue
from latens.data.images import LoadedImage, read_image
from latens.data.squares import center_square
from latens.data.tensors import to_tensor
from latens.errors import InputError, ModelError, ModelMissing, UnreadableInput, UsageError
from latens.hub import save_model
from latens.inference.sheet import titled
from latens.nn.stages import normalized
from latens.systems.parts import drawing, predict
from latens.systems.parts.drawing import gallery_sheet, occurrence_sheet, overlay, swap_sheet
from latens.systems.parts.gallery import PartGallery, Patch
from latens.systems.parts.predict import PartCode, Parts, load, read_all
from latens.systems.parts.report import describe, write_report


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("album")
    rng = np.random.default_rng(0)
    for i, (height, width) in enumerate(((40, 61), (33, 32), (64, 20))):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 7, 3), dtype=np.uint8))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return sorted(folder.glob("*.png"))


def test_codes_have_the_shape_of_the_image(parts: Parts, album: list[Path]) -> None:
    wide, square, tall = parts.encode(album)
    assert [code.occurrence.shape for code in (wide, square, tall)] == [(4, 2, 3), (4, 2, 2), (4, 6, 2)]
    assert wide.size == (40, 61)
    assert all(code.appearance.shape == (4, 3) for code in (wide, square, tall))
    assert all(0 <= code.occurrence.min() and code.occurrence.max() <= 1 for code in (wide, square, tall))
    assert parts.decode(wide).size == (24, 16)
    (fine,) = parts.at(32).encode(album[0])
    assert fine.occurrence.shape == (4, 4, 6)


def test_the_same_image_of_every_type_has_the_same_code(parts: Parts, album: list[Path]) -> None:
    pixels = np.asarray(Image.open(album[0]))
    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255
    files: list[Any] = [album[0], str(album[0]), album[0].read_bytes(), Image.open(album[0])]
    forms = [*files, pixels, pixels / 255.0, tensor, tensor[None]]
    codes = [parts.encode(form)[0] for form in forms]
    assert all(np.array_equal(code.occurrence, codes[0].occurrence) for code in codes)
    batch = parts.encode(torch.stack([tensor, tensor]))
    assert len(batch) == 2
    assert len(parts.encode(np.stack([pixels] * 3))) == 3


def test_moments_are_those_of_every_stage(parts: Parts, album: list[Path]) -> None:
    stages = parts.model.encoder.stages
    found = parts.embed(album[:2], pooling="moments")
    squares = [center_square(read_image(path).pixels, parts.resolution) for path in album[:2]]
    image = to_tensor(np.stack(squares), channels_last=True)
    x, expected = normalized(image), []
    for stage in stages:
        x = stage(x)
        cells = x.flatten(2).numpy()
        expected += [cells.mean(2), cells.std(2)]
    np.testing.assert_allclose(found, np.concatenate(expected, axis=1), atol=1e-4)
    np.testing.assert_allclose(found[:, -256:-128], parts.embed(album[:2]), atol=1e-4)
    assert parts.embed([], pooling="moments").shape == (0, found.shape[1])
    with pytest.raises(UsageError, match="mean or moments"):
        parts.embed(album[:1], pooling="median")  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (17, 300)])
@pytest.mark.parametrize("mode", ["L", "RGBA", "I;16"])
def test_unusual_sizes_and_modes_are_accepted(parts: Parts, size: tuple[int, int], mode: str) -> None:
    (code,) = parts.encode(Image.new(mode, (size[1], size[0]), 90))
    assert np.isfinite(code.occurrence).all()
    assert parts.embed(Image.new(mode, (size[1], size[0]), 90)).shape == (1, 128)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.full((8, 8, 3), 200.0), "not in 0..1"),
        (np.full((8, 8, 3), np.nan), "not finite"),
        (torch.full((3, 8, 8), float("nan")), "not finite"),
        (np.zeros((8, 8, 3), np.int64), "int64"),
        ("nowhere.png", "no such file"),
        (7, "not an image"),
    ],
)
def test_invalid_images_are_refused(parts: Parts, image: Any, message: str) -> None:
    for verb in (parts.encode, parts.embed):
        with pytest.raises(InputError, match=message):
            verb(image)


def test_images_are_in_memory_one_at_a_time(parts: Parts, album: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[weakref.ref[np.ndarray]] = []

    def reading(path: Path) -> LoadedImage:
        assert sum(pixels() is not None for pixels in held) <= 1  # the previous image may still be referenced
        image = read_image(path)
        held.append(weakref.ref(image.pixels))
        return image

    monkeypatch.setattr(predict, "read_image", reading)
    for verb in (parts.encode, parts.embed, parts.statistics, parts.gallery):
        held.clear()
        verb(album)
        assert len(held) >= len(album)


def test_extreme_aspect_ratios_are_refused(parts: Parts, tmp_path: Path) -> None:
    assert parts.encode(Image.new("RGB", (64, 1)))[0].occurrence.shape == (4, 2, 128)
    with pytest.raises(InputError, match=r"1 x 65 pixels(?s:.*)crop"):
        parts.encode(Image.new("RGB", (1, 65)))
    Image.new("RGB", (130, 2)).save(tmp_path / "line.png")
    for verb in (parts.encode, parts.statistics, parts.gallery):
        with pytest.raises(InputError, match=r"line\.png: an image of 130 x 2"):
            verb([tmp_path / "line.png"])


def test_invalid_requests_are_refused(parts: Parts, album: list[Path]) -> None:
    codes = parts.encode(album)
    for verb in (lambda: parts.decode(codes), lambda: parts.swap(codes[:1], codes[1], 0)):  # type: ignore[arg-type]
        with pytest.raises(UsageError, match=r"list is not the code(?s:.*)codes\[0\]"):
            verb()
    with pytest.raises(UsageError, match="at least 1, not 0"):
        parts.gallery(album, most=0)
    with pytest.raises(UsageError, match="at least 1, not 0"):
        parts.occurrences(album[0], most=0)
    with pytest.raises(UsageError, match="3 images instead of one"):
        parts.occurrences(album)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no images"):
        parts.statistics([])
    assert parts.gallery([]) == []


def test_a_swap_changes_the_image_only_near_the_part(parts: Parts) -> None:
    occurrence = np.zeros((4, 8, 8), np.float32)
    occurrence[1, :, :2] = 1
    one = PartCode(occurrence, np.zeros((4, 3), np.float32), (64, 64))
    two = PartCode(occurrence, np.full((4, 3), 3.0, np.float32), (64, 64))
    swapped = parts.swap(one, two, 1)
    assert np.array_equal(swapped.appearance, [[0] * 3, [3] * 3, [0] * 3, [0] * 3])
    assert np.array_equal(swapped.occurrence, one.occurrence)
    assert one.appearance.max() == 0
    before, after = (np.asarray(parts.decode(code)).astype(int) for code in (one, swapped))
    change = np.abs(after - before).max(axis=(0, 2))
    assert change[:16].max() > 0
    assert change[32:].max() == 0  # transposed convolutions extend a cell and a half
    assert np.array_equal(np.asarray(parts.decode(parts.swap(one, two, 0))), before.astype(np.uint8))  # part 0 does not occur
    with pytest.raises(UsageError, match="no part 4"):
        parts.swap(one, two, 4)
    with pytest.raises(UsageError, match="model has 4"):
        parts.decode(PartCode(occurrence[:2], np.zeros((2, 3), np.float32), (64, 64)))


def test_the_report_of_an_album(parts: Parts, album: list[Path], tmp_path: Path) -> None:
    report = describe(parts, album, [path.name for path in album], [parts.measure(path) for path in album])
    written = write_report(parts, report, album, tmp_path)
    assert {path.name for path in written} >= {"gallery.png", "parts.json", "index.html"}
    assert all(path.is_file() for path in written)
    assert report.statistics.active == sum(share > 0 for share in report.statistics.share)
    assert "active" in report.table().text()


def test_overlays_are_dark_where_a_part_is_absent(parts: Parts, album: list[Path]) -> None:
    pixels = next(read_all(album[0]))
    (code,) = parts.encode(pixels)
    assert occurrence_sheet(pixels, code, height=40).shape[0] >= 40
    nowhere, everywhere = (overlay(pixels, np.full((2, 3), value, np.float32)) for value in (0, 1))
    assert np.array_equal(everywhere, pixels)
    assert np.array_equal(nowhere[..., 0], nowhere[..., 2])  # gray
    assert np.abs(nowhere[..., 0] - 0.3 * pixels.mean(axis=2)).max() < 0.51


def test_a_gallery_is_as_wide_as_its_longest_row() -> None:
    gray = np.full((20, 20, 3), 90, np.uint8)
    patches = [Patch(number, (0, 0), 0.9, gray, (8, 8, 12, 12)) for number in range(12)]
    mean = np.zeros((24, 24, 3), np.uint8)
    few, many = PartGallery(0, patches[:1], 1, mean, 0.5), PartGallery(1, patches, 12, mean, 0.5)
    narrow, wide = gallery_sheet([few]), gallery_sheet([few, many])
    tile = 84 + 4  # with the gap
    assert wide.shape == (2 * tile, narrow.shape[1] + 11 * tile, 3)
    assert (wide[tile + 4, -tile : -4 - 4] < 255).all()  # the twelfth patch
    assert (wide[:tile, -11 * tile :] == 255).all()


def test_text_above_a_narrow_tile_is_not_cut() -> None:
    narrow = np.zeros((30, 20, 3), np.uint8)
    long, short = titled(narrow, "source, part 13"), titled(narrow, "1")
    assert long.shape[1] > 60
    assert (long[:12, [0, -1]] == 255).all()
    assert short.shape[1] == 20
    assert (titled(narrow, "1", np.array([1.0, 0, 0]))[18] == (255, 0, 0)).all()


def test_the_swap_with_the_largest_change_is_drawn(parts: Parts, album: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = next(read_all(album[0]))
    (code,) = parts.encode(pixels)
    assert len(code.present()) > 1
    drawn: list[str] = []

    def titled(tile: np.ndarray, text: str, color: object = None) -> np.ndarray:
        drawn.append(text)
        return tile

    monkeypatch.setattr(drawing, "titled", titled)
    assert swap_sheet(parts, pixels, [pixels[:, ::-1]]) is not None
    (other,) = parts.encode(pixels[:, ::-1].copy())
    before = np.asarray(parts.decode(other)).astype(int)
    change = {
        part: np.abs(np.asarray(parts.decode(parts.swap(other, code, part))) - before).sum()
        for part in set(code.present()) & set(other.present())
    }
    assert drawn[0] == f"source, part {max(change, key=change.__getitem__)}"
    known = swap_sheet(parts, pixels, [pixels[:, ::-1]], codes=[code, other])
    assert known is not None
    assert np.array_equal(known, np.asarray(swap_sheet(parts, pixels, [pixels[:, ::-1]])))
    nowhere = np.full((16, 16, 3), 127, np.uint8)
    assert swap_sheet(parts, nowhere, []) is None


def test_models_without_parts_only_embed(vae: Parts, album: list[Path]) -> None:
    features = vae.embed(album)
    assert features.shape == (3, 128)
    assert np.isfinite(features).all()
    for verb in (vae.encode, vae.statistics, vae.gallery):
        with pytest.raises(ModelError, match="no parts"):
            verb(album)


def test_loading(parts_folder: Path, parts: Parts, album: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    again = load(parts_folder, device="cpu")
    assert np.array_equal(again.encode(album)[0].occurrence, parts.encode(album)[0].occurrence)
    monkeypatch.setattr(catalogue, "MODELS", {})
    for name in ("parts", Path("parts")):
        with pytest.raises(ModelMissing, match=r"no model of this system(?s:.*)latens train parts"):
            load(name, device="cpu")
    save_model(tmp_path / "other", {"system": "image_codec", "model": {}}, {"a": torch.zeros(1)})
    save_model(tmp_path / "broken", {"system": "parts", "model": {"kind": "patchvae", "size": 16}}, {"a": torch.zeros(1)})
    for name, message in (("other", "image_codec"), ("broken", "do not fit")):
        with pytest.raises(ModelError, match=message):
            load(tmp_path / name, device="cpu")
    with pytest.raises(UsageError, match="resolution"):
        parts.at(30)
    with pytest.raises(UnreadableInput):
        parts.encode(tmp_path / "none.png")
