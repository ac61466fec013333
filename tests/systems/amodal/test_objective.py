"""Validation, sample sheets and export of the loss with a detector whose masks are rectangles, so all numbers are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from latens.data.instances import Layers
from latens.settings import to_dict
from latens.systems.amodal.config import BackboneConfig, DetectorConfig, HeadConfig, LossConfig, MaskCodeConfig
from latens.systems.amodal.draw import overlay
from latens.systems.amodal.model import MaskCode, code_loss
from latens.systems.amodal.objective import AmodalObjective, binary_iou, found_layers, occlusion_loss
from latens.systems.amodal.pipeline import AmodalRCNN, Detections, Truth
from latens.systems.amodal.recipes import tiny

from .test_paper import FixedPipeline, by_hand
from .test_paper import batch as pipeline_batch

SIDE = 8


def rectangle(x0: int, y0: int, x1: int, y1: int) -> Tensor:
    mask = torch.zeros(SIDE, SIDE)
    mask[y0:y1, x0:x1] = 1
    return mask


class HalfCode(nn.Module):
    """A code whose reconstructions cover the left half, and whose indices are 0 and 1 of four codewords."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.config = SimpleNamespace(size=2, codewords=4)
        self.encoded: list[Tensor] = []

    def encode(self, mask: Tensor) -> Tensor:
        self.encoded.append(mask)
        return torch.tensor([[[0, 1]]]).expand(len(mask), 1, 2)

    def decode(self, indices: Tensor) -> Tensor:
        return torch.tensor([[3.0, -3.0], [3.0, -3.0]]).expand(len(indices), 1, 2, 2)


class Rectangles(nn.Module):
    """A detector that returns given boxes (x0, y0, x1, y1, score) for the images in order, with masks that fill them."""

    def __init__(self, boxes: Sequence[Sequence[tuple[float, ...]]], code: bool = True) -> None:
        super().__init__()
        self.code = HalfCode() if code else None
        self.config = SimpleNamespace(code=SimpleNamespace(size=2, codewords=4))
        self.boxes, self.seen = boxes, 0

    def detect(self, image: Tensor) -> list[Detections]:
        found = []
        for rows in self.boxes[self.seen : self.seen + len(image)]:
            values = torch.tensor(rows).view(-1, 5)
            full = torch.ones(len(values), 28, 28)
            labels = torch.arange(len(values)) % 2
            found.append(Detections(values[:, :4], values[:, 4], labels, full, full, None))
        self.seen += len(image)
        return found

    def forward(self, image: Tensor, truth: Truth | None) -> MaskCode:
        assert truth is None
        assert self.code is not None
        logits = 3 * image.sign() * self.code.scale
        return MaskCode(logits, torch.tensor([[[0, 1]]]), torch.tensor(0.5))


def batch(*images: list[Tensor]) -> dict[str, Tensor]:
    """Images with fully visible objects of class 0."""
    masks = [mask for objects in images for mask in objects]
    owner = [number for number, objects in enumerate(images) for _ in objects]
    stacked = torch.stack(masks) if masks else torch.zeros(0, SIDE, SIDE)
    return {
        "image": torch.linspace(0, 1, len(images) * 3 * SIDE * SIDE).view(-1, 3, SIDE, SIDE),
        "owner": torch.tensor(owner, dtype=torch.long),
        "label": torch.zeros(len(masks), dtype=torch.long),
        "amodal": stacked,
        "visible": stacked,
    }


def loss(model: nn.Module, code_steps: int = 0) -> AmodalObjective:
    return AmodalObjective(LossConfig(), model, code_steps)  # type: ignore[arg-type]


TWO_BATCHES = [
    batch([rectangle(0, 0, 4, 4), rectangle(6, 6, 8, 8)], [rectangle(2, 2, 8, 8)]),
    batch([]),
    batch([rectangle(0, 0, 8, 2)]),
]
FOUND = [
    [(0.0, 0.0, 4.0, 4.0, 0.9), (6.0, 6.0, 8.0, 8.0, 0.4)],  # the second is too uncertain: one object is missed
    [(2.0, 2.0, 8.0, 6.0, 0.5), (0.0, 0.0, 2.0, 2.0, 0.8)],  # an IoU of 2/3, and a false one
    [(4.0, 4.0, 8.0, 8.0, 0.7)],  # false
    [(0.0, 0.0, 8.0, 2.0, 1.0)],
]


