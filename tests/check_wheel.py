"""The wheel in a folder holds weights, templates and records; the sdist holds what builds and tests it. For `make dist`."""

from __future__ import annotations

import sys
import tarfile
import zipfile
from pathlib import Path

LIMIT = 60e6  # bytes of the weights
INSIDE = ("latens/py.typed", "latens/weights/cells/config.json", "latens/records/haze/table1.json", "latens/cli/main.py")
SOURCE = ("README.md", "CHANGELOG.md", "LICENSE", "Makefile", "constraints.txt", "pyproject.toml", "tests/conftest.py")


def main(folder: Path) -> None:
    (wheel,), (sdist,) = list(folder.glob("*.whl")), list(folder.glob("*.tar.gz"))
    with zipfile.ZipFile(wheel) as archive:
        sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
    with tarfile.open(sdist) as tar:
        packed = {name.partition("/")[2] for name in tar.getnames()}
    package = Path(__file__).parent.parent / "src" / "latens"
    wanted = {path.relative_to(package.parent).as_posix() for path in package.rglob("*") if path.is_file()}
    wanted = {name for name in wanted if "__pycache__" not in name}
    missing = sorted((wanted | set(INSIDE)) - sizes.keys()) + sorted(set(SOURCE) - packed)
    if missing:
        sys.exit(f"missing in the distribution: {', '.join(missing[:9])}")
    stray = sorted(name for name in sizes if not name.startswith(("latens/", "latens-")))
    if stray:
        sys.exit(f"files outside of the package in {wheel.name}: {', '.join(stray[:9])}")
    weights = sum(size for name, size in sizes.items() if name.startswith("latens/weights/"))
    if weights > LIMIT:
        sys.exit(f"weights of {weights / 1e6:.1f} MB, the limit is {LIMIT / 1e6:.0f} MB")
    print(
        f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB, weights {weights / 1e6:.1f} MB; {sdist.name}: {len(packed)} files"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
