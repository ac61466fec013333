"""The promises that every system keeps, as functions of a workshop."""

from __future__ import annotations

import fnmatch
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import latens
from latens import catalogue
from latens.contract import System
from latens.data.origins import drawn
from latens.data.source import Source
from latens.errors import LatensError
from latens.experiments.bench import bench
from latens.experiments.lab import JOURNAL
from latens.experiments.report import Report
from latens.hub import load_model
from latens.inference.page import Figure, Gallery, Table
from latens.settings import SettingsError, decode_like, override, to_dict
from latens.settings_help import listed
from latens.training.config import AnyTrainConfig
from latens.training.run import train

from .workshop import Workshop


def members_are_there(workshop: Workshop) -> None:
    system = workshop.system
    assert isinstance(system, System)
    assert system.title
    assert "tiny" in system.recipes
    for name, make in system.recipes.items():
        config = make()
        assert (config.system, config.recipe) == (system.name, name)
        assert (make.__doc__ or "").strip(), f"{name} says nothing for `latens recipes`"
    for artifact in system.artifacts.values():
        assert {"tiny", "cpu", "paper"} <= set(artifact.scales)


def settings_mean_something(workshop: Workshop) -> None:
    system = workshop.system
    configs = [make() for make in system.recipes.values()]
    scales = [scale for artifact in system.artifacts.values() for scale in artifact.scales.values()]
    for settings in [*configs, *scales, system.evaluation.options]:
        assert decode_like(settings, to_dict(settings)) == settings
        silent = [setting.path for setting in listed(settings) if not setting.meaning]
        assert not silent, f"settings without a comment: {silent}"


def misspelled_settings_are_refused(workshop: Workshop) -> None:
    """Unknown names, and every choice with an extra letter."""
    for setting in listed(workshop.config):
        with pytest.raises(SettingsError):
            override(workshop.config, {f"{setting.path}x": "1"})
        if " | " in setting.type and setting.type.replace(" | ", "").replace("_", "").replace("-", "").isalnum():
            if isinstance(setting.value, str):
                with pytest.raises(SettingsError):
                    override(workshop.config, {setting.path: f"{setting.value}x"})
    for path, text in (("data.batch", "0"), ("optim.lr", "-1"), ("run.validate_every", "0"), ("run.steps", "1.5")):
        if path in {setting.path for setting in listed(workshop.config)}:
            with pytest.raises(SettingsError, match=path):
                override(workshop.config, {path: text})
    assert override(workshop.config, {"run.steps": "1e3"}).run.steps == 1000


def every_recipe_builds(workshop: Workshop) -> None:
    for name, make in workshop.system.recipes.items():
        parts = workshop.system.build(override(make(), workshop.example.light), workshop.example.sources)
        owned = {prefix for groups in parts.objective.optimizers.values() for group in groups for prefix in group.prefixes}
        loose = [
            parameter
            for parameter, value in parts.model.named_parameters()
            if value.requires_grad and not any(parameter.startswith(prefix) for prefix in owned)
        ]
        assert not loose, f"{name}: no optimizer trains {loose[:3]}"


def gradients_reach_every_parameter(workshop: Workshop) -> None:
    assert workshop.run.ended == "finished"
    assert workshop.broken == set()
    assert workshop.trainable - workshop.reached == set()


def training_lowers_the_loss(workshop: Workshop) -> None:
    best = min(workshop.validation_losses())
    assert best == pytest.approx(workshop.run.best)
    assert best < workshop.untrained_loss()


def a_stopped_run_ends_with_the_same_bits(workshop: Workshop, folder: Path) -> None:
    system, config, sources = workshop.system, workshop.config, workshop.example.sources
    stopped = train(system.build, config, sources, folder, device="cpu", max_time=0.0)
    assert (stopped.step, stopped.ended) == (1, "time")
    assert tensors_of(folder / "best")
    resumed = train(system.build, config, sources, folder, device="cpu", resume=True)
    assert resumed.ended == "finished"
    assert tensors_of(folder / "best").keys() == tensors_of(workshop.run.folder / "best").keys()
    for name, tensor in tensors_of(workshop.run.folder / "best").items():
        assert torch.equal(tensor, tensors_of(folder / "best")[name]), name
    shutil.rmtree(folder / "best")
    train(system.build, config, sources, folder, device="cpu", resume=True)
    assert tensors_of(folder / "best"), "no step was left, and nothing was exported"