def test_validation_by_hand() -> None:
    """Panoptic quality (1 + 2/3 + 1) / (3 matched + (1 missed + 2 false) / 2), and the code of four masks."""
    model: Any = Rectangles(FOUND)
    numbers = loss(model).validate(model, TWO_BATCHES)
    quality = (1 + 2 / 3 + 1) / (3 + (1 + 2) / 2)
    expected = {"loss": 1 - quality, "missed": 1, "false": 2, "code_iou": 0.5, "used": 0.5, "perplexity": 2.0}
    assert numbers == pytest.approx(expected)
    assert [one.shape for one in model.code.encoded] == [(3, 1, 2, 2), (1, 1, 2, 2)]  # crops of tight boxes
    assert all(one.min() == 1 for one in model.code.encoded)
    plain: Any = Rectangles(FOUND, code=False)
    assert loss(plain).validate(plain, TWO_BATCHES) == pytest.approx({"loss": 1 - quality, "missed": 1, "false": 2})


def test_the_code_chooses_weights_where_nothing_is_detected() -> None:
    """A panoptic quality of 0: the loss is 1 + (1 - IoU of the reconstructed masks)."""
    model: Any = Rectangles([[], []])
    numbers = loss(model).validate(model, TWO_BATCHES[:1])
    assert (numbers["loss"], numbers["missed"], numbers["false"]) == (1.5, 3, 0)


def test_sheet_of_four_images() -> None:
    """Detections above, truth below, four images side by side."""
    truth = batch(*([rectangle(n, 0, n + 4, 5)] for n in (0, 1, 2, 3, 4)))
    truth["visible"] = truth["amodal"].clone()
    truth["visible"][:, :, 6:] = 0
    truth["label"] = torch.tensor([0, 1, 0, 1, 0])
    boxes = [[(float(n), 0.0, n + 4.0, 4.0, 0.9), (0.0, 5.0, 3.0, 8.0, 0.2)] for n in (0, 1, 2, 3, 4)]
    model: Any = Rectangles(boxes)
    sheet = loss(model).images(model, [truth, batch([])])["found"]
    assert sheet.shape == (2 * SIDE, 4 * SIDE, 3)
    for number in range(4):
        pixels = np.rint(255 * truth["image"][number].permute(1, 2, 0).numpy()).astype(np.uint8)
        amodal, visible = (truth[name][number : number + 1].numpy() > 0 for name in ("amodal", "visible"))
        box = rectangle(number, 0, number + 4, 4)[None].numpy() > 0
        zero = np.zeros(1, int)
        columns = slice(number * SIDE, (number + 1) * SIDE)
        np.testing.assert_array_equal(sheet[:SIDE, columns], overlay(pixels, Layers(box, box, zero, zero)))
        np.testing.assert_array_equal(sheet[SIDE:, columns], overlay(pixels, Layers(amodal, visible, zero, zero)))
    one: Any = Rectangles(boxes[:1])
    assert loss(one).images(one, [batch([rectangle(0, 0, 4, 4)])])["found"].shape == (2 * SIDE, SIDE, 3)


def test_found_layers_keep_confident_objects_in_depth_order() -> None:
    """Of two overlapping objects the one that is visible in the overlap is in front; scores below 1/2 are dropped."""
    full = torch.ones(3, 28, 28)
    visible = torch.stack([torch.full((28, 28), value) for value in (0.2, 0.9, 0.9)])
    boxes = torch.tensor([[0.0, 0.0, 6.0, 4.0], [3.0, 0.0, 8.0, 4.0], [0.0, 4.0, 8.0, 8.0]])
    found = Detections(boxes, torch.tensor([0.9, 0.5, 0.49]), torch.tensor([3, 5, 7]), full, visible, None)
    layers = found_layers(found, (SIDE, SIDE))
    assert layers.category.tolist() == [3, 5]
    assert layers.layer.tolist() == [1, 0]
    np.testing.assert_array_equal(layers.amodal[0], rectangle(0, 0, 6, 4).numpy() > 0)
    np.testing.assert_array_equal(layers.visible[0], rectangle(0, 0, 3, 4).numpy() > 0)
    np.testing.assert_array_equal(layers.visible[1], rectangle(3, 0, 8, 4).numpy() > 0)


def test_the_first_stage_trains_the_code() -> None:
    model: Any = Rectangles([])
    objective = loss(model, code_steps=2)
    crops = torch.tensor([1.0, 1.0, 1.0, -1.0]).view(1, 1, 2, 2)  # signs: a mask with one empty cell
    (step,) = objective(model, {"crops": crops}, 1)
    found = model(crops, None)
    assert step.optimizer == "code"
    assert float(step.loss.detach()) == pytest.approx(float(code_loss(found, crops).detach()))
    assert {name: float(value) for name, value in step.logs.items()} == pytest.approx(
        {"code_iou": 1.0, "used": 0.5, "perplexity": 2.0}
    )
    assert model.code.scale.requires_grad
    assert {name: groups[0].prefixes for name, groups in objective.optimizers.items()} == {"code": ("code.",), "model": ()}
    assert set(loss(model).optimizers) == {"model"}
    with pytest.raises(AssertionError):  # the second stage has images and truth; the code is frozen before
        next(objective(model, batch([rectangle(0, 0, 4, 4)]), 2))
    assert not model.code.scale.requires_grad


