"""Files of earlier versions decode: golden streams and the frozen models that wrote them (tests/golden/image_codec*).

The guarantee covers decoding only. The encoder may write other bytes for the same image.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

import latens
from latens.catalogue import MODELS, TUNES, default_model
from latens.cli.main import main
from latens.systems.image_codec.format import read_coded_image
from latens.systems.image_codec.predict import ImageCodec

FOLDERS = sorted((Path(__file__).parents[2] / "golden").glob("image_codec*"))
NAMES = ("alpha", "color", "gray", "gray_alpha", "odd", "pixel", "refined", "tall")
# The reference images were decoded in float32. Transforms in bfloat16, which has 8 significant bits, differ by up to 2 of
# 255 levels on these files.
LEVELS = 4


class Golden:
    """A folder of golden files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.record: dict[str, Any] = json.loads((folder / "golden.json").read_text())
        self.codec: ImageCodec = latens.load(folder / "model", device="cpu")

    def blob(self, name: str) -> bytes:
        return (self.folder / f"{name}.ltn").read_bytes()


@pytest.fixture(scope="module", params=FOLDERS, ids=lambda folder: folder.name)
def golden(request: pytest.FixtureRequest) -> Golden:
    return Golden(request.param)


def latents(codec: ImageCodec, blob: bytes) -> dict[str, Tensor]:
    """The decoded integers: symbols of z, symbols of y, and means of y in 1/1024."""
    symbols, lost = codec.decode_symbols(read_coded_image(blob), partial=False)
    assert not lost
    return {"z": symbols.z, "y": symbols.y, "mean": symbols.parameters.mean.double() * 1024}


def hashes(integers: dict[str, Tensor]) -> dict[str, str]:
    return {name: hashlib.sha256(value.numpy().astype("<i4").tobytes()).hexdigest() for name, value in integers.items()}


def same_image(found: Image.Image, golden: Golden, name: str) -> None:
    """Assert that size, mode and alpha are equal, and colors equal up to floating-point rounding."""
    recorded = golden.record["files"][name]
    with Image.open(golden.folder / f"{name}.png") as expected:
        assert (list(found.size), found.mode) == (recorded["size"], recorded["mode"])
        assert (expected.size, expected.mode) == (found.size, found.mode)
        a, b = (np.asarray(image).astype(int) for image in (found, expected))
    if found.mode.endswith("A"):
        assert np.array_equal(a[..., -1], b[..., -1])
    assert np.abs(a - b).max() <= LEVELS


def test_the_models_are_of_every_kind() -> None:
    kinds = {json.loads((folder / "model" / "config.json").read_text())["model"].get("kind") for folder in FOLDERS}
    assert kinds == {None, "context"}


def test_every_golden_file_is_tested(golden: Golden) -> None:
    assert {path.stem for path in golden.folder.glob("*.ltn")} == set(golden.record["files"]) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_golden_file_decodes_to_its_latents_and_its_image(golden: Golden, name: str) -> None:
    blob = golden.blob(name)
    assert hashes(latents(golden.codec, blob)) == golden.record["files"][name]["latents"]
    same_image(golden.codec.decompress(blob), golden, name)


def test_the_hash_changes_with_one_symbol(golden: Golden) -> None:
    integers = latents(golden.codec, golden.blob("pixel"))
    integers["y"][0, 0, 0, 0] += 1
    found, expected = hashes(integers), golden.record["files"]["pixel"]["latents"]
    assert (found["y"] != expected["y"], found["z"] == expected["z"]) == (True, True)


def test_the_tall_file_has_two_bands(golden: Golden) -> None:
    assert len(read_coded_image(golden.blob("tall")).bands) == 2


