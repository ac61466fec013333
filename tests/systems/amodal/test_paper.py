"""Jang et al. 2020: a total of every objective by hand, the constants of the paper, golden numbers of FCN and ASN."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.paper_values import OURS, filled, flat, typed
from torch import Tensor, nn

from latens.codes import vq
from latens.codes.vq import VectorQuantizer
from latens.data.instances import Layers, scene_of
from latens.data.masks import crop
from latens.metrics.instances import DEGREES, MATCHED, MAX_DETECTIONS, average_precision
from latens.systems.amodal import evaluate, heads, objective, order, pipeline
from latens.systems.amodal.config import AmodalConfig, BackboneConfig, DetectorConfig, HeadConfig, LossConfig, MaskCodeConfig
from latens.systems.amodal.heads import CodeHead, FcnHead, MaskPrediction, OcclusionBranch, OcclusionClassifier, ShapeCodeModule
from latens.systems.amodal.model import MaskAutoencoder, MaskCode, code_loss
from latens.systems.amodal.objective import AmodalObjective
from latens.systems.amodal.pipeline import AmodalRCNN, Regions, Training
from latens.systems.amodal.recipes import paper
from latens.systems.amodal.tables import TABLE_1, TABLE_2, TABLE_3
from latens.systems.amodal.variants import VARIANTS

LN2, LN3 = math.log(2), math.log(3)  # a logit of log 3 is a probability of 3/4
SURE, UNSURE = math.log(4 / 3), math.log(4)  # cross-entropies of that probability for the labels 1 and 0

# ------------------------------------------------------------------------------------------------------------ totals


class FixedCode(nn.Module):
    """Mask code of every region: codewords 1 and 0, of three."""

    def encode(self, mask: Tensor) -> Tensor:
        return torch.tensor([[[1, 0]]]).expand(len(mask), 1, 2)


class FixedPipeline(nn.Module):
    """Outputs of the pipeline for one image of 2 x 2 pixels with one object of class 1, hidden at the upper right."""

    def __init__(self, hidden: float | None = None) -> None:
        super().__init__()
        self.code = FixedCode()
        self.hidden = hidden

    def forward(self, image: Tensor, truth: object) -> Training:
        mask = torch.tensor([[[[-9.0, 9.0], [9.0, -9.0]], [[LN3, 0.0], [0.0, LN3]]]])  # the channel of class 0 is wrong
        code = torch.tensor([[[[0.0, -LN3]], [[LN3, 0.0]], [[0.0, 0.0]]]])  # (R, K, M, M): 1, 3, 1, 2
        regions = Regions(
            boxes=torch.zeros(1, 4),
            label=torch.tensor([1]),
            prediction=MaskPrediction(mask, code, True),
            visible=torch.tensor([[[LN3, LN3], [0.0, 0.0]]]),
            hidden=None if self.hidden is None else torch.tensor([LN3]),
            amodal_target=torch.ones(1, 2, 2),
            mask_target=torch.tensor([[[1.0, 0.0], [0.0, 0.0]]]),
            visible_target=torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]),
            hidden_target=torch.tensor([self.hidden or 0.0]),
        )
        fine, coarse = torch.tensor([[[0.0, LN3], [0.0, 0.0]]]), torch.tensor([[[LN3]]])
        return Training(torch.tensor(0.25), torch.tensor(0.5), [fine, coarse], regions)


def batch() -> dict[str, Tensor]:
    return {
        "image": torch.zeros(1, 3, 2, 2),
        "owner": torch.tensor([0]),
        "label": torch.tensor([1]),
        "amodal": torch.tensor([[[1, 1], [1, 0]]]),
        "visible": torch.tensor([[[1, 0], [1, 0]]]),
    }


def by_hand() -> dict[str, float]:
    """L_p, L_d, L_o (mean of two levels), L_e (sum over K, mean over two cells), L_r of class 1, and visible masks."""
    fine = (3 * LN2 + SURE) / 4
    coarse = 0.25 * SURE + 0.75 * UNSURE  # a quarter of its area is hidden
    return {
        "proposals": 0.25,
        "detection": 0.5,
        "occlusion": (fine + coarse) / 2,
        "codewords": ((2 * LN2 + SURE) + (2 * LN2 + UNSURE)) / 2,
        "mask": (SURE + 2 * LN2 + UNSURE) / 4,
        "visible": (SURE + UNSURE + 2 * LN2) / 4,
    }


def test_the_total_of_section_4_3() -> None:
    """L_p + alpha L_d + beta L_o + gamma L_e + delta L_r, alpha = gamma = delta = 1, beta = 0.01; and our visible masks."""
    (step,) = AmodalObjective(paper().objective, FixedPipeline(), 0)(FixedPipeline(), batch(), 0)  # type: ignore[arg-type]
    terms = by_hand()
    assert float(step.loss) == pytest.approx(sum(terms.values()) - 0.99 * terms["occlusion"], rel=1e-6)
    weights = LossConfig(detection=2, occlusion=3, code=5, refinement=7, visible=11)
    (step,) = AmodalObjective(weights, FixedPipeline(), 0)(FixedPipeline(), batch(), 0)  # type: ignore[arg-type]
    factors = (1, 2, 3, 5, 7, 11)
    assert float(step.loss) == pytest.approx(sum(f * v for f, v in zip(factors, terms.values(), strict=True)), rel=1e-6)


@pytest.mark.parametrize(("hidden", "expected"), [(0.06, 8 * SURE), (0.04, UNSURE)])
def test_the_total_of_asn(hidden: float, expected: float) -> None:
    """Occluded objects (more than 5 % hidden) have eight times the weight in ASN's classification."""
    model = FixedPipeline(hidden)
    (step,) = AmodalObjective(paper().objective, model, 0)(model, batch(), 0)  # type: ignore[arg-type]
    terms = by_hand()
    assert float(step.loss) == pytest.approx(sum(terms.values()) - 0.99 * terms["occlusion"] + expected, rel=1e-6)


