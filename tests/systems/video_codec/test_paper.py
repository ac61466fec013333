"""Perugachi-Diaz 2024, chapter 6: a total of the loss by hand, latent scaling by hand, and the constants of training."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tests.paper_values import OURS, flat, typed
from torch import Tensor, nn

from latens.codes.entropy import gaussian_bits
from latens.systems.video_codec import codec as coding
from latens.systems.video_codec import config as settings
from latens.systems.video_codec.codec import HyperpriorCodec, Parameters, gain_steps, step_of
from latens.systems.video_codec.config import (
    ChunkConfig,
    CodecSize,
    Implicit,
    LatentScaling,
    Method,
    Obic,
    Plain,
    RoiLoss,
    ScaleSpaceFlowConfig,
    VideoLoss,
)
from latens.systems.video_codec.model import CodedClip, ScaleSpaceFlow
from latens.systems.video_codec.objective import RateDistortion, bits_per_pixel, flow_optimizer
from latens.systems.video_codec.recipes import paper

from .conftest import GAIN, small_flow

# ------------------------------------------------------------------------------------------------------------ totals

BITS = {"intra": 12.0, "intra_hyper": 2.0, "motion": 3.0, "residual": 5.0, "gain": 1.0, "gain_hyper": 1.0}  # of a frame
REGION, BACKGROUND = 0.1, 0.2  # errors of a frame of 2 x 2 pixels, whose left column is the region


class FixedCodec(nn.Module):
    """Known errors and bits; records its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: dict[str, Any] = {}

    def forward(self, frames: Tensor, quality: Tensor, **rest: Any) -> CodedClip:
        self.asked = {"quality": quality, **rest}
        errors = torch.tensor([REGION, BACKGROUND]).view(1, 1, 1, 1, 2)
        return CodedClip(frames + errors, {name: torch.full(frames.shape[:2], bits) for name, bits in BITS.items()})


def loss_of(method: Method, config: VideoLoss, lambdas: tuple[float, ...]) -> tuple[float, dict[str, Any]]:
    objective, model = RateDistortion(config, ScaleSpaceFlow(small_flow(method))), FixedCodec()
    objective.lambdas = lambdas
    mask = torch.zeros(2, 3, 1, 2, 2)
    mask[..., 0] = 1
    torch.manual_seed(0)
    (step,) = objective(model, {"frames": torch.zeros(2, 3, 3, 2, 2), "mask": mask}, 0)
    return float(step.loss), model.asked


@pytest.mark.parametrize("method", [RoiLoss(), Obic(), Implicit(), LatentScaling(gain=GAIN, amplified_share=0.0)])
def test_the_total_of_eq_6_3_4(method: Method) -> None:
    """All parts of the code per pixel of a frame + lambda 255^2 (region + background / 30), means over frames."""
    found, asked = loss_of(method, VideoLoss(balance=0.0), (0.01, 0.010001))
    distortion = (REGION**2 + BACKGROUND**2 / 30) / 2
    assert found == pytest.approx(24 / 4 + 0.01 * 255**2 * distortion, rel=1e-4)
    assert asked["amplifier"].tolist() == [1, 1]
    assert asked["mask"].mean() == 0.5


def test_the_total_without_a_region() -> None:
    found, _ = loss_of(Plain(), VideoLoss(balance=0.0), (0.01, 0.010001))
    assert found == pytest.approx(24 / 4 + 0.01 * 255**2 * (REGION**2 + BACKGROUND**2) / 2, rel=1e-4)


