"""Halves of the image codec for ONNX: image to latents, latents to image."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from latens.inference.onnx import Graph, example_images, free_sides
from latens.shapes import Float, UInt8
from latens.systems.image_codec.predict import ImageCodec

ALIGNMENT = 64  # sides of images are multiples of it
SIZES = ((2, 3), (4, 4), (3, 1))  # of the examples, in multiples
QUALITY = 3.0


class EncoderHalf(nn.Module):
    """Analysis, gain and hyper-analysis."""

    def __init__(self, codec: ImageCodec) -> None:
        super().__init__()
        self.model = codec.model.float()

    def forward(self, image: UInt8[Tensor, "1 H W 3"], quality: Float[Tensor, "1"]) -> tuple[Tensor, Tensor]:
        """Latent y, scaled for the quality, and hyper-latent z; both are rounded by the coder."""
        y = self.model.analysis(image.permute(0, 3, 1, 2).float() / 255)
        if self.model.gains is not None:
            y = y * self.model.gains.forward_gain(quality)
        return y, self.model.hyper_analysis(y)


class DecoderHalf(nn.Module):
    """Inverse gain and synthesis."""

    def __init__(self, codec: ImageCodec) -> None:
        super().__init__()
        self.model = codec.model.float()

    def forward(self, y_hat: Float[Tensor, "1 M h w"], quality: Float[Tensor, "1"]) -> Float[Tensor, "1 H W 3"]:
        """The decoded image, 0 to 255, not rounded."""
        if self.model.gains is not None:
            y_hat = y_hat * self.model.gains.inverse_gain(quality)
        return (self.model.synthesis(y_hat).clamp(0.0, 1.0) * 255).permute(0, 2, 3, 1)


def graphs(codec: ImageCodec) -> list[Graph]:
    """Encoder and decoder without the entropy coder."""
    quality, images = torch.tensor([QUALITY]), example_images(ALIGNMENT, SIZES)
    encoder, decoder = EncoderHalf(codec), DecoderHalf(codec)
    with torch.no_grad():
        latents = [encoder(image, quality)[0].round() for image in images]
    per_latent = ALIGNMENT // (images[0].shape[1] // latents[0].shape[2])
    top = len(codec.lambdas)
    return [
        Graph(
            "encoder",
            f"RGB image, 0 to 255, and quality, 1 to {top}, to the latent y and the hyper-latent z before rounding.",
            encoder,
            ("image", "quality"),
            ("y", "z"),
            (free_sides(ALIGNMENT), {}),
            [(image, quality) for image in images],
        ),
        Graph(
            "decoder",
            f"Rounded latent y and quality, 1 to {top}, to the RGB image, 0 to 255, before rounding.",
            decoder,
            ("y", "quality"),
            ("image",),
            (free_sides(per_latent, rows=2), {}),
            [(latent, quality) for latent in latents],
        ),
    ]
