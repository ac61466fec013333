"""Methods and an image for the tests of rules and borders; other modules have fixtures of the same name."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from latens.hub import save_model
from latens.settings import to_dict
from latens.systems.haze.config import CLASSICAL, DiscriminatorConfig, TranslatorConfig
from latens.systems.haze.networks import network
from latens.systems.haze.objective import half_weights
from latens.systems.haze.predict import Haze, load
from latens.systems.haze.simulator.streets import street

ESTIMATORS = (*CLASSICAL, "physical", "dehazenet")  # methods that estimate airlight
METHODS = (*ESTIMATORS, "mmd")


@pytest.fixture(scope="module")
def haze(tmp_path_factory: pytest.TempPathFactory) -> Haze:
    """The bundled methods, and a small untrained translator."""
    torch.manual_seed(0)
    config = TranslatorConfig(channels=4, blocks=1, discriminator=DiscriminatorConfig(channels=4, scales=1, layers=2))
    folder = tmp_path_factory.mktemp("model") / "mmd"
    save_model(folder, {"system": "haze", "model": to_dict(config)}, half_weights(network(config)))
    loaded = load("haze", device="cpu")
    loaded.add(folder)
    return loaded


@pytest.fixture(scope="module")
def hazy() -> np.ndarray:
    """A street of 180 x 240 pixels in haze with a sky."""
    made = street(3, (180, 240))
    t = np.exp(-np.minimum(made.depth, 400) / 90)[..., None]
    image: np.ndarray = np.rint(made.image * t + 225 * (1 - t)).astype(np.uint8)
    return image
