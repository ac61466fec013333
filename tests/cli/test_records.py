"""Every verb with a result per input: a file that is there is finished only if it is ours, of this input and settings."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from clip_maker import make_clip
from tests.cli.recorded import clip, coded, coded_clip, photo, state

from latens.cli.main import main
from latens.data.records import RECORDS, Records

Capture = pytest.CaptureFixture[str]
Make = Callable[[Path, int], object]  # writes a file with the content of a number


class Case(NamedTuple):
    """A verb and its input files. In the words, {} is the folder of the case, and the inputs are in {}/in."""

    words: Sequence[str]
    make: Make
    ending: str
    result: str  # of the input a, next to it
    usual: Sequence[str] = ()  # a setting
    other: Sequence[str] = ()  # another one
    out: str = ""  # value of -o for results next to their inputs


CASES = {
    "compress": Case(["compress", "--model", "{}/tiny"], photo, ".png", "a.ltn", [], ["--quality", "1"]),
    "decompress": Case(["decompress"], coded, ".ltn", "a.png", [], ["--partial"]),
    "dehaze": Case(["dehaze"], photo, ".png", "a.clear.png", ["--method", "dcp"], ["--method", "bccr"]),
    "dehaze-clip": Case(["dehaze"], clip, ".mp4", "a.clear.mp4", ["--method", "dcp"], ["--method", "bccr"]),
    "haze": Case(["haze", "--depth", "{}/depth.npy"], photo, ".png", "a.hazy.png", [], ["--visibility", "70"]),
    "haze-depth": Case(["haze", "--save-depth", "{}/in"], photo, ".png", "a.hazy.png", [], ["--visibility", "70"]),
    "segment": Case(["segment", "--model", "{}/cells"], photo, ".png", "a.json", [], ["--score", "0.6"]),
    "parts": Case(["parts"], photo, ".png", "a.parts.png", [], ["--resolution", "96"], "{}/in"),
    "video-compress": Case(["video", "compress"], clip, ".mp4", "a.small.mp4", [], ["--quality", "2"]),
    "video-latens": Case(["video", "compress", "--codec", "latens"], clip, ".mp4", "a.ltv", [], ["--quality", "2"]),
    "video-decompress": Case(["video", "decompress"], coded_clip, ".ltv", "a.mp4"),
}


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, cell_model: Path) -> Callable[[str], Path]:
    """A folder with the inputs in/a and in/b of a case and their results; each is made once."""
    made: dict[str, Path] = {}

    def place_of(name: str) -> Path:
        if name not in made:
            place = tmp_path_factory.mktemp(name)
            (place / "in").mkdir()
            (place / "tiny").symlink_to(tiny_model)
            (place / "cells").symlink_to(cell_model)
            np.save(place / "depth.npy", np.full((40, 48), 50, dtype=np.float32))
            for seed, stem in enumerate("ab"):
                CASES[name].make(place / "in" / f"{stem}{CASES[name].ending}", seed)
            assert run(name, place, [place / "in"]) == 0
            made[name] = place
        return made[name]

    return place_of


@pytest.fixture
def place(case: str, finished: Callable[[str], Path], tmp_path: Path) -> Path:
    """A copy of the folders of a case, made as a backup would: contents and times are kept."""
    return Path(shutil.copytree(finished(case), tmp_path / "copy", symlinks=True))


def run(case: str, place: Path, inputs: Sequence[Path], *more: str, out: Path | None = None) -> int:
    """The status of the verb; results lie next to their inputs unless `out` is given."""
    verb = CASES[case]
    target = verb.out.format(place) if out is None else f"{out}/"
    words = [word.format(place) for word in (*verb.words, *(() if set(verb.other) & set(more) else verb.usual))]
    if out is not None and "--save-depth" in words:
        words[-1] = str(out)
    return main([*words, *map(str, inputs), *more, *(["-o", target] if target else [])])


every = pytest.mark.parametrize("case", CASES)


@every
def test_the_same_command_again_does_nothing(case: str, place: Path, capsys: Capture) -> None:
    """Also where the shell names all files of the folder, results among them."""
    before, folder = state(place), place / "in"
    result = folder / CASES[case].result
    assert str(result) in before
    for inputs in ([folder], sorted(folder.glob("*" + CASES[case].ending)), [folder / f"a{CASES[case].ending}"]):
        if case == "parts" and len(inputs) == 1 and inputs != [folder]:
            continue  # another summary
        assert run(case, place, inputs) == 0
        assert state(place) == before
        assert "skipped, finished" in capsys.readouterr().err
    moved = place.parent / "moved"
    place.rename(moved)
    assert run(case, moved, [moved / "in"]) == 0
    assert len(state(moved)) == len(before)


@pytest.mark.parametrize("case", [name for name, verb in CASES.items() if verb.other])
def test_another_setting_is_refused(case: str, place: Path, capsys: Capture) -> None:
    before = state(place)
    for inputs in ([place / "in"], [place / "in" / f"a{CASES[case].ending}"]):
        assert run(case, place, inputs, *CASES[case].other) == 2
        said = capsys.readouterr().err
        assert " was " in said
        assert "--force" in said
        assert state(place) == before
    assert run(case, place, [place / "in"], *CASES[case].other, "--force") == 0
    assert all(state(place)[name] != before[name] for name in before if name.endswith(CASES[case].result))
    assert run(case, place, [place / "in"], *CASES[case].other) == 0
    assert "2 skipped" in capsys.readouterr().err


DEFAULTS = {"compress": ["--quality", "2"], "video-compress": ["--quality", "5"], "video-latens": ["--quality", "4"]}


@pytest.mark.parametrize("case", DEFAULTS)
def test_a_default_that_is_written_out_is_the_same_setting(case: str, place: Path, capsys: Capture) -> None:
    assert run(case, place, [place / "in"], *DEFAULTS[case]) == 0
    assert "2 skipped" in capsys.readouterr().err


@every
def test_a_changed_input_is_not_finished(case: str, place: Path, capsys: Capture) -> None:
    """The old result may be all that is left of the old content: a memory card that was used again."""
    source, result = place / "in" / f"a{CASES[case].ending}", place / "in" / CASES[case].result
    CASES[case].make(source, 7)
    before = state(place)[str(result)]
    capsys.readouterr()
    assert run(case, place, [place / "in"]) == 3
    said = capsys.readouterr().err
    assert re.search(rf"result of [a-z. ]+ {re.escape(str(source))}; (the input|it or a file that belongs to it) has", said)
    assert "1 skipped, 1 failed" in said
    assert state(place)[str(result)] == before
    if case != "parts":
        assert run(case, place, [source]) == 2
        assert state(place)[str(result)] == before
    capsys.readouterr()
    assert run(case, place, [place / "in"], "--force") == 0
    assert state(place)[str(result)] != before
    assert capsys.readouterr().err.count("has changed since") == 1


@every
def test_namesakes_of_two_folders_are_told_apart(case: str, place: Path, capsys: Capture) -> None:
    """Two cameras, both with IMG_0001, and one output folder."""
    one, two, out = place / "in", place / "second", place / "out"
    two.mkdir()
    name = f"a{CASES[case].ending}"
    CASES[case].make(two / name, 7)
    (one / f"b{CASES[case].ending}").unlink()
    assert run(case, place, [one], out=out) == 0
    before = state(out)
    capsys.readouterr()
    assert run(case, place, [two], out=out) == 3
    said = capsys.readouterr().err
    assert f"{one / name}, not {two / name}" in said
    assert "decompress" in case or not (two / RECORDS).exists()  # an input folder stays as it is
    if case != "video-decompress":  # a single file becomes a folder of images
        assert run(case, place, [two / name], out=out) == 2
        assert f"{one / name}, not {two / name}" in capsys.readouterr().err
    assert state(out) == before
    shutil.copy(one / name, two / name)  # the same content elsewhere is the same input
    assert run(case, place, [two], out=out) == 0
    assert state(out) == before


@every
def test_a_result_that_the_user_edited_is_kept(case: str, place: Path, capsys: Capture) -> None:
    result = place / "in" / CASES[case].result
    result.write_bytes(result.read_bytes() + b"mine")
    edited = result.read_bytes()
    assert run(case, place, [place / "in"]) == 3
    assert "was changed since latens wrote it" in capsys.readouterr().err
    assert result.read_bytes() == edited
    assert run(case, place, [place / "in"], "--force") == 0
    assert f"replaced by --force: {result.name}" in capsys.readouterr().err
    assert result.read_bytes() != edited


@every
def test_a_file_without_a_record_is_kept(case: str, place: Path, capsys: Capture) -> None:
    """The user's own file with the name of a result; segment and parts know results of versions without records."""
    result, record = place / "in" / CASES[case].result, place / "in" / RECORDS
    lines = [line for line in record.read_text().splitlines() if f'"{result.name}"' not in line]
    record.write_text("\n".join([*lines, ""]))
    known = case in ("segment", "parts")
    before = state(place)
    assert run(case, place, [place / "in"]) == (0 if known else 3)
    said = capsys.readouterr().err
    assert ("an earlier version wrote it" if known else "no record says that latens made it") in said
    assert {name: found for name, found in state(place).items() if name in before} == before


