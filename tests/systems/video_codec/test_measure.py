"""PSNR by region, comparisons, maps of bits, weights that are stored for coding only."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from latens.errors import ModelError
from latens.hub import int8_model, load_model, save_model
from latens.settings import to_dict
from latens.systems.video_codec.config import VideoLoss
from latens.systems.video_codec.evaluate import deltas
from latens.systems.video_codec.exact import freeze_model
from latens.systems.video_codec.measure import ClipRow, RegionClip, quality_of, sample_clip
from latens.systems.video_codec.model import ScaleSpaceFlow
from latens.systems.video_codec.objective import RateDistortion
from latens.systems.video_codec.objects import pairs_of
from latens.systems.video_codec.predict import load
from latens.systems.video_codec.recipes import cpu
from latens.systems.video_codec.trainable import build_model, match_scales
from latens.systems.video_codec.visualization import bits_map
from latens.training.run import start_from

from .makers import clip, config, make_codec, region


def test_psnr_by_region_excludes_frames_without_region() -> None:
    frames = np.full((3, 8, 8, 3), 100, dtype=np.uint8)
    masks = np.zeros((3, 8, 8), dtype=bool)
    masks[:2, :4] = True
    decoded = frames.copy()
    decoded[:, :4] += 10
    found = quality_of(list(decoded), RegionClip("x", frames, masks))
    assert found.roi == pytest.approx(20 * np.log10(25.5))
    # Background: two frames without error (capped at 100 dB), and one with an error of 10 in half of its pixels.
    assert found.rest == pytest.approx((100 + 100 + 10 * np.log10(255**2 / 50)) / 3)
    assert found.without_roi == 1


def row(codec: str, bpp: float, psnr: float, *, with_region: bool = False) -> ClipRow:
    return ClipRow("a", "d", codec, "v", with_region, bpp, None, 1, bpp, psnr, psnr, psnr - 2, 0, 0.0, 0.0, 1)


def test_half_the_rate_at_equal_quality_is_minus_fifty_percent() -> None:
    rows = [row("latens", 2.0**k, 30.0 + 3 * k) for k in range(4)]
    rows += [row("latens", 2.0**k / 2, 30.0 + 3 * k, with_region=True) for k in range(4)]
    (found,) = deltas(rows)
    assert (found.tested, found.anchor) == ("latens + region", "latens")
    assert found.roi == pytest.approx(-50, abs=1e-6)
    assert found.rest == pytest.approx(3.0)  # at equal rate: a doubling is worth 3 dB
    assert found.clips == 1


@pytest.mark.parametrize("kind", ["chunk", "plain", "scaling"])
def test_maps_of_bits_add_up_to_the_latents(kind: str) -> None:
    codec = make_codec(kind)
    source = RegionClip("x", clip(64, 64), region(64, 64))
    setting, _ = codec.setting(True, 1.5, None)
    count = codec.config.group
    total = sum(bits_map(codec, source, frame, setting).sum() for frame in range(count))
    from latens.systems.video_codec.latents import Packer

    packer = Packer()
    masks = [(255 * mask).astype(np.uint8) for mask in source.masks[:count]]
    codec.coder.encode(packer, list(source.frames[:count]), masks, setting)
    coded = sum(bits for name, bits in packer.bits.items() if "hyper" not in name and name != "map")
    overhead = 8 * 12 * sum("hyper" not in name for name in packer.bits) * count
    assert total == pytest.approx(coded, rel=0.1, abs=overhead)


def test_synthetic_clips() -> None:
    sample = sample_clip()
    assert sample.masks.any((1, 2)).all()
    (pair,) = pairs_of([RegionClip("x", clip(96, 96), region(96, 96))])
    made, ids = pair.clip, pair.ids
    assert set(np.unique(ids)) == {0, 1, 2}
    assert made.frames.shape[:3] == ids.shape


def test_weights_for_coding_only_decode_but_are_not_a_full_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_model(config("plain"))
    frames = torch.from_numpy(clip(64, 64)).permute(0, 3, 1, 2).float()[None] / 255
    exact = freeze_model(model.eval(), [{"frames": frames}])
    settings = {"system": "video_codec", "model": to_dict(config("plain")), "coding": exact.spec()}
    parts = ["intra.hyper_synthesis.", "motion.hyper_synthesis.", "residual.hyper_synthesis."]
    save_model(tmp_path / "whole", {**settings, "training_only": parts}, dict(model.state_dict()), exact.tensors())
    int8_model(tmp_path / "whole", tmp_path / "small")
    kept = load_model(tmp_path / "small").weights
    assert not any("hyper_synthesis" in name for name in kept)
    codec = load(tmp_path / "small", device="cpu")
    blob = codec.compress(clip(64, 64), quality=1, fps=25)
    assert len(list(codec.frames(blob))) == len(clip(64, 64))
    with pytest.raises(ValueError, match="coding only"):
        ScaleSpaceFlow(model.config).load_state_dict(kept)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["plain", "obic", "scaling", "chunk"])
def test_training_starts_from_weights_for_coding_only(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    recipe = replace(cpu(), model=config(kind), objective=VideoLoss(levels=(1.0, 2.0)))
    frames = torch.from_numpy(clip(64, 64)).permute(0, 3, 1, 2).float()[None] / 255
    batch = {"frames": frames, "mask": torch.from_numpy(region(64, 64)).float()[None, :, None]}
    model = build_model(recipe.model)
    match_scales(model, batch)
    objective = RateDistortion(recipe.objective, model)
    export = objective.export(model.eval(), [batch])
    settings = {"system": "video_codec", "model": to_dict(recipe.model), **export.config}
    save_model(tmp_path / "whole", settings, export.weights, export.coding)
    int8_model(tmp_path / "whole", tmp_path / "small")
    stored = load_model(tmp_path / "small").weights
    # Only the chunk codec stores its hyper-synthesis.
    assert any("hyper_synthesis" in name for name in stored) == (kind == "chunk")

    results = []
    for folder in ("whole", "small"):
        again = build_model(recipe.model)
        start_from(again, tmp_path / folder, recipe)
        if folder == "small":
            for name, value in again.state_dict().items():
                if name in stored:
                    torch.testing.assert_close(value, stored[name].float(), msg=name)
        with torch.no_grad():
            results.append(objective.validate(again.eval(), [batch]))
    for name, value in results[0].items():  # eight-bit weights and hyper-syntheses: 2 % of the rate, 0.1 dB
        assert results[1][name] == pytest.approx(value, rel=0.02, abs=0.1 if "psnr" in name else 0.02), name
    other = build_model(replace(recipe.model, lambdas=(0.005, 0.01, 0.02)))
    with pytest.raises(ModelError):
        start_from(other, tmp_path / "small", recipe)
