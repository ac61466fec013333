"""Golden numbers of the heads, the mask code and the backbone; compositions of Figs. 3 and 4."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.paper_values import filled, golden, waves
from torch import Tensor, nn

from latens.data.masks import crop
from latens.systems.amodal.config import AmodalConfig, BackboneConfig, DetectorConfig, HeadConfig, MaskCodeConfig
from latens.systems.amodal.heads import (
    CodeHead,
    FcnHead,
    MaskPrediction,
    MultiLevelCoding,
    OcclusionBranch,
    Refinement,
    ShapeCodeModule,
    VisibleHead,
    enlarge,
    pool_regions,
)
from latens.systems.amodal.model import MaskAutoencoder, mask_decoder, mask_encoder
from latens.systems.amodal.pipeline import AmodalRCNN, Backbone, ResNet50, Training, Truth, proposal_network

CODE = MaskCodeConfig(size=28, codewords=5, width=3, channels=4, delay=0)
HEAD = HeadConfig(channels=6, dense=2, occlusion_channels=4, resolution=28)
SIZES = AmodalConfig(
    classes=("a", "b"),
    size=64,
    code=CODE,
    backbone=BackboneConfig(width=4, pyramid=8),
    detector=DetectorConfig(proposals=16, rpn_samples=16, roi_samples=16, box_hidden=8, anchors=(16, 24, 32, 48, 64)),
    head=replace(HEAD, asn=True),
)


class Listed(nn.Module):
    """A network whose input is a list of maps."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *maps: Tensor) -> Any:
        return self.network(list(maps))


def tensors_of(found: Any) -> list[Tensor]:
    """All tensors of a result, in order."""
    if isinstance(found, Tensor):
        return [found]
    return [tensor for one in found if isinstance(one, Tensor | list | tuple) for tensor in tensors_of(one)]


NETWORKS: dict[str, tuple[Any, Any, list[float]]] = {
    "occlusion branch": (
        lambda: Listed(OcclusionBranch(4, 3)),
        ((1, 4, 6, 6), (1, 4, 3, 3)),
        [0.0950393, 0.0142521, 0.0925055, -0.0132504, 0.279028, 0.01551, 0.282787, 0.00590996],
    ),
    "code head": (lambda: CodeHead(3, HEAD, CODE), (2, 3, 14, 14), [0.00159479, 0.000138264]),
    "refinement": (
        lambda: Refinement(3, 2, replace(HEAD, resolution=56), CODE),
        ((2, 3, 14, 14), (2, 1, 28, 28)),
        [-0.109309, -0.000821796],
    ),
    "dense head": (lambda: FcnHead(3, 2, HEAD), (2, 3, 14, 14), [-0.221802, -0.000282109]),
    "visible head": (lambda: VisibleHead(3, 4), (2, 3, 14, 14), [0.29002, 0.000732838]),
    "fusion": (lambda: MultiLevelCoding(3, 4), ((1, 3, 14, 14), (1, 3, 7, 7), (1, 4, 7, 7)), [0.0634241, -0.00024579]),
    "mask encoder": (lambda: mask_encoder(CODE), (2, 1, 28, 28), [0.241833, -0.000225381]),
    "mask decoder": (lambda: mask_decoder(CODE), (2, 3, 7, 7), [-0.00695188, -0.0010531]),
    "mask encoder of three halvings": (lambda: mask_encoder(replace(CODE, size=56)), (1, 1, 56, 56), [0.285942, -0.0097363]),
    "mask decoder of three halvings": (lambda: mask_decoder(replace(CODE, size=56)), (2, 3, 7, 7), [-0.019212, 0.000210377]),
    "mask encoder of one halving": (lambda: mask_encoder(replace(CODE, size=14)), (2, 1, 14, 14), [0.226023, 0.0013031]),
    "mask decoder of one halving": (lambda: mask_decoder(replace(CODE, size=14)), (2, 3, 7, 7), [0.00547205, -0.00522175]),
    "backbone": (
        lambda: Backbone(SIZES.backbone),
        (1, 3, 64, 64),
        [-0.0212083, -0.00220512, 0.0344039, -0.0110078, -0.0105241, 0.0059152, -0.0312587, -0.0397521, -0.0400151, 0.0919851],
    ),
    "pyramid and heads": (
        lambda: Whole(),
        (1, 3, 64, 64),
        [
            0.0769118,
            0.00172261,
            0.0424927,
            0.00648401,
            0.0581275,
            0.00024149,
            0.0816353,
            0.0725324,
            0.0860152,
            -0.0972421,
            -0.524614,
            -0.00256589,
            -0.528037,
            0.0145963,
            -0.53518,
            0.0296912,
            -0.534262,
            -0.411649,
            -0.502679,
            -0.502679,
            0.233885,
            -0.00057882,
            -0.00200401,
            -2.58062e-06,
            0.587376,
            0.00117127,
            -0.264626,
            -0.256029,
        ],
    ),
}


