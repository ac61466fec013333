"""Data that exceed the memory budget are read at every step, by any number of processes, with the same batches."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from latens.catalogue import recipe_of
from latens.contract import open_system
from latens.data.source import Source
from latens.data.streaming import Chain, Part, Streamed, in_memory_or_streamed, memory_budget
from latens.errors import UnreadableInput, UsageError
from latens.settings import override
from latens.training.checkpoint import load_latest
from latens.training.data import Prefetch, StepData, Workers
from latens.training.run import train

COUNT = 44  # images or clips; one of them is damaged


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs, ApolloScape (images, depth, cameras) and Vimeo-90k in miniature, each with a damaged file."""
    made = tmp_path_factory.mktemp("streams")
    rng = np.random.default_rng(0)
    names = []
    for number in range(COUNT):
        pixels = np.asarray(Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize((96, 72)))
        depth = Image.fromarray((2000 + 60 * number + 100 * np.arange(72)[:, None] + np.zeros(96, int)).astype(np.uint16))
        road = made / f"apollo/ColorImage/Record{number % 3:03d}/Camera {5 + number % 2}"
        place = made / f"vimeo/sequences/{number // 10:05d}/{number:04d}"
        for path in (made / "photos", road, Path(str(road).replace("ColorImage", "Depth")), place):
            path.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(made / f"photos/{number:03d}.png")
        Image.fromarray(pixels).save(road / f"{number:03d}.jpg")
        depth.save(str(road / f"{number:03d}.png").replace("ColorImage", "Depth"))
        for frame in range(1, 8):
            Image.fromarray(np.roll(pixels, frame, axis=1)).save(place / f"im{frame}.png")
        names.append(f"{number // 10:05d}/{number:04d}")
    (made / "vimeo/sep_trainlist.txt").write_text("\n".join(names) + "\n")
    for broken in (made / "photos/007.png", made / "vimeo/sequences/00000/0007/im3.png"):
        broken.write_bytes(broken.read_bytes()[:60])
    return made


CASES = {
    "image_codec": ("tiny", "photos", {"data.crop": "64", "data.batch": "2", "data.shrink": "1"}),
    "haze": ("tiny", "apollo:apollo", {"data.scenes": "0", "data.crop": "32", "data.side": "72"}),
    "video_codec": ("tiny", "vimeo:vimeo", {"data.crop": "64", "data.batch": "1"}),
    "flow": ("tiny", "photos", {"data.batch": "4", "data.flip": "true", "data.validation_share": "0.1"}),
    "parts": ("tiny", "photos", {"data.memory": "0", "data.batch": "4"}),
}


def data_of(system: str, folder: Path) -> StepData:
    recipe, place, changes = CASES[system]
    kind, _, name = place.rpartition(":")
    config = override(recipe_of(system, recipe), changes)
    return open_system(system).build(config, [Source(kind, str(folder / name))]).data


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENS_MEMORY", "5KB")


@pytest.mark.parametrize("system", CASES)
def test_batches_do_not_depend_on_the_number_of_workers(
    system: str, folder: Path, little_memory: None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        data = data_of(system, folder)
    assert ("every step reads them" in caplog.text) == (system != "parts")  # parts has a cache of its own
    steps = range(3, 9)
    thread, workers = Prefetch(data, 1), Workers(data, 1, steps, 2)
    try:
        for step in steps:
            assert same(thread.batch(step), workers.batch(step))
        with pytest.raises(ValueError, match="is next"):
            workers.batch(3)
    finally:
        thread.close()
        workers.close()


def test_streamed_photographs_are_those_in_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every file can be used, both kinds of sets give the same batches."""
    whole = data_of("haze", folder)
    monkeypatch.setenv("LATENS_MEMORY", "100KB")
    streamed = data_of("haze", folder)
    assert isinstance(streamed.train, Chain)  # type: ignore[attr-defined]
    assert isinstance(streamed.train.parts[0], Streamed)  # type: ignore[attr-defined]
    assert isinstance(whole.train.parts[0], list)  # type: ignore[attr-defined]
    assert same(whole.batch(5, 0), streamed.batch(5, 0))


def test_a_run_with_workers_has_the_weights_of_one_without_and_resumes(
    folder: Path, tmp_path: Path, little_memory: None
) -> None:
    recipe, place, changes = CASES["image_codec"]
    config = override(recipe_of("image_codec", recipe), {**changes, "run.steps": "4", "run.checkpoint_every": "2"})
    build, sources = open_system("image_codec").build, [Source("", str(folder / place))]
    train(build, config, sources, tmp_path / "thread", device="cpu")
    train(build, config, sources, tmp_path / "workers", device="cpu", max_time=0, workers=2)
    train(build, config, sources, tmp_path / "workers", device="cpu", resume=True, workers=1)
    found: list[Any] = [load_latest(tmp_path / name / "checkpoints") for name in ("thread", "workers")]
    assert [one.step for one in found] == [4, 4]
    assert same(found[0].tensors["model"], found[1].tensors["model"])


def test_sequences_and_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []

    def read(place: int) -> int | None:
        reads.append(place)
        return None if place in (2, 3) else 10 * place

    few = in_memory_or_streamed(5, read, lambda item: 100, "here", budget=1)  # few files are read whole
    assert list(few) == [0, 10, 40]
    many = in_memory_or_streamed(100, read, lambda item: 100, "here", budget=9_000)
    assert isinstance(many, Streamed)
    reads.clear()
    assert (many[3], many[2], many[-1], many[1:3]) == (40, 40, 990, [10, 40])
    assert reads == [3, 4, 2, 4, 99, 1, 4]  # each unusable file is read once
    assert isinstance(in_memory_or_streamed(100, read, lambda item: 80, "here", budget=9_000), list)
    assert list(Chain([[1], [], [2, 3], Part([7, 8, 9], range(1, 3))])) == [1, 2, 3, 8, 9]
    with pytest.raises(UnreadableInput):
        Streamed(3, lambda place: None, "here")[0]
    for text, size in (("1500", 1500), ("2 MB", 2 * 10**6), ("1.5g", 15 * 10**8)):
        monkeypatch.setenv("LATENS_MEMORY", text)
        assert memory_budget() == size
    monkeypatch.setenv("LATENS_MEMORY", "much")
    with pytest.raises(UsageError, match="not a size"):
        memory_budget()
