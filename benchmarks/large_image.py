"""Peak memory for a large photograph, and the effect of processing it in row blocks.

    python benchmarks/large_image.py PHOTO [--model NAME|FOLDER] [--threads 2]

Runs compress and decompress in new processes, once in row blocks (the default of latens) and once on the whole image, and
prints seconds, CPU seconds and peak resident memory as JSON lines; then the differences between the two decoded images and
files. An image of another size is extended by reflection to 4000 x 3000 pixels.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 4000, 3000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", type=Path)
    parser.add_argument("--model", default="image_codec")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--step", nargs=3, metavar=("VERB", "STRIPS", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        print(json.dumps(run_step(arguments, *arguments.step)))
        return
    with tempfile.TemporaryDirectory() as folder:
        enlarge(np.asarray(Image.open(arguments.photo).convert("RGB"))).save(Path(folder) / "large.png")
        for strips in ("strips", "whole"):
            for verb in ("compress", "decompress"):
                command = [sys.executable, __file__, str(arguments.photo), "--model", arguments.model]
                command += ["--threads", str(arguments.threads), "--step", verb, strips, folder]
                print(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip(), flush=True)
        print(json.dumps(compare(Path(folder))))


def enlarge(pixels: np.ndarray) -> Image.Image:
    """The image, extended by reflection and cropped to 4000 x 3000."""
    rows, columns = pixels.shape[:2]
    pad = ((0, max(HEIGHT - rows, 0)), (0, max(WIDTH - columns, 0)), (0, 0))
    return Image.fromarray(np.pad(pixels, pad, mode="symmetric")[:HEIGHT, :WIDTH])


def run_step(arguments: argparse.Namespace, verb: str, strips: str, folder: str) -> dict[str, object]:
    """Run one command in this process. Both decoders read the file that was written in row blocks."""
    from latens.systems.image_codec import predict, stages

    codec = predict.load(arguments.model, device="cpu", threads=arguments.threads)
    if strips == "whole":
        stages.ROW_BLOCK_PIXELS = 10**9
    place = Path(folder)
    wall, cpu = time.perf_counter(), time.process_time()
    if verb == "compress":
        (place / f"{strips}.ltn").write_bytes(codec.compress(place / "large.png", quality=4))
    else:
        np.save(place / f"{strips}.npy", np.asarray(codec.decompress(place / "strips.ltn")))
    return {
        "verb": verb,
        "how": strips,
        "seconds": round(time.perf_counter() - wall, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }


def compare(folder: Path) -> dict[str, object]:
    strips, whole = (np.load(folder / f"{name}.npy").astype(int) for name in ("strips", "whole"))
    difference = np.abs(strips - whole)
    sizes = {name: (folder / f"{name}.ltn").stat().st_size for name in ("strips", "whole")}
    return {
        "largest_difference_of_255": int(difference.max()),
        "pixels_that_differ": float((difference.max(axis=2) > 0).mean()),
        "file_bytes": sizes,
        "files_equal": (folder / "strips.ltn").read_bytes() == (folder / "whole.ltn").read_bytes(),
    }


if __name__ == "__main__":
    main()
