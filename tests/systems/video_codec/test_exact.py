"""Integer entropy parameters: equal to the float model up to rounding, and identical with any number of threads."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from latens.codes.gains import RateGains
from latens.systems.video_codec import latents
from latens.systems.video_codec.codec import SCALE_RATIO, gain_steps
from latens.systems.video_codec.exact import (
    FRACTION_BITS,
    MAX_AMPLIFIER,
    at_quality,
    enlarged,
    fixed_log,
    rounded,
    step_thresholds,
)
from latens.systems.video_codec.groups import gain_at
from latens.systems.video_codec.latents import Unpacker, varint

from .makers import KINDS, clip, make_codec, region


@pytest.mark.parametrize("factor", [4, 8])
def test_maps_are_enlarged_as_by_torch(factor: int) -> None:
    coarse = torch.randint(-1000, 1000, (2, 3, 5), generator=torch.Generator().manual_seed(0))
    both = enlarged(enlarged(coarse, factor).transpose(1, 2), factor).transpose(1, 2)
    expected = F.interpolate(coarse.double()[None], scale_factor=float(factor), mode="bilinear", align_corners=False)[0]
    assert torch.equal(both.double() / (2 * factor) ** 2, expected)


def test_stored_gains_equal_those_of_the_model() -> None:
    gains = RateGains(3, (0.001, 0.01, 0.04))
    with torch.no_grad():
        gains.log_gain.add_(torch.randn_like(gains.log_gain))
    for quality in (1.0, 1.5, 2.25, 3.0):
        steps = torch.tensor([[round(256 * quality)]])
        wanted = gains.forward_gain(torch.tensor([quality]))
        torch.testing.assert_close(gain_at(gains.log_gain, steps), wanted)
        levels = at_quality(fixed_log(gains.log_gain), steps).double() / 2 ** (FRACTION_BITS + 8)
        torch.testing.assert_close((levels * math.log(SCALE_RATIO)).exp()[None].float(), wanted, rtol=1e-4, atol=0)
    below = gain_at(gains.log_gain, torch.tensor([[128]])).log()  # extrapolated by half a step
    expected = gains.log_gain[0] - 0.5 * (gains.log_gain[1] - gains.log_gain[0])
    torch.testing.assert_close(below[0, :, 0, 0], expected)


def test_rounding_is_to_the_nearest() -> None:
    values = torch.tensor([-5, -4, -3, 3, 4, 5, 7])
    assert rounded(values, 3).tolist() == [-1, 0, 0, 0, 1, 1, 1]


def test_thresholds_of_steps_agree_with_gain_steps() -> None:
    raw = torch.linspace(-6, 8, 20001)
    fixed = (raw * 1024).round()
    table = step_thresholds()
    assert table.shape == (MAX_AMPLIFIER + 1, 63)
    for amplifier in (0, 3, MAX_AMPLIFIER):
        found = torch.bucketize(fixed.long(), table[amplifier], right=True)
        wanted = gain_steps((fixed / 1024)[None, None, None], torch.tensor([2.0 ** (amplifier / 2)]))[0, 0, 0].clamp(max=63)
        assert (found - wanted).abs().max() <= 1
        assert (found != wanted).float().mean() < 1e-3  # float rounding at the ends of steps


def test_varints() -> None:
    for value in (0, 1, 127, 128, 300, (1 << 56) - 1):
        assert Unpacker(varint(value)).number() == value


@pytest.mark.parametrize("kind", KINDS)
def test_decoded_latents_are_the_same_on_one_and_two_threads(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = make_codec(kind)
    blob = codec.compress(clip(), roi=region(), quality=1.5, fps=25)
    seen: list[list[torch.Tensor]] = []
    read = latents.LatentCoder.read

    def watched(*args: object) -> latents.Quantized:
        found = read(*args)  # type: ignore[arg-type]
        seen[-1] += [found.symbols, found.mean]
        return found

    monkeypatch.setattr(latents.LatentCoder, "read", watched)
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        seen.append([])
        assert len(list(codec.frames(blob))) == len(clip())
    torch.set_num_threads(before)
    assert len(seen[0]) == len(seen[1]) > 0
    assert all(torch.equal(one, two) for one, two in zip(*seen, strict=True))
