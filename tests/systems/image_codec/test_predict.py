"""Round trips of images of every kind, inspection of files, rate targets."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from latens.data.images import read_image
from latens.errors import Corrupt, ModelError, ModelMismatch, UsageError
from latens.inference.device import transform_precision
from latens.metrics.image import psnr
from latens.systems.image_codec import format as image_format
from latens.systems.image_codec import stages
from latens.systems.image_codec.format import read_coded_image, write_image_file
from latens.systems.image_codec.predict import ImageCodec, inspect_stream, load

rows, columns = np.mgrid[0:200, 0:300].astype(np.float64)
shades = [np.sin((rows * a + columns * b) / 23) for a, b in ((1, 0.3), (0.9, 0.4), (1.1, 0.2))]
COLOR = (np.stack(shades, axis=-1) * 70 + 120 + ((rows // 23 + columns // 31) % 2)[..., None] * 40).astype(np.uint8)


@pytest.mark.parametrize("size", [(1, 1), (1, 70), (63, 65), (64, 64), (130, 31)])
def test_any_size(bundled: ImageCodec, size: tuple[int, int]) -> None:
    pixels = COLOR[: size[0], : size[1]]
    decoded = np.asarray(bundled.decompress(bundled.compress(pixels, quality=8)))
    assert decoded.shape == pixels.shape
    assert psnr(decoded, pixels) > 25


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_gray_and_alpha_are_kept(codec: ImageCodec, mode: str) -> None:
    image = Image.fromarray(COLOR).convert("L" if mode[0] == "L" else "RGB")
    alpha = Image.fromarray((columns % 256).astype(np.uint8))
    if mode.endswith("A"):
        image.putalpha(alpha)
    blob = codec.compress(image, quality=1)
    decoded = codec.decompress(blob)
    assert decoded.mode == mode == inspect_stream(blob).mode
    if mode.endswith("A"):
        assert np.array_equal(np.asarray(decoded.getchannel("A")), np.asarray(alpha))
    if mode[0] == "L":
        colors = np.asarray(decoded.convert("RGB")).astype(int)
        assert (colors.max(axis=2) == colors.min(axis=2)).all()


def test_higher_quality_gives_larger_files_and_higher_psnr(bundled: ImageCodec) -> None:
    sizes, scores = [], []
    for quality in (1, 2.5, 4, 8):
        blob = bundled.compress(COLOR, quality=quality)
        sizes.append(len(blob))
        scores.append(psnr(np.asarray(bundled.decompress(blob)), COLOR))
    assert sizes == sorted(sizes)
    assert scores == sorted(scores)
    assert sizes[0] < sizes[-1]


def test_inspect_adds_up(codec: ImageCodec) -> None:
    blob = codec.compress(COLOR, quality=1.25)
    info = inspect_stream(blob)
    assert (info.width, info.height, info.quality, info.bytes) == (300, 200, 1.25, len(blob))
    assert sum(info.bits.values()) == 8 * len(blob)
    assert info.bits["header"] <= 8 * 80
    assert info.model_id == codec.model_id[:16] == codec.file_id


def test_the_estimate_equals_the_file_size(bundled: ImageCodec) -> None:
    blob = bundled.compress(COLOR, quality=4)
    estimate = bundled.estimate(COLOR, quality=4)
    bits = estimate.bits_y + estimate.bits_z
    assert abs(8 * len(blob) - bits) <= 0.01 * bits + 8 * 200
    assert estimate.psnr == pytest.approx(psnr(np.asarray(bundled.decompress(blob)), COLOR), abs=0.1)


@pytest.mark.parametrize("share", [0.25, 0.6])
def test_targets_are_met(bundled: ImageCodec, share: float) -> None:
    ends = [len(bundled.compress(COLOR, quality=quality)) for quality in (1, 8)]
    wanted = ends[0] + share * (ends[1] - ends[0])
    blob = bundled.compress(COLOR, bpp=8 * wanted / COLOR[..., 0].size)
    assert len(blob) == pytest.approx(wanted, rel=0.02)
    scores = [psnr(np.asarray(bundled.decompress(bundled.compress(COLOR, quality=q))), COLOR) for q in (1, 8)]
    target = scores[0] + share * (scores[1] - scores[0])
    assert psnr(np.asarray(bundled.decompress(bundled.compress(COLOR, psnr=target))), COLOR) == pytest.approx(target, abs=0.05)


def test_a_size_is_never_exceeded_and_nearly_used(bundled: ImageCodec) -> None:
    ends = [len(bundled.compress(COLOR, quality=quality)) for quality in (1, 8)]
    for wanted in (ends[0] + 50, (ends[0] + ends[1]) // 2, ends[1] - 1):
        assert 0.97 * wanted <= len(bundled.compress(COLOR, size=wanted)) <= wanted
    with pytest.raises(UsageError, match=f"this model gives {ends[0]:,} to {ends[1]:,} bytes on this image"):
        bundled.compress(COLOR, size=ends[0] - 1)
    small, large = (bundled.encode(COLOR, size=size, nearest=True) for size in (ends[0] - 1, 2 * ends[1]))
    assert [len(small.data), len(large.data)] == ends
    assert small.missed
    assert f"{2 * ends[1]:,} bytes asked, {ends[1]:,} bytes reached at quality 8, the highest" in large.notes[-1]


def test_a_refined_file_stays_within_its_size(bundled: ImageCodec) -> None:
    pixels = COLOR[:64, :64]
    wanted = len(bundled.compress(pixels, quality=4))
    assert 0.97 * wanted <= len(bundled.compress(pixels, size=wanted, refine=30)) <= wanted


@pytest.mark.parametrize("target", [29.9, 31.4, 36.0])
def test_the_psnr_is_within_its_tolerance_in_db_and_recorded(bundled: ImageCodec, target: float) -> None:
    made = bundled.encode(COLOR, psnr=target)
    measured = psnr(np.asarray(bundled.decompress(made.data)), COLOR)
    assert measured == pytest.approx(target, abs=0.05)
    assert made.psnr == pytest.approx(measured, abs=1e-6)
    assert not made.missed


def test_an_end_replaces_a_target_out_of_reach(bundled: ImageCodec) -> None:
    ends = [bundled.compress(COLOR, quality=quality) for quality in (1, 8)]
    for request, end in (({"psnr": 10.0}, ends[0]), ({"psnr": 90.0}, ends[1]), ({"bpp": 100.0}, ends[1])):
        made = bundled.encode(COLOR, **request, nearest=True)  # type: ignore[arg-type]
        assert made.data == end
        assert made.missed
        assert "asked" in made.notes[-1]


def test_padding_costs_few_bits(bundled: ImageCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Narrow images are coded at multiples of 64 pixels; the latents that no visible pixel needs are zero."""
    row = np.ascontiguousarray(np.repeat(skimage.data.astronaut()[:1, :300], 8, axis=1))
    small, scores = [], []
    for margin in (99, stages.PADDING_MARGIN):
        monkeypatch.setattr(stages, "PADDING_MARGIN", margin)
        blob = bundled.compress(row, quality=8)
        small.append(len(blob))
        scores.append(psnr(np.asarray(bundled.decompress(blob)), row))
    assert small[1] < 0.92 * small[0]
    assert scores[1] > scores[0] - 0.15


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"quality": 9}, "1 to 8"),
        ({"quality": 0.5}, "1 to 8"),
        ({"quality": 1, "bpp": 1}, "exclude each other"),
        ({"bpp": 1e-4}, "out of reach"),
        ({"psnr": 90}, "out of reach"),
        ({"bpp": -1}, "positive"),
        ({"psnr": float("nan")}, "nan is not a number"),
    ],
)
def test_impossible_requests_are_refused(bundled: ImageCodec, request_: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        bundled.compress(COLOR, **request_)
    assert message in str(caught.value)


def test_another_models_file_is_refused(codec: ImageCodec) -> None:
    other = ImageCodec(codec.model, codec.coding, name="other", sha256="00" * 32, device=torch.device("cpu"))
    with pytest.raises(ModelMismatch, match="was written with model"):
        other.decompress(codec.compress(COLOR, quality=1))


def test_row_blocks_change_nothing(bundled: ImageCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    blob = bundled.compress(COLOR, quality=4)
    whole = np.asarray(bundled.decompress(blob)).astype(int)
    monkeypatch.setattr(bundled, "precision", "float32")
    latent = bundled.latent(COLOR)
    monkeypatch.setattr(stages, "ROW_BLOCK_PIXELS", 64 * 320)  # four row blocks
    torch.testing.assert_close(bundled.latent(COLOR), latent, atol=1e-4, rtol=1e-4)
    monkeypatch.setattr(bundled, "precision", transform_precision(bundled.device))
    assert np.abs(np.asarray(bundled.decompress(blob)) - whole).max() <= 1


def test_a_path_decodes_as_its_bytes(codec: ImageCodec, tmp_path: Path) -> None:
    blob = codec.compress(COLOR, quality=1)
    path = tmp_path / "a.ltn"
    path.write_bytes(blob)
    assert np.array_equal(np.asarray(codec.decompress(path)), np.asarray(codec.decompress(blob)))


def test_encode_returns_the_bytes_of_compress(codec: ImageCodec) -> None:
    deep = Image.fromarray(COLOR[..., 0].astype(np.uint16) * 257)
    found = codec.encode(deep, quality=1.5)
    assert found.data == codec.compress(deep, quality=1.5)
    assert (found.width, found.height, found.quality, found.bits) == (300, 200, 1.5, 8 * len(found.data))
    assert any("16" in note for note in found.notes)


def test_a_model_folder_with_invalid_settings_is_a_model_error(codec_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(codec_folder, tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    config["model"]["kind"] = "hyperprjor"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="hyperprjor"):
        load(folder, device="cpu")


# ------------------------------------------------------------------------------------------------ alpha and gray


def cut_out(background: np.ndarray) -> Image.Image:
    """A disk of the test image on a transparent background with these hidden colors."""
    y, x = np.mgrid[0:128, 0:128]
    alpha = np.where((y - 64) ** 2 + (x - 64) ** 2 < 40**2, 255, 0).astype(np.uint8)
    image = Image.fromarray(np.where(alpha[..., None] > 0, COLOR[:128, :128], background))
    image.putalpha(Image.fromarray(alpha))
    return image


def test_hidden_colors_are_not_coded(bundled: ImageCodec) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    black = np.zeros((128, 128, 3), np.uint8)
    blobs = [bundled.compress(cut_out(background), quality=4) for background in (noise, black, COLOR[:128, :128])]
    assert blobs[0] == blobs[1] == blobs[2]
    plain = bundled.compress(cut_out(noise).convert("RGB"), quality=4)
    assert len(blobs[0]) < len(plain) / 3


def test_psnr_counts_visible_pixels(bundled: ImageCodec) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    image = cut_out(noise)
    seen = np.asarray(image.getchannel("A")) > 0
    decoded = np.asarray(bundled.decompress(bundled.compress(image, psnr=33)))
    assert psnr(decoded[None, seen, :3], np.asarray(image)[None, seen, :3]) == pytest.approx(33, abs=0.2)
    decoded = np.asarray(bundled.decompress(bundled.compress(image, quality=4)))
    expected = psnr(decoded[None, seen, :3], np.asarray(image)[None, seen, :3])
    assert bundled.estimate(image, quality=4).psnr == pytest.approx(expected)


def test_an_image_without_visible_pixels_costs_as_much_as_a_flat_one(bundled: ImageCodec) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (128, 192, 4), dtype=np.uint8)
    noise[..., 3] = 0
    flat = np.full((128, 192, 4), (128, 128, 128, 0), np.uint8)
    blob = bundled.compress(noise, quality=4)
    assert len(blob) == len(bundled.compress(flat, quality=4)) < 500
    assert np.asarray(bundled.decompress(blob))[..., 3].max() == 0


def test_a_fully_transparent_image_has_a_psnr(bundled: ImageCodec) -> None:
    image = Image.fromarray(COLOR[:64, :64])
    image.putalpha(0)
    assert 20 < bundled.estimate(image, quality=4).psnr < 60


def test_gray_decodes_the_mean_of_the_channels(bundled: ImageCodec) -> None:
    image = Image.fromarray(COLOR).convert("L")
    loaded = read_image(image)
    blob = bundled.compress(image, quality=4)
    symbols, _ = bundled.decode_symbols(read_coded_image(blob), partial=False)
    channels = bundled.reconstruct(symbols, loaded.pixels.shape)
    decoded = np.asarray(bundled.decompress(blob))
    assert np.array_equal(decoded, np.rint(channels.astype(float).mean(2)))
    mean, first = (psnr(np.dstack([gray] * 3), loaded.pixels) for gray in (decoded, channels[..., 0]))
    assert mean > first
    assert bundled.estimate(image, quality=4).psnr == pytest.approx(mean)
    old = read_coded_image(blob)._replace(version=(1, 0))
    assert np.array_equal(np.asarray(bundled.decompress(write_image_file(old))), channels[..., 0])


# ----------------------------------------------------------------------------------------------------- metadata


def test_exif_and_xmp_are_carried_unless_stripped(codec: ImageCodec, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Camera", 6
    xmp = b"<x:xmpmeta/>" * 30
    Image.fromarray(COLOR).save(tmp_path / "a.jpg", exif=exif, xmp=xmp)
    kept, stripped = (codec.compress(tmp_path / "a.jpg", quality=1, strip=strip) for strip in (False, True))
    image = codec.decompress(kept)
    assert image.size == (COLOR.shape[0], COLOR.shape[1])  # rotated once
    assert (image.getexif()[0x010F], image.info["xmp"]) == ("Camera", xmp)
    assert inspect_stream(kept).bits["metadata"] > 0
    assert sum(inspect_stream(kept).bits.values()) == 8 * len(kept)
    plain = codec.decompress(stripped)
    assert not {"exif", "xmp"} & plain.info.keys()
    assert inspect_stream(stripped).bits["metadata"] == 0
    assert np.array_equal(np.asarray(plain), np.asarray(image))


def test_readers_that_do_not_know_metadata_skip_it(codec: ImageCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.fromarray(COLOR[:64, :64])
    image.info["xmp"] = b"<x:xmpmeta/>"
    blob = codec.compress(image, quality=1)
    old = {kind: name for kind, name in image_format.KINDS.items() if kind <= image_format.ALPHA}
    expected = np.asarray(codec.decompress(blob))
    monkeypatch.setattr(image_format, "KINDS", old)
    assert np.array_equal(np.asarray(codec.decompress(blob)), expected)
    assert "xmp" not in codec.decompress(blob).info


def test_damaged_metadata_is_lost_in_part_only(codec: ImageCodec) -> None:
    image = Image.fromarray(COLOR[:64, :64])
    image.info["xmp"] = b"<x:xmpmeta/>"
    blob = bytearray(codec.compress(image, quality=1))
    blob[-3] ^= 1
    with pytest.raises(Corrupt, match="XMP"):
        codec.decompress(bytes(blob))
    found = codec.decompress(bytes(blob), partial=True)
    assert found.info["latens_damaged"] == ["XMP"]
    assert found.size == (64, 64)
