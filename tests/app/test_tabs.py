"""All tabs of `latens app` in a browser: real uploads, knobs, results that are shown, and files that are downloaded."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from tests.browser import Browser, headless, needs_chromium
from tests.conftest import image

from latens.app.tabs import TABS
from latens.systems.seedlings.simulator.photograph import photograph

pytestmark = [
    pytest.mark.skipif(find_spec("gradio") is None, reason="pip install 'latens[app]'"),
    needs_chromium,
    pytest.mark.xdist_group("app"),
]
SAMPLES = Path(__file__).parents[2] / "src/latens/systems/amodal/samples"
# Gradio's own client warns at the end of every answer: the stream that it reads has no method `close`.
GRADIO = "Method not implemented."
# Pixi, which Gradio's editor of images draws with, has deprecated calls (a group of stack traces), and needs WebGL.
PIXI = ("/assets/", "WebGL", "PixiJS", "Deprecated")
PATIENCE = 90.0  # seconds for a step of the page, on a busy machine
FINISHED = "/Finished|Nothing was made|killed|Give a file/"


class Page:
    """The served page in a browser. `tab` is the one that is open."""

    def __init__(self, browser: Browser, address: str, process: int) -> None:
        self.browser, self.address, self.process = browser, address, process
        self.tab = ""

    def open(self, tab: str) -> None:
        """Open a tab."""
        self.tab = tab
        number = [each.name for each in TABS].index(tab)
        button = f"document.querySelectorAll('button[role=tab]')[{number}]"
        opened = f"{button}.ariaSelected == 'true' && !!document.querySelector('#{tab}-run')"
        self.browser.until(f"{opened} || ({button}.click(), false)", PATIENCE)  # a click during an update is lost

    def give(self, *paths: Path) -> None:
        """Upload files in place of those before, and wait until all of them are there."""
        clear = f"document.querySelector('#{self.tab}-files button[aria-label=Clear]')"
        self.browser.evaluate(f"{clear}?.click()")
        self.browser.until(f"!{clear} && !!document.querySelector('#{self.tab}-files input[type=file]')", PATIENCE)
        self.browser.upload(f"#{self.tab}-files input[type=file]", list(paths))
        self.browser.until(f"document.querySelectorAll('#{self.tab}-files a[href]').length == {len(paths)}", PATIENCE)

    def set(self, knob: str, value: float) -> None:
        """Write a number into a knob."""
        field = f"document.querySelector('#{self.tab}-{knob} input[type=number]')"
        self.browser.evaluate(f"{field}.value = '{value:g}'")
        for event in ("input", "change", "blur"):
            self.browser.evaluate(f"{field}.dispatchEvent(new Event('{event}', {{bubbles: true}}))")

    def write(self, knob: str, text: str) -> None:
        """Write a text into a knob, in place of the one it has."""
        field = f"document.querySelector('#{self.tab}-{knob} textarea, #{self.tab}-{knob} input')"
        self.browser.evaluate(f"{field}.value = '{text}'")
        self.browser.evaluate(f"{field}.dispatchEvent(new Event('input', {{bubbles: true}}))")

    def choose(self, knob: str, value: str) -> None:
        """Choose one of the values of a knob."""
        self.browser.evaluate(f"document.querySelector('#{self.tab}-{knob} input[value={value}]').click()")

    def press(self, button: str) -> None:
        self.browser.evaluate(f"document.querySelector('#{self.tab}-{button}').click()")

    def status(self) -> str:
        return str(self.browser.evaluate(f"document.querySelector('#{self.tab}-status').innerText")).strip()

    def run(self, wanted: str = "Finished.") -> None:
        """Run the commands of the tab and wait for their end."""
        self.press("run")
        self.browser.until(f"document.querySelector('#{self.tab}-status').innerText.includes('is running')", PATIENCE)
        self.browser.until(f"{FINISHED}.test(document.querySelector('#{self.tab}-status').innerText)", 200)
        log = self.browser.evaluate(f"document.querySelector('#{self.tab}-log textarea').value")
        assert self.status().startswith(wanted), f"{self.status()}\n{log}"

    def log(self) -> str:
        text: str = self.browser.evaluate(f"document.querySelector('#{self.tab}-log textarea').value")
        return text

    def bytes_of(self, address: str) -> bytes:
        """The body of an answer, as the page gets it."""
        script = (
            f"fetch({json.dumps(address)}).then(answer => answer.arrayBuffer()).then(body => "
            "btoa(Array.from(new Uint8Array(body), byte => String.fromCharCode(byte)).join('')))"
        )
        return base64.b64decode(self.browser.evaluate(script))

    def downloads(self) -> dict[str, str]:
        """Names and addresses of the files of the result."""
        links = f"[...document.querySelectorAll('#{self.tab}-downloads a[href]')]"
        self.browser.until(f"{links}.length > 0", PATIENCE)
        found = self.browser.evaluate(f"{links}.map(link => [link.getAttribute('download'), link.href])")
        return {name: address for name, address in found}

    def download(self, name: str) -> bytes:
        return self.bytes_of(self.downloads()[name])

    def compared(self) -> list[np.ndarray]:
        """Pixels of the two images of the slider."""
        images = f"[...document.querySelectorAll('#{self.tab}-slider img')]"
        self.browser.until(
            f"{images}.length == 2 && {images}.every(image => image.complete && image.naturalWidth > 0)", PATIENCE
        )
        found = self.browser.evaluate(f"{images}.map(image => image.src)")
        return [np.asarray(Image.open(io.BytesIO(self.bytes_of(address))).convert("RGB")) for address in found]

    def rows(self) -> list[dict[str, str]]:
        """Lines of the table that are in view."""
        cells = f"[...document.querySelectorAll('#{self.tab}-table [role=gridcell]')].map(cell => cell.innerText.trim())"
        self.browser.until(f"{cells}.some(text => text)", PATIENCE)
        names = self.browser.evaluate(
            f"[...document.querySelectorAll('#{self.tab}-table .header-table th')].map(one => one.title)"
        )
        found = self.browser.evaluate(cells)
        return [dict(zip(names, found[start:], strict=False)) for start in range(0, len(found), len(names))]

    def box(self, selector: str) -> tuple[float, float, float, float]:
        """Left, top, width and height of an element that is scrolled into view."""
        element = f"document.querySelector('{selector}')"
        self.browser.evaluate(f"{element}.scrollIntoView({{block: 'center'}})")
        left, top, width, height = self.browser.evaluate(
            f"(box => [box.x, box.y, box.width, box.height])({element}.getBoundingClientRect())"
        )
        return left, top, width, height


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """The page for all tests here. At its end its private folder is gone."""
    folder = tmp_path_factory.mktemp("app")
    environment = os.environ | {"TMPDIR": str(folder), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "latens", "app", "--port", "7893", "--format", "json"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
    assert process.stdout is not None
    try:
        address = json.loads(process.stdout.readline())["address"]
        with headless() as browser:
            browser.open(address)
            browser.until(f"document.querySelectorAll('button[role=tab]').length == {len(TABS)}")
            yield Page(browser, address, process.pid)
            errors = {line for line in browser.errors if line != GRADIO and not any(word in line for word in PIXI)}
            assert errors == set()
            assert browser.foreign() == []
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        process.stdout.close()
    assert not list(folder.glob("latens-app-*"))


def write(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def test_cancel(page: Page, tmp_path: Path) -> None:
    """A refinement that would take minutes ends at once: its process is gone, and nothing can be downloaded."""
    page.open("compress")
    page.give(write(tmp_path / "slow.png", image(512, 512)))
    page.write("refine", "500")
    page.press("run")
    page.browser.until("document.querySelector('#compress-status').innerText.includes('is running')", PATIENCE)
    page.press("cancel")
    page.browser.until("document.querySelector('#compress-status').innerText.includes('Cancelled')", PATIENCE)
    assert len(children(page.process)) <= 1  # the next worker, which waits
    page.browser.wait(1)
    assert page.status() == "Cancelled; unfinished files were removed."
    assert page.browser.evaluate("document.querySelector('#compress-downloads') === null")
    page.write("refine", "")


def children(process: int) -> list[str]:
    """Processes that a process and its threads have started."""
    return [pid for place in Path(f"/proc/{process}/task").glob("*/children") for pid in place.read_text().split()]


def test_compress(page: Page, tmp_path: Path) -> None:
    """Pixels on the page are those of the files, and the handle of the slider moves."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    page.open("compress")
    page.give(write(tmp_path / "mine.png", pixels))
    page.set("quality", 2)
    page.run()
    assert list(page.downloads()) == ["mine.ltn", "mine.png"]
    before, after = page.compared()
    assert np.array_equal(before, pixels)
    assert np.array_equal(after, np.asarray(Image.open(io.BytesIO(page.download("mine.png")))))
    row = page.rows()[0]
    assert (row["input"], row["quality"]) == ("mine.png", "2")
    assert int(row["bytes"]) == len(page.download("mine.ltn"))
    left, top, width, height = page.box("#compress-slider .slider-wrap")
    place = "document.querySelector('#compress-slider .inner').getBoundingClientRect().x"
    start = page.browser.evaluate(place)
    page.browser.drag((left + width / 2, top + height / 2), (left + width / 4, top + height / 2))
    assert page.browser.evaluate(place) - start == pytest.approx(-width / 4, abs=2)