def samples_are_no_inputs(workshop: Workshop) -> None:
    """Images that a training run draws are recorded, so that no command takes them for photographs."""
    images = [str(path) for path in workshop.run.folder.rglob("*.png")]
    assert drawn(images) == images


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    return found


BARE = """
import sys
for name in sys.argv[4].split():
    sys.modules[name] = None
sys.path[:0] = sys.argv[5].split()
from types import MappingProxyType
from pathlib import Path
from latens import catalogue
catalogue.SYSTEMS = MappingProxyType({**catalogue.SYSTEMS, sys.argv[1]: sys.argv[6]})
import latens
latens.train(sys.argv[1], recipe="tiny", data=sys.argv[2].split(), out=sys.argv[3], device="cpu",
             settings={"run.steps": "1", "run.validate_every": "1"})
"""
NOT_NEEDED = (
    "jaxtyping", "constriction", "cyclopts", "rich", "tensorboard", "matplotlib", "jinja2", "cv2", "skimage", "sklearn",
    "scipy", "av", "bjontegaard", "pycocotools", "faster_coco_eval", "tifffile", "roifile", "huggingface_hub",
)  # fmt: skip


def training_needs_few_packages(workshop: Workshop, folder: Path) -> None:
    """A GPU machine may have torch, torchvision, accelerate, numpy, pillow and safetensors; pydantic is carried along."""
    example = workshop.example
    data = " ".join(map(str, example.sources if example.bare is None else example.bare))
    package = catalogue.package_of(workshop.system.name)
    paths = " ".join(path for path in sys.path if "contracts" in path)
    words = [workshop.system.name, data, str(folder / "run"), " ".join(NOT_NEEDED), paths, package]
    subprocess.run([sys.executable, "-c", BARE, *words], check=True, timeout=200)
    assert list((folder / "run" / "best").glob("model*.safetensors"))


