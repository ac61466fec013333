"""Standard input and output: one image in, one product out; raw frames."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latens.cli.main import main

Capture = pytest.CaptureFixture[bytes]
Pipe = Callable[..., tuple[int, bytes, str]]


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch, capsysbinary: Capture) -> Pipe:
    """Runs a command with bytes on standard input; returns its status, standard output and standard error."""

    def run(words: list[str], data: bytes = b"") -> tuple[int, bytes, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        capsysbinary.readouterr()
        status = main(words)
        shown = capsysbinary.readouterr()
        return status, shown.out, shown.err.decode()

    return run


def png(height: int = 40, width: int = 60) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_segment_writes_one_product_named_by_the_user(pipe: Pipe, cell_model: Path, tmp_path: Path) -> None:
    command = ["segment", "-", "--model", str(cell_model)]
    status, made, shown = pipe([*command, "--name", "day1/slide"], png())
    assert status == 0
    assert json.loads(made)["images"][0]["file_name"] == "slide"
    assert "latens-" not in shown.replace("latens: ", "")  # the path of the temporary folder
    status, made, _ = pipe([*command, "--emit", "frames"], png())
    assert (status, made.decode().splitlines()[1].split(",")[0]) == (0, "stdin")
    (tmp_path / "a.png").write_bytes(png())
    status, made, _ = pipe(["segment", str(tmp_path / "a.png"), "-o", "-", "--emit", "overlay", "--model", str(cell_model)])
    assert Image.open(io.BytesIO(made)).size == (60, 40)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    status, made, shown = pipe([*command, "-o", str(tmp_path / "out"), "--name", "slide.png"], png())
    assert (status, made, (tmp_path / "out" / "slide.json").is_file()) == (0, b"", True)


@pytest.mark.parametrize("name", ["out", "out/out", "x" * 255])
def test_every_name_of_a_file_is_taken(name: str, pipe: Pipe, cell_model: Path) -> None:
    status, made, shown = pipe(["segment", "-", "--model", str(cell_model), "--name", name], png())
    assert (status, Path(name).name) == (0, json.loads(made)["images"][0]["file_name"]), shown


def test_a_pipe_refuses_what_its_format_cannot_hold(pipe: Pipe) -> None:
    buffer = io.BytesIO()
    Image.new("RGBA", (60, 40), (200, 200, 200, 128)).save(buffer, "PNG")
    status, made, shown = pipe(["dehaze", "-", "--method", "dcp", "--to", "jpg"], buffer.getvalue())
    assert (status, made) == (2, b"")
    assert "JPEG cannot hold this image (it has an alpha channel)" in shown


def test_pages_of_a_stack_from_a_pipe_are_segmented(pipe: Pipe, cell_model: Path) -> None:
    buffer = io.BytesIO()
    pages = [Image.fromarray(np.full((40, 60), value, np.uint8)) for value in (10, 200)]
    pages[0].save(buffer, "TIFF", save_all=True, append_images=pages[1:])
    status, made, _ = pipe(["segment", "-", "--model", str(cell_model), "--name", "stack"], buffer.getvalue())
    assert (status, [image["file_name"] for image in json.loads(made)["images"]]) == (0, ["stack.tif#1", "stack.tif#2"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["segment", "-", "--emit", "picture"], "choose json, overlay"),
        (["segment", "-", "a.png"], "one image"),
        (["segment", ".", "-o", "-"], "one image"),
        (["segment", "a.png", "--emit", "json"], "add -o -"),
        (["segment", "a.png", "--name", "x"], "add - as an input"),
        (["compress", "-", "--name", "../x"], "not a file name"),
        (["segment", "-", "--name", "a/" + "x" * 256], "at most 255 bytes"),
        (["density", "a.png", "--name", "x"], "add - as an input"),
        (["dehaze", "a.png", "--raw", "8x8"], "standard input alone"),
        (["dehaze", "-", "--raw", "8x8", "--to", "png"], "standard input alone"),
        (["dehaze", "-", "--raw", "8x8", "-o", "a.rgb"], "redirect"),
        (["dehaze", "-", "--raw", "8 by 8"], "WIDTHxHEIGHT"),
    ],
)
def test_requests_that_no_pipe_can_answer_are_refused(pipe: Pipe, words: list[str], message: str) -> None:
    status, made, shown = pipe(words)
    assert (status, made) == (2, b"")
    assert message in shown


def test_a_damaged_image_from_a_pipe_is_status_3(pipe: Pipe, cell_model: Path) -> None:
    status, made, shown = pipe(["segment", "-", "--model", str(cell_model)], b"no image")
    assert (status, made) == (3, b"")
    assert "latens: stdin: " in shown


def test_a_product_that_is_not_there_is_an_error(pipe: Pipe, cell_model: Path) -> None:
    status, made, shown = pipe(["segment", "-", "--model", str(cell_model), "--emit", "labels"], png())
    assert (status, made) == (2, b"")
    assert "it has json, overlay, cells, frames" in shown


def test_the_name_of_standard_input_names_its_result(pipe: Pipe, tiny_model: Path, tmp_path: Path) -> None:
    command = ["compress", "-", "--model", str(tiny_model), "--name", "photo.png", "--format", "json"]
    status, made, shown = pipe(command, png())
    assert (status, made[:4], json.loads(shown.splitlines()[-1])["input"]) == (0, b"\x89LTN", "photo.png")
    status, made, _ = pipe([*command, "-o", f"{tmp_path}/small/"], png())
    assert (status, json.loads(made)["output"]) == (0, f"{tmp_path}/small/photo.ltn")


def test_raw_frames_pass_through(pipe: Pipe) -> None:
    frames = np.random.default_rng(0).integers(90, 256, (5, 24, 32, 3), dtype=np.uint8)
    command = ["dehaze", "-", "--raw", "32x24", "--method", "dcp", "--format", "json"]
    status, made, shown = pipe([*command, "--strength", "0"], frames.tobytes())
    assert (status, made) == (0, frames.tobytes())
    assert json.loads(shown.splitlines()[-1])["frames"] == 5
    status, clear, _ = pipe(command, frames.tobytes())
    assert (status, len(clear)) == (0, frames.nbytes)
    assert clear != made
    status, cut, shown = pipe(command, frames.tobytes()[:-100])
    assert (status, cut) == (3, clear[: len(cut)])
    assert len(cut) == 4 * 24 * 32 * 3
    assert "frame 5 is incomplete: 2,204 of 2,304 bytes" in shown
    status, made, shown = pipe(command, b"")
    assert (status, made) == (3, b"")
    assert "no frames" in shown