def test_cells(page: Page, tmp_path: Path) -> None:
    """Four nuclei of a real image, with the diameter given."""
    nuclei = np.asarray(Image.open(SAMPLES / "fluorescent.png"))[:128, :128]
    page.open("segment")
    page.give(write(tmp_path / "nuclei.png", nuclei))
    page.write("diameter", "15")
    page.run()
    cells = list(csv.DictReader(io.StringIO(page.download("nuclei.cells.csv").decode())))
    rows = page.rows()
    assert rows
    assert [row["score"] for row in rows] == [cell["score"] for cell in cells][: len(rows)]
    before, after = page.compared()
    assert before.shape == after.shape == (128, 128, 3)
    assert not np.array_equal(before, after)


def test_haze(page: Page, tmp_path: Path) -> None:
    """One of two files is no image: the other one is dehazed, and the log names the broken one without its folder."""
    pixels = image(48, 64) // 3 + 150
    (tmp_path / "broken.png").write_bytes(b"no image")
    page.open("haze")
    page.give(write(tmp_path / "hazy.png", pixels), tmp_path / "broken.png")
    page.choose("method", "dcp")
    page.run("Finished, with problems")
    assert list(page.downloads()) == ["hazy.png"]
    before, after = page.compared()
    assert np.array_equal(before, pixels)
    assert after.std() > before.std()
    assert "broken.png" in page.log()
    assert "latens-app-" not in page.log()


