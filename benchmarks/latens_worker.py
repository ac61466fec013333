"""Our side of `against_compressai.py`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from serving import Answer, forget_peak, memory, serve, timed

import latens
from latens.codes.coder import decode, encode
from latens.codes.tables import gaussian_tables
from latens.systems.image_codec.convert import import_checkpoint


class Worker:
    def __init__(self, threads: int) -> None:
        self.threads = threads

    def load(self, folder: str) -> Answer:
        model = Path(folder) / "model"
        if not model.exists():
            import_checkpoint(Path(folder) / "peer.safetensors", model)
        self.codec_ = latens.load(model, device="cpu", threads=self.threads)
        self.pixels = np.load(Path(folder) / "image.npy")
        latents = load_file(Path(folder) / "latents.safetensors")
        self.y, self.mean = latents["y"], latents["mean"]
        self.levels = latents["levels"].flatten().numpy()
        self.tables = gaussian_tables(latents["scales"].numpy())
        forget_peak()
        return {"memory": memory(), "versions": f"torch {torch.__version__}, threads {torch.get_num_threads()}"}

    def codec(self, result: str | None = None) -> Answer:
        """uint8 pixels to the bytes of a file and back to an image, whose pixels are written to the file `result`."""
        blob, compress = timed(lambda: self.codec_.compress(self.pixels))
        image, decompress = timed(lambda: self.codec_.decompress(blob))
        if result:
            np.save(result, np.asarray(image.convert("RGB")))
        return {"compress": compress, "decompress": decompress, "bytes": len(blob), "memory": memory()}

    def coder(self) -> Answer:
        """Only the conditional Gaussian: latents and scale indices to bytes and back."""
        blob, encoding = timed(self._encode)
        back, decoding = timed(lambda: self._decode(blob))
        symbols = (self.y - self.mean).round()
        assert torch.equal(back, symbols + self.mean)
        values, levels = symbols.flatten().numpy(), self.levels
        escapes = (values < self.tables.lows[levels]) | (values > self.tables.highs[levels])
        return {"encode": encoding, "decode": decoding, "bytes": len(blob), "escapes": int(escapes.sum())}

    def _encode(self) -> bytes:
        symbols = (self.y - self.mean).round().to(torch.int32).flatten().numpy()
        return encode(symbols, self.levels, self.tables)

    def _decode(self, blob: bytes) -> torch.Tensor:
        symbols = torch.from_numpy(decode(blob, self.levels, self.tables))
        return symbols.reshape(self.mean.shape).float() + self.mean


if __name__ == "__main__":
    worker = Worker(int(sys.argv[1]))
    serve({"load": worker.load, "codec": worker.codec, "coder": worker.coder})
