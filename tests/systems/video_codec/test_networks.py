"""Golden numbers of the codecs of clips, their coding by hand, bits of maps, and validation of the loss with known errors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from tests.paper_values import filled, golden, waves
from torch import Tensor, nn

from latens.codes.counts import map_bits
from latens.codes.entropy import gaussian_bits
from latens.systems.video_codec.codec import GAIN_START, GainCodec, HyperpriorCodec, gain_steps, step_of
from latens.systems.video_codec.config import LatentScaling, Obic, Plain, RoiLoss, VideoLoss
from latens.systems.video_codec.model import (
    CodedClip,
    ScaleSpaceFlow,
    intra_codec,
    map_cost,
    motion_codec,
    residual_codec,
)
from latens.systems.video_codec.motion import MotionAnalysis
from latens.systems.video_codec.objective import RateDistortion, region_psnr

from .conftest import GAIN, small_flow

PLAIN, PAPER = small_flow(Plain()), small_flow(Plain(), "paper")
SCALED = LatentScaling(gain=GAIN, amplified_share=0.5)


def tensors_of(found: Any) -> list[Tensor]:
    """All tensors of a result, in order."""
    return [found] if isinstance(found, Tensor) else [tensor for one in found for tensor in tensors_of(one)]


class Both(nn.Module):
    """Analysis of images, and synthesis and entropy parameters of the latent."""

    def __init__(self, codec: HyperpriorCodec, *extra: int) -> None:
        super().__init__()
        self.codec, self.extra = codec, extra

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        y = self.codec.analysis(*inputs, *[None] * (2 - len(inputs) + isinstance(self.codec.analysis, MotionAnalysis)))
        extra = [0.1 * waves(1, channels, *y.shape[2:]) for channels in self.extra]
        return [y, self.codec.synthesis(y, *extra), *self.codec.parameters_of(y, "plain")]


IMAGE, MASK = (1, 3, 64, 64), (1, 1, 64, 64)
NETWORKS: dict[str, tuple[Any, Any, list[float]]] = {
    "first frames": (
        lambda: Both(intra_codec(PLAIN, mask=False, split=False)),
        IMAGE,
        [0.0170201, 0.000485939, -0.000232826, 0.000485865, -0.0338766, 0.00214884, 0.020055, -0.00135809, 17.064, 17.064],
    ),
    "first frames with a mask": (
        lambda: Both(intra_codec(PLAIN, mask=True, split=False)),
        (IMAGE, MASK),
        [0.0169942, 0.000504647, -0.00421757, 6.70453e-06, -0.0338766, 0.00214884, 0.020055, -0.00135809, 17.064, 17.064],
    ),
    "first frames of the paper": (
        lambda: Both(intra_codec(PAPER, mask=False, split=False)),
        IMAGE,
        [0.037005, -0.00221861, -0.120177, -6.0167e-05, -0.0352118, 0.00505856, 0.0225249, -0.00838467, 17.064, 17.064],
    ),
    "motion": (
        lambda: Both(motion_codec(PLAIN, mask=False)),
        (IMAGE, IMAGE),
        [0.0380151, 0.00010922, -0.148285, 0.00174565, -0.0319209, 0.0012994, -0.0358323, -0.00276927, 17.064, 17.064],
    ),
    "motion of the paper": (
        lambda: Both(motion_codec(PAPER, mask=True)),
        (IMAGE, IMAGE, MASK),
        [0.0404165, -0.00872018, -0.666664, -0.000618034, -0.0388801, 0.00836799, -0.0311529, 0.00531994, 17.064, 17.064],
    ),
    "residuals": (
        lambda: Both(residual_codec(PLAIN, mask=False, split=False), 8),
        IMAGE,
        [0.0213415, -0.0013752, 0.00134447, -0.000563435, -0.0338766, 0.00214884, 0.020055, -0.00135809, 17.064, 17.064],
    ),
    "residuals of the paper": (
        lambda: Both(residual_codec(PAPER, mask=True, split=True), 8),
        (IMAGE, MASK),
        [0.0370028, -0.00221877, -0.0392268, -0.000214361, -0.0352118, 0.00505856, 0.0225249, -0.00838467, 17.064, 17.064],
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_golden_numbers_of_the_codecs(name: str) -> None:
    """Latent, image, and mean, scale and bits of the hyper-latent, of fixed weights; measured once."""
    build, shapes, expected = NETWORKS[name]
    inputs = [0.5 + 0.1 * waves(*shape) for shape in (shapes if isinstance(shapes[0], tuple) else (shapes,))]
    with torch.no_grad():
        assert golden(*tensors_of(filled(build())(*inputs))) == pytest.approx(expected, rel=1e-3, abs=1e-4)


@torch.no_grad()
def test_gains_of_the_rates_by_hand() -> None:
    """y g is rounded relative to the mean and divided by g; scales follow the gain in motion and residuals only."""
    torch.manual_seed(0)
    for codec, follow in (
        (intra_codec(PLAIN, mask=False, split=False), False),
        (residual_codec(PLAIN, mask=False, split=False), True),
    ):
        codec.eval()
        y, quality = 3 * torch.randn(2, 16, 4, 4), torch.tensor([1.0, 1.5])
        gain, inverse = codec.gains.forward_gain(quality), codec.gains.inverse_gain(quality)
        parameters = codec.parameters_of(y * gain, "plain")
        symbols = (y * gain - parameters.mean).round()
        found = codec.code(y, quality, "plain")
        torch.testing.assert_close(found.y_hat, (symbols + parameters.mean) * inverse)
        scale = parameters.scale * gain if follow else parameters.scale
        torch.testing.assert_close(found.bits, gaussian_bits(symbols, scale).sum(1))
        torch.testing.assert_close(found.bits_hyper, parameters.bits)
        torch.manual_seed(3)
        mixed = codec.code(y, quality, "mixed")
        torch.manual_seed(3)
        again = codec.parameters_of(y * gain, "mixed")
        torch.testing.assert_close(mixed.y_hat, ((y * gain - again.mean).round() + again.mean) * inverse)
        assert not torch.equal(mixed.bits, found.bits)


@torch.no_grad()
def test_the_gain_codec_by_hand() -> None:
    torch.manual_seed(0)
    for paper, kernel in ((False, 3), (True, 5)):
        codec = GainCodec(GAIN, 5, paper=paper).eval()
        layers = [layer for layer in codec.decoder if isinstance(layer, nn.Conv2d)]
        assert [(layer.in_channels, layer.out_channels, layer.kernel_size[0], layer.padding[0]) for layer in layers] == [
            (8, 8, kernel, kernel // 2), (8, 8, kernel, kernel // 2), (8, 8, kernel, kernel // 2), (8, 5, kernel, kernel // 2),
        ]  # fmt: skip
        assert layers[-1].bias is not None
        assert torch.equal(layers[-1].bias, torch.full((5,), GAIN_START))
        mask = torch.zeros(1, 1, 128, 128)
        mask[..., :40] = 1
        y = codec.analysis(mask)
        parameters = codec.parameters_of(y, "plain")
        symbols = (y - parameters.mean).round()
        found = codec(mask, "plain")
        torch.testing.assert_close(found.raw, codec.decoder(symbols + parameters.mean))
        torch.testing.assert_close(found.bits, gaussian_bits(symbols, parameters.scale).sum(1))
        torch.testing.assert_close(found.bits_hyper, parameters.bits)
    assert GAIN_START == pytest.approx(math.log(math.exp(0.05) - 1))
    raw, amplifier = torch.tensor([[[[0.0, 1.0]]], [[[0.0, 1.0]]]]), torch.tensor([1.0, 8.0])
    ratio = (256 / 0.11) ** (1 / 63)
    expected = [round(math.log(math.log1p(math.exp(v)) * a + 1) / math.log(ratio)) for a in (1, 8) for v in (0, 1)]
    assert gain_steps(raw, amplifier).flatten().tolist() == expected
    assert step_of(torch.tensor([0.0, 3.0])).tolist() == pytest.approx([1, ratio**3], rel=1e-5)


def test_bits_of_a_map_are_divided_among_its_frames() -> None:
    cells = torch.zeros(2, 3, 1, 4, 6, dtype=torch.bool)
    cells[0, :, :, 1:, 2:] = True
    expected = [map_bits(clip[:, 0].long().numpy(), 2) for clip in cells]
    assert map_cost(cells).flatten().tolist() == pytest.approx(np.repeat(expected, 3) / 3)
    assert expected[0] > expected[1]


def test_weights_of_simpler_models() -> None:
    """The completed state of OBIC copies the hyper-codecs; `complete` returns what `load_state_dict` loads."""
    torch.manual_seed(0)
    plain, model = ScaleSpaceFlow(small_flow(Plain())), ScaleSpaceFlow(small_flow(Obic()))
    state = model.complete(plain.state_dict())
    assert state.keys() == model.state_dict().keys()
    for name, tensor in state.items():
        assert torch.equal(tensor, plain.state_dict()[name.replace(".background.", ".")])
    own = model.state_dict()
    assert model.complete(own) is own
    image = {name.removeprefix("intra."): tensor for name, tensor in plain.state_dict().items() if name.startswith("intra.")}
    completed = ScaleSpaceFlow(small_flow(Plain())).complete(image)
    assert torch.equal(completed["intra.analysis.deep.1.weight"], image["analysis.deep.1.weight"])
    coding_only = {name: tensor for name, tensor in own.items() if "hyper_synthesis" not in name}
    with pytest.raises(
        ValueError, match=r"^these weights were stored for coding only, without hyper-synthesis; use `ScaleSpaceFlow.restored`$"
    ):
        model.complete(coding_only)
    model.coding_only = True
    restored = model.complete(coding_only)
    assert restored.keys() == own.keys()
    assert all(torch.equal(restored[name], own[name]) for name in own)
    with pytest.raises(RuntimeError, match="Missing key"):
        model.load_state_dict({name: tensor for name, tensor in own.items() if not name.startswith("motion.analysis")})
    model.load_state_dict(
        {name: tensor for name, tensor in own.items() if not name.startswith("motion.analysis")}, strict=False
    )


# ----------------------------------------------------------------------------------------------------- loss, known errors


class Known(nn.Module):
    """Errors of 0.1 in the left column and 0.2 in the right of frames of 2 x 2; 8 bits a frame at quality 1, 20 at 2."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[Any, ...]] = []

    def forward(self, frames: Tensor, quality: Tensor, *, mask: Any = "absent", rounding: str = "mixed") -> CodedClip:
        self.asked.append((quality.tolist(), None if mask is None else tuple(mask.shape), rounding))
        bits = {1.0: 8.0, 2.0: 20.0}[float(quality[0])]
        return CodedClip(frames + torch.tensor([0.1, 0.2]).view(1, 1, 1, 1, 2), {"a": torch.full(frames.shape[:2], bits)})