def test_the_command_decodes_golden_files(golden: Golden, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, model = tmp_path / "one.png", ["--model", str(golden.folder / "model")]
    assert main(["decompress", str(golden.folder / "color.ltn"), "-o", str(one), *model]) == 0
    same_image(Image.open(one), golden, "color")
    every = [str(golden.folder / f"{name}.ltn") for name in NAMES]
    assert main(["decompress", *every, "-o", str(tmp_path / "all"), *model]) == 0
    for name in NAMES:
        with Image.open(tmp_path / "all" / f"{name}.png") as image:
            same_image(image, golden, name)


def test_files_of_the_frozen_model_are_refused_by_the_bundled_one(
    golden: Golden, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["decompress", str(golden.folder / "color.ltn"), "-o", str(tmp_path / "a.png")]) != 0
    assert read_coded_image(golden.blob("color")).model_id.hex() in capsys.readouterr().err


def test_files_of_the_first_bundled_model_decode_without_naming_it(tmp_path: Path) -> None:
    """The default model writes other files than its base, and decodes both."""
    first, default = (latens.load(name, device="cpu") for name in ("image_codec", default_model("image_codec")))
    pixels = (np.mgrid[0:70, 0:90].sum(axis=0)[..., None] * np.array([3, 1, 2]) // 2 % 256).astype(np.uint8)
    path, out = tmp_path / "a.ltn", tmp_path / "a.png"
    path.write_bytes(first.compress(pixels, quality=3))
    assert main(["decompress", str(path), "-o", str(out)]) == 0
    with Image.open(out) as image:
        assert np.array_equal(np.asarray(image), np.asarray(first.decompress(path)))
    assert read_coded_image(default.compress(pixels, quality=3)).model_id != read_coded_image(path.read_bytes()).model_id
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 255
    assert default.decompress(bytes(damaged), partial=True).info["latens_damaged"] == ["rows 0-69"]


def test_a_file_of_the_perceptual_model_is_chosen_and_decoded_by_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--tune` chooses a bundled model; every bundled model finds the one that wrote a file."""
    image, file, decoded = (tmp_path / name for name in ("a.png", "a.ltn", "b.png"))
    pixels = (np.mgrid[0:70, 0:90].sum(axis=0)[..., None] * np.array([3, 1, 2]) // 2 % 256).astype(np.uint8)
    Image.fromarray(pixels).save(image)
    assert main(["compress", str(image), "-o", str(file), "--tune", "perceptual", "--quality", "3"]) == 0
    assert main(["inspect", str(file), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["model"] == "image_codec_perceptual"
    assert main(["decompress", str(file), "-o", str(decoded)]) == 0
    own: ImageCodec = latens.load("image_codec_perceptual", device="cpu")
    assert file.read_bytes() == own.compress(pixels, quality=3)
    with Image.open(decoded) as found:
        assert np.array_equal(np.asarray(found), np.asarray(own.decompress(file)))
    default: ImageCodec = latens.load(default_model("image_codec"), device="cpu")
    other = default.compress(pixels, quality=3)
    assert read_coded_image(other).model_id.hex() == default.file_id != own.file_id
    assert np.array_equal(np.asarray(own.decompress(other)), np.asarray(default.decompress(other)))


def test_tunes_are_those_of_the_command_line_and_of_bundled_models() -> None:
    from latens.cli.compress import compress

    assert set(get_args(get_args(get_type_hints(compress)["tune"])[0])) == set(TUNES)
    assert set(TUNES.values()) <= set(MODELS)
    assert TUNES["psnr"] == default_model("image_codec")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tune", "perceptual", "--refine", "5"], "refinement minimizes squared error"),
        (["--tune", "psnr", "--model", "image_codec"], "--tune and --model exclude each other"),
        (["--model", "image_codec_perceptual", "--refine", "5"], "trained for structure"),
    ],
)
def test_options_that_contradict_a_tune_are_refused(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (64, 64), "gray").save(tmp_path / "a.png")
    assert main(["compress", str(tmp_path / "a.png"), "-o", str(tmp_path / "a.ltn"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "a.ltn").exists()


BUNDLED = FOLDERS[0].parent / "bundled"
BUNDLED_RECORD: dict[str, Any] = json.loads((BUNDLED / "golden.json").read_text())


@pytest.mark.parametrize("name", BUNDLED_RECORD)
def test_files_of_bundled_models_decode_with_the_default_model(name: str) -> None:
    """A part of coffee.png of scikit-image at quality 4, written by every model that was bundled."""
    blob = (BUNDLED / f"{name}.ltn").read_bytes()
    codec: ImageCodec = latens.load(default_model("image_codec"), device="cpu")
    owner = codec.codec_of(blob)
    assert owner.name == name
    assert read_coded_image(blob).model_id.hex() == owner.file_id == BUNDLED_RECORD[name]["weights"][:16]
    assert hashes(latents(owner, blob)) == BUNDLED_RECORD[name]["latents"]
    assert codec.decompress(blob).size == (96, 64)
