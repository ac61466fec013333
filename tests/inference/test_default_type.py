"""Programs may set another default type of torch after loading a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

import latens
from latens.inference.device import float32_default, in_float32

PIXELS = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
CLIP = np.stack([np.roll(PIXELS, shift, 1) for shift in range(4)])
USES: dict[str, Callable[[object], object]] = {
    "image_codec": lambda model: model.decompress(model.compress(PIXELS, psnr=12)),  # type: ignore[attr-defined]
    "amodal": lambda model: model.segment(PIXELS),  # type: ignore[attr-defined]
    "haze": lambda model: [model.dehaze(PIXELS), model.haze(PIXELS), list(model.dehaze_clip(iter(CLIP)))],  # type: ignore[attr-defined]
    "parts": lambda model: [model.encode(PIXELS), model.occurrences(PIXELS)],  # type: ignore[attr-defined]
    "flow": lambda model: [model.density([PIXELS]), model.sample(1)],  # type: ignore[attr-defined]
    "seedlings": lambda model: model.classify(PIXELS[:, :64]),  # type: ignore[attr-defined]
    "video_codec": lambda model: list(model.frames(model.compress(CLIP))),  # type: ignore[attr-defined]
}


@pytest.mark.parametrize("name", USES)
def test_every_system_works_with_the_default_type_float64(name: str) -> None:
    model = latens.load(name, device="cpu")
    try:
        torch.set_default_dtype(torch.float64)
        USES[name](model)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


@in_float32
class Model:
    def value(self) -> torch.Tensor:
        return torch.zeros(1)

    def fail(self) -> None:
        raise ValueError("no")

    def steps(self) -> Iterator[torch.Tensor]:
        yield torch.zeros(1)
        yield torch.zeros(1)


def test_methods_and_steps_of_generators_are_float32_and_the_caller_is_not() -> None:
    model = Model()
    try:
        torch.set_default_dtype(torch.float64)
        assert model.value().dtype == torch.float32
        with pytest.raises(ValueError, match="no"):
            model.fail()
        for step in model.steps():
            assert (step.dtype, torch.get_default_dtype()) == (torch.float32, torch.float64)
        with float32_default():
            assert torch.zeros(1).dtype == torch.float32
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
