"""The physical dehazer for ONNX."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from latens.inference.onnx import Graph, example_images, free_sides
from latens.shapes import UInt8
from latens.systems.haze.formation import remove_haze, transmission
from latens.systems.haze.methods import PHYSICAL_FLOOR
from latens.systems.haze.physical import PhysicalHaze
from latens.systems.haze.predict import Haze

SIZES = ((4, 6), (8, 8), (5, 3))  # of the examples, in multiples of the stride


class Dehazer(nn.Module):
    """One view of the physical model at the size of the image, and Eq. 1 of Li et al. 2019."""

    def __init__(self, model: PhysicalHaze) -> None:
        super().__init__()
        self.model = model.float()

    def forward(self, image: UInt8[Tensor, "1 H W 3"]) -> tuple[Tensor, Tensor, Tensor]:
        """Clear image (1, H, W, 3), 0 to 255; transmission (1, 1, H, W); airlight (1, 3)."""
        hazy = image.permute(0, 3, 1, 2).float() / 255
        code = self.model.encode(hazy, "hazy")
        airlight, beta = self.model.haze_parameters(code)
        t = transmission(self.model.depth(code), beta)
        clear = remove_haze(hazy, t, airlight, floor=PHYSICAL_FLOOR).clamp(0.0, 1.0)
        return (clear * 255).permute(0, 2, 3, 1), t, airlight


def graphs(haze: Haze) -> list[Graph]:
    """The dehazer without the rules and the refinement of `latens dehaze`."""
    model = cast(PhysicalHaze, haze.model("physical"))
    stride = model.stride
    examples = [(image,) for image in example_images(stride, SIZES)]
    about = (
        f"RGB image, 0 to 255, best reduced to a short side of {model.config.short_side} pixels, to the clear image, 0 to 255, "
        "transmission in (0, 1] and airlight, in [0.3, 1.05] for each color. The rules, the four views and the guided filter "
        "of `latens dehaze` are not part of it."
    )
    outputs = ("clear", "transmission", "airlight")
    return [Graph("dehazer", about, Dehazer(model), ("image",), outputs, (free_sides(stride),), examples)]