def test_the_total_of_eq_1() -> None:
    """Cross-entropy + |e - e_hat|^2 + beta |E(x) - e_hat|^2, as means; gradients go to the codebook and to the encoder."""
    quantizer = VectorQuantizer(2, 2, 0.25, decay=0.0).eval()
    with torch.no_grad():
        quantizer.codebook.copy_(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    latent = torch.tensor([0.2, 0.4]).view(1, 2, 1, 1).requires_grad_()
    found = quantizer(latent)
    total = code_loss(MaskCode(torch.full((1, 1, 1, 1), LN3), found.indices, found.loss), torch.ones(1, 1, 1, 1))
    total.backward()
    assert float(total.detach()) == pytest.approx(SURE + 0.1 + 0.25 * 0.1, rel=1e-6)
    assert latent.grad is not None
    assert latent.grad.flatten().tolist() == pytest.approx([0.05, 0.1])  # 0.25 (e - e_hat)
    assert quantizer.codebook.grad is not None
    assert quantizer.codebook.grad[0].tolist() == pytest.approx([-0.2, -0.4])  # e_hat - e
    averaged = VectorQuantizer(2, 2, 0.25, decay=0.9).eval()
    averaged.codebook.copy_(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    assert float(averaged(latent).loss.detach()) == pytest.approx(0.25 * 0.1)  # the averages replace the codebook term


def test_moving_averages_of_the_codebook() -> None:
    """van den Oord et al. 2017, appendix A.1: N = g N + (1 - g) n, m = g m + (1 - g) sum e, e_k = m / N."""
    quantizer = VectorQuantizer(2, 1, decay=0.75, revive=False).train()
    quantizer.seen.fill_(1)  # after the placement by k-means
    quantizer.codebook.copy_(torch.tensor([[0.0], [1.0]]))
    quantizer.sums.copy_(torch.tensor([[0.0], [1.0]]))
    quantizer(torch.tensor([0.1, 0.3, 0.2, 1.4]).view(4, 1, 1))
    first = (0.25 * 0.6) / (0.75 + 0.25 * 3)
    second = (0.75 + 0.25 * 1.4) / (0.75 + 0.25)
    assert quantizer.codebook.flatten().tolist() == pytest.approx([first, second], rel=1e-3)
    assert quantizer.popularity.tolist() == pytest.approx([0.95 + 0.05 * 3 / 2, 0.95 + 0.05 / 2])


# ------------------------------------------------------------------------------------------------- targets, gradients

SMALL = AmodalConfig(
    classes=("a", "b"),
    size=64,
    code=MaskCodeConfig(size=28, codewords=4, width=4, channels=4, delay=0),
    backbone=BackboneConfig(width=4, pyramid=8),
    detector=DetectorConfig(proposals=16, rpn_samples=16, roi_samples=16, box_hidden=8, anchors=(16, 24, 32, 48, 64)),
    head=HeadConfig(channels=8, dense=2, occlusion_channels=4, asn=True),
)


def test_targets_are_whole_masks_except_for_the_visible_head() -> None:
    torch.manual_seed(0)
    amodal = torch.zeros(1, 64, 64)
    amodal[:, 8:48, 8:56] = 1
    visible = amodal.clone()
    visible[:, :, 40:] = 0  # a third is hidden
    truth = pipeline.Truth(torch.tensor([0]), torch.tensor([1]), amodal, visible)
    found = AmodalRCNN(SMALL).train()(torch.rand(1, 3, 64, 64), truth)
    assert isinstance(found, Training)
    regions = found.regions
    assert regions is not None
    count = len(regions.boxes)
    every = (amodal.expand(count, -1, -1), visible.expand(count, -1, -1))
    torch.testing.assert_close(regions.mask_target, crop(every[0], regions.boxes, 28))
    torch.testing.assert_close(regions.amodal_target, crop(every[0], regions.boxes, 28))
    torch.testing.assert_close(regions.visible_target, crop(every[1], regions.boxes, 28))
    assert (regions.mask_target - regions.visible_target).sum() > 10
    assert regions.hidden_target.tolist() == pytest.approx([1 / 3] * count)
    assert regions.label.tolist() == [1] * count


def test_refinement_trains_the_code_head() -> None:
    torch.manual_seed(0)
    config = HeadConfig(channels=8, dense=2)
    module, code = ShapeCodeModule(5, 2, config, SMALL.code), MaskAutoencoder(SMALL.code)
    module(torch.randn(2, 5, 14, 14), code).mask.square().sum().backward()
    gradient = module.head.dense.weight.grad
    assert gradient is not None
    assert float(gradient.abs().max()) > 1e-4


# ---------------------------------------------------------------------------------------------------------- baselines


FCN_GOLDEN = -0.1828417
ASN_GOLDEN = [0.2671512, 0.5717578, -0.2384495]  # amodal and visible mask, classification


def correlated(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, stride: int = 1) -> np.ndarray:
    """A convolution (C, h, w) -> (D, h', w') with zero padding, in numpy."""
    margin = weight.shape[2] // 2
    padded = np.pad(x, ((0, 0), (margin, margin), (margin, margin)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, weight.shape[2:], axis=(1, 2))[:, ::stride, ::stride]
    found: np.ndarray = np.einsum("chwij,dcij->dhw", windows, weight) + bias[:, None, None]
    return found


def layers(module: nn.Module) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Weight and bias of every layer of a module, in order."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.Linear | nn.ConvTranspose2d):
            assert part.bias is not None
            yield part.weight.detach().double().numpy(), part.bias.detach().double().numpy()


def test_fcn_of_mask_rcnn() -> None:
    """Four 3 x 3 convolutions, an enlargement and a 1 x 1 convolution (He et al. 2017, Fig. 4 right); here at 14 x 14."""
    head = filled(FcnHead(3, 2, HeadConfig(mask="fcn", channels=4, dense=0, resolution=14)))
    assert sum(isinstance(part, nn.Conv2d) for part in head.body.modules()) == 4
    region = torch.sin(torch.arange(3 * 14 * 14.0)).view(1, 3, 14, 14)
    x = region[0].double().numpy()
    for weight, bias in layers(head.body):
        x = np.maximum(correlated(x, weight, bias), 0)
    ((weight, bias),) = layers(head.last)
    found = head(region)
    np.testing.assert_allclose(found.mask[0].detach().numpy(), correlated(x, weight, bias), rtol=1e-4, atol=1e-5)
    assert found.code is None
    assert found.direct
    whole = filled(FcnHead(3, 2, HeadConfig(mask="fcn", channels=4, dense=2)))
    assert float(whole(region).mask.detach().double().mean()) == pytest.approx(FCN_GOLDEN, rel=1e-4)


def test_classification_of_asn() -> None:
    """Qi et al. 2019: a convolution, a hidden layer and one logit from the region features of the boxes."""
    head = filled(OcclusionClassifier(3, 2, 5))
    region = torch.sin(torch.arange(3 * 49.0)).view(1, 3, 7, 7)
    early, logit = head(region)
    (first, hidden, last) = layers(head)
    x = np.maximum(correlated(region[0].double().numpy(), *first), 0)
    np.testing.assert_allclose(early[0].detach().numpy(), x, rtol=1e-4, atol=1e-5)
    expected = np.maximum(hidden[0] @ x.ravel() + hidden[1], 0) @ last[0][0] + last[1][0]
    assert float(logit.detach()) == pytest.approx(float(expected), rel=1e-4)
    asn = filled(AmodalRCNN(SMALL))
    pyramid = [torch.sin(torch.arange(12 * n * n * 1.0)).view(1, 12, n, n) for n in (16, 8, 4, 2, 1)]
    prediction, visible, partly = asn.segment(pyramid, [torch.tensor([[4.0, 4.0, 40.0, 52.0]])])
    assert partly is not None
    golden = [float(one.detach().double().mean()) for one in (prediction.mask, visible, partly)]
    assert golden == pytest.approx(ASN_GOLDEN, rel=1e-3)


# ----------------------------------------------------------------------------------------------------------- protocol


@pytest.mark.parametrize(
    ("hidden", "degree"), [(0, "free"), (1, "partly hidden"), (4, "partly hidden"), (5, "mostly hidden"), (6, "mostly hidden")]
)
def test_degrees_of_occlusion(hidden: int, degree: str) -> None:
    """An object of 20 pixels, of which `hidden` are hidden, is scored in one degree: 5 % and 25 % are the limits."""
    amodal = np.zeros((1, 8, 8), bool)
    amodal[0, :5, :4] = True
    visible = amodal.copy()
    visible[0].ravel()[np.flatnonzero(amodal)[:hidden]] = False
    scene = scene_of(Layers(amodal, visible, np.zeros(1, int), np.zeros(1, int)), scores=[0.9])
    scored = {name for name, bounds in DEGREES.items() if average_precision([scene], [scene], 1, degree=bounds).ap == 1}
    assert scored == {degree}


# ---------------------------------------------------------------------------------------------------------- constants

PAPER = {
    "system": ("amodal", "this system"),
    "recipe": ("paper", "this recipe"),
    "model.kind": ("rcnn", "section 4.1: Mask R-CNN"),
    "model.classes": ((), "those of the data"),
    "model.size": (3008, "Qi et al. 2019: at most 3000; a multiple of 32"),
    "model.short_side": (800, "Qi et al. 2019"),
    "model.code.size": (56, OURS),
    "model.code.grid": (7, OURS),
    "model.code.codewords": (128, OURS),
    "model.code.width": (32, OURS),
    "model.code.channels": (32, OURS),
    "model.code.commitment": (0.25, "Eq. 1: beta"),
    "model.code.decay": (0.99, OURS),
    "model.code.delay": (50, OURS),
    "model.backbone.kind": ("resnet50", OURS),
    "model.backbone.norm": ("group", OURS),
    "model.backbone.width": (32, OURS),
    "model.backbone.pyramid": (256, "Lin et al. 2017"),
    "model.detector.proposals": (1000, "He et al. 2017, section 3.1"),
    "model.detector.rpn_samples": (256, "Ren et al. 2015, section 3.1.3"),
    "model.detector.roi_samples": (512, "He et al. 2017, section 3.1"),
    "model.detector.box_hidden": (1024, "Lin et al. 2017"),
    "model.detector.nms": (0.5, "He et al. 2017"),
    "model.detector.detections": (100, "He et al. 2017, section 3.1"),
    "model.detector.smallest_score": (0.05, "He et al. 2017"),
    "model.detector.anchors": ((32, 64, 128, 256, 512), "Lin et al. 2017, section 4.1"),
    "model.head.mask": ("vq", "section 4.2"),
    "model.head.refine": (True, "section 4.2, Eq. 4"),
    "model.head.occlusion": (True, "section 4.1, Eq. 2"),
    "model.head.asn": (False, "Table 2, first row"),
    "model.head.resolution": (28, "He et al. 2017, Fig. 4"),
    "model.head.channels": (256, "He et al. 2017, Fig. 4"),
    "model.head.dense": (64, OURS),
    "model.head.occlusion_channels": (256, OURS),
    "data.batch": (16, OURS),
    "data.validation": (200, OURS),
    "data.validation_share": (0.15, OURS),
    "data.test_share": (0.15, OURS),
    "data.smallest": (1, "no object is dropped"),
    "data.rotate": (False, OURS),
    "objective.detection": (1.0, "section 4.3: alpha"),
    "objective.occlusion": (0.01, "section 4.3: beta"),
    "objective.code": (1.0, "section 4.3: gamma"),
    "objective.refinement": (1.0, "section 4.3: delta"),
    "objective.visible": (1.0, OURS),
    "objective.code_steps": (10_000, OURS),
    "objective.code_batch": (256, OURS),
    "objective.code_from": ("", OURS),
    "objective.backbone_from": ("", "no file"),
    "optim.lr": (2e-4, OURS),
    "optim.warmup": (1000, OURS),
    "optim.decay_share": (0.25, OURS),
    "optim.clip": (10.0, OURS),
    "optim.ema": (0.0, OURS),
    "optim.kind": ("adam", OURS),
    "optim.beta1": (0.9, OURS),
    "run.steps": (100_000, OURS),
    "run.seed": (0, OURS),
    "run.precision": ("bf16", OURS),
    "run.log_every": (100, OURS),
    "run.validate_every": (5000, OURS),
    "run.checkpoint_every": (2000, OURS),
    "run.keep": (2, OURS),
}


def test_every_value_of_the_recipe() -> None:
    assert flat(paper()) == typed(PAPER)


def test_constants_of_the_modules() -> None:
    assert (objective.HIDDEN, objective.ASN_WEIGHT) == (0.05, 8.0)  # ours; Qi et al. 2019
    assert (order.SCORE_THRESHOLD, evaluate.MIN_SCORE) == (0.5, 0.05)  # ours; He et al. 2017
    assert (MATCHED, MAX_DETECTIONS) == (0.5, 100)  # Lin et al. 2014
    assert (heads.BOX_REGION, heads.SAMPLES, heads.CANONICAL) == (7, 2, 224)  # He et al. 2017; Lin et al. 2017, Eq. 1
    assert (pipeline.STRIDES, pipeline.VISIBLE_GRID) == ((4, 8, 16, 32), 28)
    assert (vq.ALIVE, vq.PATIENCE, vq.KMEANS_STEPS, vq.SMOOTHING) == (0.05, 0.95, 10, 1e-5)  # ours; van den Oord et al. 2017
    network = AmodalRCNN(replace(SMALL, head=replace(SMALL.head, asn=False)))
    matcher = network.rpn.proposal_matcher
    assert (matcher.high_threshold, matcher.low_threshold, network.rpn.nms_thresh) == (0.7, 0.3, 0.7)  # Ren et al. 2015
    assert network.rpn.fg_bg_sampler.positive_fraction == 0.5  # Ren et al. 2015
    own = network.boxes
    assert (own.proposal_matcher.high_threshold, own.fg_bg_sampler.positive_fraction) == (0.5, 0.25)  # He et al. 2017
    assert (own.score_thresh, own.nms_thresh) == (0.05, 0.5)
    assert sum(isinstance(part, nn.Conv2d) for part in OcclusionBranch(8, 4).modules()) == 4  # section 4.1
    head = CodeHead(8, SMALL.head, SMALL.code)
    kinds = [type(part) for part in head.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    assert kinds == [nn.Conv2d] * 3 + [nn.Linear]  # section 4.2: three convolutions and one fully connected layer
    assert float(head.dense.bias[0].detach().sigmoid()) == pytest.approx(1 / 4)  # 1 / K


def test_numbers_of_the_tables() -> None:
    """Tables 1 to 3 of the paper."""
    printed = {row.variant: row.printed for row in TABLE_1 if not math.isnan(row.printed)}
    assert printed == {"fcn-plain": 66.5, "vq": 68.2}
    assert {row.variant: row.printed for row in TABLE_2} == {"fcn": 29.3, "vq": 30.3, "asn-fcn": 31.1, "asn-vq": 31.5}
    assert {row.variant: row.printed for row in TABLE_3} == {"vq-alone": 28.1, "vq-refined": 29.8, "vq": 30.3}
    heads_of = {name: change(paper().model.head) for name, change in VARIANTS.items()}
    assert {name for name, head in heads_of.items() if head.mask == "vq"} == {"vq", "asn-vq", "vq-alone", "vq-refined"}
    assert {name for name, head in heads_of.items() if head.asn} == {"asn-fcn", "asn-vq"}
    assert {name for name, head in heads_of.items() if head.occlusion} == {"vq", "asn-vq"}  # section 4.1 belongs to ours
    assert {name for name, head in heads_of.items() if head.mask == "vq" and not head.refine} == {"vq-alone"}