def test_logs_have_the_weighted_terms_by_name() -> None:
    """Every loss of section 4.3 and of ASN, as it enters the total."""
    model: Any = FixedPipeline(0.06)
    weights = LossConfig(detection=2, occlusion=3, code=5, refinement=7, visible=11)
    (step,) = AmodalObjective(weights, model, 0)(model, pipeline_batch(), 0)
    factors = {"proposals": 1, "detection": 2, "occlusion": 3, "codewords": 5, "mask": 7, "visible": 11}
    expected = {name: factors[name] * value for name, value in by_hand().items()} | {"asn": 8 * np.log(4 / 3)}
    assert step.optimizer == "model"
    assert {name: float(value) for name, value in step.logs.items()} == pytest.approx(expected, rel=1e-6)


SMALL = replace(
    tiny().model,
    classes=("a", "b"),
    size=64,
    code=MaskCodeConfig(size=28, codewords=4, width=4, channels=4, delay=0),
    backbone=BackboneConfig(width=4, pyramid=8),
    detector=DetectorConfig(proposals=8, rpn_samples=8, roi_samples=8, box_hidden=8),
    head=HeadConfig(channels=8, dense=2, occlusion_channels=4, resolution=56),
)


def test_optimizers_and_export_of_the_pipeline() -> None:
    model = AmodalRCNN(SMALL).eval()
    prefixes = loss(model).optimizers["model"][0].prefixes
    assert "code." not in prefixes
    assert all(any(name.startswith(("code.", *prefixes)) for name in (full,)) for full, _ in model.named_parameters())
    assert {"backbone.", "rpn.", "box_scores.", "box_deltas.", "mask.", "visible.", "occlusion."} <= set(prefixes)
    found = loss(model).export(model, [])
    assert (found.coding, found.config) == ({}, {"model": to_dict(SMALL)})
    assert {tensor.dtype for name, tensor in found.weights.items() if name.endswith("weight")} == {torch.float16}
    assert found.weights.keys() == model.state_dict().keys()


@pytest.mark.parametrize(
    ("mask", "refine", "side"), [("vq", True, 56), ("vq", False, 28), ("fcn", True, 56), ("fcn", False, 56)]
)
def test_images_without_detections(mask: Any, refine: bool, side: int) -> None:
    """Empty results have the shapes and types of full ones."""
    model = AmodalRCNN(replace(SMALL, head=replace(SMALL.head, mask=mask, refine=refine, occlusion=False))).eval()
    full = model._detections(
        [torch.rand(1, 8, n, n) for n in (16, 8, 4, 2, 1)],
        0,
        torch.tensor([[2.0, 2.0, 40.0, 50.0]]),
        torch.ones(1),
        torch.ones(1).long(),
    )
    empty = model._no_detections(torch.zeros(0, 4))
    for name in Detections._fields:
        some, none = getattr(full, name), getattr(empty, name)
        assert (some is None) == (none is None), name
        if some is not None:
            assert (none.dtype, tuple(none.shape)) == (some.dtype, (0, *some.shape[1:])), name
    assert empty.mask.shape[1:] == (side, side)


def test_the_occlusion_target_is_the_union_of_hidden_parts() -> None:
    """Two objects of image 1 hide parts that overlap; image 0 has none. Logits of log 3 cost log 4/3 or log 4."""
    amodal = torch.stack([rectangle(0, 0, 8, 4), rectangle(0, 0, 8, 4)])
    visible = torch.stack([rectangle(0, 0, 8, 2), rectangle(0, 0, 4, 4)])
    truth = Truth(torch.tensor([1, 1]), torch.tensor([0, 0]), amodal, visible)
    logits = torch.full((2, SIDE, SIDE), float(np.log(3)))
    share = (16 + 16 - 8) / 128  # of the pixels of both images
    assert float(occlusion_loss([logits], truth, 2)) == pytest.approx(share * np.log(4 / 3) + (1 - share) * np.log(4))


def test_binary_iou_by_hand() -> None:
    found = torch.tensor([[[[1.0, 1.0], [-1.0, 0.0]]], [[[-1.0, -1.0], [-1.0, -1.0]]], [[[5.0, 5.0], [5.0, 5.0]]]])
    target = torch.tensor([[[[0.6, 0.5], [0.9, 0.1]]], [[[0.0, 0.0], [0.0, 0.0]]], [[[1.0, 1.0], [1.0, 1.0]]]])
    assert binary_iou(found, target).tolist() == pytest.approx([1 / 3, 0.0, 1.0])