@every
def test_a_kill_between_result_and_record_loses_nothing(
    case: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """The result is made again: nobody knows whether it was complete."""
    out = place / "out"
    sources = [place / "in" / f"{stem}{CASES[case].ending}" for stem in "ab"]
    with monkeypatch.context() as patch:
        patch.setattr(Records, "finish", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        assert run(case, place, sources, out=out) == 130
    assert len(list(out.glob("a.*"))) >= 1
    assert not list(out.glob("b.*"))
    assert run(case, place, sources, out=out) == 0
    assert "an incomplete result is made again" in capsys.readouterr().err
    assert run(case, place, sources, out=out) == 0
    assert "2 skipped" in capsys.readouterr().err


@every
def test_a_record_that_is_a_link_is_not_written_through(case: str, place: Path, capsys: Capture) -> None:
    out, own = place / "out", place / "diary.txt"
    own.write_text("mine")
    out.mkdir()
    (out / RECORDS).symlink_to(own)
    sources = [place / "in" / f"{stem}{CASES[case].ending}" for stem in "ab"]
    assert run(case, place, sources, out=out) == 0
    assert "no results are recorded in this folder" in capsys.readouterr().err
    assert own.read_text() == "mine"
    assert run(case, place, sources, out=out) == (0 if case in ("segment", "parts") else 3)
    assert own.read_text() == "mine"


DAMAGED = {"decompress": ["--partial"], "dehaze-clip": [], "video-compress": [], "video-decompress": []}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_partial_result_is_not_finished(case: str, place: Path, capsys: Capture) -> None:
    source = place / "in" / f"c{CASES[case].ending}"
    CASES[case].make(source, 3)
    data = source.read_bytes()
    if case == "decompress":
        source.write_bytes(data[:-3] + bytes([data[-3] ^ 255]) + data[-2:])
    elif case == "video-decompress":
        source.write_bytes(data[:-2])
    else:
        make_clip(source, times=range(30), container_options={"movflags": "+faststart"})
        data = source.read_bytes()
        source.write_bytes(data[: len(data) * 7 // 10])
    for _ in range(2):
        assert run(case, place, [source], *DAMAGED[case]) == 4
    assert "an incomplete result is made again" in capsys.readouterr().err
    if case == "decompress":
        assert run(case, place, [source]) == 3  # without --partial
