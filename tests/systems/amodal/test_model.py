"""The mask code: shapes, batches, and a short training run without codebook collapse."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from latens.codes.vq import usage
from latens.data.instances import Sample, paint
from latens.data.source import parse_source
from latens.systems.amodal.batches import AmodalData, mask_crops
from latens.systems.amodal.config import AmodalConfig, LossConfig, MaskCodeConfig, SceneConfig
from latens.systems.amodal.dataset import open_source
from latens.systems.amodal.model import MaskAutoencoder, code_loss
from latens.systems.amodal.objective import binary_iou

SMALL = MaskCodeConfig(size=28, codewords=16, width=8, channels=8, delay=0)


@pytest.mark.parametrize("config", [SMALL, replace(SMALL, size=14), replace(SMALL, size=56, decay=0.0)])
def test_decoding_the_code_equals_the_forward_pass(config: MaskCodeConfig) -> None:
    torch.manual_seed(0)
    model = MaskAutoencoder(config).eval()
    mask = torch.rand(3, 1, config.size, config.size)
    found = model(mask)
    assert found.logits.shape == mask.shape
    assert found.indices.shape == (3, 7, 7)
    assert torch.equal(model.encode(mask), found.indices)
    torch.testing.assert_close(model.decode(found.indices), found.logits)
    one_hot = torch.nn.functional.one_hot(found.indices, config.codewords).movedim(-1, 1).float()
    torch.testing.assert_close(model.decode_weights(one_hot), found.logits, rtol=1e-4, atol=1e-4)


def test_a_batch_depends_only_on_seed_step_and_rank() -> None:
    sources = [open_source(parse_source("simulated"))]
    feeds = [AmodalData(sources, AmodalConfig(size=64), SceneConfig(batch=2), 5, LossConfig(code_batch=6), 3) for _ in range(2)]
    for step, key in ((1, "crops"), (7, "image")):
        first, second = (feed.batch(step, 0) for feed in feeds)
        assert all(torch.equal(first[name], second[name]) for name in first)
        assert not torch.equal(first[key], feeds[0].batch(step + 1, 0)[key])
        assert not torch.equal(first[key], feeds[0].batch(step, 1)[key])
    crops = feeds[0].batch(0, 0)["crops"]
    assert crops.shape == (6, 1, 56, 56)
    assert 0 <= float(crops.min()) <= float(crops.max()) <= 1
    assert ((crops > 0) & (crops < 1)).any()  # soft coverage


@pytest.mark.slow
def test_a_short_run_learns_shapes_and_uses_the_codebook() -> None:
    torch.manual_seed(0)
    config = MaskCodeConfig(size=28, codewords=64, width=16, channels=16, delay=40)
    feed = AmodalData(
        [open_source(parse_source("simulated:opaque"))],
        AmodalConfig(size=64, code=config),
        SceneConfig(),
        1000,
        LossConfig(code_batch=48),
        seed=0,
    )
    model = MaskAutoencoder(config)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for step in range(220):
        crops = feed.batch(step, 0)["crops"]
        optimizer.zero_grad()
        code_loss(model(crops), crops).backward()
        optimizer.step()
    model.eval()
    crops = torch.cat([feed.batch(900 + number, 0)["crops"] for number in range(6)])
    with torch.no_grad():
        codes = model.encode(crops)
        assert float(binary_iou(model.decode(codes), crops).mean()) > 0.9
    assert usage(codes, config.codewords).share > 0.8


def test_jittered_boxes_crop_masks() -> None:
    mask = np.zeros((1, 64, 64), dtype=bool)
    mask[0, 16:48, 16:48] = True
    sample = Sample(np.zeros((64, 64, 3), dtype=np.uint8), paint(mask, np.zeros(1)))
    crops = mask_crops(np.random.default_rng(0), [sample], 200, 28)
    filled = crops.mean((1, 2, 3))
    tight = (filled > 1 - 1e-6).float().mean()
    assert 0.1 < float(tight) < 0.5  # a fifth is exact; jitter inwards fills the box as well
    assert 0.5 < float(filled.min())
