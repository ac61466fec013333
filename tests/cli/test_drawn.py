"""Figures, label maps, masks and depth maps that latens wrote are no images: every verb and every reader leaves them out."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from clip_maker import make_clip

from latens.cli.main import main
from latens.data.clips.reader import open_clip
from latens.data.folders import noting_request
from latens.data.inputs import find_inputs
from latens.data.labeled_files import find_images
from latens.data.labels import pairs_in
from latens.data.origins import drawn, without_drawn
from latens.data.records import Records

Capture = pytest.CaptureFixture[str]
PNG = frozenset({".png"})
VERBS = [
    ["compress", "{}", "-o", "{}/out"],
    ["dehaze", "{}", "-o", "{}/out"],
    ["haze", "{}", "-o", "{}/out"],
    ["segment", "{}", "-o", "{}/out"],
    ["parts", "{}", "-o", "{}/out"],
    ["parts", "{}", "--clusters", "2", "-o", "{}/out"],
    ["density", "{}"],
    ["grade", "{}", "-o", "{}/out"],
    ["evaluate", "image_codec", "--data", "{}"],
    ["train", "image_codec", "--recipe", "tiny", "--data", "{}", "-o", "{}/out"],
    ["video", "compress", "{}", "-o", "{}/out.mp4"],
]


def picture(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(path)
    return path


def figure(path: Path) -> Path:
    Records().draw([picture(path)])
    return path


def names(folder: Path) -> list[str]:
    return [file.relative.as_posix() for file in find_inputs([folder], PNG)]


@pytest.mark.parametrize("words", VERBS, ids=" ".join)
def test_every_verb_refuses_a_folder_of_figures(words: list[str], tmp_path: Path, capsys: Capture) -> None:
    figure(tmp_path / "evaluation.png")
    assert main([word.format(tmp_path) for word in words]) in (2, 3)
    said = capsys.readouterr().err
    assert "left out 1 file, figures, label maps or depth maps that latens wrote" in said
    assert "internal error" not in said


def test_inputs_remain_and_named_figures_are_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    photo, first, second = picture(tmp_path / "a.png"), figure(tmp_path / "b.png"), figure(tmp_path / "c.png")
    assert names(tmp_path) == ["a.png"]
    assert "left out 2 files" in caplog.text
    assert [file.path for file in find_inputs([photo, first, second], PNG)] == [photo]  # the shell's *.png
    assert [file.path for file in find_inputs([first], PNG)] == [first]
    assert [file.path for file in find_inputs([first, second], PNG)] == [first, second]


def test_the_record_of_a_folder_is_read_once_for_all_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening it for each of a million training images takes longer than listing them."""
    figure(tmp_path / "a" / "evaluation.png")
    paths = [picture(tmp_path / folder / f"{number}.png") for folder in "ab" for number in range(5)]
    opened: list[Path] = []
    lstat = Path.lstat

    def noted(path: Path) -> os.stat_result:
        opened.append(path)
        return lstat(path)

    monkeypatch.setattr(Path, "lstat", noted)
    assert without_drawn([*paths, tmp_path / "a" / "evaluation.png"], tmp_path) == paths
    assert sorted(opened) == [tmp_path / folder / ".latens.jsonl" for folder in "ab"]


def test_an_edited_label_map_is_still_one(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    picture(figure(tmp_path / "b.png"), seed=1)
    assert names(tmp_path) == ["a.png"]


def test_figures_of_reports_are_recorded(tmp_path: Path) -> None:
    picture(tmp_path / "mine.png")
    with noting_request(tmp_path, "evaluation", {}, results=["evaluation.png", "image-*.png", "haze"]):
        picture(tmp_path / "evaluation.png")
        picture(tmp_path / "image-3.png")
        picture(tmp_path / "haze" / "deep" / "x.png")
    assert names(tmp_path) == ["mine.png"]


def test_outputs_of_verbs_are_recognized_without_their_inputs(tmp_path: Path, cell_model: Path) -> None:
    picture(tmp_path / "in" / "a.png")
    segmented, hazed = tmp_path / "segmented", tmp_path / "hazed"
    assert main(["segment", str(tmp_path / "in"), "-o", str(segmented), "--model", str(cell_model)]) == 0
    assert main(["haze", str(tmp_path / "in"), "-o", str(hazed), "--save-depth", str(hazed)]) == 0
    made = [str(path) for path in segmented.iterdir() if path.suffix in (".png", ".tif")]
    assert made
    assert drawn(made) == made
    assert names(hazed) == ["a.png"]
    assert (hazed / "a_depth256.png").is_file()


def test_label_folders_of_convert_and_saved_masks(tmp_path: Path) -> None:
    labels, images = tmp_path / "labels", tmp_path / "images"
    picture(images / "a.png")
    labels.mkdir()
    Image.fromarray(np.pad(np.full((30, 38), 7, np.uint8), 5)).save(labels / "a.png")
    assert main(["convert", f"labels:{tmp_path}", "--to", "labels", "-o", str(tmp_path / "new")]) == 0
    found = find_inputs([tmp_path / "new"], frozenset({".png", ".tif"}))
    assert [file.relative.as_posix() for file in found] == ["images/a.png"]
    assert [label.name for _, label in pairs_in(tmp_path / "new")] == ["a.tif"]  # still the label map of its image

    make_clip(tmp_path / "a.mp4", times=range(3))
    masks = tmp_path / "masks"
    words = ["video", "compress", str(tmp_path / "a.mp4"), "-o", str(tmp_path / "b.mp4"), "--roi", "box:0,0,16,16"]
    assert main([*words, "--save-masks", str(masks)]) == 0
    assert len(drawn([str(path) for path in masks.glob("*.png")])) == 3
    assert main([*words[:-1], str(masks), "--force"]) == 0  # still masks


def frames(folder: Path) -> list[Path]:
    with open_clip(folder) as clip:
        return [folder / f"{stem}.png" for stem in clip.stems]


@pytest.mark.parametrize(
    "read",
    [
        lambda folder: without_drawn(sorted(folder.glob("*.png")), folder),
        lambda folder: sorted(find_images(folder)),
        frames,
    ],
)
def test_readers_of_training_and_clips(read: Callable[[Path], list[Path]], tmp_path: Path) -> None:
    photo = picture(tmp_path / "a.png")
    figure(tmp_path / "b.png")
    assert read(tmp_path) == [photo]
