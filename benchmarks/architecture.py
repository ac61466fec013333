"""Counts of the code: files and lines by package, imports, upward imports and import circles (TYPE_CHECKING included).

python benchmarks/architecture.py src/latens
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

import grimp
import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

# From bottom to top. A package may import packages of earlier lines; packages of one line are independent.
LAYERS = (
    ("errors", "shapes"),
    ("settings",),
    ("catalogue", "legacy", "settings_help"),
    ("nn", "int8"),
    ("codes",),
    ("data", "metrics"),
    ("hub",),
    ("training", "inference"),
    ("experiments",),
    ("contract",),
    ("systems",),
    ("launch",),
    ("cli",),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def main(source: Path) -> None:
    sizes: dict[str, list[int]] = defaultdict(list)
    for path in sorted(source.rglob("*.py")):
        parts = path.relative_to(source).parts
        package = "/".join(parts[:2]) if parts[0] == "systems" and len(parts) > 2 else parts[0]
        sizes[package.removesuffix(".py")].append(len(path.read_text().splitlines()))
    for package, lines in sizes.items():
        print(f"{package:<24} {len(lines):>4} files {sum(lines):>6} lines, largest {max(lines)}")
    everything = [count for lines in sizes.values() for count in lines]
    print(f"{'all':<24} {len(everything):>4} files {sum(everything):>6} lines")
    sys.path.insert(0, str(source.parent))
    graph = grimp.build_graph("latens", exclude_type_checking_imports=False, cache_dir=None)
    modules = sorted(graph.modules)
    arrows = [(a, b) for a in modules for b in graph.find_modules_directly_imported_by(a)]
    upward = [(a, b) for a, b in arrows if is_upward(a, b)]
    print(f"{len(modules)} modules, {len(arrows)} imports, {len(upward)} upward, {len(circles(modules, arrows))} circles")
    for a, b in upward:
        print(f"  upward: {a} -> {b}")
    for circle in circles(modules, arrows):
        print(f"  circle: {' '.join(circle)}")


def is_upward(importer: str, imported: str) -> bool:
    """True if a package imports a package of a higher layer. The root module `latens` has only lazy names."""
    places = [RANK.get(name.split(".")[1]) if "." in name else None for name in (importer, imported)]
    return None not in places and places[0] < places[1]  # type: ignore[operator]


def circles(modules: list[str], arrows: list[tuple[str, str]]) -> list[list[str]]:
    """Groups of modules with cyclic imports, without the root module."""
    index = {name: place for place, name in enumerate(modules)}
    kept = [(index[a], index[b]) for a, b in arrows if "latens" not in (a, b)]
    rows, columns = np.array(kept).T
    matrix = csr_matrix((np.ones(len(kept)), (rows, columns)), shape=(len(modules), len(modules)))
    _, labels = connected_components(matrix, directed=True, connection="strong")
    groups = [[modules[i] for i in np.flatnonzero(labels == label)] for label in np.unique(labels)]
    return [group for group in groups if len(group) > 1]


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "src/latens"))
