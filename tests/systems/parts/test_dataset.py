"""Training batches: reproducibility, unreadable images, labels of several data sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from latens.data.source import Source
from latens.errors import InputError, LatensError
from latens.systems.parts.config import ImagesConfig
from latens.systems.parts.dataset import ImageData
from latens.systems.parts.recipes import supervised, tiny
from latens.systems.parts.system import build


def save(path: Path, seed: int, height: int = 20, width: int = 24) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)


def sources(*paths: Path) -> list[Source]:
    return [Source("", str(path)) for path in paths]


def test_batches_are_a_function_of_the_step(tmp_path: Path) -> None:
    for i in range(12):
        save(tmp_path / f"{i}.png", i, 30 + i, 41)
    config = ImagesConfig(batch=5, smallest_crop=0.5, validation_share=0.3)
    one, two = (ImageData(sources(tmp_path), config, 16, 7) for _ in range(2))
    first = one.batch(3, 0)
    one.batch(9, 0)
    assert torch.equal(first["image"], two.batch(3, 0)["image"])
    assert not torch.equal(first["image"], two.batch(4, 0)["image"])
    assert first["image"].shape == (5, 3, 16, 16)
    assert 0 <= float(first["image"].min()) < float(first["image"].max()) <= 1
    assert not {one.stores[s].found.keys[i] for s, i in one.held_out} & {one.stores[s].found.keys[i] for s, i in one.train}
    assert torch.equal(one.validation()[0]["image"], two.validation()[0]["image"])


def test_one_image_and_damaged_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(tmp_path / "a" / "one.png", 0, 9, 300)  # shorter side below the side of the crops
    data = ImageData(sources(tmp_path / "a"), ImagesConfig(batch=2), 16, 0)
    assert data.batch(0, 0)["image"].shape == (2, 3, 16, 16)
    assert len(data.validation()[0]["image"]) == 1
    (tmp_path / "a" / "two.png").write_text("no image")
    data = ImageData(sources(tmp_path / "a"), ImagesConfig(batch=8, validation_share=0.0), 16, 0)
    assert data.batch(0, 0)["image"].shape == (8, 3, 16, 16)
    assert caplog.text.count("left out") == 1
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x.png").write_text("no image")
    with pytest.raises(LatensError, match="none of the"):
        ImageData(sources(tmp_path / "b"), ImagesConfig(batch=2), 16, 0).batch(0, 0)


def test_data_sets_with_different_classes_are_refused(tmp_path: Path) -> None:
    for i in range(20):
        for folder in ("one/ash", "one/elm", "more/ash", "more/elm", "more/yew", "plain"):
            save(tmp_path / folder / f"{i}.png", i)
    one, config = tmp_path / "one", tiny()
    assert ImageData(sources(one, one), config.data, 16, 0).classes == ("ash", "elm")
    assert ImageData(sources(tmp_path / "plain"), config.data, 16, 0).classes == ()
    for other in ("more", "plain"):
        both = sources(one, tmp_path / other)
        build(config, both)  # labels are not used
        with pytest.raises(InputError, match=f"one and {other} have different classes") as raised:
            build(supervised(config), both)
        assert raised.value.hint
    pixels = np.zeros((30, 16, 16, 3), np.uint8)
    labels = np.r_[np.zeros(14), np.ones(14), -1, -1]
    path = tmp_path / "x.npz"
    np.savez(path, x_train=pixels, y_train=labels, x_test=pixels, y_test=labels)
    with pytest.raises(InputError, match="have no label"):
        build(supervised(config), sources(path))