def clip(count: int = 1) -> dict[str, Tensor]:
    mask = torch.zeros(count, 3, 1, 2, 2)
    mask[..., 0] = 1
    return {"frames": torch.full((count, 3, 3, 2, 2), 0.25), "mask": mask}


@pytest.mark.parametrize("method", [Plain(), RoiLoss(), SCALED], ids=lambda method: method.kind)
def test_validation_by_hand(method: Any) -> None:
    """Mean logarithm over the rates of bits per pixel + lambda 255^2 weighted error, and PSNR of all, region and background."""
    objective = RateDistortion(VideoLoss(levels=(1.0, 2.0)), ScaleSpaceFlow(small_flow(method)))
    objective.lambdas = (0.005, 0.02)
    model = Known()
    numbers = objective.validate(model, [clip(2), clip(1)])
    gamma = 1.0 if isinstance(method, Plain) else method.gamma
    error = (0.01 + 0.04 / gamma) / 2
    logs = [math.log(bits / 4 + weight * 255**2 * error) for bits, weight in ((8, 0.005), (20, 0.02))]
    expected = {"loss": sum(logs) / 2}
    for level, bits in ((1, 8), (2, 20)):
        expected |= {f"bpp_{level}": bits / 4, f"psnr_{level}": -10 * math.log10(0.025), f"roi_{level}": 20.0}
        expected |= {f"rest_{level}": -20 * math.log10(0.2)}
    assert numbers == pytest.approx(expected, rel=1e-5)
    seen = [None if isinstance(method, Plain) else (count, 3, 1, 2, 2) for count in (2, 1)]
    assert model.asked == [
        ([level] * count, shape, "plain") for level in (1.0, 2.0) for count, shape in zip((2, 1), seen, strict=True)
    ]
    without = objective.validate(Known(), [{"frames": clip()["frames"]}])
    assert not any(name.startswith(("roi", "rest")) for name in without)
    white = {"frames": torch.full((1, 1, 3, 2, 2), 0.95), "mask": torch.ones(1, 1, 1, 2, 2)}
    clamped = objective.validate(Known(), [white])
    assert clamped["psnr_1"] == pytest.approx(-20 * math.log10(0.05), rel=1e-4)  # 1.05 and 1.15 are shown as 1
    assert "rest_1" not in clamped