def test_the_total_with_amplified_gains_and_several_rates() -> None:
    """The background has the weight 1 / (gamma ga); losses are divided by (lambda / middle)^balance."""
    method = LatentScaling(gain=GAIN, gamma=10.0, amplified_share=1.0)
    found, asked = loss_of(method, VideoLoss(balance=0.5), (0.001, 0.1))
    losses = []
    for quality, amplifier in zip(asked["quality"].tolist(), asked["amplifier"].tolist(), strict=True):
        assert 1 < amplifier < 64
        weight = 0.001 * 100 ** (quality - 1)
        distortion = (REGION**2 + BACKGROUND**2 / (10 * amplifier)) / 2
        losses.append((24 / 4 + weight * 255**2 * distortion) * (weight / 0.01) ** -0.5)
    assert found == pytest.approx(sum(losses) / 2, rel=1e-4)
    assert bits_per_pixel(CodedClip(torch.zeros(1, 3, 3, 2, 2), {"a": torch.tensor([[4.0, 8.0, 12.0]])})).tolist() == [2]


# ------------------------------------------------------------------------------------------------------ latent scaling


class FixedHyper(HyperpriorCodec):
    """Mean 0.25 and scale 2 of every entry, and 7 bits of the hyper-latent."""

    def parameters_of(self, y: Tensor, rounding: Any) -> Parameters:
        return Parameters(torch.full_like(y, 0.25), torch.full_like(y, 2.0), torch.full((len(y),), 7.0))


def test_quantization_with_a_step() -> None:
    """Eq. 6.3.1: round((z - mu) / h) h + mu; Eq. 6.3.3: bits of the rounded value under sigma / h."""
    size = CodecSize(hidden=4, latent=3, hyper=4)
    codec = FixedHyper(nn.Identity(), nn.Identity(), size, (0.01, 0.01), paper=False, follow=False)
    y, step = torch.full((1, 3, 2, 2), 5.0), torch.full((1, 3, 2, 2), 1.5)
    found = codec.code(y, torch.ones(1), "plain", step=step)
    symbol = round((5 - 0.25) / 1.5)
    assert found.y_hat.detach().unique().tolist() == [symbol * 1.5 + 0.25]
    upper, lower = (math.erf((symbol + half) * 1.5 / 2 / math.sqrt(2)) for half in (0.5, -0.5))
    assert found.bits.detach().unique().tolist() == pytest.approx([-3 * math.log2((upper - lower) / 2)], rel=1e-4)
    assert found.bits_hyper.tolist() == [7]
    plain = codec.code(y, torch.ones(1), "plain")
    assert plain.y_hat.detach().unique().tolist() == [5 + 0.25 - 0.25 + 0.25]
    assert float(plain.bits.detach()[0, 0, 0]) == pytest.approx(
        3 * float(gaussian_bits(torch.tensor(5.0), torch.tensor(2.0))), rel=1e-5
    )


def test_amplified_steps() -> None:
    """Eq. D.1: (h - 1) ga + 1, at least 1, on the grid of the scales."""
    raw = torch.tensor([-30.0, 0.0, 2.0]).view(3, 1, 1, 1)
    steps = step_of(gain_steps(raw, torch.tensor([4.0, 1.0, 8.0]))).flatten()
    wanted = torch.tensor([1.0, 1 + math.log(2), 1 + 8 * math.log1p(math.exp(2))])
    assert (steps / wanted).log().abs().max() <= math.log(coding.SCALE_RATIO) / 2 + 1e-5
    assert float(steps[0]) == 1


# ---------------------------------------------------------------------------------------------------------- constants

