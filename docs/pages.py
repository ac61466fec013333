"""Collect the pages of the site: python docs/pages.py FOLDER.

The pages of the repository link to each other as on a plain Git host. This script copies them to the places that they have on
the site and rewrites the links. A source file that a page links to becomes a page with its text.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from os.path import normpath, relpath
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parent.parent
PLACES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changes.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "docs/index.md": "documents.md",
}
FOLDERS = (("src/latens/systems", "systems"), ("src/latens/weights", "models"))  # of README.md files, one page each
ASSETS = {".webp", ".png", ".svg", ".css", ".js"}
LANGUAGES = {".py": "python", ".toml": "toml", ".cff": "yaml"}
FENCE = re.compile(r"^(```|~~~).*?^\1\s*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(\]\(|(?:src|href)=\")([^)\s\"#]+)")


def site_place(path: str) -> str | None:
    """The path on the site of a file of the repository; None if it is not a page or an image of the documents.

    >>> site_place("docs/cli.md"), site_place("src/latens/systems/haze/README.md"), site_place("Makefile")
    ('cli.md', 'systems/haze.md', None)
    """
    if path in PLACES:
        return PLACES[path]
    for folder, name in FOLDERS:
        if path.startswith(f"{folder}/") and path.endswith("/README.md") and path.count("/") == 4:
            return f"{name}/{path.split('/')[3]}.md"
    inside = path.startswith("docs/") and PurePosixPath(path).suffix in {".md", *ASSETS}
    return path.removeprefix("docs/") if inside else None


def source_place(path: str) -> str:
    """The path on the site of the page of a source file."""
    return f"source/{path}.md"


def pages() -> Iterator[str]:
    """All files of the documents, as paths from the root of the repository."""
    yield from (path for path in PLACES if (ROOT / path).exists())
    for pattern in ("docs/**/*", "src/latens/systems/*/README.md", "src/latens/weights/*/README.md"):
        for path in sorted(ROOT.glob(pattern)):
            relative = path.relative_to(ROOT).as_posix()
            if path.is_file() and relative not in PLACES and site_place(relative):
                yield relative


def rewritten(text: str, path: str, sources: set[str]) -> str:
    """A page with links that hold on the site; adds the source files that it links to to `sources`.

    Raises FileNotFoundError for a link to a missing file.
    """
    here = PurePosixPath(site_place(path) or "").parent

    def link(found: re.Match[str]) -> str:
        target = found[2]
        if re.match(r"[a-z]+:|/", target):
            return found[0]
        file = normpath(f"{PurePosixPath(path).parent}/{target}")
        if not (ROOT / file).is_file():
            raise FileNotFoundError(f"{path} links to {target}, which is missing")
        place = site_place(file)
        if place is None:
            sources.add(file)
            place = source_place(file)
        return found[1] + relpath(place, here)

    pieces, end = [], 0
    for fence in FENCE.finditer(text):
        pieces += [LINK.sub(link, text[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*pieces, LINK.sub(link, text[end:])])


def source_page(path: str) -> str:
    """A page with the text of a source file."""
    language = LANGUAGES.get(PurePosixPath(path).suffix, "text")
    return f"---\nsearch:\n  exclude: true\n---\n# {path}\n\n````{language}\n{(ROOT / path).read_text()}````\n"


def collect(folder: Path) -> list[str]:
    """Write all pages into an empty `folder`; their paths on the site."""
    sources: set[str] = set()
    written = []
    for path in pages():
        place = site_place(path)
        assert place is not None
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        if path.endswith(".md"):
            (folder / place).write_text(rewritten((ROOT / path).read_text(), path, sources))
            written.append(place)
        else:
            shutil.copyfile(ROOT / path, folder / place)
    for path in sorted(sources):
        (folder / source_place(path)).parent.mkdir(parents=True, exist_ok=True)
        (folder / source_place(path)).write_text(source_page(path))
    return [*written, *map(source_place, sorted(sources))]


if __name__ == "__main__":
    destination = Path(sys.argv[1])
    shutil.rmtree(destination, ignore_errors=True)
    print(f"{len(collect(destination))} pages in {destination}")
