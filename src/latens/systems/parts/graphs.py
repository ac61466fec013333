"""The encoder of parts for ONNX."""

from __future__ import annotations

from torch import Tensor, nn

from latens.errors import ModelError
from latens.inference.onnx import Graph, example_images, free_sides
from latens.shapes import UInt8
from latens.systems.parts.model import PatchVAE
from latens.systems.parts.predict import Parts

SIZES = ((8, 8), (8, 12), (16, 10))  # of the examples, in multiples of the stride


class PartEncoder(nn.Module):
    """Features, part probabilities and appearances."""

    def __init__(self, model: PatchVAE) -> None:
        super().__init__()
        self.model = model.float()

    def forward(self, image: UInt8[Tensor, "1 H W 3"]) -> tuple[Tensor, Tensor, Tensor]:
        """Probability of every part (1, N, h, w), mean appearance (1, N, D), features (1, C, h, w)."""
        features = self.model.encoder(image.permute(0, 3, 1, 2).float() / 255)
        posterior = self.model.heads(features)
        return self.model.probability(posterior.logits), posterior.appearance.mean, features


def graphs(parts: Parts) -> list[Graph]:
    """The encoder. Raises ModelError for a model without parts."""
    if not isinstance(parts.model, PatchVAE):
        raise ModelError("only models with parts are exported", where=parts.name, hint="train a PatchVAE")
    stride = parts.model.encoder.stride
    examples = [(image,) for image in example_images(stride, SIZES)]
    about = (
        f"RGB image, 0 to 255, with a short side of {parts.resolution} pixels as in training, to the probability of every part "
        "in every cell, the mean appearance of every part, and the features of the encoder."
    )
    outputs = ("occurrence", "appearance", "features")
    return [Graph("encoder", about, PartEncoder(parts.model), ("image",), outputs, (free_sides(stride),), examples)]
