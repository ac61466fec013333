"""The site holds every page, each is in the navigation, and the builder has no complaint and fetches nothing."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
ASSET = re.compile(r"""<(?:script|link|img|source|iframe)\b[^>]*?\b(?:src|href)=["']?(https?:)?//""")
MENU_ENTRY = re.compile(r"^ +- (?:[^:\n]+: )?([\w/.-]+\.md)$", re.MULTILINE)


@pytest.fixture(scope="module")
def site_pages() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_pages", ROOT / "docs/pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_is_in_the_navigation_once(site_pages: ModuleType) -> None:
    entries = MENU_ENTRY.findall((ROOT / "mkdocs.yml").read_text())
    places = {site_pages.site_place(path) for path in site_pages.pages() if path.endswith(".md")}
    assert sorted(entries) == sorted(places)


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("README.md", "[a](docs/cli.md#input-and-out)", "[a](cli.md#input-and-out)"),
        ("docs/results/haze.md", "[a](../../README.md) [b](https://x.org/a)", "[a](../index.md) [b](https://x.org/a)"),
        ("src/latens/systems/haze/README.md", "[a](../../../../docs/format.md)", "[a](../format.md)"),
        ("docs/index.md", "[a](../src/latens/systems/flow/README.md)", "[a](systems/flow.md)"),
        ("docs/cli.md", "```\n[a](kept)\n```\n[a](../LICENSE)", "```\n[a](kept)\n```\n[a](source/LICENSE.md)"),
    ],
)
def test_links_lead_to_places_on_the_site(site_pages: ModuleType, path: str, text: str, expected: str) -> None:
    assert site_pages.rewritten(text, path, set()) == expected


def test_a_link_to_a_missing_file_is_an_error(site_pages: ModuleType) -> None:
    with pytest.raises(FileNotFoundError, match=r"docs/cli\.md links to nowhere\.md"):
        site_pages.rewritten("[a](nowhere.md)", "docs/cli.md", set())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, site_pages: ModuleType) -> Iterator[Path]:
    if importlib.util.find_spec("zensical") is None:
        pytest.skip("Zensical is not installed: pip install 'latens[docs]'")
    folder = tmp_path_factory.mktemp("site")
    site_pages.collect(folder / "build/pages")
    shutil.copy(ROOT / "mkdocs.yml", folder)
    (folder / "src").symlink_to(ROOT / "src")
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "No issues found" in ended.stderr, ended.stderr
    yield folder / "site"
    shutil.rmtree(folder)


@pytest.mark.xdist_group("site")
def test_the_site_is_built_without_a_warning_and_fetches_nothing(built: Path) -> None:
    pages = {page.relative_to(built).as_posix(): page for page in built.rglob("*.html")}
    assert pages.keys() >= {"index.html", "cli.html", "systems/haze.html", "models/cells.html"}
    assert [name for name, page in pages.items() if ASSET.search(page.read_text())] == []


@pytest.mark.xdist_group("site")
@pytest.mark.parametrize("name", ["load", "train", "evaluate", "reproduce"])
def test_the_reference_describes_the_functions(built: Path, name: str) -> None:
    page = (built / "api/index.html").read_text()
    assert re.search(rf'id="latens\.(?:\w+\.)?{name}"', page)
    assert "Raises" in page


@pytest.mark.xdist_group("site")
def test_every_page_is_reached_from_the_start(built: Path) -> None:
    reached: set[Path] = set()
    waiting = [built / "index.html"]
    while waiting:
        page = waiting.pop()
        if page in reached or page.suffix != ".html" or not page.exists():
            continue
        reached.add(page)
        links: list[Any] = re.findall(r'href=["\']?([^"\'#>\s]+)', page.read_text())
        waiting += [(page.parent / link).resolve() for link in links if "//" not in link]
    assert {page for page in built.rglob("*.html") if page.name != "404.html"} - reached == set()
