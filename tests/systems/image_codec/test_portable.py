"""A file decodes to identical latents with any threads, kernels, batch size, memory layout and instruction set."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from latens.codes.coding import LatentParameters
from latens.systems.image_codec.format import read_coded_image
from latens.systems.image_codec.predict import ImageCodec

PIXELS = (np.mgrid[0:256, 0:320].sum(axis=0)[..., None] * np.array([3, 1, 2]) // 4 % 256).astype(np.uint8)


def latents(codec: ImageCodec, blob: bytes) -> tuple[torch.Tensor, torch.Tensor]:
    symbols, lost = codec.decode_symbols(read_coded_image(blob), partial=False)
    assert not lost
    return symbols.y + symbols.parameters.mean, symbols.parameters.level


def test_threads_layout_and_kernels(codec: ImageCodec) -> None:
    blob = codec.compress(PIXELS, quality=2)
    y_hat, level = latents(codec, blob)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            for onednn in (True, False):
                with torch.backends.mkldnn.flags(enabled=onednn, allow_tf32=None):
                    again, level_again = latents(codec, blob)
                    assert torch.equal(again, y_hat)
                    assert torch.equal(level_again, level)
    finally:
        torch.set_num_threads(threads)


def test_batches_and_memory_formats(codec: ImageCodec) -> None:
    torch.manual_seed(0)
    z = torch.randint(-20, 21, (4, len(codec.coding.medians), 4, 5))
    assert codec.model.gains is not None
    y = torch.randint(-2, 3, (4, codec.model.gains.log_gain.shape[1], 16, 20))

    def parameters(z: torch.Tensor, y: torch.Tensor) -> LatentParameters:
        return codec.coding.replay(codec.coding.predict(z, 300), y, [(0, 16)])

    together = parameters(z, y)
    for arranged in (z, z.contiguous(memory_format=torch.channels_last)):
        whole = parameters(arranged, y)
        assert torch.equal(whole.mean, together.mean)
        assert torch.equal(whole.level, together.level)
        for index in range(4):
            alone = parameters(arranged[index : index + 1], y[index : index + 1])
            assert torch.equal(alone.mean[0], together.mean[index])
            assert torch.equal(alone.level[0], together.level[index])


SCRIPT = """
import hashlib, json, sys, torch
from latens.systems.image_codec.format import read_coded_image
from latens.systems.image_codec.predict import load
torch.set_num_threads(1)
codec = load(sys.argv[1], device="cpu")
symbols, _ = codec.decode_symbols(read_coded_image(open(sys.argv[2], "rb").read()), partial=False)
digest = hashlib.sha256((symbols.y + symbols.parameters.mean).numpy().tobytes()).hexdigest()
print(json.dumps({"latents": digest, "capability": torch.backends.cpu.get_cpu_capability()}))
"""

MACHINES = {
    "native": {},
    "AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "AVX-512": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "ATEN_CPU_CAPABILITY": "avx512"},
}


@pytest.mark.slow
def test_forced_instruction_sets(codec: ImageCodec, codec_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.ltn"
    path.write_bytes(codec.compress(PIXELS, quality=2))
    processes = {
        name: subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(codec_folder), str(path)],
            env={**os.environ, **forced},
            stdout=subprocess.PIPE,
        )
        for name, forced in MACHINES.items()
    }
    results = {}
    for name, process in processes.items():
        out, _ = process.communicate(timeout=200)
        assert process.returncode == 0
        results[name] = json.loads(out)
    assert results["AVX2"]["capability"] == "AVX2"
    assert len({result["latents"] for result in results.values()}) == 1
