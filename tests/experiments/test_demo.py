"""The frame of `latens demo`, around a system made up here."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from latens import catalogue
from latens.errors import ModelMissing
from latens.inference.demo import SECTIONS, photographs, sections_with_weights, write_demo
from latens.inference.page import Section


def put_system(monkeypatch: pytest.MonkeyPatch, name: str, section: Callable[..., Section]) -> str:
    for module in (f"made_up.{name}", f"made_up.{name}.demo"):
        monkeypatch.setitem(sys.modules, module, ModuleType(module))
    monkeypatch.setattr(sys.modules[f"made_up.{name}.demo"], "section", section, raising=False)
    return f"made_up.{name}.demo"


def test_sections_of_all_systems_are_collected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Path, str, int | None]] = []

    def section(folder: Path, *, device: str, threads: int | None, progress: Callable[[str], None]) -> Section:
        calls.append((folder, device, threads))
        progress(f"working in {folder.name}")
        return Section(f"section of {folder.name}", ["text"])

    modules = tuple(put_system(monkeypatch, name, section) for name in ("flowers", "stones"))
    said: list[str] = []
    report = write_demo(tmp_path / "out", device="cpu", threads=1, progress=said.append, sections=modules)
    assert calls == [(tmp_path / "out" / name, "cpu", 1) for name in ("flowers", "stones")]
    assert said == ["flowers ...", "working in flowers", "stones ...", "working in stones"]
    html = report.page.read_text(encoding="utf-8")
    assert report.page == tmp_path / "out" / "index.html"
    assert html.index("section of flowers") < html.index("section of stones")
    assert set(report.seconds) == {"flowers", "stones"}


def test_an_error_is_not_hidden_by_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def section(folder: Path, **options: object) -> Section:
        raise ModelMissing("no weights")

    with pytest.raises(ModelMissing):
        write_demo(tmp_path, sections=(put_system(monkeypatch, "broken", section),))
    assert not (tmp_path / "index.html").exists()


def test_systems_appear_when_their_weights_are_in_the_box(monkeypatch: pytest.MonkeyPatch) -> None:
    systems = {entry.system for entry in catalogue.MODELS.values()}
    assert sections_with_weights() == [module for module in SECTIONS if module.split(".")[-2] in systems]
    entry = replace(catalogue.MODELS["image_codec"], name="amodal-small", system="amodal")
    monkeypatch.setattr(catalogue, "MODELS", {"amodal-small": entry})
    assert sections_with_weights() == ["latens.systems.amodal.demo"]
    monkeypatch.setattr(catalogue, "MODELS", {})
    assert sections_with_weights() == []


@pytest.mark.parametrize("module", SECTIONS)
def test_every_section_is_there(module: str) -> None:
    assert callable(importlib.import_module(module).section)


def test_photographs_are_installed_and_lossless() -> None:
    photos = photographs()
    assert len({photo.name for photo in photos}) == len(photos) >= 3
    for photo in photos:
        with Image.open(photo.path) as image:
            assert (image.format, image.mode) == ("PNG", "RGB")
            assert min(image.size) >= 300