@pytest.mark.parametrize("method", [Plain(), RoiLoss()], ids=lambda method: method.kind)
def test_a_sheet_shows_the_last_frame(method: Any) -> None:
    objective = RateDistortion(VideoLoss(levels=(1.0, 2.0)), ScaleSpaceFlow(small_flow(method)))
    frames = torch.zeros(2, 3, 3, 2, 2)
    frames[0, 2] = 0.4
    model = Known()
    batch = {"frames": frames} if isinstance(method, Plain) else {"frames": frames, "mask": torch.ones(2, 3, 1, 2, 2)}
    sheet = objective.images(model, [batch, {}])["reconstructions"]
    row = np.rint(255 * np.array([0.4, 0.4, *[0.5, 0.6] * 2]) + 1e-4)
    np.testing.assert_array_equal(sheet, np.broadcast_to(row[None, :, None], (2, 6, 3)))
    shape = None if isinstance(method, Plain) else (1, 3, 1, 2, 2)
    assert model.asked == [([1.0], shape, "plain"), ([2.0], shape, "plain")]


def test_settings_of_the_methods() -> None:
    """gamma and the share of amplified clips belong to the method; the plain one ignores the region."""
    found = {}
    for method in (Plain(), RoiLoss(gamma=7.0), SCALED):
        objective = RateDistortion(VideoLoss(), ScaleSpaceFlow(small_flow(method)))
        found[method.kind] = (objective.ignores_region, objective.gamma, objective.amplified)
    assert found == {"plain": (True, 1.0, 0.0), "roi_loss": (False, 7.0, 0.0), "latent_scaling": (False, SCALED.gamma, 0.5)}
    fixed = RateDistortion(VideoLoss(quality=1.5), ScaleSpaceFlow(small_flow(Plain())))
    assert fixed.draw(3, torch.device("cpu")).quality.tolist() == [1.5] * 3
    torch.manual_seed(0)
    free = RateDistortion(VideoLoss(), ScaleSpaceFlow(small_flow(Plain()))).draw(500, torch.device("cpu"))
    assert 1 <= float(free.quality.min()) < 1.02
    assert 1.98 < float(free.quality.max()) <= 2
    assert float(free.amplifier.max()) == 1.0
    assert math.isnan(region_psnr(torch.zeros(1, 1, 3, 2, 2), torch.zeros(1, 1, 1, 2, 2)))


