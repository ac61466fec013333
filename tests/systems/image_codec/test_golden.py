"""Files of earlier versions decode: golden streams and the frozen model that wrote them (tests/golden/image_codec).

The guarantee covers decoding only. The encoder may write other bytes for the same image.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

import latens
from latens.cli.main import main
from latens.systems.image_codec.format import read_coded_image
from latens.systems.image_codec.predict import ImageCodec

GOLDEN = Path(__file__).parents[2] / "golden" / "image_codec"
RECORD: dict[str, Any] = json.loads((GOLDEN / "golden.json").read_text())
NAMES = ("alpha", "color", "gray", "gray_alpha", "odd", "pixel", "refined", "tall")
# The reference images were decoded in float32. Transforms in bfloat16, which has 8 significant bits, differ by up to 2 of
# 255 levels on these files.
LEVELS = 4


@pytest.fixture(scope="module")
def frozen() -> ImageCodec:
    codec: ImageCodec = latens.load(GOLDEN / "model", device="cpu")
    return codec


def latents(codec: ImageCodec, blob: bytes) -> dict[str, Tensor]:
    """The decoded integers: symbols of z, symbols of y, and means of y in 1/1024."""
    symbols, lost = codec.decode_symbols(read_coded_image(blob), partial=False)
    assert not lost
    return {"z": symbols.z, "y": symbols.y, "mean": symbols.parameters.mean.double() * 1024}


def hashes(integers: dict[str, Tensor]) -> dict[str, str]:
    return {name: hashlib.sha256(value.numpy().astype("<i4").tobytes()).hexdigest() for name, value in integers.items()}


def same_image(found: Image.Image, name: str) -> None:
    """Assert that size, mode and alpha are equal, and colors equal up to floating-point rounding."""
    with Image.open(GOLDEN / f"{name}.png") as expected:
        assert (list(found.size), found.mode) == (RECORD["files"][name]["size"], RECORD["files"][name]["mode"])
        assert (expected.size, expected.mode) == (found.size, found.mode)
        a, b = (np.asarray(image).astype(int) for image in (found, expected))
    if found.mode.endswith("A"):
        assert np.array_equal(a[..., -1], b[..., -1])
    assert np.abs(a - b).max() <= LEVELS


def test_every_golden_file_is_tested() -> None:
    assert {path.stem for path in GOLDEN.glob("*.ltn")} == set(RECORD["files"]) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_golden_file_decodes_to_its_latents_and_its_image(frozen: ImageCodec, name: str) -> None:
    blob = (GOLDEN / f"{name}.ltn").read_bytes()
    assert hashes(latents(frozen, blob)) == RECORD["files"][name]["latents"]
    same_image(frozen.decompress(blob), name)


def test_the_hash_changes_with_one_symbol(frozen: ImageCodec) -> None:
    integers = latents(frozen, (GOLDEN / "pixel.ltn").read_bytes())
    integers["y"][0, 0, 0, 0] += 1
    found, expected = hashes(integers), RECORD["files"]["pixel"]["latents"]
    assert (found["y"] != expected["y"], found["z"] == expected["z"]) == (True, True)


def test_the_tall_file_has_two_bands(frozen: ImageCodec) -> None:
    assert len(read_coded_image((GOLDEN / "tall.ltn").read_bytes()).bands) == 2


def test_the_command_decodes_golden_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = tmp_path / "one.png"
    assert main(["decompress", str(GOLDEN / "color.ltn"), "-o", str(one), "--model", str(GOLDEN / "model")]) == 0
    same_image(Image.open(one), "color")
    every = [str(GOLDEN / f"{name}.ltn") for name in NAMES]
    assert main(["decompress", *every, "-o", str(tmp_path / "all"), "--model", str(GOLDEN / "model")]) == 0
    for name in NAMES:
        with Image.open(tmp_path / "all" / f"{name}.png") as image:
            same_image(image, name)


def test_files_of_the_frozen_model_are_refused_by_the_bundled_one(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["decompress", str(GOLDEN / "color.ltn"), "-o", str(tmp_path / "a.png")]) != 0
    assert read_coded_image((GOLDEN / "color.ltn").read_bytes()).model_id.hex() in capsys.readouterr().err
