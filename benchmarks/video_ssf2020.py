"""Decoding time of the bundled video codec compared with CompressAI's ssf2020, including entropy decoding.

python benchmarks/video_ssf2020.py FRAMES --python VENV/bin/python [--frames 12] [--repeats 3]

FRAMES is a folder of images of one size. VENV has compressai (1.2.8 was measured) and its own torch. Its times do not depend on
the weights, which are random. Both run on one thread in separate processes, in alternation. CPU and wall time per frame are the
minima of all repeats. Without compressai in VENV the script reports this and exits with status 2.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

# Runs with the other Python; its argument and its output are JSON objects.
SSF2020 = """
import json, sys, time
import numpy as np, torch
from PIL import Image
from compressai.zoo import ssf2020
options = json.loads(sys.argv[1])
torch.set_num_threads(1)
torch.manual_seed(0)
model = ssf2020(quality=4, pretrained=False).eval()
model.update(force=True)
frames = []
for name in options["frames"]:
    image = np.asarray(Image.open(name).convert("RGB"), dtype=np.float32) / 255
    image = torch.from_numpy(image).permute(2, 0, 1)[None]
    pad = [-side % 128 for side in image.shape[:1:-1]]
    frames.append(torch.nn.functional.pad(image, (0, pad[0], 0, pad[1]), mode="replicate"))
with torch.no_grad():
    strings, shapes = model.compress(frames)
    cpu, wall = time.process_time(), time.perf_counter()
    model.decompress(strings, shapes)
cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
print(json.dumps({"cpu": cpu / len(frames), "wall": wall / len(frames)}))
"""

OURS = """
import json, sys, time
import numpy as np, torch
from PIL import Image
from latens.systems.video_codec.predict import load
options = json.loads(sys.argv[1])
torch.set_num_threads(1)
codec = load(device="cpu")
images = np.stack([np.asarray(Image.open(name).convert("RGB")) for name in options["frames"]])
blob = codec.compress(images, quality=4.0, fps=24)
cpu, wall = time.process_time(), time.perf_counter()
count = sum(1 for _ in codec.frames(blob))
cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
print(json.dumps({"cpu": cpu / count, "wall": wall / count}))
"""


def timed(python: str, code: str, frames: list[str]) -> dict[str, float]:
    """Seconds of CPU and wall time per frame."""
    words = [python, "-W", "ignore", "-c", code, json.dumps({"frames": frames})]
    done = subprocess.run(words, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{python} failed:\n{done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    if subprocess.run([options.python, "-W", "ignore", "-c", "import compressai"], capture_output=True, check=False).returncode:
        print(f"{options.python} has no compressai: install it in a separate environment and give its python with --python")
        sys.exit(2)
    frames = [str(path) for path in sorted(options.folder.iterdir())[: options.frames]]
    best: dict[str, dict[str, float]] = {}
    for _ in range(options.repeats):
        for name, python, code in (("latens", sys.executable, OURS), ("ssf2020", options.python, SSF2020)):
            found = timed(python, code, frames)
            print(
                f"{name:<8} {1e3 * found['cpu']:7.0f} ms of CPU time per frame, {1e3 * found['wall']:7.0f} ms of wall time",
                flush=True,
            )
            best[name] = {key: min(value, best.get(name, found)[key]) for key, value in found.items()}
    for key in ("cpu", "wall"):
        print(f"ssf2020 / latens, {key}: {best['ssf2020'][key] / best['latens'][key]:.2f}")


if __name__ == "__main__":
    main()
