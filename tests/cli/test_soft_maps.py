"""`--save-maps`: files of soft maps, which are results like others and never inputs."""

from __future__ import annotations

import json
import shutil
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

import latens
from latens.cli.main import main
from latens.data.inputs import find_inputs
from latens.data.records import RECORDS
from latens.errors import UsageError

Capture = pytest.CaptureFixture[str]
UNIT = 1 / 65535


def pages(path: Path) -> dict[str, np.ndarray]:
    """The maps of a file by name, in [0, 1]."""
    with tifffile.TiffFile(path) as file:
        assert all(page.dtype == np.uint16 for page in file.pages)
        return {page.aspage().description: page.asarray() * UNIT for page in file.pages}


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """A gray ramp with a white bar, which has no haze, and a noisy image in a subfolder."""
    folder = tmp_path / "album"
    (folder / "trip").mkdir(parents=True)
    ramp = np.tile(np.linspace(90, 220, 60).astype(np.uint8)[:, None, None], (1, 80, 3))
    Image.fromarray(np.concatenate([np.full((12, 80, 3), 255, np.uint8), ramp])).save(folder / "a.png")
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "trip" / "b.png")
    return folder


def test_the_transmission_is_that_of_the_result(album: Path, capsys: Capture) -> None:
    maps = album.parent / "maps"
    words = ["dehaze", str(album), "-o", f"{album.parent}/clear", "--method", "dcp", "--strength", "0.6"]
    assert main([*words, "--save-maps", str(maps), "--format", "json"]) == 0
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (first["maps"], second["maps"]) == (str(maps / "a_maps65535.tif"), str(maps / "trip" / "b_maps65535.tif"))
    found = np.zeros((72, 80), np.float32)
    latens.load("haze").remove(album / "a.png", method="dcp", strength=0.6, transmission=found)
    assert np.all(found[:10] == 1)
    assert found[12:].min() < 0.9
    assert np.allclose(pages(maps / "a_maps65535.tif")["transmission"], found, atol=UNIT)
    with pytest.raises(UsageError, match="not of the size"):
        latens.load("haze").remove(album / "a.png", method="dcp", transmission=found[1:])
    assert pages(maps / "trip" / "b_maps65535.tif")["transmission"].shape == (40, 50)


def test_maps_are_made_for_finished_results_and_kept_like_them(album: Path, capsys: Capture) -> None:
    maps, out = album.parent / "maps", album.parent / "clear"
    words = ["dehaze", str(album), "-o", str(out), "--method", "dcp"]
    asked = [*words, "--save-maps", str(maps)]
    assert main(words) == 0
    assert main(asked) == 0
    assert "made again with 1 file (a_maps65535.tif)" in capsys.readouterr().err
    assert main(asked) == 0
    assert "2 skipped" in capsys.readouterr().err
    own = maps / "a_maps65535.tif"
    own.write_bytes(b"mine")
    assert main(asked) == 3
    assert "1 file (a_maps65535.tif) would be replaced, which latens did not make from this input" in capsys.readouterr().err
    assert own.read_bytes() == b"mine"
    assert main([*asked, "--force"]) == 0
    assert "replaced by --force: a_maps65535.tif" in capsys.readouterr().err
    assert pages(own)


def test_maps_are_no_inputs(album: Path) -> None:
    """With a record, of a folder of maps alone too; without one, next to the image that they belong to."""
    assert main(["dehaze", str(album), "--method", "dcp", "--save-maps", str(album)]) == 0
    endings = frozenset({".png", ".tif"})
    kept = ["a.clear.png", "a.png", "trip/b.clear.png", "trip/b.png"]
    assert [file.relative.as_posix() for file in find_inputs([album], endings)] == kept
    bare = album.parent / "bare"
    shutil.copytree(album, bare)
    for record in bare.rglob(RECORDS):
        record.unlink()
    assert [file.relative.as_posix() for file in find_inputs([bare], endings)] == kept
    assert find_inputs([album / "a_maps65535.tif"], endings)[0].relative == Path("a_maps65535.tif")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--method", "mmd"], "estimates no transmission"),
        (["--raw", "8x8"], "no format, metadata, maps or name"),
        (["A"], "two inputs are named a"),
    ],
)
def test_maps_that_cannot_be_are_refused(words: list[str], said: str, album: Path, capsys: Capture) -> None:
    shutil.copy(album / "a.png", album / "a.jpg")
    image, maps = album / "a.png", ["--save-maps", str(album.parent / "maps"), "-o", f"{album.parent}/out/"]
    inputs = [str(image), str(album / "a.jpg")] if words == ["A"] else [str(image), *words]
    assert main(["dehaze", *inputs, *maps]) == 2
    assert said in capsys.readouterr().err


def test_probabilities_of_every_part(album: Path) -> None:
    maps = album.parent / "maps"
    assert main(["parts", str(album), "-o", f"{album.parent}/found", "--save-maps", str(maps)]) == 0
    code = latens.load("parts").encode(album / "a.png")[0]
    found = pages(maps / "a_maps65535.tif")
    assert list(found) == [f"part {n}" for n in range(len(code.occurrence))]
    assert np.allclose(np.stack(list(found.values())), code.occurrence, atol=UNIT)
    words = ["parts", str(album), "-o", f"{album.parent}/named", "--clusters", "2", "--save-maps", str(maps)]
    assert main(words) == 2


def test_foreground_and_overlap_of_nuclei(tmp_path: Path) -> None:
    nuclei = Image.open(files("latens.systems.amodal") / "samples" / "fluorescent.png")  # type: ignore[arg-type]
    nuclei.crop((0, 0, 160, 120)).save(tmp_path / "n.png")
    assert main(["segment", str(tmp_path / "n.png"), "-o", f"{tmp_path}/out/", "--save-maps", f"{tmp_path}/maps"]) == 0
    found = pages(tmp_path / "maps" / "n_maps65535.tif")
    assert list(found) == ["foreground", "overlap"]
    cells = tifffile.imread(tmp_path / "out" / "n.labels.tif") > 0
    assert cells.any()
    assert found["foreground"].shape == found["overlap"].shape == cells.shape
    assert found["foreground"][cells].mean() > 0.8
    assert found["foreground"][~cells].mean() < 0.3


def test_soft_masks_of_every_object(tmp_path: Path, cell_model: Path) -> None:
    rng = np.random.default_rng(0)
    stack = [Image.fromarray(rng.integers(0, 256, (40, 50), dtype=np.uint8)) for _ in range(2)]
    stack[0].save(tmp_path / "s.tif", save_all=True, append_images=stack[1:])
    words = ["segment", str(tmp_path / "s.tif"), "-o", f"{tmp_path}/out/", "--model", str(cell_model), "--score", "0"]
    assert main([*words, "--save-maps", str(tmp_path / "maps")]) == 0
    found = pages(tmp_path / "maps" / "s_maps65535.tif")
    masks = tifffile.imread(tmp_path / "out" / "s.masks.tif") > 0
    whole = [values for name, values in found.items() if name.endswith("whole")]
    assert len(masks) == len(whole) > 1
    assert all(np.array_equal(mask, values > 0.5) for mask, values in zip(masks, whole, strict=True))
    first = [values for name, values in found.items() if name.startswith("frame 1: object") and name.endswith("whole")]
    assert np.array_equal(found["frame 1: any object"], np.max(first, axis=0))
    assert "frame 2: object 1, visible" in found
