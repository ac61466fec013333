"""A headless Chromium for tests, driven over the DevTools pipe: JSON messages that end in a zero byte, on descriptors 3 and 4.

No package is needed, only a Chromium on the machine (CHROMIUM names one that is not on PATH). Tests without one are skipped.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--mute-audio"),
)
ANSWER_SECONDS = 60.0
LOCAL = ("file:", "data:", "blob:", "about:", "http://127.0.0.1", "http://localhost", "ws://127.0.0.1", "ws://localhost")
KEYS = {
    "ArrowLeft": 37,
    "ArrowUp": 38,
    "ArrowRight": 39,
    "ArrowDown": 40,
    "Tab": 9,
    "Enter": 13,
    "Home": 36,
    "End": 35,
    " ": 32,
}


def chromium() -> str | None:
    """Path of a Chromium, or None."""
    return next(filter(None, map(shutil.which, [os.environ.get("CHROMIUM", ""), *NAMES])), None)


needs_chromium = pytest.mark.skipif(chromium() is None, reason="no Chromium on PATH, and CHROMIUM names none")


class Browser:
    """One page of a running Chromium. `errors` and `requests` fill while messages are read, so after a call or `wait`."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self.errors: list[str] = []  # exceptions, errors and warnings of the console
        self.requests: list[str] = []  # addresses, data: excepted
        self._to, self._from = to_browser, from_browser
        self._pending, self._number, self._session = b"", 0, ""
        self._loaded = False
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a DevTools method. Raises AssertionError with its message if it fails."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + ANSWER_SECONDS
        while True:
            answer = self._next(until - time.monotonic())
            assert answer is not None, f"{method}: no answer in {ANSWER_SECONDS:.0f} s"
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                result: dict[str, Any] = answer["result"]
                return result

    def open(self, address: str, *, width: int = 1280, height: int = 900, dark: bool = False, touch: bool = False) -> None:
        """Load a page in a window of this size and wait until it and its images are loaded."""
        self.resize(width, height, touch=touch)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self._loaded = False
        self.call("Page.navigate", url=address)
        until = time.monotonic() + ANSWER_SECONDS
        while not self._loaded:
            assert self._next(until - time.monotonic()) is not None, f"{address} did not load"

    def resize(self, width: int, height: int, *, touch: bool = False) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=touch)
        self.call("Emulation.setTouchEmulationEnabled", enabled=touch)

    def evaluate(self, script: str) -> Any:
        """The value of an expression; promises are awaited. Raises AssertionError with its exception."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, script: str, seconds: float = 30.0) -> Any:
        """The first true value of an expression. Raises AssertionError if there is none in time."""
        end = time.monotonic() + seconds
        while not (value := self.evaluate(script)):
            assert time.monotonic() < end, f"not true in {seconds:g} s: {script}"
            self.wait(0.1)
        return value

    def wait(self, seconds: float) -> None:
        """Read messages for some time."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._next(left)

    def press(self, key: str) -> None:
        """Press and release a key of KEYS."""
        text = {"text": "\r" if key == "Enter" else key} if key in ("Enter", " ") else {}
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=KEYS[key], **text)

    def drag(self, start: tuple[float, float], end: tuple[float, float], *, touch: bool = False, pause: float = 0.0) -> None:
        """Move from one point of the window to another with the left button, or one finger, down; `pause` seconds a step."""
        middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
        if touch:
            for kind, points in (("touchStart", [start]), ("touchMove", [middle]), ("touchMove", [end]), ("touchEnd", [])):
                self.call("Input.dispatchTouchEvent", type=kind, touchPoints=[{"x": x, "y": y} for x, y in points])
            return
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=start[0], y=start[1])
        self.wait(pause)
        for kind, (x, y) in (("mousePressed", start), ("mouseMoved", middle), ("mouseMoved", end), ("mouseReleased", end)):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)
            self.wait(pause)

    def upload(self, selector: str, paths: list[Path]) -> None:
        """Choose files in an <input type=file>."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path) for path in paths])

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """Write a PNG of the window, or of the whole page."""
        picture = self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(picture))

    def foreign(self) -> list[str]:
        """Requests that leave this machine."""
        return [address for address in self.requests if not address.startswith(LOCAL)]

    def _next(self, seconds: float) -> dict[str, Any] | None:
        """The next message, or None after some time."""
        end = time.monotonic() + seconds
        while b"\0" not in self._pending:
            ready, _, _ = select.select([self._from], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                return None
            read = os.read(self._from, 1 << 20)
            assert read, "Chromium has ended"
            self._pending += read
        line, _, self._pending = self._pending.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, event: str, details: dict[str, Any]) -> None:
        if event == "Runtime.exceptionThrown":
            self.errors.append(str(details["exceptionDetails"].get("exception", details["exceptionDetails"])))
        elif event == "Runtime.consoleAPICalled" and details["type"] in ("error", "warning", "assert"):
            self.errors.append(" ".join(str(one.get("value", one.get("description"))) for one in details["args"]))
        elif event == "Log.entryAdded" and details["entry"]["level"] in ("error", "warning"):
            self.errors.append(details["entry"]["text"])
        elif event == "Network.requestWillBeSent" and not details["request"]["url"].startswith("data:"):
            self.requests.append(details["request"]["url"])
        elif event == "Page.loadEventFired":
            self._loaded = True


@contextmanager
def headless() -> Iterator[Browser]:
    """A Chromium with a profile of its own, which ends with the block."""
    program = chromium()
    assert program is not None, "mark the test with needs_chromium"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        its_input, to_browser = map(_moved, os.pipe())
        from_browser, its_output = map(_moved, os.pipe())
        quiet = _moved(os.open(os.devnull, os.O_RDWR))
        actions = [(os.POSIX_SPAWN_DUP2, one, at) for one, at in ((its_input, 3), (its_output, 4), (quiet, 1), (quiet, 2))]
        words = [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        pid = os.posix_spawn(program, words, os.environ, file_actions=actions, setpgroup=0)
        for end in (its_input, its_output, quiet):
            os.close(end)
        try:
            yield Browser(to_browser, from_browser)
        finally:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(to_browser)
            os.close(from_browser)


def _moved(end: int) -> int:
    """A descriptor that is out of the way of 3 and 4, and closes in every child."""
    moved = fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(end)
    return moved
