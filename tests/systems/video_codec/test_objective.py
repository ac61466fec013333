from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from latens.codes.entropy import SCALE_MIN
from latens.codes.goals import PEAK
from latens.data.source import Source
from latens.settings import SettingsError
from latens.systems.video_codec.chunk_model import ChunkCodec
from latens.systems.video_codec.codec import HyperpriorCodec
from latens.systems.video_codec.config import (
    ChunkConfig,
    LatentScaling,
    Plain,
    RoiLoss,
    ScaleSpaceFlowConfig,
    VideoLoss,
    VideoModel,
)
from latens.systems.video_codec.model import CodedClip, ScaleSpaceFlow
from latens.systems.video_codec.objective import RateDistortion, region_psnr
from latens.systems.video_codec.recipes import RECIPES
from latens.systems.video_codec.trainable import Z_START, build, first_pass
from latens.training.run import train

from .conftest import GAIN, small_chunk, small_flow


class Fixed(torch.nn.Module):
    """A stand-in for a codec, which returns frames with a known error."""

    def __init__(self, errors: torch.Tensor) -> None:
        super().__init__()
        self.errors = errors

    def forward(self, frames: torch.Tensor, quality: torch.Tensor, **_: object) -> CodedClip:
        return CodedClip(frames + self.errors, {"all": torch.full(frames.shape[:2], 640.0)})


def test_masked_loss_equals_numpy() -> None:
    """Perugachi-Diaz 2024, Eqs. 6.3.4 and 6.3.5, for one rate."""
    rng = np.random.default_rng(0)
    frames, errors = rng.random((2, 3, 3, 8, 8)), rng.normal(0, 0.05, (2, 3, 3, 8, 8))
    mask = (rng.random((2, 3, 1, 8, 8)) < 0.4).astype(float)
    config = small_flow(RoiLoss(gamma=30.0))
    objective = RateDistortion(VideoLoss(balance=0.0), ScaleSpaceFlow(config))
    objective.lambdas = (0.01, 0.01000001)
    batch = {"frames": torch.tensor(frames).float(), "mask": torch.tensor(mask).float()}
    step = next(objective(Fixed(torch.tensor(errors).float()), batch, 0))
    distortion = np.mean((mask + (1 - mask) / 30) * errors**2)
    assert float(step.loss) == pytest.approx(640 / 64 + 0.01 * PEAK * distortion, rel=1e-4)
    assert float(step.logs["distortion"]) == pytest.approx(distortion, rel=1e-4)


def test_plain_flow_weights_all_pixels_equally() -> None:
    objective = RateDistortion(VideoLoss(), ScaleSpaceFlow(small_flow(Plain())))
    frames, mask = torch.rand(1, 2, 3, 4, 4), torch.zeros(1, 2, 1, 4, 4)
    assert torch.equal(objective.weights(frames, mask, torch.ones(1)), torch.ones(1, 2, 1, 4, 4))


def test_psnr_of_a_region_excludes_frames_without_it() -> None:
    errors = torch.zeros(1, 3, 3, 4, 4)
    errors[0, 0, :, :2] = 0.01
    region = torch.zeros(1, 3, 1, 4, 4)
    region[0, 0, :, :2] = 1
    region[0, 1, :, 2:] = 1
    assert region_psnr(errors, region) == pytest.approx((20 + 100) / 2)  # an exact region counts as 100 dB


def test_amplifiers_are_drawn_between_one_and_64() -> None:
    objective = RateDistortion(VideoLoss(), ScaleSpaceFlow(small_flow(Plain())))
    objective.amplified = 0.5
    torch.manual_seed(0)
    drawn = objective.draw(2000, torch.device("cpu")).amplifier
    assert 0.4 < float((drawn > 1).float().mean()) < 0.6
    assert float(drawn.max()) <= 64
    assert float(drawn[drawn > 1].log2().mean()) == pytest.approx(3, abs=0.2)


def test_tiny_overfits_two_clips(clips: Callable[..., Path], tmp_path: Path) -> None:
    folder = clips()
    config = RECIPES["tiny"]()
    config = replace(config, data=replace(config.data, held_out=("none",)))
    torch.manual_seed(0)
    parts = build(config, [Source("", str(folder))])
    with torch.no_grad():
        before = parts.objective.validate(parts.model.eval(), list(parts.data.validation()))["loss"]
    result = train(build, config, [Source("", str(folder))], tmp_path / "run", device="cpu")
    assert result.best is not None
    assert result.best < before - 0.5


def test_the_codec_of_first_frames_can_be_frozen(clips: Callable[..., Path]) -> None:
    config = replace(RECIPES["cpu"](), model=small_flow(Plain()))
    parts = build(config, [Source("clips", str(clips(height=224, width=224)))])
    assert not any(parameter.requires_grad for parameter in parts.model.intra.parameters())  # type: ignore[union-attr]
    assert all(parameter.requires_grad for parameter in parts.model.motion.parameters())  # type: ignore[union-attr]


@pytest.mark.parametrize("model", [small_flow(LatentScaling(gain=GAIN)), small_chunk()], ids=lambda model: model.kind)
@torch.no_grad()
def test_hyper_codecs_start_at_the_scale_of_their_latents(model: VideoModel, clips: Callable[..., Path]) -> None:
    config = replace(RECIPES["tiny"](), model=model, data=replace(RECIPES["tiny"]().data, frames=4))
    parts = build(config, [Source("clips", str(clips()))])
    codec = parts.model
    latents: list[torch.Tensor] = []
    part = codec if isinstance(codec, ChunkCodec) else codec.intra
    assert isinstance(part, ChunkCodec | HyperpriorCodec)
    part.hyper_analysis.register_forward_pre_hook(lambda _, inputs: latents.append(inputs[0]))
    first_pass(codec, parts.data.batch(0, 0))  # type: ignore[arg-type]
    found = part.hyper_synthesis[-1].bias[latents[0].shape[1] :]  # type: ignore[index]
    expected = latents[0].square().mean((0, 2, 3)).sqrt().clamp_min(SCALE_MIN)
    torch.testing.assert_close(found, expected)
    assert float(part.hyper_analysis(latents[0]).square().mean().sqrt()) == pytest.approx(Z_START, rel=0.2)  # up to its bias


def test_settings_without_effect_are_refused() -> None:
    with pytest.raises(SettingsError, match="search"):
        ScaleSpaceFlowConfig(transforms="paper")
    with pytest.raises(SettingsError, match="increase"):
        ScaleSpaceFlowConfig(lambdas=(0.1, 0.1))
    with pytest.raises(SettingsError, match="whole chunks"):
        ChunkConfig(frames=5)
