"""compress, decompress and inspect on real files: paths, skipping, failures, standard streams, JSON."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latens.catalogue import default_model
from latens.cli.common import human_size
from latens.cli.main import main
from latens.systems.image_codec import predict

Capture = pytest.CaptureFixture[str]


def records(capsys: Capture) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_folder_is_mirrored_and_a_bad_file_does_not_stop_it(album: Path, tiny_model: Path, capsys: Capture) -> None:
    out = album.parent / "small"
    command = ["compress", str(album), "-o", str(out), "--model", str(tiny_model), "--format", "json"]
    assert main(command) == 3
    shown = capsys.readouterr()
    by_name = {Path(record["input"]).name: record for record in map(json.loads, shown.out.splitlines())}
    assert {name: record["status"] for name, record in by_name.items()} == {
        "a.png": "done",
        "b.jpg": "done",
        "c.jpg": "failed",
    }
    assert by_name["c.jpg"]["exit_status"] == 3
    assert shown.err.startswith("device ")
    assert "weights " in shown.err.splitlines()[0]
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*.ltn")) == ["a.ltn", "trip/b.ltn"]
    assert by_name["a.png"]["bytes"] == (out / "a.ltn").stat().st_size
    assert by_name["a.png"]["bpp"] == pytest.approx(8 * by_name["a.png"]["bytes"] / (40 * 70), rel=1e-4)
    (failure,) = [json.loads(line) for line in (out / "failures.jsonl").read_text().splitlines()]
    assert failure["input"] == str(album / "c.jpg")

    sources = [album / "a.png", album / "trip" / "b.jpg"]
    sizes = [path.stat().st_size for path in sources], [path.stat().st_size for path in (out / "a.ltn", out / "trip/b.ltn")]
    assert [by_name[path.name]["source_bytes"] for path in sources] == sizes[0]
    before, after = map(sum, sizes)
    total = f"total: 2 files, {human_size(before)} in, {human_size(after)} out ({100 * after / before:.1f} %)"
    assert shown.err.splitlines()[-1] == total

    before = (out / "a.ltn").stat().st_mtime_ns
    assert main(command) == 3
    skipped = [record for record in records(capsys) if record["status"] == "skipped"]
    assert [record["bytes"] for record in skipped] == sizes[1]
    assert (out / "a.ltn").stat().st_mtime_ns == before
    assert main([*command, "--force"]) == 3
    assert (out / "a.ltn").stat().st_mtime_ns > before

    assert main(["decompress", str(out), "-o", str(album.parent / "back"), "--model", str(tiny_model)]) == 0
    assert Image.open(album.parent / "back" / "trip" / "b.png").size == Image.open(album / "trip" / "b.jpg").size


def test_results_larger_than_their_source_are_refused_in_folders(tmp_path: Path, tiny_model: Path, capsys: Capture) -> None:
    (tmp_path / "in").mkdir()
    flat = tmp_path / "in" / "flat.png"
    Image.new("RGB", (200, 200), "red").quantize(2).save(flat)
    command = ["compress", "--model", str(tiny_model), "--format", "json", "-o", str(tmp_path / "out")]
    assert main([*command, str(tmp_path / "in")]) == 3
    (record,) = records(capsys)
    assert record["status"] == "failed"
    assert "larger than its source" in record["message"]
    assert "--force" in record["message"]
    assert not (tmp_path / "out" / "flat.ltn").exists()
    assert main([*command, str(tmp_path / "in"), "--force"]) == 0
    (record,) = records(capsys)
    assert record["notes"][-1].startswith(f"the result is larger than its source ({record['bytes']} B for ")
    assert main([*command[:-1], str(tmp_path / "one.ltn"), str(flat)]) == 0  # a file that the user named
    (record,) = records(capsys)
    assert record["notes"][-1].startswith("the result is larger than its source")
    assert record["bytes"] > flat.stat().st_size


def test_metadata_passes_through_the_commands_unless_stripped(tmp_path: Path, tiny_model: Path) -> None:
    exif = Image.Exif()
    exif[0x0132] = "2026:11:28 12:00:00"
    Image.new("RGB", (200, 200), "red").save(tmp_path / "a.jpg", exif=exif)
    for words, expected in (([], "2026:11:28 12:00:00"), (["--strip"], None)):
        command = ["compress", str(tmp_path / "a.jpg"), "-o", str(tmp_path / "a.ltn"), "--force", *words]
        assert main([*command, "--model", str(tiny_model)]) == 0
        back = ["decompress", str(tmp_path / "a.ltn"), "-o", str(tmp_path / "b.jpg"), "--force", "--model", str(tiny_model)]
        assert main(back) == 0
        with Image.open(tmp_path / "b.jpg") as image:
            assert image.getexif().get(0x0132) == expected


def test_without_out_the_result_is_next_to_its_input_and_named(album: Path, tiny_model: Path, capsys: Capture) -> None:
    assert main(["compress", str(album / "a.png"), "--model", str(tiny_model)]) == 0
    assert capsys.readouterr().out.startswith(str(album / "a.ltn"))
    assert (album / "a.ltn").exists()


def test_a_named_output_is_overwritten_only_with_force(album: Path, tiny_model: Path, capsys: Capture) -> None:
    out = album / "mine.ltn"
    out.write_bytes(b"precious")
    command = ["compress", str(album / "a.png"), "-o", str(out), "--model", str(tiny_model)]
    assert main(command) == 2
    assert "--force" in capsys.readouterr().err
    assert out.read_bytes() == b"precious"
    assert main([*command, "--force"]) == 0
    assert out.read_bytes() != b"precious"


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["compress", "album/c.jpg"], 3),
        (["compress", "album/a.png", "-o", "other.png"], 2),
        (["compress", "album/a.png", "album/trip/b.jpg", "-o", "-"], 2),
        (["compress", "album/a.png", "--quality", "3"], 2),  # the tiny model has two
        (["compress", "album/a.png", "--device", "cuda:9999"], 7),
        (["compress", "album/a.png", "--device", "tpu"], 2),
        (["decompress", "album/a.png", "-o", "b.png"], 3),
        (["decompress", "album/a.png", "-o", "a.txt"], 2),
        (["inspect", "album/a.png"], 3),
        (["inspect", "album"], 3),
    ],
)
def test_errors(
    words: list[str], status: int, album: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(album.parent)
    before = sorted(album.parent.rglob("*"))
    model = [] if words[0] == "inspect" else ["--model", str(tiny_model)]
    assert main([*words, *model]) == status
    shown = capsys.readouterr()
    assert shown.out == ""
    said = [line for line in shown.err.splitlines() if not line.startswith("device ")]
    assert said[0].startswith("latens: ")
    assert len(said) <= 3
    assert sorted(album.parent.rglob("*")) == before


def test_an_unknown_model_is_6(album: Path, capsys: Capture) -> None:
    assert main(["compress", str(album / "a.png"), "--model", "nothing"]) == 6
    assert "latens models" in capsys.readouterr().err


def test_standard_streams_carry_only_the_file(album: Path, tiny_model: Path) -> None:
    def run(*words: str, data: bytes) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "latens", *words, "--model", str(tiny_model)]
        return subprocess.run(command, input=data, capture_output=True, check=False, env=dict(os.environ))

    packed = run("compress", "-", data=(album / "a.png").read_bytes())
    assert packed.returncode == 0
    assert packed.stdout.startswith(b"\x89LTN")
    assert b"bpp" in packed.stderr
    unpacked = run("decompress", "-", "-o", "-", "--format", "quiet", data=packed.stdout)
    assert unpacked.stderr == b""
    assert Image.open(io.BytesIO(unpacked.stdout)).size == (70, 40)


def test_inspect_prints_the_bits_of_every_part(album: Path, tiny_model: Path, capsys: Capture) -> None:
    out = album / "a.ltn"
    main(["compress", str(album / "a.png"), "-o", str(out), "--model", str(tiny_model), "--quality", "1.5"])
    capsys.readouterr()
    assert main(["inspect", str(out), "--format", "json"]) == 0
    (record,) = records(capsys)
    assert (record["width"], record["height"], record["quality"]) == (70, 40, 1.5)
    assert sum(record["bits"].values()) == 8 * out.stat().st_size
    assert main(["inspect", str(out)]) == 0
    assert "hyper latent" in capsys.readouterr().out


def test_a_damaged_file_is_decoded_in_part_on_request_only(tmp_path: Path, tiny_model: Path, capsys: Capture) -> None:
    tall = tmp_path / "tall.png"  # two bands: 1,024 rows each
    Image.effect_noise((16, 1100), 60).save(tall)
    packed = tmp_path / "tall.ltn"
    assert main(["compress", str(tall), "--model", str(tiny_model)]) == 0
    damaged = bytearray(packed.read_bytes())
    damaged[-1] ^= 1  # the last band
    packed.write_bytes(damaged)
    command = ["decompress", str(packed), "-o", str(tmp_path / "back.png"), "--model", str(tiny_model)]
    assert main(command) == 3
    assert not (tmp_path / "back.png").exists()
    assert main([*command, "--partial"]) == 4
    assert "rows 1024-1099" in capsys.readouterr().out
    assert Image.open(tmp_path / "back.png").size == (16, 1100)


def test_refining_writes_an_ordinary_file(
    album: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["--model", str(tiny_model)]
    blob = str(tmp_path / "a.ltn")
    assert (
        main(["compress", str(album / "a.png"), "-o", blob, "--quality", "1", "--refine", "2", "--method", "linear", *model])
        == 0
    )
    assert main(["decompress", blob, "-o", str(tmp_path / "a.png"), *model]) == 0
    assert main(["compress", str(album / "a.png"), "-o", blob, "--method", "linear", *model]) == 2
    assert main(["compress", str(album / "a.png"), "-o", blob, "--refine", "2", "--method", "magic", "--force", *model]) == 2
    assert "--refine STEPS" in capsys.readouterr().err


def test_refining_for_a_time_names_its_steps(
    album: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The record, the line and the bytes of the number of steps; a result of the same time is finished."""
    source, out = str(album / "a.png"), tmp_path / "out"
    command = ["compress", source, "--quality", "1", "--model", str(tiny_model)]
    assert main([*command, "-o", f"{out}/", "--refine", "0.5s", "--format", "json"]) == 0
    found = capsys.readouterr()
    record = json.loads(found.out)
    assert record["refine_steps"] >= 1
    assert record["refine_seconds"] > 0
    assert re.search(rf"refinement of 0.5 s: {record['refine_steps']} steps? of .* s", found.err)
    equal = tmp_path / "equal.ltn"
    assert main([*command, "-o", str(equal), "--refine", str(record["refine_steps"])]) == 0
    assert f", {record['refine_steps']} step" in capsys.readouterr().out
    assert equal.read_bytes() == Path(record["output"]).read_bytes()
    assert main([*command, "-o", f"{out}/", "--refine", "0.5s"]) == 0
    assert "skipped, finished" in capsys.readouterr().err
    assert main([*command, "-o", f"{out}/", "--refine", "0.25s"]) == 2
    assert "refine" in capsys.readouterr().err


