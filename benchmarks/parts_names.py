"""Names by example and clusters on CamVid: pixel accuracy, mIoU, purity and NMI, with controls of other features.

    python benchmarks/parts_names.py CAMVID --marked 3 10 --draws 3
    python benchmarks/parts_names.py CAMVID --clusters 32

CAMVID holds images X.jpg with label maps X_label.png (0 to 10, 11 is void) of three drives. "Within": marked images of a drive,
evenly spaced from another start for every draw; all other images of the drive are scored. "Validation": marked images of the
folder train/, scored on the folder val/, seconds of one drive. Every row names the same images with other features.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image

from latens.inference.page import Table
from latens.systems.parts.naming.features import Kind
from latens.systems.parts.naming.namer import Marked, Namer, cluster, teach
from latens.systems.parts.predict import Parts, load

CLASSES = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")
FEATURES: dict[str, tuple[Kind, ...]] = {
    "color": ("color",),
    "color + texture": ("hand",),
    "color + texture + place": ("hand", "place"),
    "phi": ("phi",),
    "all (latens parts)": ("phi", "hand", "place"),
}


def labels_of(path: Path) -> np.ndarray:
    """1 to 11 for a class, 0 for void."""
    values = np.asarray(Image.open(path.with_name(f"{path.stem}_label.png")))
    return np.where(values < len(CLASSES), values + 1, 0).astype(np.uint8)


def named(parts: Parts, marked: list[Path], scored: list[Path], kinds: tuple[Kind, ...]) -> np.ndarray:
    """Confusion of pixels (true, found) on the scored images."""
    examples = [Marked(path, labels_of(path)) for path in marked]
    there = sorted({int(value) for one in examples for value in np.unique(one.labels)} - {0})
    place = np.zeros(len(CLASSES) + 1, np.uint8)
    place[there] = np.arange(1, len(there) + 1)
    namer = teach(
        parts, [Marked(one.path, place[one.labels]) for one in examples], [CLASSES[value - 1] for value in there], kinds=kinds
    )
    confusion = np.zeros((len(CLASSES), len(CLASSES)))
    for path in scored:
        true, found = labels_of(path), np.array([0, *there])[namer(path).labels]
        np.add.at(confusion, (true[true > 0] - 1, found[true > 0] - 1), 1)
    return confusion


def accuracy_and_iou(confusion: np.ndarray) -> tuple[float, float]:
    """Share of pixels with their true name, and mean IoU over the classes that occur."""
    hits = np.diag(confusion)
    union = confusion.sum(0) + confusion.sum(1) - hits
    there = confusion.sum(1) > 0
    return float(hits.sum() / confusion.sum()), float((hits[there] / union[there]).mean())


def purity_and_nmi(namer: Namer, scored: list[Path]) -> tuple[float, float]:
    """Purity and NMI (by the geometric mean of the entropies) of clusters against the classes, over pixels."""
    counts = np.zeros((len(CLASSES), len(namer.names)))
    for path in scored:
        true, found = labels_of(path), namer(path).labels
        np.add.at(counts, (true[true > 0] - 1, found[true > 0] - 1), 1)
    joint = counts / counts.sum()
    rows, columns = joint.sum(1), joint.sum(0)
    there = joint > 0
    information = float((joint[there] * np.log(joint[there] / np.outer(rows, columns)[there])).sum())
    entropies = [float(-(p[p > 0] * np.log(p[p > 0])).sum()) for p in (rows, columns)]
    return float(joint.max(0).sum()), information / max(float(np.sqrt(entropies[0] * entropies[1])), 1e-12)


def drives(folder: Path) -> dict[str, list[Path]]:
    found = defaultdict(list)
    for path in sorted(folder.rglob("*.jpg"), key=lambda path: path.name):
        found[path.name.partition("_")[0]].append(path)
    return dict(found)


def spaced(paths: list[Path], count: int, draw: int, draws: int) -> list[Path]:
    """`count` images at equal steps, from a start that differs between draws."""
    return [paths[int((i + (draw + 0.5) / draws) * len(paths) / count) % len(paths)] for i in range(count)]


def compare_names(parts: Parts, folder: Path, marked: list[int], draws: int) -> Table:
    rows = []
    for count in marked:
        for title, kinds in FEATURES.items():
            within = defaultdict(list)
            for draw in range(draws):
                for drive, paths in drives(folder).items():
                    chosen = spaced(paths, count, draw, draws)
                    rest = [path for path in paths if path not in chosen]
                    within[drive].append(accuracy_and_iou(named(parts, chosen, rest, kinds)))
            over = [
                accuracy_and_iou(
                    named(
                        parts,
                        spaced(sorted((folder / "train").glob("*.jpg")), count, draw, draws),
                        sorted((folder / "val").glob("*.jpg")),
                        kinds,
                    )
                )
                for draw in range(draws)
            ]
            cells = [spread(within[drive]) for drive in sorted(within)] + [spread(over)]
            rows.append([str(count), title, *cells])
            print(" | ".join(rows[-1]), flush=True)
    columns = ["marked", "features", *sorted(drives(folder)), "train to val"]
    return Table(columns, rows, f"Pixel accuracy / mIoU, mean over {draws} draws, with the range of the accuracy.")


def spread(values: list[tuple[float, float]]) -> str:
    accuracy, iou = np.array(values).T
    return f"{accuracy.mean():.3f} / {iou.mean():.3f} ({accuracy.min():.2f} to {accuracy.max():.2f})"


def compare_clusters(parts: Parts, folder: Path, count: int) -> Table:
    rows = []
    for title, kinds in FEATURES.items():
        cells = []
        for _, paths in sorted(drives(folder).items()):
            purity, nmi = purity_and_nmi(cluster(parts, paths, count, kinds=kinds), paths)
            cells.append(f"{purity:.3f} / {nmi:.3f}")
        rows.append([title, *cells])
        print(" | ".join(rows[-1]), flush=True)
    return Table(["features", *sorted(drives(folder))], rows, f"Purity / NMI of {count} clusters, fitted on the scored images.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--marked", type=int, nargs="*", default=[])
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--clusters", type=int, default=0)
    given = parser.parse_args()
    parts = load(device="cpu", threads=1)
    if given.marked:
        print(compare_names(parts, given.folder, given.marked, given.draws).text())
    if given.clusters:
        print(compare_clusters(parts, given.folder, given.clusters).text())


if __name__ == "__main__":
    main()
