"""JPEG, WebP and AVIF as baselines."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from latens.data.images import LoadedImage
from latens.errors import UsageError
from latens.metrics.image import psnr
from latens.systems.image_codec.baselines import Encoder, available, avif, decode, match_size

ENCODERS = available()

rng = np.random.default_rng(2)
rows, columns = np.mgrid[0:60, 0:90]
WAVES = np.stack([np.sin((rows * a + columns * b) / 9) for a, b in ((1, 0.2), (0.9, 0.3), (1, 0.1))], axis=-1)
PIXELS = np.clip(120 + 80 * WAVES + rng.normal(0, 6, WAVES.shape), 0, 255).astype(np.uint8)
COLOR = LoadedImage(PIXELS, None, False, ())
GRAY = LoadedImage(np.repeat(PIXELS[..., :1], 3, axis=2), None, True, ())


def test_all_baselines_are_available() -> None:
    assert [encoder.name for encoder in ENCODERS] == ["JPEG", "WebP", "AVIF"]
    assert all(any(digit.isdigit() for digit in encoder.version) for encoder in ENCODERS)
    with pytest.raises(UsageError, match="JPEG2000"):
        available(("JPEG2000",))


@pytest.mark.parametrize("encoder", ENCODERS, ids=lambda encoder: encoder.name)
@pytest.mark.parametrize("loaded", [COLOR, GRAY], ids=["color", "gray"])
def test_higher_quality_gives_larger_files_and_higher_psnr(encoder: Encoder, loaded: LoadedImage) -> None:
    files = [encoder.encode(loaded, quality) for quality in encoder.qualities[::3]]
    sizes = [len(file) for file in files]
    scores = [psnr(decode(file), loaded.pixels) for file in files]
    assert sizes == sorted(sizes)
    assert scores == sorted(scores)
    assert scores[-1] > scores[0] + 3
    with Image.open(io.BytesIO(files[0])) as image:
        assert image.format is not None
        assert image.format.upper() == encoder.name.upper()
        assert not image.info.get("exif")


def test_gray_images_are_written_as_gray_jpegs() -> None:
    (jpeg,) = available(("JPEG",))
    with Image.open(io.BytesIO(jpeg.encode(GRAY, 50))) as image:
        assert image.mode == "L"


def test_avif_for_psnr_is_tuned_for_it_and_keeps_colors_at_4_4_4() -> None:
    usual, subsampled, full = available(("AVIF", "AVIF 4:2:0 psnr", "AVIF 4:4:4 psnr"))
    assert "4:2:0, speed 6, tune=psnr" in subsampled.version
    assert "4:4:4, speed 6, tune=psnr" in full.version
    red = LoadedImage(rng.integers(0, 2, (32, 32, 1), np.uint8) * np.array([255, 0, 0], np.uint8), None, False, ())
    scores = [psnr(decode(each.encode(red, 88)), red.pixels) for each in (subsampled, full)]
    assert scores[1] > scores[0] + 6  # single red pixels do not survive at half the resolution
    assert usual.encode(COLOR, 60) != subsampled.encode(COLOR, 60)


def test_avif_at_a_slower_speed() -> None:
    (usual,) = available(("AVIF",))
    slow, full = avif(speed=4, qualities=(40, 60)), avif("4:4:4", "psnr", speed=4)
    assert (slow.name, full.name) == ("AVIF speed 4", "AVIF 4:4:4 psnr speed 4")
    assert "4:2:0, speed 4, default tune" in slow.version
    assert "aom" in usual.version
    assert slow.qualities == (40, 60)
    assert slow.encode(COLOR, 60) != usual.encode(COLOR, 60)


def test_jpeg_subsamples_color() -> None:
    from PIL.JpegImagePlugin import get_sampling

    (jpeg,) = available(("JPEG",))
    with Image.open(io.BytesIO(jpeg.encode(COLOR, 50))) as image:
        assert get_sampling(image) == 2  # Pillow's number for 4:2:0


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 1.0])
def test_match_is_the_smallest_file_that_is_large_enough(share: float) -> None:
    (jpeg,) = available(("JPEG",))
    sizes = [len(jpeg.encode(COLOR, quality)) for quality in range(1, 96)]
    wanted = int(min(sizes) + share * (max(sizes) - min(sizes)))
    match = match_size(jpeg, COLOR, wanted)
    assert match.data == jpeg.encode(COLOR, match.quality)
    assert len(match.data) >= wanted
    assert match.quality == 1 or len(jpeg.encode(COLOR, match.quality - 1)) < wanted


def test_match_stops_at_the_finest_quality() -> None:
    (jpeg,) = available(("JPEG",))
    match = match_size(jpeg, COLOR, 10**9)
    assert (match.quality, match.data) == (95, jpeg.encode(COLOR, 95))
