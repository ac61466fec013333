"""CompressAI's side of `against_compressai.py`; runs in CompressAI's environment (see `make_compressai_golden.py`)."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from compressai.models import MeanScaleHyperprior
from make_compressai_golden import spread
from safetensors.torch import load_file, save_file
from serving import Answer, forget_peak, memory, serve, timed
from torch import Tensor

LOUDEST, QUIETEST = 1.9, 0.01  # about 0.6 bits per pixel, like the fourth quality of mbt2018_mean
OUTLIER_EVERY = 1000  # one value of y in this many is ten times too large: symbols outside the tables


class Worker:
    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)

    def make(self, folder: str, hidden: int, latent: int) -> Answer:
        """Write weights, and latents for the entropy coders, into the folder of image.npy."""
        torch.manual_seed(0)
        model = MeanScaleHyperprior(hidden, latent).eval()
        image = as_tensor(np.load(Path(folder) / "image.npy"))
        spread(model, image, loudest=LOUDEST, quietest=QUIETEST)
        state = {name: value.contiguous() for name, value in model.state_dict().items()}
        save_file(state, Path(folder) / "peer.safetensors")
        with torch.no_grad():
            y = model.g_a(image)
            scale, mean = model.h_s(model.entropy_bottleneck(model.h_a(y))[0]).chunk(2, dim=1)
        mean = mean.contiguous()
        y.view(-1)[::OUTLIER_EVERY] = mean.view(-1)[::OUTLIER_EVERY] + 10 * (y - mean).view(-1)[::OUTLIER_EVERY]
        conditional = model.gaussian_conditional
        levels = conditional.build_indexes(scale).to(torch.uint8)
        save_file(
            {"y": y, "mean": mean, "levels": levels, "scales": conditional.scale_table.double()},
            Path(folder) / "latents.safetensors",
        )
        return {}

    def load(self, folder: str) -> Answer:
        state = load_file(Path(folder) / "peer.safetensors")
        self.model = MeanScaleHyperprior.from_state_dict(state).eval()
        self.model.update(force=True)
        self.pixels = np.load(Path(folder) / "image.npy")
        latents = load_file(Path(folder) / "latents.safetensors")
        self.y, self.mean, self.levels = latents["y"], latents["mean"], latents["levels"].int()
        forget_peak()
        return {"memory": memory(), "versions": f"torch {torch.__version__}, threads {torch.get_num_threads()}"}

    @torch.no_grad()
    def codec(self, result: str | None = None) -> Answer:
        """uint8 pixels to strings and back to uint8 pixels, which are written to the file `result`."""
        coded, compress = timed(lambda: self.model.compress(as_tensor(self.pixels)))
        pixels, decompress = timed(lambda: as_pixels(self.model.decompress(**coded)["x_hat"]))
        if result:
            np.save(result, pixels)
        size = sum(len(string) for strings in coded["strings"] for string in strings)
        return {"compress": compress, "decompress": decompress, "bytes": size, "memory": memory()}

    @torch.no_grad()
    def coder(self) -> Answer:
        """Only the conditional Gaussian: latents and scale indices to a string and back."""
        conditional = self.model.gaussian_conditional
        strings, encode = timed(lambda: conditional.compress(self.y, self.levels, means=self.mean))
        back, decode = timed(lambda: conditional.decompress(strings, self.levels, means=self.mean))
        assert torch.equal(back, (self.y - self.mean).round() + self.mean)
        return {"encode": encode, "decode": decode, "bytes": len(strings[0])}


def as_tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255


def as_pixels(image: Tensor) -> np.ndarray:
    return (image[0] * 255).round().byte().permute(1, 2, 0).contiguous().numpy()


if __name__ == "__main__":
    worker = Worker(int(sys.argv[1]))
    serve({"make": worker.make, "load": worker.load, "codec": worker.codec, "coder": worker.coder})