NAMES = ["intra", "intra_hyper", "motion", "motion_hyper", "residual", "residual_hyper"]


@pytest.mark.parametrize(("method", "more"), [(Plain(), []), (Obic(), ["map"]), (SCALED, ["gain", "gain_hyper"])], ids=str)
@torch.no_grad()
def test_a_clip_frame_by_frame(method: Any, more: list[str]) -> None:
    """The first frame alone; the next ones by the flow of the clamped frame before and by a residual; bits by name."""
    torch.manual_seed(0)
    config = small_flow(method)
    model = ScaleSpaceFlow(config).eval()
    frames, quality = torch.rand(1, 3, 3, 60, 64), torch.tensor([1.5])
    mask = (torch.rand(1, 3, 1, 60, 64) < 0.5).float()
    coded = model(frames, quality, mask=mask, rounding="plain")
    assert sorted(coded.bits) == sorted(NAMES + more)
    assert tuple(coded.frames.shape) == (1, 3, 3, 60, 64)
    assert {tuple(bits.shape) for bits in coded.bits.values()} == {(1, 3)}
    for name in NAMES[:2]:
        assert not coded.bits[name][:, 1:].any()
    for name in NAMES[2:]:
        assert not coded.bits[name][:, 0].any()
    total = sum(coded.bits.values())
    torch.testing.assert_close(coded.total(), total)
    padded, masks = ([model.padded(one) for one in clip.unbind(1)] for clip in (frames, mask))
    amplifier = torch.ones(1)
    treated = model.treatment(model.intra_gain, quality, masks[0], amplifier, "plain")
    first = model.code_intra(padded[0], treated, "plain")
    torch.testing.assert_close(coded.frames[:, 0], first.image[:, :, :60])
    torch.testing.assert_close(coded.bits["intra"][:, 0], first.bits["intra"])
    treated = model.treatment(model.residual_gain, quality, masks[1], amplifier, "plain")
    second = model.code_inter(padded[1], first.image.clamp(0, 1), treated, "plain")
    torch.testing.assert_close(coded.frames[:, 1], second.image[:, :, :60])
    reference = first.image.clamp(0, 1)
    motion = model.motion.code(model.motion.analysis(padded[1], reference, treated.mask), quality, "plain")
    predicted = model.predict(reference, motion.y_hat)
    y = model.residual.analysis(padded[1] - predicted, treated.mask)
    residual = model.residual.code(y, quality, "plain", step=treated.step, cells=treated.cells)
    torch.testing.assert_close(second.image, predicted + model.residual.synthesis(residual.y_hat, motion.y_hat))
    bits = {"motion": motion.bits.sum((1, 2)), "motion_hyper": motion.bits_hyper, "residual": residual.bits.sum((1, 2))}
    for name, values in bits.items():
        torch.testing.assert_close(second.bits[name], values)
    torch.testing.assert_close(second.bits["residual_hyper"], residual.bits_hyper)
    if model.residual_gain is not None:
        gain = model.residual_gain(masks[1], "plain")
        assert treated.step is not None
        torch.testing.assert_close(treated.step, step_of(gain_steps(gain.raw, amplifier)))
        torch.testing.assert_close(coded.bits["gain"][:, 1], gain.bits.sum((1, 2)))
        torch.testing.assert_close(coded.bits["gain_hyper"][:, 1], gain.bits_hyper)


