"""Published data sets at their own size: whole files, no object dropped, pretrained backbones, one table for each set."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.systems.amodal.official_maker import TEST, TRAIN, write
from torchvision.models import resnet50

from latens.cli.main import main
from latens.data.source import parse_source
from latens.errors import ModelError, UnreadableInput, UsageError
from latens.inference.page import Table
from latens.reproduction import reproduce
from latens.systems.amodal.batches import AmodalData
from latens.systems.amodal.config import BackboneConfig, network_scale
from latens.systems.amodal.dataset import View, open_source
from latens.systems.amodal.evaluate import holds_out
from latens.systems.amodal.official import official
from latens.systems.amodal.pipeline import Backbone
from latens.systems.amodal.predict import load
from latens.systems.amodal.pretrained import load_backbone
from latens.systems.amodal.recipes import paper, tiny

KINDS = ("kins", "cocoa", "d2sa")
FROZEN = BackboneConfig(kind="resnet50", norm="frozen", pyramid=16)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    for kind in KINDS:
        write(kind, folder / kind, 0.2)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_both_files_are_used_whole_and_every_object_is_kept(kind: str, sets: Path) -> None:
    found = official(parse_source(f"{kind}:{sets / kind}"))
    assert found.test is not None
    test = open_source(found.test).held_out("all", 10_000, 0)
    assert [len(sample.layers.layer) for sample in test] == [3] * TEST
    assert test[0].image.shape[0] == round({"kins": 375, "cocoa": 480, "d2sa": 1440}[kind] * 0.2)
    view = View(short_side=160, smallest=1, validation_share=0.3, test_share=0)
    train = open_source(found.train, view)
    parts = {split: train.held_out(split, 100, 0) for split in ("train", "validation")}
    assert sum(map(len, parts.values())) == TRAIN
    assert {len(sample.layers.layer) for part in parts.values() for sample in part} == {3}


def test_the_shorter_side_is_800_and_batches_have_the_size_of_their_largest_image(sets: Path) -> None:
    assert round(1242 * network_scale((375, 1242), paper().model.size, paper().model.short_side)) == 2650
    assert network_scale((100, 1000), 3008, 800) == 3.008  # the longer side is the limit
    sizes = replace(paper().model, short_side=96, size=320)
    source = open_source(official(parse_source(f"kins:{sets / 'kins'}")).train, View(short_side=96, smallest=1, test_share=0))
    batch = AmodalData([source], sizes, replace(tiny().data, batch=2), 0, tiny().objective, 0).batch(0, 0)
    assert batch["image"].shape == (2, 3, 96, 320)  # 248 x 75 pixels become 317 x 96
    assert len(batch["label"]) == 6
    assert batch["amodal"].flatten(1).any(1).all()


def test_a_folder_without_the_files_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UnreadableInput, match="no annotation files") as caught:
        official(parse_source(f"kins:{tmp_path}"))
    assert "update_train_2020.json" in str(caught.value.hint)


@pytest.mark.parametrize("kind", KINDS)
def test_commands_take_the_folder_as_published(
    kind: str, sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`train` learns from the training file and `evaluate` scores the whole test file of KIND:FOLDER."""
    data, run = f"{kind}:{sets / kind}", tmp_path / "run"
    settings = [f"--set={one}" for one in ("run.steps=2", "run.validate_every=2", "objective.code_steps=1", "data.batch=1")]
    common = ["--data", data, "--device", "cpu", "--format", "json"]
    assert main(["train", "amodal", "--recipe", "tiny", "-o", str(run), *settings, *common]) == 0
    assert json.loads((run / "environment.json").read_text())["data"] == [data]
    model = ["--model", str(run / "best"), "-o", str(tmp_path / "report")]
    assert main(["evaluate", "amodal", *model, "--set=images=100", "--set=size=64", *common]) == 0
    capsys.readouterr()
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["data"] == data
    assert report["images"] == TEST