BETAS = [2.0**a * 1e-4 for a in range(8)]  # section 6.4.2
PAPER = {
    "system": ("video_codec", "this system"),
    "recipe": ("paper", "this recipe"),
    "model.kind": ("scale_space_flow", "section 6.3"),
    "model.transforms": ("paper", "appendix D.4"),
    "model.intra.hidden": (128, "Pourreza and Cohen 2021, appendix A.1"),
    "model.intra.latent": (192, "Pourreza and Cohen 2021, appendix A.1"),
    "model.intra.hyper": (192, "Pourreza and Cohen 2021, appendix A.1"),
    "model.motion.hidden": (128, "Pourreza and Cohen 2021, appendix A.1"),
    "model.motion.latent": (192, "Pourreza and Cohen 2021, appendix A.1"),
    "model.motion.hyper": (192, "Pourreza and Cohen 2021, appendix A.1"),
    "model.residual.hidden": (128, "Pourreza and Cohen 2021, appendix A.1"),
    "model.residual.latent": (192, "Pourreza and Cohen 2021, appendix A.1"),
    "model.residual.hyper": (192, "Pourreza and Cohen 2021, appendix A.1"),
    "model.levels": (5, "Agustsson et al. 2020: blurred versions"),
    "model.sigma": (1.5, "Agustsson et al. 2020: sigma_0"),
    "model.search": (0, OURS),
    "model.lambdas": (tuple(round(1 / (255**2 * beta), 6) for beta in reversed(BETAS)), "section 6.4.2: 2^a 1e-4"),
    "model.group": (12, "section 6.4.2: GOP"),
    "model.method.kind": ("plain", "section 6.4.2: warm start"),
    "data.frames": (3, "section 6.4.2: I-P-P"),
    "data.crop": (256, "section 6.4.2: 256 x 384"),
    "data.batch": (8, "section 6.4.2"),
    "data.shrink": (1.0, OURS),
    "data.zoom": (1.0, OURS),
    "data.skip_share": (0.0, OURS),
    "data.photograph_share": (0.0, OURS),
    "data.composite_share": (0.0, OURS),
    "data.speed": (0.03, OURS),
    "data.masks": ("objects", "section 6.4.1"),
    "data.held_out": (("libby", "scooter-black"), OURS),
    "data.never": (("blackswan", "drift-straight", "horsejump-high", "cows"), OURS),
    "data.validation_frames": (12, OURS),
    "data.validation_size": ((192, 320), OURS),
    "objective.balance": (0.0, "Eq. 6.3.4"),
    "objective.train_intra": (True, "section 6.4.2"),
    "objective.levels": ((1.0, 4.0, 8.0), OURS),
    "objective.quality": (0.0, OURS),
    "optim.lr": (1e-4, "section 6.4.2"),
    "optim.warmup": (1000, OURS),
    "optim.decay_share": (0.0, OURS),
    "optim.clip": (1.0, OURS),
    "optim.ema": (0.0, OURS),
    "optim.kind": ("adam", "section 6.4.2"),
    "optim.beta1": (0.9, OURS),
    "run.steps": (300_000, "section 6.4.2: on the data of interest"),
    "run.seed": (0, OURS),
    "run.precision": ("no", OURS),
    "run.log_every": (100, OURS),
    "run.validate_every": (20_000, OURS),
    "run.checkpoint_every": (5000, OURS),
    "run.keep": (2, OURS),
}


def test_every_value_of_the_recipe() -> None:
    assert flat(paper()) == typed(PAPER)


def test_constants_of_the_modules() -> None:
    assert [method().gamma for method in (RoiLoss, Obic, Implicit)] == [30, 30, 30]  # section 6.4.2
    scaling = LatentScaling()
    assert (scaling.gamma, scaling.amplified_share) == (30, 0.5)  # section 6.4.2; ours (the paper trains with ga = 1)
    assert settings.AMPLIFIER_MAX == 64  # appendix D.3: ga of 1 to 64
    assert settings.STRIDE == 16  # four layers of stride 2
    assert [coding.PRIOR_SPREAD, math.log1p(math.exp(coding.GAIN_START))] == pytest.approx([4.0, 0.05])  # ours
    assert coding.SCALE_RATIO == pytest.approx((256 / 0.11) ** (1 / 63))
    assert [group.lr_factor for group in flow_optimizer(ScaleSpaceFlowConfig())["model"]] == [1.0, 0.3]  # ours
    thesis = paper().model
    assert isinstance(thesis, ScaleSpaceFlowConfig)
    assert [group.lr_factor for group in flow_optimizer(thesis)["model"]] == [1.0, 1.0]
    chunk = flat(ChunkConfig())
    assert (chunk["frames"], chunk["group"], chunk["region_share"]) == (4, 12, 0.5)  # ours
