"""Messages that new users see first: names, frames, limits and next steps."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latens.catalogue import SYSTEMS, VERBS
from latens.cli.main import VERBS as COMMANDS
from latens.cli.main import main
from latens.codes.clip_stream import ClipHeader, ClipWriter
from latens.codes.stream import Container, Section, pack

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_a_resolution_beyond_memory_is_refused(photo: Path, capsys: Capture) -> None:
    assert main(["parts", str(photo), "--resolution", "100000", "-o", str(photo.parent / "out")]) == 5
    assert "--resolution 100000" in capsys.readouterr().err


def test_a_message_on_a_skipped_file_gives_the_next_step(photo: Path, tiny_model: Path, capsys: Capture) -> None:
    Image.open(photo).save(photo.with_suffix(".jpg"))
    for _ in range(2):
        assert main(["compress", str(photo.with_suffix(".jpg")), "--model", str(tiny_model)]) == 0
    assert "skipped, finished; --force makes it again" in capsys.readouterr().err
    assert main(["compress", str(photo), "--model", str(tiny_model)]) == 2  # its result would have the same name
    said = capsys.readouterr().err
    assert f"this is the result of compressing {photo.with_suffix('.jpg')}, not {photo}" in said
    assert "name another output with -o, or add --force" in said


def test_a_damaged_file_names_partial_only_where_it_helps(photo: Path, tiny_model: Path, capsys: Capture) -> None:
    file = photo.with_suffix(".ltn")
    assert main(["compress", str(photo), "--model", str(tiny_model)]) == 0
    good = file.read_bytes()
    for data, helps in ((good[:-3] + bytes([good[-3] ^ 255]) + good[-2:], True), (good[:20], False)):
        file.write_bytes(data)
        assert main(["decompress", str(file), "-o", str(photo.parent / "x.png"), "--model", str(tiny_model)]) == 3
        assert ("add --partial" in capsys.readouterr().err) is helps


def test_the_first_line_names_device_and_weights(photo: Path, capsys: Capture) -> None:
    assert main(["dehaze", str(photo), "--method", "dcp"]) == 0
    assert "dcp, without weights" in capsys.readouterr().err.splitlines()[0]
    assert main(["haze", str(photo), "--method", "mmd"]) == 0
    assert "model haze_mmd" in capsys.readouterr().err.splitlines()[0]
    for verb, *rest in (["dehaze", "--method", "physical"], ["haze"]):
        assert main([verb, str(photo), "--model", "haze_mmd", "--force", *rest]) == 2
        assert "does not use it" in capsys.readouterr().err


@pytest.mark.parametrize("ending", ["gif", "png", "webp", "tif"])
def test_a_note_says_that_one_frame_of_several_is_read(ending: str, tmp_path: Path, tiny_model: Path, capsys: Capture) -> None:
    frames = [Image.fromarray(np.full((32, 32, 3), 40 * i, dtype=np.uint8)) for i in range(3)]
    path = tmp_path / f"a.{ending}"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert main(["compress", str(path), "--model", str(tiny_model), "--format", "json"]) == 0
    shown = capsys.readouterr()
    assert "frame 1 of 3 taken" in json.loads(shown.out)["notes"]
    assert shown.err.count("frame 1 of 3 taken") == 1


def test_models_that_do_not_fit(photo: Path, capsys: Capture) -> None:
    assert main(["parts", str(photo), "--model", "amodal", "-o", str(photo.parent / "out")]) == 6
    said = capsys.readouterr().err
    assert "a model of amodal, not of parts" in said
    assert "latens segment" in said
    assert main(["segment", str(photo), "--model", "amodul"]) == 6
    said = capsys.readouterr().err
    assert "did you mean 'amodal'?" in said
    assert "haze_physical" in said


def test_every_system_has_a_verb() -> None:
    assert set(VERBS) == set(SYSTEMS)
    assert set(VERBS.values()) <= {command.name for command in COMMANDS}


def test_limits_and_options_without_effect(photo: Path, capsys: Capture) -> None:
    assert main(["dehaze", str(photo), "--threads", "100000"]) == 5
    assert main(["bench", "parts", "--repeats", "0"]) == 2
    for option in (["--refine-depth"], ["--depth-format", "kitti"]):
        assert main(["haze", str(photo), *option]) == 2
        assert "add --depth" in capsys.readouterr().err


def test_frames_a_second_of_a_file_are_refused(tmp_path: Path) -> None:
    from latens.data.clips.reader import open_clip
    from latens.errors import UsageError

    (tmp_path / "a.mp4").write_bytes(b"x")
    with pytest.raises(UsageError, match="--fps"), open_clip(tmp_path / "a.mp4", fps=10):
        pass


WRITTEN = {"IMG1": "latens decompress", "VID1": "latens video decompress", "LTP2": "latens density unpack"}  # their readers
READERS = (
    "inspect",
    "decompress",
    "video decompress",
    "density unpack",
    "compress",
    "segment",
    "dehaze",
    "haze",
    "density",
    "parts",
)


@pytest.mark.parametrize("profile", WRITTEN)
def test_a_file_of_another_kind_names_its_reader(
    profile: str, tmp_path: Path, tiny_model: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every verb that reads files, with a file that another verb wrote."""
    file = tmp_path / ("a.ltn" if profile == "IMG1" else "a.ltv")
    if profile == "IMG1":
        file.write_bytes(pack(Container(profile, bytes(8), b"", (Section(1, b"x"),))))
    else:
        with file.open("wb") as stream:
            ClipWriter(stream, ClipHeader(profile, bytes(8), b"", (1, 0))).close()
    monkeypatch.chdir(tmp_path)
    for verb in READERS:
        if WRITTEN[profile] == f"latens {verb}" or (verb == "inspect" and profile != "LTP2"):
            continue
        out = "scores.csv" if verb == "density" else "clip.mp4" if verb == "video decompress" else "out"
        model = ["--model", str(tiny_model)] if verb in ("decompress", "compress") else []
        assert main([*verb.split(), file.name, *model, *([] if verb == "inspect" else ["-o", out])]) in (2, 3), verb
        said = capsys.readouterr().err
        assert f"`{WRITTEN[profile]}` reads it" in said, (verb, said)


def test_the_folder_of_a_run_names_that_of_its_model(photo: Path, capsys: Capture) -> None:
    run = photo.parent / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "best").mkdir()
    for place in (run, run / "best"):
        (place / "config.json").write_text('{"system": "image_codec"}')
    named = ["compress", str(photo), "--model"], ["int8", "-o", "x"]
    for words in (*((*verb, str(place)) for verb in named for place in (run, run / "checkpoints")), ("export", str(run))):
        assert main(list(words)) == 6, words
        assert f"its best weights are in {run / 'best'}" in capsys.readouterr().err, words