class Whole(nn.Module):
    """Pyramid, occlusion logits, and masks of two boxes, of a pipeline with every head."""

    def __init__(self) -> None:
        super().__init__()
        self.model = AmodalRCNN(SIZES)

    def forward(self, image: Tensor) -> Any:
        pyramid, occlusion = self.model.pyramid(image)
        boxes = [torch.tensor([[4.0, 4.0, 40.0, 52.0], [10.0, 0.0, 30.0, 20.0]])]
        return [*pyramid, *occlusion, self.model.segment(pyramid, boxes)]


@pytest.mark.parametrize("name", NETWORKS)
def test_golden_numbers_of_the_networks(name: str) -> None:
    """Outputs of fixed weights, measured once."""
    build, shapes, expected = NETWORKS[name]
    inputs = [waves(*shape) for shape in (shapes if isinstance(shapes[0], tuple) else (shapes,))]
    with torch.no_grad():
        found = tensors_of(filled(build())(*inputs))
    assert golden(*found) == pytest.approx(expected, rel=2e-3, abs=1e-3 if name == "pyramid and heads" else 1e-5)


@torch.no_grad()
def test_the_module_of_fig_4() -> None:
    """Softmax weights of the codewords are decoded; the refined mask starts at their logits, limited to 4."""
    code = filled(MaskAutoencoder(CODE))
    region = waves(2, 3, 14, 14)
    for refine in (True, False):
        module = filled(ShapeCodeModule(3, 2, replace(HEAD, refine=refine), CODE))
        found = module(region, code)
        logits = module.head(region)
        mixed = torch.einsum("rkij,kd->rdij", logits.softmax(1), code.quantizer.codebook)
        initial = code.decoder(mixed)
        assert isinstance(found, MaskPrediction)
        torch.testing.assert_close(found.code, logits)
        assert found.direct == refine
        if module.refinement is None:
            torch.testing.assert_close(found.mask, initial, rtol=1e-4, atol=1e-5)
            continue
        torch.testing.assert_close(found.mask, module.refinement(region, initial), rtol=1e-4, atol=1e-4)
        nn.init.zeros_(module.refinement.last.weight)
        nn.init.zeros_(module.refinement.last.bias)  # type: ignore[arg-type]
        strong = 10 * waves(2, 1, 28, 28)
        torch.testing.assert_close(module.refinement(region, strong), strong.clamp(-4, 4).expand(-1, 2, -1, -1))


@torch.no_grad()
def test_the_mask_code_of_fig_2() -> None:
    """The nearest codewords of the encoded mask in [-1, 1], decoded; the loss has the commitment term alone."""
    torch.manual_seed(0)
    model = MaskAutoencoder(CODE).eval()
    mask = torch.rand(2, 1, 28, 28)
    latent = model.encoder(2 * mask - 1)
    distance = (latent[:, None] - model.quantizer.codebook[None, :, :, None, None]).square().sum(2)
    found = model(mask)
    assert torch.equal(found.indices, distance.argmin(1))
    chosen = model.quantizer.codebook[found.indices].permute(0, 3, 1, 2)
    torch.testing.assert_close(found.logits, model.decoder(chosen))
    assert float(found.loss) == pytest.approx(CODE.commitment * float((latent - chosen).square().mean()), rel=1e-5)
    assert (model.quantizer.decay, model.quantizer.delay, len(model.quantizer.codebook)) == (CODE.decay, 0, 5)


def test_enlargement_is_a_transposed_convolution() -> None:
    """2 x 2 with stride 2 (He et al. 2017): the weights of the pixel shuffle, arranged, give the same map."""
    torch.manual_seed(0)
    layers = enlarge(3, 4)
    first = layers[0]
    assert isinstance(first, nn.Conv2d)
    assert first.bias is not None
    x = torch.randn(2, 3, 5, 5)
    weight = first.weight.view(4, 2, 2, 3).permute(3, 0, 1, 2)
    expected = F.conv_transpose2d(x, weight, None, stride=2) + F.pixel_shuffle(
        first.bias.view(1, 16, 1, 1).expand(1, 16, 5, 5), 2
    )
    torch.testing.assert_close(layers(x), expected.relu())


def test_initial_weights_of_the_heads() -> None:
    torch.manual_seed(0)
    head = CodeHead(3, HEAD, CODE)
    assert float(head.dense.weight.detach().std()) == pytest.approx(0.01, rel=0.05)
    refinement = Refinement(3, 2, replace(HEAD, channels=64), CODE)
    assert not refinement.last.bias.any()  # type: ignore[union-attr]
    assert float(refinement.last.weight.detach().abs().max()) <= 0.1 * 64**-0.5
    sizes = [layer.out_channels for layer in refinement.body.modules() if isinstance(layer, nn.Conv2d)]
    assert sizes == [64, 64, 256]