def a_saved_model_gives_the_same_results(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder holds what was exported; applied twice, loaded by path and fetched from a hub (here a folder), it agrees."""
    best, path = workshop.run.folder / "best", workshop.example.inputs[0]
    saved = load_model(best).weights
    assert saved.keys() == workshop.exported.keys()
    for name, weight in workshop.exported.items():
        assert torch.equal(saved[name], weight), name
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: str(best))
    system = workshop.system
    expected = system.apply(workshop.loaded, path)
    assert expected
    assert all(isinstance(value, np.ndarray) for value in expected.values())
    others = [workshop.loaded, latens.load(best, device="cpu"), latens.load("hub:someone/model", device="cpu")]
    for loaded in others:
        assert loaded.model_id == workshop.loaded.model_id
        found = system.apply(loaded, path)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value, err_msg=name)


def odd_images() -> dict[str, Image.Image]:
    waves = np.add.outer(np.arange(61), 2 * np.arange(83)) % 256
    color = np.stack([waves, waves[::-1], waves[:, ::-1]], axis=-1).astype(np.uint8)
    alpha = np.dstack([color, waves]).astype(np.uint8)
    return {
        "odd": Image.fromarray(color),
        "gray": Image.fromarray(waves.astype(np.uint8)),
        "rgba": Image.fromarray(alpha),
        "16-bit": Image.fromarray((waves * 257).astype(np.uint16)),
        "pixel": Image.fromarray(color[:1, :1]),
        "row": Image.fromarray(color[:1]),
        "palette": Image.fromarray(color).quantize(16),
    }


def odd_images_are_handled_or_refused(workshop: Workshop, folder: Path) -> None:
    if workshop.example.kind != "image":
        return
    handled = 0
    for name, image in odd_images().items():
        path = folder / f"{name}.png"
        image.save(path)
        try:
            result = workshop.system.apply(workshop.loaded, path)
        except LatensError:  # refused, with a message; anything else fails the test
            continue
        handled += 1
        floats = [value for value in result.values() if value.dtype.kind == "f"]
        assert all(np.isfinite(value).all() for value in floats), name
    assert handled >= 3, "refusing everything is no handling"
    text = folder / "text.png"
    text.write_text("no image")
    for path in (text, folder / "missing.png"):
        with pytest.raises(LatensError):
            workshop.system.apply(workshop.loaded, path)


def an_evaluation_is_deterministic(workshop: Workshop, folder: Path) -> None:
    evaluation = workshop.system.evaluation
    options = evaluation.options if evaluation.quick is None else evaluation.quick
    sources: list[Source] = list(workshop.example.test_sources)
    first = evaluation.run(workshop.loaded, sources, options, folder / "first")
    kept = {path: path.read_bytes() for path in (folder / "first").glob("*.jsonl")}
    second = evaluation.run(workshop.loaded, sources, options, folder / "first")
    assert {path: path.read_bytes() for path in (folder / "first").glob("*.jsonl")} == kept, "something is measured again"
    fresh = evaluation.run(workshop.loaded, sources, options, None)
    assert any(isinstance(block, Table) for block in [*first.blocks, *(b for part in first.parts for b in part.blocks)])
    assert first.table() == second.table()
    assert _without_times(first.to_dict()) == _without_times(fresh.to_dict())
    first.save(folder / "first")
    assert {f"{first.name}.html", f"{first.name}.json"} <= {path.name for path in (folder / "first").iterdir()}
    assert first.name == evaluation.name
    patterns = [*Report.files(evaluation.name), *evaluation.files]  # these files of a user are not replaced
    for path in (folder / "first").iterdir():
        assert any(fnmatch.fnmatchcase(path.name, pattern) for pattern in patterns), path.name


def _without_times(plain: dict[str, object]) -> dict[str, object]:
    """Tables hold times; the facts of an evaluation do not."""
    return {name: value for name, value in plain.items() if name != "tables"}


def cases_can_be_timed(workshop: Workshop) -> None:
    cases = workshop.system.cases(workshop.loaded)
    assert len({case.name for case in cases}) == len(cases), "two cases of one name"
    for case in cases[1:]:
        case.act()
    report = bench(cases[:1], workshop.system.title, workshop.loaded.device, repeats=1)
    assert [timing.name for timing in report.timings] == [case.name for case in cases[:1]]


def artifacts_are_made_and_found_again(workshop: Workshop, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second run of the same command trains nothing, adds no measurement and gives the same report.

    Only planned models are trained: those of `Artifact.trainings`.
    """
    for name, artifact in workshop.system.artifacts.items():
        lab = workshop.lab(artifact.scales["tiny"], folder)
        used: list[AnyTrainConfig] = []
        monkeypatch.setattr(lab, "trained", partial(_watched, lab.trained, used))
        first = artifact.make(lab)
        planned = [_essence(config) for config in artifact.trainings(artifact.scales["tiny"]).values()]
        assert all(_essence(config) in planned for config in used), name
        assert first.name == name
        shown = [*first.blocks, *(block for part in first.parts for block in part.blocks)]
        assert any(block.rows if isinstance(block, Table) else isinstance(block, Figure | Gallery) for block in shown), name
        first.save(folder)
        lab = workshop.lab(artifact.scales["tiny"], folder)
        monkeypatch.setattr(lab, "_train", lambda *args: pytest.fail("trained again"))
        before = content(folder / JOURNAL)
        assert _without_times(artifact.make(lab).to_dict()) == _without_times(first.to_dict()), name
        assert content(folder / JOURNAL) == before, name


def _watched(trained: Callable[..., Path], used: list[AnyTrainConfig], config: AnyTrainConfig, **options: Any) -> Path:
    used.append(config)
    return trained(config, **options)


def _essence(config: AnyTrainConfig) -> object:
    """The settings of a training that depend neither on the data nor on the seed."""
    plain = to_dict(config)
    model = {name: value for name, value in plain["model"].items() if name != "classes"}
    objective = {name: value for name, value in plain["objective"].items() if name != "code_from"}
    return plain["recipe"], model, objective, plain["optim"]["lr"]


def content(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def a_loaded_model_describes_itself(workshop: Workshop) -> None:
    loaded = workshop.loaded
    assert loaded.name
    assert len(loaded.model_id) == 64
    assert loaded.precision in ("float32", "bfloat16")
    assert str(loaded.device) == "cpu"
    shown = repr(loaded)
    assert shown.startswith(f"{type(loaded).__name__}({loaded.name}, weights {loaded.model_id[:12]}, cpu")
    assert len(shown.splitlines()) == 1
    assert len(shown) < 160


PROMISES = (
    members_are_there,
    settings_mean_something,
    misspelled_settings_are_refused,
    every_recipe_builds,
    gradients_reach_every_parameter,
    training_lowers_the_loss,
    samples_are_no_inputs,
    a_stopped_run_ends_with_the_same_bits,
    training_needs_few_packages,
    a_saved_model_gives_the_same_results,
    odd_images_are_handled_or_refused,
    an_evaluation_is_deterministic,
    cases_can_be_timed,
    artifacts_are_made_and_found_again,
    a_loaded_model_describes_itself,
)
