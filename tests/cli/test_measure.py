"""doctor, bench, evaluate and models on a tiny model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from latens import catalogue
from latens.catalogue import ModelEntry
from latens.cli import doctor
from latens.cli.common import ComputeOptions
from latens.cli.main import main
from latens.hub import load_model

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def entry(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> ModelEntry:
    """The tiny model in place of the bundled one."""
    made = replace(catalogue.MODELS["image_codec"], folder=tiny_model, sha256=load_model(tiny_model).sha256)
    put(made, monkeypatch)
    return made


def put(entry: ModelEntry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latens.catalogue.MODELS", {"image_codec": entry})


def examine(capsys: Capture, *words: str) -> tuple[int, dict[str, str]]:
    status = main(["doctor", "--format", "json", *words])
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return status, {record["check"]: record["status"] for record in records}


def test_doctor_finds_nothing_wrong(entry: ModelEntry, capsys: Capture) -> None:
    status, found = examine(capsys, "--device", "cpu")
    assert status == 0
    assert found["model image_codec"] == "ok"
    assert found["exact arithmetic"] in ("ok", "warn")
    assert "fail" not in found.values()


def test_doctor_finds_other_weights(entry: ModelEntry, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    put(replace(entry, sha256="0" * 64), monkeypatch)
    status, found = examine(capsys, "--device", "cpu")
    assert (status, found["model image_codec"]) == (6, "fail")


def test_doctor_finds_missing_weights(
    entry: ModelEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    missing = replace(entry, folder=tmp_path, name="missing")
    monkeypatch.setattr("latens.catalogue.MODELS", {"missing": missing, "image_codec": entry})
    status, found = examine(capsys, "--device", "cpu")
    assert (status, found["model missing"], found["model image_codec"]) == (6, "fail", "ok")
    assert found["disk"] == "ok"


def test_doctor_names_a_temporary_folder_that_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/nonexistent")
    monkeypatch.setattr("tempfile.tempdir", None)
    found = [(finding.status, finding.detail) for finding in doctor.disk(ComputeOptions())]
    assert [status for status, _ in found] == ["ok", "warn"]
    assert "TMPDIR=/nonexistent" in found[1][1]


def test_doctor_names_what_an_extra_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"fastapi", *(module for extra, modules in doctor.EXTRAS.items() for module in modules if extra != "serve")}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name if name in there else None)
    found = {finding.name: finding.detail for finding in doctor.installation(ComputeOptions())}
    assert found["extras"].startswith("not installed: serve (without h11, prometheus_client, uvicorn); pip install")


def test_doctor_finds_inexact_arithmetic(entry: ModelEntry, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    from latens.codes.integer import IntegerNetwork

    honest = IntegerNetwork.fingerprint
    monkeypatch.setattr(
        IntegerNetwork,
        "fingerprint",
        lambda self: honest(self)[::-1] if self.mode == "reference" else honest(self),
    )
    status, found = examine(capsys, "--device", "cpu")
    assert (status, found["exact arithmetic"]) == (7, "fail")


def test_doctor_does_not_fall_back(entry: ModelEntry, capsys: Capture) -> None:
    status, found = examine(capsys, "--device", "cuda:9999")
    assert (status, found["device"]) == (7, "fail")


def test_evaluate_writes_a_report(album: Path, tiny_model: Path, capsys: Capture) -> None:
    (album / "c.jpg").unlink()
    out = album.parent / "report"
    words = ["--model", str(tiny_model), "--data", str(album), "-o", str(out), "--format", "json", "--device", "cpu"]
    assert main(["evaluate", "image_codec", *words]) == 0
    shown = capsys.readouterr()
    assert isinstance(json.loads(shown.out), dict)
    assert shown.err.startswith("device cpu")
    assert any(out.iterdir())


def test_bench_prints_a_table(tiny_model: Path, capsys: Capture) -> None:
    words = ["bench", "image_codec", "--model", str(tiny_model), "--device", "cpu"]
    assert main(words) == 0
    assert "compress" in capsys.readouterr().out