def test_a_time_without_a_step_gives_the_plain_file(
    album: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["compress", str(album / "a.png"), "--quality", "1", "--model", str(tiny_model)]
    assert main([*command, "-o", str(tmp_path / "plain.ltn")]) == 0
    capsys.readouterr()
    assert main([*command, "-o", str(tmp_path / "short.ltn"), "--refine", "0.0001s", "--format", "json"]) == 0
    found = capsys.readouterr()
    record = json.loads(found.out)
    assert record["refine_steps"] == 0
    assert any(note.startswith("not refined: no time for a step after ") for note in record["notes"])
    assert re.search(r"latens: .*a\.png: not refined: no time for a step after .* s; give --refine more time", found.err)
    assert (tmp_path / "short.ltn").read_bytes() == (tmp_path / "plain.ltn").read_bytes()


@pytest.mark.parametrize("value", ["20x", "0s", "-3s", "nan s", "0"])
def test_a_time_that_is_none_is_refused(
    album: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], value: str
) -> None:
    command = ["compress", str(album / "a.png"), "-o", str(tmp_path / "a.ltn"), "--model", str(tiny_model)]
    assert main([*command, f"--refine={value}"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"latens: refine is '{value}', which is neither a number of steps nor a time",
        "write steps such as 200, or a time above 0 such as 20s, 1.5s or 2m",
    ]
    assert not (tmp_path / "a.ltn").exists()


def test_a_target_out_of_reach_takes_the_nearest_end_in_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "in" / "noise.png")
    coarse = Image.fromarray(rng.integers(20, 230, (8, 8, 3), dtype=np.uint8))  # enough symbols for fine steps of the PSNR
    coarse.resize((192, 192), Image.Resampling.BICUBIC).save(tmp_path / "in" / "smooth.png")
    words = ["compress", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--psnr", "36", "--force", "--format", "json"]
    assert main(words) == 4
    found = {Path(record["input"]).name: record for record in map(json.loads, capsys.readouterr().out.splitlines())}
    assert found["noise.png"]["missed"]
    assert found["noise.png"]["psnr"] < 36
    assert "36 dB asked" in found["noise.png"]["notes"][-1]
    assert found["smooth.png"]["psnr"] == pytest.approx(36, abs=0.05)
    assert not found["smooth.png"]["missed"]
    assert main([word for word in words if word != "--force"]) == 4  # all are skipped
    shown = capsys.readouterr()
    again = {Path(record["input"]).name: record for record in map(json.loads, shown.out.splitlines())}
    assert [(again[name]["status"], again[name]["missed"]) for name in ("noise.png", "smooth.png")] == [
        ("skipped", True),
        ("skipped", False),
    ]
    assert "noise.ltn: skipped, finished; it missed its target" in shown.err
    assert main(["compress", str(tmp_path / "in/smooth.png"), *words[2:4], "--psnr", "36"]) == 0
    alone = ["compress", str(tmp_path / "in" / "noise.png"), "-o", str(tmp_path / "x.ltn"), "--psnr", "36"]
    assert main(alone) == 2
    assert "out of reach" in capsys.readouterr().err
    assert main([*alone[:-2], "--size", "1.5kB"]) == 0
    assert 1455 <= (tmp_path / "x.ltn").stat().st_size <= 1500
    assert main([*alone[:-2], "--bpp", "2", "--force"]) == 0
    assert " dB, 64 x 64" in capsys.readouterr().out


def test_inspect_names_the_damaged_bands_and_the_next_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tall = np.random.default_rng(0).integers(0, 256, (2100, 20, 3), dtype=np.uint8)  # three bands of 1,024 rows
    Image.fromarray(tall).save(tmp_path / "a.png")
    file = tmp_path / "a.ltn"
    assert main(["compress", str(tmp_path / "a.png"), "-o", str(file), "--quality", "1"]) == 0
    assert main(["inspect", str(file)]) == 0
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) - 12])  # the last band is cut
    capsys.readouterr()
    assert main(["inspect", str(file), "--format", "json"]) == 4
    found = json.loads(capsys.readouterr().out)
    assert found["damage"] == ["latent band 3 of 3 (rows 2048 to 2099)"]
    assert found["next_step"] == f"latens decompress {file} --partial: 2 of 3 bands of rows are intact, the rest becomes gray"
    assert main(["inspect", str(file)]) == 4
    assert "--partial" in capsys.readouterr().out
    words = found["next_step"].partition(":")[0].split()[1:]
    assert main([*words, "-o", str(tmp_path / "b.png")]) == 4  # the next step is the way
    file.write_bytes(whole + b"more")
    capsys.readouterr()
    assert main(["inspect", str(file), "--format", "json"]) == 4
    assert json.loads(capsys.readouterr().out)["damage"] == ["4 bytes follow the end of the file"]
    file.write_bytes(whole[:30])
    assert main(["inspect", str(file)]) == 3


