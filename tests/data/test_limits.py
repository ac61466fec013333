"""Limits of images: one set for reading and writing, raised by --limit in every verb that reads images."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latens.cli.common import ReadOptions
from latens.cli.main import VERBS, main
from latens.data.clips.clip import limit_size
from latens.data.depth import read_depth
from latens.data.exr import read_exr
from latens.data.images import read_image
from latens.data.limits import ImageLimits, current_limits, parse_limits, raised_limits
from latens.data.stacks import read_frames
from latens.errors import LimitExceeded, UsageError

Capture = pytest.CaptureFixture[str]
# Verbs without images of the user.
OTHERS = {"demo", "app", "export", "recipes", "reproduce", "bench", "int8", "import", "jobs", "models", "doctor"}


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The defaults of this file: 40 pixels per side, 1,200 pixels."""
    monkeypatch.setattr("latens.data.limits._DEFAULT", ImageLimits(side=40, pixels=1200))


def test_options_are_parsed() -> None:
    assert parse_limits(["side=65500", "pixels=4e8"]) == ImageLimits(side=65500, pixels=400_000_000)
    assert parse_limits(["pixels=2_000,side=50"]) == ImageLimits(side=50, pixels=2000)
    for text in ("side", "side=", "side=0", "side=1.5", "side=nan", "side=1e9", "pixels=inf", "width=5", "90%"):
        with pytest.raises(UsageError):
            parse_limits([text])


def test_every_reader_has_the_same_limits(tmp_path: Path) -> None:
    wide = np.ones((4, 50), np.uint8)
    Image.fromarray(wide).save(tmp_path / "a.png")
    Image.fromarray(wide).save(tmp_path / "a.tif", save_all=True, append_images=[Image.fromarray(wide)])
    np.save(tmp_path / "large.npy", np.ones((40, 31), np.float32))
    sys.path.insert(0, str(Path(__file__).parent))
    from exr_maker import exr

    reads = [
        lambda: read_image(tmp_path / "a.png"),
        lambda: read_image(wide),
        lambda: list(read_frames(tmp_path / "a.tif")),
        lambda: read_depth(tmp_path / "a.png"),
        lambda: read_depth(tmp_path / "large.npy"),
        lambda: read_exr(exr({"Z": np.ones((4, 50), np.float32)})),
        lambda: limit_size(tmp_path / "a.mp4", 50, 4),
    ]
    for read in reads:
        with pytest.raises(LimitExceeded, match=r"--limit (side=50|pixels=1240)"):
            read()
    with raised_limits(ImageLimits(side=50, pixels=2000)):
        for read in reads:
            read()
    assert current_limits() == ImageLimits(side=40, pixels=1200)


def test_files_that_nothing_decodes_are_not_made(tmp_path: Path, capsys: Capture) -> None:
    wide = np.random.default_rng(0).integers(0, 256, (4, 50, 3), dtype=np.uint8)
    Image.fromarray(wide).save(tmp_path / "a.png")
    file, back = tmp_path / "a.ltn", tmp_path / "b.png"
    words = ["compress", str(tmp_path / "a.png"), "-o", str(file)]
    assert main(words) == 5
    shown = capsys.readouterr().err
    assert not file.exists()
    option = re.search(r"--limit side=50", shown)
    assert option is not None
    assert main([*words, *option[0].split()]) == 0  # the hint is the way
    assert main(["inspect", str(file)]) == 5
    assert main(["inspect", str(file), "--limit", "side=50"]) == 0
    assert main(["decompress", str(file), "-o", str(back)]) == 5
    assert "--limit side=50" in capsys.readouterr().err
    assert main(["decompress", str(file), "-o", str(back), "--limit", "side=50"]) == 0
    assert Image.open(back).size == (50, 4)


def test_a_raised_reading_limit_alone_makes_no_file() -> None:
    import latens

    wide = read_image(np.zeros((4, 50, 3), np.uint8), limits=ImageLimits(side=50))
    codec = latens.load("image_codec", device="cpu")
    with pytest.raises(LimitExceeded, match="side=50"):
        codec.compress(wide)
    with raised_limits(ImageLimits(side=50)):
        assert codec.decompress(codec.compress(wide)).size == (50, 4)


def test_pages_of_archives_have_the_limits(tmp_path: Path) -> None:
    from latens.systems.flow.pack.description import describe, described
    from latens.systems.flow.pack.files import PlainImage

    image = PlainImage(np.zeros((4, 50, 3), np.uint8), False, "PNG", b"", b"")
    with pytest.raises(LimitExceeded, match="side=50"):
        describe(image)
    with raised_limits(ImageLimits(side=50)):
        payload = describe(image)
    with pytest.raises(LimitExceeded, match="side=50"):
        described(payload)


@pytest.mark.parametrize("verb", [verb.name for verb in VERBS if verb.name not in OTHERS])
def test_every_verb_with_images_has_the_option(verb: str) -> None:
    import importlib
    import inspect

    target = next(each.target for each in VERBS if each.name == verb)
    module, _, function = target.partition(":")
    options = inspect.signature(getattr(importlib.import_module(module), function)).parameters["options"]
    assert isinstance(options.default, ReadOptions)


def test_images_above_the_limits_in_every_verb(tmp_path: Path, capsys: Capture) -> None:
    """Each verb names the option, and reads the image with it."""
    noise = np.random.default_rng(0).integers(0, 256, (24, 50, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    image, out = str(tmp_path / "a.png"), str(tmp_path / "out")
    for number, words in enumerate((
        ["compress", image], ["segment", image], ["dehaze", image, "--method", "dcp"], ["parts", image],
        ["haze", image], ["density", image],
    )):  # fmt: skip
        place = f"{out}{number}.csv" if words[0] == "density" else f"{out}{number}"
        assert main([*words, "-o", place]) == 5, words
        assert "--limit side=50" in capsys.readouterr().err
        assert main([*words, "-o", place, "--limit", "side=50"]) == 0, words


def test_a_wrong_limit_is_refused_and_grade_names_its_own_option(tmp_path: Path, capsys: Capture) -> None:
    assert main(["compress", "a.png", "--limit", "side=x"]) == 2
    assert "--limit side" in capsys.readouterr().err
    assert main(["grade", "a.png", "-o", str(tmp_path), "--limit", "90%"]) == 2
    assert "side=NUMBER" in capsys.readouterr().err


def test_the_module_loads_without_libraries() -> None:
    code = "import sys, latens.data.limits; sys.exit('numpy' in sys.modules or 'PIL' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
