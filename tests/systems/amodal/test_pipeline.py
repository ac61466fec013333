"""All variants of the pipeline: gradients, determinism, losses by hand, two stages in one run."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from latens.catalogue import recipe_of
from latens.data.source import parse_source
from latens.errors import InputError, ModelError, UsageError
from latens.hub import load_model
from latens.settings import override
from latens.systems.amodal.batches import AmodalData
from latens.systems.amodal.config import AmodalConfig, HeadConfig, LossConfig
from latens.systems.amodal.dataset import common_classes, open_source
from latens.systems.amodal.objective import AmodalObjective, codeword_loss, mask_loss, occlusion_loss, truth_of
from latens.systems.amodal.pipeline import AmodalRCNN, Truth
from latens.systems.amodal.recipes import cpu, cpu_fcn, tiny
from latens.systems.amodal.system import build
from latens.training.run import train

BASE = tiny().model.head
VARIANTS = {
    "ours": BASE,
    "code only": replace(BASE, refine=False, occlusion=False),
    "refined": replace(BASE, occlusion=False),
    "fcn": replace(BASE, mask="fcn", occlusion=False, dense=0),
    "fcn dense": replace(BASE, mask="fcn", resolution=56),
    "asn fcn": replace(BASE, mask="fcn", asn=True),
    "asn ours": replace(BASE, asn=True),
}


def config(head: HeadConfig, classes: tuple[str, ...] = ("cell",)) -> AmodalConfig:
    return replace(tiny().model, head=head, classes=classes)


def batch(code_steps: int = 0) -> dict[str, torch.Tensor]:
    recipe = tiny()
    return AmodalData(
        [open_source(parse_source("simulated"))], config(BASE), recipe.data, code_steps, recipe.objective, 0
    ).batch(3, 0)


@pytest.mark.parametrize("head", VARIANTS.values(), ids=VARIANTS.keys())
def test_every_parameter_of_every_variant_receives_a_finite_gradient(head: HeadConfig) -> None:
    torch.manual_seed(0)
    sizes = config(head)
    model = AmodalRCNN(replace(sizes, detector=replace(sizes.detector, rpn_samples=1000)))  # every anchor of every level
    for module in model.modules():  # residual blocks start as the identity, with zero gradient in their inner layers
        if isinstance(module, torch.nn.GroupNorm) and not module.weight.any():
            torch.nn.init.ones_(module.weight)
    objective = AmodalObjective(LossConfig(), model, 0)
    (step,) = objective(model, batch(), 0)
    step.loss.backward()
    assert torch.isclose(step.loss, torch.stack([torch.as_tensor(term) for term in step.logs.values()]).sum())
    for name, parameter in model.named_parameters():
        if name.startswith("code."):
            assert parameter.grad is None, name  # frozen
            continue
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("head", VARIANTS.values(), ids=VARIANTS.keys())
def test_detection_is_deterministic_and_independent_of_the_batch(head: HeadConfig) -> None:
    torch.manual_seed(0)
    model = AmodalRCNN(config(head, ("a", "b"))).eval()
    image = torch.rand(2, 3, 64, 96)
    together = model.detect(image)
    for index in range(2):
        (alone,) = model.detect(image[index : index + 1])
        torch.testing.assert_close(alone.scores, together[index].scores, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(alone.mask, together[index].mask, rtol=1e-3, atol=1e-3)
        assert len(alone.boxes)
        assert set(alone.label.tolist()) <= {0, 1}
        assert (alone.code is None) == (head.mask == "fcn")
    model.boxes.score_thresh = 1.1
    (nothing,) = model.detect(image[:1])
    assert nothing.mask.shape[0] == nothing.visible.shape[0] == 0


def test_a_batch_without_objects_has_a_loss() -> None:
    torch.manual_seed(0)
    model = AmodalRCNN(config(BASE))
    empty = {
        "image": torch.rand(2, 3, 64, 64),
        "amodal": torch.zeros(0, 64, 64),
        "visible": torch.zeros(0, 64, 64),
        "label": torch.zeros(0, dtype=torch.long),
        "owner": torch.zeros(0, dtype=torch.long),
    }
    (step,) = AmodalObjective(LossConfig(), model, 0)(model, empty, 0)
    step.loss.backward()
    assert step.loss.isfinite()


def test_losses_by_hand() -> None:
    # Eq. 2: probability 1/2 everywhere costs log 2 for any label.
    truth = Truth(torch.tensor([1]), torch.tensor([0]), torch.ones(1, 8, 8), torch.zeros(1, 8, 8))
    assert float(occlusion_loss([torch.zeros(2, 4, 4), torch.zeros(2, 2, 2)], truth, 2)) == pytest.approx(math.log(2))
    certain = torch.stack((torch.full((4, 4), -20.0), torch.full((4, 4), 20.0)))  # all pixels of image 1 are hidden
    assert float(occlusion_loss([certain], truth, 2)) < 1e-6
    # Eq. 3: logits of 0 cost K log 2 per position.
    torch.manual_seed(0)
    model = AmodalRCNN(config(BASE))
    assert model.code is not None
    target = torch.rand(3, 28, 28)
    assert float(codeword_loss(torch.zeros(3, 16, 7, 7), target, model.code)) == pytest.approx(16 * math.log(2), rel=1e-5)
    right = F.one_hot(model.code.encode(target[:, None]), 16).movedim(-1, 1) * 40.0 - 20
    assert float(codeword_loss(right, target, model.code)) < 1e-5
    # Eq. 4: only the channel of the true class counts.
    logits = torch.stack((torch.full((2, 2), 20.0), torch.full((2, 2), -20.0)))[None]
    assert float(mask_loss(logits, torch.ones(1, 2, 2), torch.tensor([0]))) < 1e-6
    assert float(mask_loss(logits, torch.ones(1, 2, 2), torch.tensor([1]))) == pytest.approx(20, rel=1e-3)


def test_baseline_and_ours_have_equal_parameters() -> None:
    ours, baseline = (
        sum(p.numel() for p in AmodalRCNN(replace(recipe.model, classes=("cell",))).parameters())
        for recipe in (cpu(), cpu_fcn())
    )
    assert abs(baseline / ours - 1) < 0.05


def test_unknown_sources_and_other_classes_are_refused() -> None:
    embryos, shapes = (open_source(parse_source(word)) for word in ("simulated", "simulated:opaque"))
    assert common_classes([embryos, shapes], ()) == ("cell",)
    with pytest.raises(UsageError, match="classes"):
        common_classes([embryos], ("a", "b"))
    for word in ("nothing", "embryo", "coco:", "simulated:other", "simulated:", "kins"):
        with pytest.raises(UsageError):
            open_source(parse_source(word))
    with pytest.raises(InputError):
        open_source(parse_source("nuclei:nowhere"))


def run(folder: Path, changes: dict[str, str]) -> Path:
    train(build, override(recipe_of("amodal", "tiny"), changes), [], folder, device="cpu")
    return folder


def records(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_the_second_stage_freezes_the_code(tmp_path: Path) -> None:
    settings = {"run.steps": "24", "objective.code_steps": "12", "run.checkpoint_every": "6"}
    whole = run(tmp_path / "whole", settings)
    seen = [record for record in records(whole) if record["kind"] == "train"]  # type: ignore[comparison-overlap]
    assert "code_iou" in seen[0]
    assert "proposals" in seen[-1]
    middle, end = (load_file(whole / "checkpoints" / f"step-000000{step}" / "model.safetensors") for step in (18, 24))
    frozen = [name for name in middle if name.startswith("code.")]
    assert frozen
    assert all(torch.equal(middle[name], end[name]) for name in frozen)


@pytest.mark.slow
def test_a_code_of_another_run_can_be_used(tmp_path: Path) -> None:
    first = run(tmp_path / "first", {"run.steps": "4", "run.validate_every": "4", "objective.code_steps": "2"})
    settings = {"objective.code_from": str(first / "best"), "run.steps": "2", "run.validate_every": "2"}
    run(tmp_path / "second", settings)
    codes = [load_model(tmp_path / name / "best").weights for name in ("first", "second")]
    assert all(torch.equal(codes[0][name], codes[1][name]) for name in codes[0] if name.startswith("code."))
    with pytest.raises(ModelError, match="does not fit"):
        build(override(tiny(), {"objective.code_from": str(first / "best"), "model.code.codewords": "8"}), [])


def test_batches_contain_the_truth() -> None:
    found = truth_of(batch())
    assert found.amodal.shape == found.visible.shape
    assert len(found.owner) == len(found.label) == len(found.amodal)
    assert batch(code_steps=10).keys() == {"crops"}
