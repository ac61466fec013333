"""The form of the service in a browser."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.browser import headless, needs_chromium
from tests.serve.conftest import Running

pytest.importorskip("fastapi", reason="pip install 'latens[serve]'")
pytest.importorskip("prometheus_client", reason="pip install 'latens[serve]'")


@needs_chromium
@pytest.mark.xdist_group("service")
def test_the_form_sends_a_file_and_shows_its_result(shared: Running, tmp_path: Path) -> None:
    (tmp_path / "small.txt").write_text("small")
    with headless() as browser:
        browser.open(f"http://127.0.0.1:{shared.port}/")
        browser.until("document.querySelector('[name=seconds]') !== null")
        browser.upload("#file", [tmp_path / "small.txt"])
        browser.evaluate("at('send').click()")
        browser.until("at('state').textContent.startsWith('200 done, 5 bytes')")
        assert browser.until("at('text').textContent") == "SMALL"
        assert browser.evaluate("at('download').download") == "small.plain"
        assert browser.evaluate("at('record').textContent").startswith("pid")
        assert browser.errors == []
        browser.evaluate("(document.querySelector('[name=seconds]').value = 'long', at('send').click(), 1)")
        browser.until("at('state').textContent.startsWith('500 failed')")
        assert "InternalError" in browser.evaluate("at('record').textContent")
        assert browser.foreign() == []
