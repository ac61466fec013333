"""The page of `latens app`: commands that parse, previews, addresses that are refused, and tabs in a browser."""

from __future__ import annotations

import asyncio
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from latens.app.serve import PREFIX, Guard, names_an_address
from latens.app.tabs import TABS, Tab
from latens.app.views import SHOWN_SIDE, pair, preview, table_of
from latens.cli.main import build_app
from latens.local_server import is_loopback, private_folder

needs_gradio = pytest.mark.skipif(find_spec("gradio") is None, reason="pip install 'latens[app]'")


@pytest.mark.parametrize("tab", TABS, ids=lambda tab: tab.name)
def test_every_tab_gives_commands_that_parse(tab: Tab, tmp_path: Path) -> None:
    values = {knob.name: knob.value for knob in tab.knobs}
    files = [tmp_path / ("one.mp4" if tab.region else "one.png")]
    for changed in (values, values | {"task": "add", "clusters": 4, "diameter": "12", "day": "6", "size": "2MB"}):
        for words in tab.commands(files, tmp_path / "out", changed):
            build_app(words[0]).parse_args(words, print_error=False, exit_on_error=False)


@pytest.mark.parametrize(("refine", "words"), [("", []), ("200", ["--refine=200"]), (" 20s ", ["--refine=20s"])])
def test_refinement_is_a_number_of_steps_or_a_time(refine: str, words: list[str], tmp_path: Path) -> None:
    tab = next(tab for tab in TABS if tab.name == "compress")
    found = tab.commands([tmp_path / "a.png"], tmp_path, {"quality": 4.0, "tune": "psnr", "refine": refine})[0]
    assert found[found.index("--quality") + 2 :] == ["--tune=psnr", *words]


def test_every_system_has_a_tab() -> None:
    assert [tab.name for tab in TABS] == ["compress", "segment", "haze", "parts", "video", "density", "seedlings"]


def test_previews_are_reduced_and_compared_at_one_size(tmp_path: Path) -> None:
    Image.new("RGB", (2 * SHOWN_SIDE, 90), "red").save(tmp_path / "large.png")
    Image.new("RGB", (20, 10), "red").save(tmp_path / "small.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    large = preview(tmp_path / "large.png")
    assert large is not None
    assert large.shape == (45, SHOWN_SIDE, 3)
    found = pair(tmp_path / "small.png", tmp_path / "large.png")
    assert found is not None
    assert found[0].shape == found[1].shape == (10, 20, 3)
    assert preview(tmp_path / "broken.png") is None
    assert pair(tmp_path / "small.png", tmp_path / "broken.png") is None


def test_empty_columns_of_tables_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "cells.csv").write_text("cell,t,area\n1,,20\n2,,30\n")
    assert table_of(tmp_path / "cells.csv") == (["cell", "area"], [["1", "20"], ["2", "30"]])
    assert table_of(tmp_path / "none.csv") == ([], [])


# ----------------------------------------------------------------------------------------------------------- addresses


def test_files_that_are_addresses_are_found() -> None:
    assert names_an_address(json.dumps({"data": [[{"path": "http://10.0.0.1/a.png"}]]}).encode())
    assert not names_an_address(json.dumps({"data": [{"path": "/tmp/a.png", "url": "http://127.0.0.1/a.png"}]}).encode())
    assert not names_an_address(b"no json")


OURS = frozenset({"127.0.0.1", "localhost", "::1"})


def answered(body: bytes, **headers: str) -> tuple[list[bytes], int]:
    """The bodies that pass the middleware, and the status of its own answer (0: none)."""
    passed: list[bytes] = []
    statuses = [0]

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        passed.append((await receive())["body"])

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    given = {"host": "127.0.0.1:7860", "content_type": "application/json"} | headers
    scope = {
        "type": "http",
        "method": "POST",
        "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in given.items()],
    }
    asyncio.run(Guard(inner, OURS)(scope, receive, send))
    return passed, statuses[-1]


@pytest.mark.parametrize("kind", ["application/json", "application/JSON", "text/plain", ""])
def test_the_guard_refuses_addresses_only(kind: str) -> None:
    fine = json.dumps({"data": ["text with http://in.it", {"path": "/tmp/a.png"}]}).encode()
    assert answered(fine, content_type=kind) == ([fine], 0)
    assert answered(json.dumps({"data": [{"path": "https://10.0.0.1/a.png"}]}).encode(), content_type=kind) == ([], 400)


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=x"])
def test_the_guard_refuses_other_sites(kind: str) -> None:
    for host in ("localhost:7860", "[::1]:7860", "127.0.0.1"):
        assert answered(b"{}", content_type=kind, host=host) == ([b"{}"], 0)
        assert answered(b"{}", content_type=kind, host=host, origin=f"http://{host}") == ([b"{}"], 0)
    refused = [{"host": "site.example:7860"}, {"host": ""}, {"origin": "http://site.example"}, {"origin": "null"}]
    for headers in refused:  # a name that was resolved to this machine, and pages of other sites
        assert answered(b"{}", content_type=kind, **headers) == ([], 403)


