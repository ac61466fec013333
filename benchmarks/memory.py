"""Peak memory and CPU time of the verbs for one large image, and hashes of what they write.

    PYTHONPATH=OLD/src python benchmarks/memory.py --photo PHOTO --write old.json
    PYTHONPATH=NEW/src python benchmarks/memory.py --photo PHOTO --write new.json
    python benchmarks/memory.py --compare old.json new.json

Every verb runs in a new process on one image: PHOTO, CELLS, EMBRYO or TRAY, extended by reflection to the size. Verbs whose
image is not given are left out. Prints one JSON line per verb: peak resident memory in GB (10^9 bytes), CPU seconds, and the
SHA-256 of all files that the verb writes. --compare prints memory and time before and after, and whether the files are equal.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = "8192x6144"  # 50 megapixels
INPUTS = ("photo", "cells", "embryo", "tray")
VERBS = {  # arguments after the verb; OUT is a new folder
    "compress": "photo.png -o OUT/photo.ltn",
    "compress --psnr": "photo.png -o OUT/photo.ltn --psnr 34",
    "decompress": "photo.ltn -o OUT/photo.png",
    "inspect": "photo.ltn",
    "evaluate image_codec": "--data photos -o OUT --set qualities=4 --set baselines=JPEG",
    "haze": "photo.png -o OUT/hazy.png",
    "haze --save-depth": "photo.png -o OUT/hazy.png --save-depth OUT/depth",
    "haze --depth": "photo.png -o OUT/hazy.png --depth depth.npy",
    "haze --refine-depth": "photo.png -o OUT/hazy.png --depth depth.npy --refine-depth",
    "haze --method": "photo.png -o OUT/hazy.png --method mmd",
    "dehaze": "photo.png -o OUT/clear.png",
    "dehaze --keep-brightness": "photo.png -o OUT/clear.png --keep-brightness 0.5",
    "dehaze --method=dcp": "photo.png -o OUT/clear.png --method dcp",
    "dehaze --method=bccr": "photo.png -o OUT/clear.png --method bccr",
    "dehaze --method=dehazenet": "photo.png -o OUT/clear.png --method dehazenet",
    "dehaze --method=mmd": "photo.png -o OUT/clear.png --method mmd",
    "segment": "cells.png -o OUT",
    "segment --model": "embryo.png -o OUT --model embryo",
    "parts": "photo.png -o OUT",
    "parts --clusters": "photo.png -o OUT --clusters 6",
    "density": "photo.png -o OUT/scores.csv",
    "density pack": "photo.png -o OUT/photo.ltp",
    "grade": "tray.png -o OUT --day 6",
    "convert": "labels:labels,components --to coco -o OUT/cells.json",
}  # fmt: skip
TIMED = {"journal.jsonl", "index.html", "report.html", "names.html"}  # files that contain dates or seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in INPUTS:
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--size", default=SIZE)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="+", default=list(VERBS), metavar="VERB", choices=list(VERBS), help="some of the verbs")
    parser.add_argument("--write", type=Path, metavar="FILE.json")
    parser.add_argument("--compare", type=Path, nargs=2, metavar=("OLD.json", "NEW.json"))
    parser.add_argument("--make", nargs=2, type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.compare:
        return compare(*given.compare)
    size = tuple(map(int, given.size.split("x")))
    if given.make:
        enlarge(given.make[0], given.make[1], size)
        return 0
    found: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        prepare(place, {name: getattr(given, name) for name in INPUTS if getattr(given, name)}, given.size)
        for verb, arguments in VERBS.items():
            known = all((place / word).exists() for word in needs(arguments))
            if known and verb in given.only:
                found[verb] = measure(place, verb, arguments, given.threads)
                print(json.dumps({"verb": verb, **found[verb]}), flush=True)
    if given.write:
        given.write.write_text(json.dumps({"size": given.size, "threads": given.threads, "verbs": found}, indent=1) + "\n")
    return 0


def needs(arguments: str) -> list[str]:
    """The files of the working folder among the arguments."""
    words = [word.removeprefix("labels:").partition(",")[0] for word in arguments.split()]
    files = [word for word in words if word.endswith((".png", ".ltn", ".npy")) and not word.startswith("OUT")]
    return files + [word for word in words if word in ("photos", "labels")]


def prepare(place: Path, given: dict[str, Path], size: str) -> None:
    """The inputs of all verbs. Other processes make them, so that this one, which is forked for every verb, stays small."""
    for name, source in given.items():
        run(place, sys.executable, __file__, "--size", size, "--make", source.resolve(), f"{name}.png")
    if "photo" in given:
        run(place, sys.executable, "-m", "latens", "compress", "photo.png", "-o", "photo.ltn", "--threads", "1")
        (place / "photos").mkdir()
        os.link(place / "photo.png", place / "photos" / "photo.png")


def enlarge(source: Path, target: Path, size: tuple[int, ...]) -> None:
    """Write an image extended by reflection to `size` (width, height); of a photograph, also distances in meters (NPY)."""
    width, height = size
    with Image.open(source) as image:
        pixels = np.asarray(image.convert("L" if image.mode in ("L", "I;16", "1") else "RGB"))
    pad = ((0, max(height - len(pixels), 0)), (0, max(width - pixels.shape[1], 0)), *[(0, 0)] * (pixels.ndim - 2))
    large = np.pad(pixels, pad, mode="symmetric")[:height, :width]
    Image.fromarray(large).save(target, compress_level=1)
    if target.stem == "photo":
        rows = np.arange(height, dtype=np.float32)[:, None]
        meters = np.broadcast_to(4 * height / (rows + height / 30), (height, width))
        np.save(target.with_name("depth.npy"), meters.astype(np.float32))
    if target.stem == "cells":
        labels = target.with_name("labels")
        labels.mkdir()
        gray = large if large.ndim == 2 else large[..., 1]
        Image.fromarray(((gray > gray.mean() + gray.std()) * 255).astype(np.uint8)).save(labels / "cells_label.png")
        os.link(target, labels / "cells.png")


def measure(place: Path, verb: str, arguments: str, threads: int) -> dict[str, object]:
    """Peak memory, CPU seconds and hash of the files of one command."""
    out = place / "out"
    subprocess.run(["rm", "-rf", str(out)], check=True)
    out.mkdir()
    words = [*verb.split(" --")[0].split(), *arguments.replace("OUT", "out").split()]
    if not verb.startswith(("inspect", "convert")):
        words += ["--threads", str(threads)]
    used = run(place, sys.executable, "-m", "latens", *words)
    digest = hashlib.sha256()
    written = sorted(path for path in out.rglob("*") if path.is_file() and not path.name.startswith(".latens"))
    for path in written:
        if path.name not in TIMED:
            digest.update(str(path.relative_to(out)).encode() + hashlib.sha256(path.read_bytes()).digest())
    seconds = used.ru_utime + used.ru_stime
    return {"peak_gb": round(used.ru_maxrss * 1024 / 1e9, 2), "cpu_s": round(seconds, 1), "sha256": digest.hexdigest()}


def run(place: Path, *command: object) -> resource.struct_rusage:
    """Run a command in a folder; the resources that it used. Exits if it fails."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen([*map(str, command)], cwd=place, stdout=subprocess.DEVNULL, stderr=errors)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            sys.exit(f"{' '.join(map(str, command))}: exit status {process.returncode}\n{errors.read().decode()[-2000:]}")
    return used


def compare(old: Path, new: Path) -> int:
    before, after = (json.loads(path.read_text())["verbs"] for path in (old, new))
    different = 0
    for verb in sorted({*before} & {*after}, key=[*VERBS].index):
        a, b = before[verb], after[verb]
        same = a["sha256"] == b["sha256"]
        different += not same
        files = "files equal" if same else "FILES DIFFER"
        print(f"{verb:28} {a['peak_gb']:5.2f} -> {b['peak_gb']:5.2f} GB  {a['cpu_s']:7.1f} -> {b['cpu_s']:7.1f} s  {files}")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