@torch.no_grad()
def test_export_and_restored_weights() -> None:
    """Weights in float16, frozen integers of every latent; networks that only training needs come back from the integers."""
    torch.manual_seed(0)
    model = ScaleSpaceFlow(small_flow(LatentScaling(gain=GAIN))).eval()
    objective = RateDistortion(VideoLoss(levels=(1.0,)), model)
    batch = {"frames": torch.rand(1, 2, 3, 64, 64), "mask": torch.ones(1, 2, 1, 64, 64)}
    found = objective.export(model, [batch])
    assert found.weights.keys() == model.state_dict().keys()
    assert {tensor.dtype for tensor in found.weights.values()} == {torch.float16}
    parts, gains = ("intra", "motion", "residual"), ("intra_gain", "residual_gain")
    decoders = [f"{name}.decoder." for name in gains]
    assert found.config["training_only"] == sorted([*(f"{name}.hyper_synthesis." for name in (*parts, *gains)), *decoders])
    kept = {name: tensor for name, tensor in found.weights.items() if not name.startswith(tuple(found.config["training_only"]))}
    restored = model.restored(kept, found.coding, found.config)
    assert restored.keys() == found.weights.keys()
    assert all(restored[name] is kept[name] for name in kept)
    again = ScaleSpaceFlow(model.config).eval()
    again.load_state_dict(restored)
    z = torch.randint(-3, 4, (1, 8, 2, 2)).float()
    for name in ("intra.hyper_synthesis", "residual.hyper_synthesis", "residual_gain.decoder"):
        expected = model.get_submodule(name)(z)
        error = (again.get_submodule(name)(z) - expected).abs().max()
        assert float(error) < 0.05 * float(expected.abs().max()), name
    assert model.restored(found.weights, found.coding, found.config) == found.weights