@torch.no_grad()
def test_a_training_pass_has_the_losses_of_its_parts() -> None:
    """Proposals of two images, the first with two objects and the second with none; targets belong to the matched objects."""
    torch.manual_seed(0)
    model = AmodalRCNN(replace(SIZES, head=replace(HEAD, asn=True, mask="fcn"))).train()
    amodal = torch.zeros(2, 64, 64)
    amodal[0, 4:40, 4:36] = 1
    amodal[1, 20:60, 24:60] = 1
    visible = amodal.clone()
    visible[1, :, :40] = 0
    truth = Truth(torch.tensor([0, 0]), torch.tensor([0, 1]), amodal, visible)
    found = model(torch.rand(2, 3, 64, 64), truth)
    assert isinstance(found, Training)
    assert found.regions is not None
    regions = found.regions
    assert set(regions.label.tolist()) == {0, 1}
    for index in range(len(regions.label)):
        own = int(regions.label[index])  # object and class have the same number
        box = regions.boxes[index : index + 1]
        for name, masks, side in (("mask_target", amodal, 28), ("amodal_target", amodal, 28), ("visible_target", visible, 28)):
            torch.testing.assert_close(getattr(regions, name)[index], crop(masks[own : own + 1], box, side)[0])
        hidden = 0.0 if own == 0 else 1 - 40 * 20 / (40 * 36)
        assert float(regions.hidden_target[index]) == pytest.approx(hidden, abs=1e-6)
    assert [tuple(level.shape) for level in found.occlusion_logits] == [(2, n, n) for n in (16, 8, 4, 2, 1)]
    assert float(found.proposal_loss) > 0
    assert float(found.detection_loss) > 0
    empty = Truth(torch.zeros(0).long(), torch.zeros(0).long(), torch.zeros(0, 64, 64), torch.zeros(0, 64, 64))
    assert model(torch.rand(1, 3, 64, 64), empty).regions is None


def test_settings_of_the_proposal_network() -> None:
    """Anchors of one size and three aspect ratios per level; as many proposals in training as in testing."""
    network = proposal_network(SIZES, 8)
    assert network.anchor_generator.sizes == ((16,), (24,), (32,), (48,), (64,))
    assert network.anchor_generator.aspect_ratios == ((0.5, 1.0, 2.0),) * 5
    assert (network._pre_nms_top_n, network._post_nms_top_n) == ({"training": 16, "testing": 16},) * 2
    assert (network.fg_bg_sampler.batch_size_per_image, network.min_size, network.score_thresh) == (16, 1e-3, 0.0)
    model = AmodalRCNN(SIZES)
    assert (model.boxes.fg_bg_sampler.batch_size_per_image, model.boxes.detections_per_img) == (16, SIZES.detector.detections)
    assert [part.out_features for part in (model.box_scores, model.box_deltas)] == [3, 12]
    assert (model.box_head.fc6.in_features, model.box_head.fc6.out_features) == ((8 + 4) * 49, 8)
    plain = AmodalRCNN(replace(SIZES, head=replace(HEAD, occlusion=False, mask="fcn")))
    assert (plain.code, plain.occlusion, plain.classifier, plain.coding) == (None, None, None, None)
    assert plain.box_head.fc6.in_features == 8 * 49


def test_stages_of_resnet50() -> None:
    """Bottlenecks 3, 4, 6, 3 after the stem of torchvision, with the given normalization."""
    body = ResNet50(nn.InstanceNorm2d)
    assert [len(stage) for stage in body.stages] == [3, 4, 6, 3]  # type: ignore[arg-type]
    assert isinstance(body.stem, nn.Sequential)
    assert [type(part).__name__ for part in body.stem] == ["Conv2d", "InstanceNorm2d", "ReLU", "MaxPool2d"]


def test_boxes_of_the_level_limits() -> None:
    """Lin et al. 2017, Eq. 1: k = floor(4 + log2(side / 224)), between levels 2 and 5; small boxes have a positive extent."""
    pyramid = [torch.full((1, 1, 256 // 2**level, 256 // 2**level), float(level)) for level in range(4)]
    sides = [0.0, 111.9, 112.0, 223.9, 224.0, 447.9, 448.0, 1000.0]
    boxes = [torch.tensor([[0, 0, side, side] for side in sides])]
    found = pool_regions(pyramid, (4, 8, 16, 32), boxes, 2)
    assert found.amax((1, 2, 3)).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
