"""`latens parts` with names: taught, clustered, used again, selected and exported."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latens.cli.main import main
from latens.errors import InputError, StorageFull
from latens.systems.parts.naming.outputs import cvat_stems

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Five images of a bright part above a dark one, and one of them in marked/ with a label map."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "marked").mkdir()
    rng = np.random.default_rng(0)
    for number in range(5):
        pixels = rng.integers(180, 220, (96, 128, 3)).astype(np.uint8)
        pixels[30 + 10 * number :] //= 6
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
        if number == 2:
            Image.fromarray(pixels).save(tmp_path / "marked" / "m.png")
            values = np.where(np.arange(96)[:, None] < 50, 1, 2) * np.ones((96, 128), int)
            Image.fromarray(values.astype(np.uint8)).save(tmp_path / "marked" / "m_label.png")
    (tmp_path / "marked" / "labels.txt").write_text("1 sky\n2 ground\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shares(table: Path) -> dict[tuple[str, str], float]:
    with table.open() as stream:
        return {(row["image"], row["name"]): float(row["share"]) for row in csv.DictReader(stream)}


def test_images_are_named_selected_and_exported(photos: Path, capsys: Capture) -> None:
    words = ["parts", "photos", "--teach", "marked", "-o", "named", "--device", "cpu"]
    assert main([*words, "--find", "sky > 60%", "--export", "coco"]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[-2:] == ["photos/3.png", "photos/4.png"]
    found = shares(Path("named/names.csv"))
    for number in range(5):
        assert found[f"{number}.png", "sky"] == pytest.approx((30 + 10 * number) / 96, abs=0.03)
    document = json.loads(Path("named/coco.json").read_text())
    assert [one["name"] for one in document["categories"]] == ["sky", "ground"]
    assert len(document["annotations"]) == 10
    assert {"names.html", "images.csv", "labels.txt", "0_labels.png", "0_labels.npz"} <= {
        p.name for p in Path("named").iterdir()
    }
    assert main(words) == 0  # finished: nothing is named again, and the tables are complete
    assert capsys.readouterr().err.count("skipped, finished") == 5
    assert shares(Path("named/names.csv")) == found
    again = ["parts", "photos/0.png", "--names", "named/names", "-o", "more", "--device", "cpu"]
    assert main([*again, "--format", "json"]) == 0
    record = json.loads(capsys.readouterr().out.splitlines()[0])
    assert record["shares"]["sky"] == pytest.approx(found["0.png", "sky"], abs=1e-4)


def test_marks_that_cannot_be_trusted_are_one_error(photos: Path, capsys: Capture) -> None:
    words = ["parts", "photos", "--teach", "marked", "-o", "out", "--device", "cpu"]
    listing, marks = Path("marked/labels.txt"), Path("marked/m_label.png")
    listing.write_bytes("1 sky\n2 ground\n".encode("utf-16"))
    assert main(words) == 3
    assert "marked/labels.txt: the text is not UTF-8" in capsys.readouterr().err
    listing.write_bytes(b"\xef\xbb\xbf1 sky\n7 ground\n")  # with the mark of Windows
    assert main(words) == 2
    told = capsys.readouterr().err
    assert "labels.txt: values without a name are unmarked: 2" in told
    assert "marked: sky marked in 1 image" in told
    listing.write_text("1 sky\n2 ground\n")
    with Image.open(marks) as image:
        image.crop((0, 0, 100, 80)).save(marks)
    assert main(words) == 3
    assert "the image has 128 x 96 pixels, its marks 100 x 80" in capsys.readouterr().err
    assert not Path("out").exists() or not list(Path("out").iterdir())


@pytest.mark.parametrize(
    ("work", "options"),
    [("latens.cli.parts.map_one", []), ("latens.cli.parts_names.name_one", ["--clusters", "2"])],
    ids=["parts", "names"],
)
def test_a_full_disk_ends_the_work(
    work: str, options: list[str], photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Images that were not tried are no results that cannot be read, and there is no summary of them."""

    def full(*_: object) -> None:
        raise StorageFull("the disk is full")

    words = ["parts", "photos", *options, "-o", "out", "--device", "cpu"]
    with monkeypatch.context() as patch:
        patch.setattr(work, full)
        assert main(words) == 5
    assert "0 done, 1 failed, 4 not tried" in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in Path("out").iterdir()] == ["failures.jsonl"]
    assert main(words) == 0


@pytest.mark.parametrize("name", ["names.csv", "images.csv", "labels.txt", "names.html", "names"])
def test_files_of_a_user_are_not_replaced(name: str, photos: Path, capsys: Capture) -> None:
    Path("out").mkdir()
    Path("out", name).write_text("mine")
    words = ["parts", "photos", "--clusters", "2", "-o", "out", "--device", "cpu"]
    assert main(words) == 2
    assert name in capsys.readouterr().err
    assert [path.name for path in Path("out").iterdir()] == [name]
    if name != "names":
        assert main([*words, "--force"]) == 0


