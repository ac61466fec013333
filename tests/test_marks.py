"""The commands of the documents run as their marks promise."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.desk import lay_out
from tests.marks import ROOT, Fence, Runner, documents, fences, split_words, tiny_words, working_in

RECORDED = "docs/results/papers/"  # pages that are generated from the records of their commands
QUICK = ("README.md", "docs/cli.md", "docs/extend.md")  # run by every `make test`; `make docs-test` runs all
ALL = [fence for document in documents() for fence in fences(document)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "document" in metafunc.fixturenames:
        every = metafunc.config.getoption("--all-documents")
        found = dict.fromkeys(fence.document for fence in ALL if fence.kind in ("run", "tiny"))
        chosen = [each for each in found if not each.startswith(RECORDED) and (every or each in QUICK)]
        metafunc.parametrize("document", chosen)


@pytest.fixture(scope="session")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("desk")
    lay_out(folder)
    return folder


@pytest.fixture(scope="session")
def runner() -> Runner:
    return Runner()


def test_commands_run(document: str, desk: Path, runner: Runner, tmp_path: Path) -> None:
    folder = tmp_path / "desk"
    shutil.copytree(desk, folder, symlinks=True)
    runner.run((fence for fence in fences(ROOT / document) if fence.kind in ("run", "tiny")), folder)


def test_a_fence_has_its_place_kind_and_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.marks.ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- shown: a bucket -->\n```\none \\\n two\n# note\n```\n\n```text\nout\n```\n```python\nx = 1\n```\n")
    assert list(fences(page)) == [
        Fence("page.md", 2, "", "shown", "a bucket", "one \\\n two\n# note\n"),
        Fence("page.md", 12, "python", "", "", "x = 1\n"),
    ]
    assert next(fences(page)).lines() == ["one   two"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("latens inspect nothing.ltn", r"page\.md:7: latens inspect nothing\.ltn\n(.|\n)*exit status 3\n(.|\n)*no such file"),
        ("rm -r photos", r"page\.md:7: rm -r photos: only latens and python can be run"),
    ],
)
def test_a_line_that_fails_is_named(line: str, message: str, desk: Path, runner: Runner) -> None:
    with pytest.raises(AssertionError, match=message):
        runner.run([Fence("page.md", 7, "", "run", "", f"{line}\n")], desk)


def test_the_smallest_scale_replaces_recipe_data_and_settings(tmp_path: Path) -> None:
    words = "train parts --recipe cpu --data PHOTOS --set run.steps=9 --max-time 2h -o runs/a".split()
    with working_in(tmp_path):
        _, options = split_words(tiny_words(words))
        _, of_own_data = split_words(tiny_words("train amodal --data labelme:drawn/,embryos/ -o runs/b".split(), {"drawn/"}))
    assert options["-o"] == ["runs/a"]
    assert options["--recipe"] == ["tiny"]
    assert options["--data"] == ["example/parts"]
    assert options["--set"][0].count("=") == 1
    assert "run.steps=2" in options["--set"]
    assert "--max-time" not in options
    assert of_own_data["--data"] == ["labelme:drawn/,embryos/"]
    assert tiny_words(["compress", "a.png"]) == ["compress", "a.png"]