def test_parts(page: Page, tmp_path: Path) -> None:
    page.open("parts")
    page.give(*(write(tmp_path / f"{name}.png", image(64, 64 + 16 * name)) for name in (1, 2)))
    page.run()
    assert {"parts.json", "index.html", "1.parts.png", "2.parts.png"} <= set(page.downloads())
    assert [row["input"] for row in page.rows()] == ["1.png", "2.png"]
    page.browser.until("document.querySelectorAll('#parts-gallery img').length >= 2", PATIENCE)


def test_video(page: Page, tmp_path: Path) -> None:
    """A region that the mouse paints keeps the quality, the result plays, and its first frame is compared."""
    frames = [image(128, 160)[:96, 4 * number : 4 * number + 128] for number in range(4)]
    write_clip(tmp_path / "clip.mp4", frames)
    page.open("video")
    page.give(tmp_path / "clip.mp4")
    page.browser.until("/[0-9]%/.test(document.querySelector('#video-region').innerText)", PATIENCE)  # the frame is there
    for _ in range(20):  # the editor takes strokes only some time after it shows the frame
        left, top, width, height = page.box("#video-region canvas")
        x, y = left + width / 2, top + height / 2
        page.browser.drag((x - 20, y), (x + 20, y), pause=0.2)
        page.browser.wait(0.5)
        page.browser.screenshot(tmp_path / "page.png")
        if Image.open(tmp_path / "page.png").convert("RGB").getpixel((round(x), round(y))) == (255, 59, 48):  # the brush
            break
    page.run()
    assert "no region" not in page.log()
    assert page.rows()[0]["frames"] == "4"
    assert page.download("clip.mp4")[4:8] == b"ftyp"
    page.browser.until("document.querySelector('#video-clip video')?.videoWidth == 128", PATIENCE)
    assert [pixels.shape for pixels in page.compared()] == [(96, 128, 3)] * 2


def test_density(page: Page, tmp_path: Path) -> None:
    """Images are shown in the order of the scores that can be downloaded."""
    noise = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    page.open("density")
    page.give(write(tmp_path / "waves.png", image(32, 32)), write(tmp_path / "noise.png", noise))
    page.set("draws", 1)
    page.run()
    scores = list(csv.DictReader(io.StringIO(page.download("scores.csv").decode())))
    assert {Path(score["file"]).name for score in scores} == {"waves.png", "noise.png"}
    rows = page.rows()
    assert float(rows[0]["unusual"]) >= float(rows[1]["unusual"])
    captions = page.browser.evaluate(
        "[...document.querySelectorAll('#density-gallery .caption-label')].map(one => one.innerText)"
    )
    assert [caption.split(":")[0] for caption in captions] == [row["input"] for row in rows]


def test_seedlings(page: Page, tmp_path: Path) -> None:
    page.open("seedlings")
    page.give(write(tmp_path / "tray_day6.png", photograph(2000, 0, 6, rows=4, cols=6).pixels))
    page.set("rows", 4)
    page.set("cols", 6)
    page.run()
    rows = page.rows()
    assert {row["day"] for row in rows} == {"6"}
    plants = list(csv.DictReader(io.StringIO(page.download("plants.csv").decode())))
    assert len(plants) == 24
    assert rows[0]["id"] == plants[0]["id"] == "tray-r01c01"
    before, after = page.compared()
    assert before.shape == after.shape


def write_clip(path: Path, frames: list[np.ndarray]) -> None:
    with av.open(str(path), "w") as clip:
        stream = clip.add_stream("libx264", rate=8)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1  # as in clip_maker
        for pixels in frames:
            clip.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")))
        clip.mux(stream.encode())
