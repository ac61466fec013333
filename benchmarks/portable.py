"""Integers of compressed files under every instruction set that this machine can be held to, and on a GPU if there is one.

Every case is a process of its own. It loads models with integer networks, which test themselves, and decodes the stored files
of earlier models (tests/golden), a clip, an archive, and the files that are given. Latents must be equal in all cases, and in
stored files equal to the recorded ones. Pixels of clips may differ by rounding. The exit status is 1 if integers differ.

python benchmarks/portable.py [CLIP.ltv ...]
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

import latens

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "golden"


class Case(NamedTuple):
    """One way to compute: variables of the process, threads, and whether oneDNN is used."""

    variables: Mapping[str, str] = MappingProxyType({})
    threads: int = 1
    onednn: bool = True
    device: str = "cpu"

    def text(self) -> str:
        """JSON of the case, for the process that runs it."""
        return json.dumps(self._asdict() | {"variables": dict(self.variables)})


def instruction_set(onednn: str, aten: str, mkl: str | None = None) -> Case:
    variables = {"ONEDNN_MAX_CPU_ISA": onednn, "ATEN_CPU_CAPABILITY": aten}
    return Case(variables | ({"MKL_ENABLE_INSTRUCTIONS": mkl} if mkl else {}))


CASES = {
    "all instructions": Case(),
    "two threads": Case(threads=2),
    "without oneDNN": Case(onednn=False),
    "SSE 4.1": instruction_set("SSE41", "default", "SSE4_2"),
    "AVX2": instruction_set("AVX2", "avx2", "AVX2"),
    "AVX2 and VNNI": instruction_set("AVX2_VNNI", "avx2", "AVX2"),
    "AVX-512": instruction_set("AVX512_CORE", "avx512", "AVX512"),
    "AVX-512 and VNNI": instruction_set("AVX512_CORE_VNNI", "avx512", "AVX512"),
    "AVX-512 and bfloat16": instruction_set("AVX512_CORE_BF16", "avx512", "AVX512"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path, nargs="*")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        print(json.dumps(found_in(Case(**json.loads(given.case)), given.clips)))
        return
    gpu = {"GPU": Case(device="cuda")} if torch.cuda.is_available() else {}
    with tempfile.TemporaryDirectory() as folder:
        files = [*written(Path(folder)), *given.clips]
        results = {name: run(case, files) for name, case in (CASES | gpu).items()}
    sys.exit(report(results))


def written(folder: Path) -> Iterator[Path]:
    """A clip of four frames and an archive of two images, written in this process from a bundled photograph."""
    from latens.data.samples import photographs
    from latens.systems.flow.pack.packer import Source, load

    with Image.open(photographs()[0].path) as image:
        photograph = np.asarray(image.convert("RGB").reduce(4))
    frames = np.stack([photograph[20:84, 3 * shift : 3 * shift + 96] for shift in range(4)])
    clip, archive = folder / "clip.ltv", folder / "images.ltp"
    clip.write_bytes(latens.load("video_codec", device="cpu").compress(frames, quality=4))
    yield clip
    sources = [Source(f"{index}.png", 0, png_of(frames[index])) for index in range(2)]
    with archive.open("wb") as stream:
        forms = {packed.form for packed in load("flow_pack").pack(sources, stream)}
    if forms != {"model"}:
        raise SystemExit(f"the archive does not hold streams of the model: {forms}")
    yield archive


def png_of(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "png")
    return stream.getvalue()


def run(case: Case, files: list[Path]) -> dict[str, str]:
    words = [sys.executable, __file__, *map(str, files), "--case", case.text()]
    environment = {**os.environ, "OMP_NUM_THREADS": str(case.threads), **case.variables}
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    found: dict[str, str] = json.loads(done.stdout)
    return found


def found_in(case: Case, files: list[Path]) -> dict[str, str]:
    """Name of every file to a hash of its integers; `same` or `other` for files whose hashes are recorded."""
    torch.set_num_threads(case.threads)
    torch.backends.mkldnn.set_flags(case.onednn)
    found = {"capability": torch.backends.cpu.get_cpu_capability()}
    for path in sorted(GOLDEN.rglob("*.ltn")):
        found[f"{path.parent.name}/{path.name}"] = "same" if image_latents(path, case.device) == recorded(path) else "other"
    for path in files:
        found[path.name] = archive_pixels(path) if path.suffix == ".ltp" else clip_latents(path, case.device)
    return found


def recorded(path: Path) -> dict[str, str]:
    record = json.loads((path.parent / "golden.json").read_text())
    latents: dict[str, str] = record.get("files", record)[path.stem]["latents"]
    return latents


def image_latents(path: Path, device: str) -> dict[str, str]:
    from latens.systems.image_codec.format import read_coded_image

    model = path.stem if path.parent.name == "bundled" else path.parent / "model"
    codec = latens.load(model, device=device)
    symbols, _ = codec.decode_symbols(read_coded_image(path.read_bytes()), partial=False)
    integers = {"z": symbols.z, "y": symbols.y, "mean": symbols.parameters.mean.double() * 1024}
    return {name: hashlib.sha256(value.cpu().numpy().astype("<i4").tobytes()).hexdigest() for name, value in integers.items()}


def clip_latents(path: Path, device: str) -> str:
    """Hash of all symbols and means of a clip, in the order in which they are decoded."""
    from latens.systems.video_codec.latents import LatentCoder, Quantized
    from latens.systems.video_codec.predict import load

    digest, read = hashlib.sha256(), LatentCoder.read

    def watched(*arguments: object) -> Quantized:
        latent = read(*arguments)  # type: ignore[arg-type]
        digest.update(latent.symbols.cpu().numpy().tobytes() + latent.mean.cpu().numpy().tobytes())
        return latent

    LatentCoder.read = watched  # type: ignore[method-assign,assignment]
    for _ in load("video_codec", device=device).frames(path):
        pass
    LatentCoder.read = read  # type: ignore[method-assign]
    return digest.hexdigest()[:16]


def archive_pixels(path: Path) -> str:
    """Hash of all files of an archive."""
    from latens.systems.flow.pack.packer import load

    with io.BytesIO(path.read_bytes()) as stream:
        return hashlib.sha256(b"".join(each.data or b"" for each in load("flow_pack").unpack(stream))).hexdigest()[:16]


def report(results: dict[str, dict[str, str]]) -> int:
    """Print a table of all cases. Return 1 if one differs from the first, or from what is recorded."""
    first = next(iter(results.values()))
    others = [name for name, value in first.items() if name != "capability" and value not in ("same", "other")]
    stored = [name for name, value in first.items() if value in ("same", "other")]
    print(f"| | torch | stored files | {' | '.join(others)} |\n|---|---|---|{'---|' * len(others)}")
    for name, result in results.items():
        if "error" in result:
            print(f"| {name} | {result['error']} |")
            continue
        same = sum(result[file] == "same" for file in stored)
        print(f"| {name} | {result['capability']} | {same} of {len(stored)} | {' | '.join(result[file] for file in others)} |")
    equal = all(result.get(file) == first[file] for result in results.values() for file in (*others, *stored))
    return 0 if equal and all(first[file] == "same" for file in stored) else 1


if __name__ == "__main__":
    main()
