"""`latens parts`, and train, evaluate, reproduce and bench for its system."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from latens import catalogue
from latens.cli.main import main
from latens.data.image_output import png_bytes
from latens.systems.parts import report
from latens.systems.parts.model import PatchVAE, Posterior

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    from latens.hub import save_model
    from latens.settings import to_dict
    from latens.systems.parts.config import PatchVAEConfig

    torch.manual_seed(0)
    patchvae = PatchVAE(PatchVAEConfig(size=16, encoder="local", parts=4, appearance=3))
    with torch.no_grad():
        patchvae.occurrence.weight.mul_(4)
    folder = tmp_path_factory.mktemp("models") / "tiny-parts"
    save_model(folder, {"system": "parts", "model": to_dict(patchvae.config)}, dict(patchvae.state_dict()))
    return folder


def test_a_folder_with_a_bad_file(album: Path, model: Path, capsys: Capture) -> None:
    out = album.parent / "found"
    command = ["parts", str(album), "-o", str(out), "--model", str(model), "--device", "cpu", "--format", "json"]
    assert main(command) == 3
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record.get("status") for record in records] == ["done", "failed", "done", None]
    assert (out / "a.parts.png").is_file()
    assert (out / "trip" / "b.parts.png").is_file()
    assert (out / "failures.jsonl").is_file()
    assert json.loads((out / "parts.json").read_text())["images"] == ["a.png", "trip/b.jpg"]
    assert {path.name for path in out.iterdir()} >= {"gallery.png", "index.html"}
    assert main(command) == 3
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record.get("status") for record in records] == ["skipped", "failed", "skipped", None]


def test_results_among_the_images_are_not_taken_for_images(album: Path, model: Path, capsys: Capture) -> None:
    (album / "c.jpg").unlink()
    command = ["parts", str(album), "-o", str(album), "--model", str(model), "--device", "cpu", "--format", "json"]
    for status in ("done", "skipped"):
        assert main(command) == 0
        records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [record.get("status") for record in records] == [status, status, None]


def test_a_forced_run_leaves_no_summary_of_other_images(album: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (album / "c.jpg").unlink()
    out = album.parent / "found"
    sheet = png_bytes(np.zeros((8, 8, 3), dtype=np.uint8))
    monkeypatch.setattr(report, "_swaps", lambda parts, paths, codes: sheet if len(paths) > 1 else None)
    words = ["-o", str(out), "--model", str(model), "--device", "cpu", "--force"]
    assert main(["parts", str(album), *words]) == 0
    assert (out / "swaps.png").read_bytes() == sheet
    assert main(["parts", str(album / "a.png"), *words]) == 0
    assert not (out / "swaps.png").exists()
    assert (out / "index.html").is_file()


def test_files_of_the_user_are_not_overwritten(album: Path, model: Path, capsys: Capture) -> None:
    (album / "c.jpg").unlink()
    words = ["--model", str(model), "--device", "cpu"]
    for name, text in (("index.html", "my page"), ("parts.json", '{"mine": 1}')):
        out = album.parent / name.replace(".", "-")
        out.mkdir()
        (out / name).write_text(text)
        assert main(["parts", str(album), "-o", str(out), *words]) == 2
        assert "--force" in capsys.readouterr().err
        assert [(path.name, path.read_text()) for path in out.iterdir()] == [(name, text)]
        assert main(["parts", str(album), "-o", str(out), "--force", *words]) == 0
        assert (out / name).read_text() != text


def test_a_photo_named_like_a_result_is_a_photo(album: Path, model: Path, capsys: Capture) -> None:
    (album / "c.jpg").unlink()
    photo = (album / "a.png").rename(album / "gallery.png").read_bytes()
    command = ["parts", str(album), "--model", str(model), "--device", "cpu", "-o"]
    for more in ([], ["--force"]):  # no input is replaced, whatever is asked for
        assert main([*command, str(album), *more]) == 2
        assert "would replace its input" in capsys.readouterr().err
    assert (album / "gallery.png").read_bytes() == photo
    out = album / "found"
    for _ in range(2):
        assert main([*command, str(out)]) == 0
        assert json.loads((out / "parts.json").read_text())["images"] == ["gallery.png", "trip/b.jpg"]


def test_a_summary_that_was_stopped_is_made_again(
    album: Path, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    (album / "c.jpg").unlink()
    command = ["parts", str(album), "-o", str(album), "--model", str(model), "--device", "cpu"]
    with monkeypatch.context() as patch:
        patch.setattr(report, "_swaps", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert main(command) == 130
    assert (album / "gallery.png").is_file()
    assert not (album / "index.html").exists()
    assert main(command) == 0
    assert json.loads((album / "parts.json").read_text())["images"] == ["a.png", "trip/b.jpg"]


def test_every_image_is_encoded_once(album: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (album / "c.jpg").unlink()
    encoded: list[torch.Size] = []
    posterior = PatchVAE.posterior

    def counted(self: PatchVAE, image: torch.Tensor) -> Posterior:
        encoded.append(image.shape)
        return posterior(self, image)

    monkeypatch.setattr(PatchVAE, "posterior", counted)
    for _ in ("maps are made", "maps are there"):
        encoded.clear()
        assert main(["parts", str(album), "-o", str(album.parent / "o"), "--model", str(model), "--device", "cpu"]) == 0
        assert len(encoded) == 2


def test_an_image_damaged_after_its_map_was_made_is_left_out(album: Path, model: Path, capsys: Capture) -> None:
    (album / "c.jpg").unlink()
    out = album.parent / "found"
    command = ["parts", str(album), "-o", str(out), "--model", str(model), "--device", "cpu"]
    assert main(command) == 0
    (album / "a.png").write_text("no image any more")
    capsys.readouterr()
    assert main(command) == 3
    said = capsys.readouterr()
    assert "a.png; the input has changed since" in said.err
    assert "in 1 image;" in said.out
    assert json.loads((out / "parts.json").read_text())["images"] == ["trip/b.jpg"]
    (album / "trip" / "b.jpg").unlink()
    assert main(command) == 2  # other images: another summary
    assert "images differ by" in capsys.readouterr().err
    assert main([*command, "--force"]) == 3  # nothing is left to summarize


def test_maps_keep_the_ending_of_their_image_only_where_two_share_a_stem(album: Path, model: Path, capsys: Capture) -> None:
    Image.open(album / "a.png").convert("RGB").save(album / "a.bmp")
    Image.new("RGB", (20, 30)).save(album / "two.dots.png")
    (album / "c.jpg").unlink()
    out = album.parent / "found"
    assert main(["parts", str(album), "-o", str(out), "--model", str(model), "--device", "cpu"]) == 0
    names = {path.relative_to(out).as_posix() for path in out.rglob("*.parts.png")}
    assert names == {"a.png.parts.png", "a.bmp.parts.png", "two.dots.parts.png", "trip/b.parts.png"}
    note = album.parent / "note.txt"
    note.write_text("no folder")
    assert main(["parts", str(album), "-o", str(note), "--model", str(model), "--device", "cpu"]) == 2
    assert "give a folder with -o" in capsys.readouterr().err


def test_one_image_at_another_resolution(album: Path, model: Path, capsys: Capture) -> None:
    words = ["parts", str(album / "a.png"), "-o", str(album / "o"), "--model", str(model), "--resolution", "32"]
    assert main([*words, "--device", "cpu"]) == 0
    assert "parts," in capsys.readouterr().out
    assert main([*words[:-1], "33", "--device", "cpu"]) == 2


@pytest.mark.parametrize(
    "words", [["parts", "x.png"], ["evaluate", "parts"], ["reproduce", "parts/figure4"], ["bench", "parts"]]
)
def test_without_weights_the_error_gives_the_next_step(words: list[str], tmp_path: Path, capsys: Capture, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(catalogue, "MODELS", {})
    Image.new("RGB", (20, 20)).save("x.png")
    assert main([*words, "--device", "cpu"]) == 6
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert "no model of this system is bundled" in said[0]
    assert "latens train parts" in said[1]


def test_train_evaluate_reproduce_and_bench(album: Path, capsys: Capture) -> None:
    (album / "c.jpg").unlink()
    run, out = album.parent / "run", album.parent / "out"
    quick = ["--set", "run.steps=1", "--set", "data.batch=2", "--device", "cpu", "--format", "json"]
    assert main(["train", "parts", "--recipe", "tiny", "--data", str(album), "-o", str(run), *quick]) == 0
    capsys.readouterr()
    words = ["--model", str(run / "best"), "--device", "cpu", "--format", "json"]
    assert main(["evaluate", "parts", "--data", str(album), "-o", str(out), *words]) == 0
    assert json.loads(capsys.readouterr().out)["quality"]["psnr"] > 0
    assert main(["evaluate", "image_codec", "--probe", "knn"]) == 2
    assert main(["evaluate", "parts", "--data", str(album), "--probe", "conv9", *words]) == 2
    assert main(["reproduce", "parts/table1", "--recipe", "tiny", "-o", str(out)]) == 2  # no data
    assert main(["reproduce", "parts/table9", "--recipe", "tiny", "-o", str(out), *words]) == 2
