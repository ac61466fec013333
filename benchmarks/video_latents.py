"""Hashes of the decoded latents of a `.ltv` file under different threads and instruction sets, which must be equal.

python benchmarks/video_latents.py clip.ltv [--model FOLDER]
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
from pathlib import Path

CASES: tuple[tuple[str, dict[str, str]], ...] = (
    ("1 thread", {"OMP_NUM_THREADS": "1"}),
    ("2 threads", {"OMP_NUM_THREADS": "2"}),
    ("oneDNN with AVX2", {"OMP_NUM_THREADS": "1", "ONEDNN_MAX_CPU_ISA": "AVX2"}),
    ("oneDNN with AVX-512", {"OMP_NUM_THREADS": "1", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}),
    ("torch with AVX2", {"OMP_NUM_THREADS": "1", "ATEN_CPU_CAPABILITY": "avx2"}),
    ("torch without vectors", {"OMP_NUM_THREADS": "1", "ATEN_CPU_CAPABILITY": "default"}),
)


def latents(file: Path, model: str) -> str:
    """SHA-256 over all symbols and means of a file, and over its pixels."""
    from latens.systems.video_codec import latents as module
    from latens.systems.video_codec.predict import load

    digest, pixels = hashlib.sha256(), hashlib.sha256()
    read = module.LatentCoder.read

    def watched(*args: object) -> module.Quantized:
        found = read(*args)  # type: ignore[arg-type]
        digest.update(found.symbols.numpy().tobytes() + found.mean.numpy().tobytes())
        return found

    module.LatentCoder.read = watched  # type: ignore[method-assign,assignment]
    for frame in load(model, device="cpu").frames(file):
        pixels.update(frame.pixels.tobytes())
    return f"latents {digest.hexdigest()[:16]}  pixels {pixels.hexdigest()[:16]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--model", default="video_codec")
    parser.add_argument("--one", action="store_true")
    options = parser.parse_args()
    if options.one:
        print(latents(options.file, options.model))
        return
    for name, changes in CASES:
        words = [sys.executable, __file__, str(options.file), "--model", options.model, "--one"]
        done = subprocess.run(words, env={**os.environ, **changes}, capture_output=True, text=True, check=True)
        print(f"{name:<24} {done.stdout.strip()}")


if __name__ == "__main__":
    main()