def test_table2_has_the_rows_of_every_data_set(sets: Path, tmp_path: Path) -> None:
    changes = {"rows": '["fcn", "vq"]', "steps": "1", "code_steps": "1", "images": "100"}
    data = [f"{kind}:{sets / kind}" for kind in ("kins", "cocoa")]
    (report,) = reproduce("amodal/table2", recipe="tiny", data=data, out=tmp_path, settings=changes, device="cpu")
    tables = [block for block in report.blocks if isinstance(block, Table)]
    assert [str(table.caption).split(".")[0] for table in tables] == ["KINS", "KINS", "COCOA", "COCOA"]
    assert [row[-1] for row in tables[0].rows[:2]] == ["29.3", "30.3"]
    assert [row[-1] for row in tables[2].rows[:2]] == ["-", "-"]
    assert report.about.count(f"tested on {TEST} images") == 2
    assert "of which 2 % are for validation" in report.about


# ------------------------------------------------------------------------------------------------- pretrained weights


def detectron_name(name: str) -> str:
    """The name of a tensor of torchvision's ResNet in a detector of detectron2."""
    for old, new in (("downsample.0.", "shortcut."), ("downsample.1.", "shortcut.norm.")):
        name = name.replace(old, new)
    for number in "123":
        name = name.replace(f"bn{number}.", f"conv{number}.norm.")
    stage = name.startswith("layer")
    return f"backbone.bottom_up.res{int(name[5]) + 1}{name[6:]}" if stage else f"backbone.bottom_up.stem.{name}"


@pytest.mark.parametrize("form", ["torchvision.pth", "torchvision.safetensors", "detectron.pkl", "detectron.pth"])
def test_pretrained_weights_give_the_features_of_torchvision(form: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = resnet50(weights=None).eval()
    for name, buffer in whole.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.2, 0.3).mul_(-1 if name.endswith("mean") else 1)
    state = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    path = tmp_path / form
    if form.startswith("detectron"):
        state = {detectron_name(name): tensor for name, tensor in state.items() if not name.startswith("fc.")}
        state["roi_heads.box_predictor.cls_score.weight"] = torch.zeros(2, 2)
    if form.endswith(".pkl"):
        arrays = {name: tensor.numpy() for name, tensor in state.items()}
        path.write_bytes(pickle.dumps({"model": arrays, "__author__": "test"}, protocol=2))
    elif form.endswith(".safetensors"):
        save_file(state, path)
    else:
        torch.save({"model": state} if form.startswith("detectron") else state, path)
    backbone = Backbone(FROZEN)
    load_backbone(backbone, FROZEN, path)
    image = torch.rand(1, 3, 64, 64)
    expected = whole.layer1(whole.maxpool(whole.relu(whole.bn1(whole.conv1(image)))))
    for layer, found in zip((None, whole.layer2, whole.layer3, whole.layer4), backbone.body(image), strict=True):
        expected = expected if layer is None else layer(expected)
        assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
    fixed = {name.split(".")[1] + name.split(".")[2] for name, p in backbone.named_parameters() if not p.requires_grad}
    assert {name for name in fixed if name.startswith("stages")} == {"stages0"}


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("code of the file was run",))


def test_files_with_code_and_other_weights_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.pkl", "a.pth"):
        path = tmp_path / name
        path.write_bytes(pickle.dumps({"model": {"conv1.weight": Harmful()}}))
        with pytest.raises(UnreadableInput, match="not a file of named tensors"):
            load_backbone(Backbone(FROZEN), FROZEN, path)
    (tmp_path / "b.pkl").write_bytes(pickle.dumps({"conv1_w": np.zeros(3), "res2_0_branch2a_w": np.zeros(3)}))
    with pytest.raises(ModelError, match="Caffe2"):
        load_backbone(Backbone(FROZEN), FROZEN, tmp_path / "b.pkl")
    save_file({"layer1.0.conv1.weight": torch.zeros(3)}, tmp_path / "c.safetensors")
    with pytest.raises(ModelError, match="do not fit"):
        load_backbone(Backbone(FROZEN), FROZEN, tmp_path / "c.safetensors")
    with pytest.raises(UsageError, match="frozen"):
        load_backbone(Backbone(BackboneConfig()), BackboneConfig(), tmp_path / "c.safetensors")
    assert "code of the file" not in capsys.readouterr().out


def test_sets_whose_training_images_are_not_evaluated(sets: Path) -> None:
    """The test file of a published set, and images that are drawn; annotations of one's own are measured whole."""
    model = load("embryo", device="cpu")
    kept = [f"kins:{sets / 'kins'}", "simulated:0.5", "simulated", f"coco:{sets / 'kins' / 'a.json'}", f"labels:{sets}"]
    assert [holds_out(model, parse_source(word)) for word in kept] == [True, True, True, False, False]
