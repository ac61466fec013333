"""Invalid settings are refused with the nearest valid name; training data are checked; prediction imports little."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latens.data.source import Source
from latens.errors import UnreadableInput, UsageError
from latens.settings import SettingsError, override
from latens.systems.image_codec.config import CropConfig
from latens.systems.image_codec.dataset import CropData
from latens.systems.image_codec.recipes import tiny


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("model.lambdas", "0.02,0.01", "increase"),
        ("model.lambdas", "0.01,0.01", "increase"),
        ("model.lambdas", "[]", "at least 1"),
        ("model.lambdas", "-1,1", "greater than 0"),
        ("model.latent", "769", "768"),
        ("data.crop", "100", "multiple of 64"),
        ("data.crop", "0", "greater than or equal to 64"),
        ("data.shrink", "0.5", "greater than or equal to 1"),
        ("data.validation_share", "2", "less than or equal to 1"),
    ],
)
def test_invalid_settings_are_refused(name: str, value: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        override(tiny(), {name: value})
    assert message in str(caught.value)


def save(path: Path, side: int) -> None:
    Image.fromarray(np.full((side, side, 3), 100, np.uint8)).save(path)


def test_warnings_report_photographs_that_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, side in (("a", 64), ("b", 64), ("small", 63), ("smaller", 5)):
        save(tmp_path / f"{name}.png", side)
    (tmp_path / "text.png").write_text("no image")
    data = CropData([Source("", str(tmp_path))], CropConfig(crop=64, validation_share=0.0), seed=0)
    assert (len(data.train), len(data.held_out)) == (2, 2)
    message = "\n".join(record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)
    assert "text.png" in message
    assert "2 photographs with a side below 64 pixels" in message
    assert "no photograph is held out" in message


def test_sources_without_photographs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="kind 'noise'"):
        CropData([Source("noise", str(tmp_path))], CropConfig(), seed=0)
    with pytest.raises(UnreadableInput, match="not a folder"):
        CropData([Source("", str(tmp_path / "missing"))], CropConfig(), seed=0)
    save(tmp_path / "small.png", 40)
    with pytest.raises(UnreadableInput, match="at least 128 x 128"):
        CropData([Source("", str(tmp_path))], CropConfig(), seed=0)


def test_predict_loads_no_training_and_no_converter() -> None:
    code = "import sys, latens.systems.image_codec.predict; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    unwanted = tuple(f"latens.systems.image_codec.{name}" for name in ("convert", "dataset", "objective", "evaluate"))
    unwanted += ("latens.training", "latens.experiments", "torchvision", "accelerate", "matplotlib", "scipy", "constriction")
    assert not [name for name in loaded if name.startswith(unwanted)]