def test_the_model_that_a_file_names_is_announced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The model that wrote a file decodes it, and is named once."""
    golden = Path(__file__).parents[1] / "golden" / "bundled"
    assert main(["decompress", str(golden / "image_codec.ltn"), "-o", str(tmp_path / "a.png"), "--format", "json"]) == 0
    shown = capsys.readouterr()
    assert "model image_codec;" in shown.err.splitlines()[0]
    assert json.loads(shown.out)["model"] == "image_codec"
    assert main(["decompress", *map(str, golden.glob("*.ltn")), "-o", str(tmp_path / "all")]) == 0
    lines = [line.split("; ")[-2] for line in capsys.readouterr().err.splitlines() if "; weights " in line]
    written = ["image_codec", "image_codec_context", "image_codec_joint", "image_codec_perceptual"]
    assert sorted(lines) == [f"model {name}" for name in written]


def test_only_the_model_that_a_file_names_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []

    def load(name: str, **options: Any) -> predict.ImageCodec:
        loaded.append(name)
        return original(name, **options)

    original = predict.load
    monkeypatch.setattr(predict, "load", load)
    written = "image_codec_perceptual"
    assert written != default_model("image_codec")
    golden = Path(__file__).parents[1] / "golden" / "bundled"
    assert main(["decompress", str(golden / f"{written}.ltn"), "-o", str(tmp_path / "a.png")]) == 0
    assert loaded == [written]