@pytest.mark.parametrize("form", ["labelme", "cvat"])
def test_exports_into_folders(form: str, photos: Path) -> None:
    words = ["parts", "photos", "--clusters", "3", "-o", "found", "--export", form, "--device", "cpu"]
    assert main(words) == 0
    folder = Path("found") / form
    if form == "labelme":
        assert len(list(folder.glob("*.json"))) == 5
        return
    lines = (folder / "labelmap.txt").read_text().splitlines()
    assert [line.split(":")[0] for line in lines[2:]] == ["cluster-1", "cluster-2", "cluster-3"]
    known = {tuple(map(int, line.split(":")[1].split(","))) for line in lines[1:]}
    mask = np.asarray(Image.open(folder / "SegmentationClass" / "0.png"))
    assert {tuple(color) for color in mask.reshape(-1, 3).tolist()} <= known
    assert len((folder / "ImageSets" / "Segmentation" / "default.txt").read_text().split()) == 5


def test_cvat_lists_of_any_name_and_refused_ones(photos: Path, capsys: Capture) -> None:
    """Two images with one name in CVAT, which would share a mask, are refused before any work."""
    raw = os.fsdecode(b"caf\xe9.png")
    Path("photos/0.png").rename(f"photos/{raw}")
    words = ["parts", "photos", "--clusters", "2", "--export", "cvat", "--device", "cpu", "-o"]
    assert main([*words, "found"]) == 0
    listed = Path("found/cvat/ImageSets/Segmentation/default.txt").read_bytes()
    assert b"caf\xe9\n" in listed
    assert Path(f"found/cvat/SegmentationClass/{raw}").is_file()
    Image.open("photos/1.png").save("photos/1.jpg")
    assert main([*words, "other"]) == 3
    assert "1.png: CVAT knows images by their names without endings, which 1.jpg also has" in capsys.readouterr().err
    assert not list(Path("other").rglob("*_labels.png"))
    with pytest.raises(InputError, match="colon"):
        cvat_stems(["a.png"], ["sky: blue"])


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--teach", "marked", "--clusters", "3"], "exclude each other"),
        (["--find", "sky"], "need names"),
        (["--export", "coco"], "need names"),
        (["--teach", "marked", "--export", "xml"], "'xml' is not a format"),
        (["--teach", "marked", "--sure", "1"], "from 0 to below 1"),
        (["--teach", "marked", "--find", "se"], "there is no name 'se'"),
        (["--teach", "photos"], "no marked images"),
        (["--names", "photos"], "config.json"),
        (["--clusters", "1"], "between 2 and"),
    ],
)
def test_flags_that_cannot_be_followed(words: list[str], reason: str, photos: Path, capsys: Capture) -> None:
    assert main(["parts", "photos", "-o", "out", "--device", "cpu", *words]) in (2, 3, 6)
    assert reason in capsys.readouterr().err
    assert not list(photos.glob("out/*.png"))


@pytest.mark.parametrize("form", ["coco", "labelme", "cvat"])
def test_exports_are_repeated_and_keep_files_of_the_user(form: str, photos: Path, capsys: Capture) -> None:
    """The same command continues, also with more images; foreign and corrected files are refused before any work."""
    words = ["parts", "photos", "--clusters", "3", "-o", "first", "--device", "cpu"]
    assert main(words) == 0
    again = ["parts", "photos", "--names", "first/names", "-o", "found", "--export", form, "--device", "cpu"]
    assert main(again) == 0
    assert main(again) == 0
    Image.open("photos/0.png").save("photos/new.png")
    assert main(again) == 0
    corrected = next(path for path in sorted(Path("found").rglob("*")) if path.name in ("coco.json", "0.json", "labelmap.txt"))
    corrected.write_text("corrected")
    capsys.readouterr()
    assert main(again) == 2
    assert f"{corrected}: 1 file would be replaced" in capsys.readouterr().err
    assert corrected.read_text() == "corrected"
    assert main([*again, "--force"]) == 0
    foreign = Path("other") / corrected.relative_to("found")
    foreign.parent.mkdir(parents=True)
    foreign.write_text("mine")
    assert main(["other" if word == "found" else word for word in again]) == 2
    assert foreign.read_text() == "mine"
    assert not list(Path("other").rglob("*_labels.png"))


def test_summaries_of_parts_are_no_inputs(photos: Path, capsys: Capture) -> None:
    assert main(["parts", "photos", "-o", "photos/found", "--device", "cpu"]) == 0
    for words in (["parts", "photos", "-o", "named", "--clusters", "2"], ["compress", "photos", "-o", "small"]):
        assert main([*words, "--device", "cpu"]) == 0
        made = {path.name.split(".")[0].removesuffix("_labels") for path in Path(words[3]).rglob("*.ltn")}
        made |= {path.name.removesuffix("_labels.png") for path in Path(words[3]).rglob("*_labels.png")}
        assert made == {"0", "1", "2", "3", "4"}