def test_only_this_machine_reaches_a_loopback() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.0.0.2", "localhost", "::1")))
    assert not any(map(is_loopback, ("0.0.0.0", "192.168.0.1", "::")))


def test_private_folders_of_killed_pages_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "latens-app-99999999-abc" / "uploads").mkdir(parents=True)  # above the largest number of a process
    (tmp_path / "latens-app-notes").mkdir()
    with private_folder(PREFIX) as first, private_folder(PREFIX) as second:
        assert {path.name for path in tmp_path.iterdir()} == {"latens-app-notes", first.name, second.name}
    assert [path.name for path in tmp_path.iterdir()] == ["latens-app-notes"]


# -------------------------------------------------------------------------------------------------------------- views


def write_image(path: Path, color: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), color).save(path)
    return path


def failed(path: Path, output: Path) -> dict[str, Any]:
    return {"input": str(path), "output": str(output), "status": "failed", "error": "UnreadableInput"}


def colors(view: Any) -> list[tuple[int, ...]]:
    """First pixels of the two compared images."""
    return [tuple(image[0, 0]) for image in view.compared]


def test_compared_images_belong_together(tmp_path: Path) -> None:
    tabs = {tab.name: tab for tab in TABS}
    broken, out = tmp_path / "broken.png", tmp_path / "out"
    files = [broken, write_image(tmp_path / "z.png", "red"), write_image(tmp_path / "1" / "a.png", "blue")]
    rows: list[dict[str, Any]] = [failed(broken, out / "broken.png")]
    for path, place in zip(files[1:], ("z.png", "1/a.png"), strict=True):
        made = write_image(out / place, "red" if path.name == "z.png" else "blue")
        rows.append({"input": str(path), "output": str(made), "status": "done"})
    view = tabs["haze"].view(files, out, rows)
    assert colors(view) == [(255, 0, 0)] * 2
    assert view.files == [out / "z.png", out / "1" / "a.png"]

    rows = [failed(broken, out / "broken.ltn")]
    for path in files[1:]:
        rows.append({"input": str(path), "output": str(out / f"{path.stem}.ltn"), "status": "done", "bpp": 1.0})
    for name, color in (("a", "blue"), ("z", "red")):
        decoded = write_image(out / "decoded" / f"{name}.png", color)
        rows.append({"input": str(out / f"{name}.ltn"), "output": str(decoded), "status": "done"})
    view = tabs["compress"].view(files, out, rows)
    assert colors(view) == [(255, 0, 0)] * 2
    assert [path.name for path in view.files] == ["z.ltn", "z.png", "a.ltn", "a.png"]

    rows = [failed(broken, out / "broken.json")]
    for path, color in zip(files[1:], ("red", "blue"), strict=True):
        overlay = write_image(out / f"{path.stem}.overlay.png", color)
        rows.append({"input": str(path), "output": f"{path.stem}.json", "status": "done", "files": [str(overlay)]})
    assert colors(tabs["segment"].view(files, out, rows)) == [(255, 0, 0)] * 2

    graded = tmp_path / "graded"
    for name, color in (("a", "blue"), ("z", "red")):
        write_image(graded / f"{name}.overlay.webp", color)
    view = tabs["seedlings"].view(files[1:], graded, [{"lot": "1"}])
    assert all(abs(int(one) - two) < 8 for one, two in zip(colors(view)[1], (255, 0, 0), strict=True))  # lossy
    assert [name for _, name in view.gallery] == ["a.overlay.webp"]


def test_texts_of_knobs_stay_values(tmp_path: Path) -> None:
    tab = next(tab for tab in TABS if tab.name == "seedlings")
    values = {"rows": None, "cols": 4, "day": " --force "}
    assert tab.commands([tmp_path / "a.png"], tmp_path, values)[0][-2:] == ["--cols=4", "--day=--force"]


@needs_gradio
def test_logs_have_names_and_failures_are_no_results() -> None:
    from latens.app.page import progress, with_names

    private = Path("/tmp/latens-app-7-x")
    lines = [
        f"{private}/uploads/0a1b/mine.png: no image",
        f"{private}/runs/00001-compress/results/mine.ltn: skipped",
        f"{private}/runs/00002-parts/results: left out 2 files",
        f"{private}/runs/00003-video/region.png, {private}/uploads/0a1b",
        "device cpu",
    ]
    shown = ["mine.png: no image", "mine.ltn: skipped", "the results: left out 2 files", "region.png, your files", "device cpu"]
    assert with_names(lines, private) == shown
    rows = [{"status": "done"}, {"status": "failed"}]
    assert progress(["dehaze", "a", "-o"], rows, 2).endswith("1 of 2 results so far, 1 failed.")
    assert progress(["dehaze", "a"], rows[:1], 1) == "**dehaze a** is running."
