import math
from dataclasses import replace

import pytest
import torch

from latens.codes.coding import scales
from latens.systems.video_codec.codec import SCALE_RATIO, GainCodec, Hyper, gain_steps, step_of
from latens.systems.video_codec.config import LatentScaling, Method, Obic, Plain
from latens.systems.video_codec.model import CodedClip, ScaleSpaceFlow, cells_of, map_cost
from latens.systems.video_codec.motion import flow_basis
from latens.systems.video_codec.objective import bits_per_pixel

from .conftest import GAIN, METHODS, small_flow


def clip(batch: int = 2, frames: int = 3, height: int = 64, width: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(batch, frames, 1, height, width)
    mask[..., : height // 2, : width // 2] = 1
    return torch.rand(batch, frames, 3, height, width, generator=generator), mask


def loud(model: ScaleSpaceFlow) -> ScaleSpaceFlow:
    """Scale hyper-analyses so that hyper-latents do not all round to zero, as in untrained networks."""
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, Hyper):
                part.hyper_analysis[-1].get_parameter("weight").mul_(100)
    return model


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.kind)
@pytest.mark.parametrize("transforms", ["compact", "paper"])
def test_every_parameter_gets_a_gradient(method: Method, transforms: str) -> None:
    """This includes the layers for masks, which start at zero, and both hyper-codecs of OBIC."""
    torch.manual_seed(0)
    model = loud(ScaleSpaceFlow(small_flow(method, transforms)))
    size = 64 if transforms == "compact" else 128
    frames, mask = clip(height=size, width=size)
    reached: set[str] = set()
    for _ in range(3):
        coded = model(frames, torch.tensor([1.2, 1.7]), mask=mask, amplifier=torch.tensor([1.0, 8.0]))
        (coded.total().mean() / size**2 + 100 * (coded.frames - frames).square().mean()).backward()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                assert parameter.grad is None or bool(parameter.grad.isfinite().all()), name
                if parameter.grad is not None and bool(parameter.grad.any()):
                    reached.add(name)
                    parameter.sub_(0.05 * parameter.grad / parameter.grad.norm())
        model.zero_grad()
    assert {name for name, _ in model.named_parameters()} - reached == set()


@pytest.mark.parametrize("size", [(64, 64), (65, 100), (1, 1), (70, 33)])
@torch.no_grad()
def test_frames_of_any_size(size: tuple[int, int]) -> None:
    model = ScaleSpaceFlow(small_flow(LatentScaling(gain=GAIN))).eval()
    frames, mask = clip(1, 2, *size)
    coded = model(frames, torch.ones(1), mask=mask, rounding="plain")
    assert coded.frames.shape == frames.shape
    assert all(part.shape == (1, 2) for part in coded.bits.values())
    assert bool((coded.total() > 0).all())


@torch.no_grad()
def test_a_group_starts_with_an_intra_frame() -> None:
    model = ScaleSpaceFlow(replace(small_flow(Plain()), group=2)).eval()
    bits = model(clip(1, 5)[0], torch.ones(1), rounding="plain").bits
    assert (bits["intra"][0] > 0).tolist() == [True, False, True, False, True]
    assert (bits["residual"][0] > 0).tolist() == [False, True, False, True, False]


@torch.no_grad()
def test_plain_flow_ignores_masks_and_is_deterministic() -> None:
    torch.manual_seed(0)
    model = ScaleSpaceFlow(small_flow(Plain())).eval()
    frames, mask = clip()
    first = model(frames, torch.ones(2), rounding="plain")
    second = model(frames, torch.ones(2), mask=mask, rounding="plain")
    assert torch.equal(first.frames, second.frames)


def test_the_first_reconstruction_is_detached() -> None:
    torch.manual_seed(0)
    model = ScaleSpaceFlow(small_flow(Plain()))
    frames, _ = clip()
    coded = model(frames, torch.ones(2))
    coded.frames[:, 1].square().sum().backward()
    assert all(parameter.grad is None or not bool(parameter.grad.any()) for parameter in model.intra.parameters())
    model(frames, torch.ones(2)).frames[:, 0].square().sum().backward()
    assert any(parameter.grad is not None and bool(parameter.grad.any()) for parameter in model.intra.parameters())


# ------------------------------------------------------------------------------------------------------ gains


def test_steps_lie_on_the_grid_of_the_coder() -> None:
    assert pytest.approx(SCALE_RATIO) == scales()[1] / scales()[0]
    raw = torch.linspace(-6, 6, 49)[None, None, None]
    k = gain_steps(raw, torch.ones(1))
    assert torch.equal(k, k.round())
    assert bool((k >= 0).all())
    exact = torch.log(1 + torch.log1p(raw.exp())) / math.log(SCALE_RATIO)
    assert float((k - exact).abs().max()) <= 0.5 + 1e-5
    torch.testing.assert_close(step_of(torch.tensor(3.0)), torch.tensor(SCALE_RATIO**3))


def test_dividing_a_scale_by_a_step_selects_the_table_k_levels_lower() -> None:
    table = torch.from_numpy(scales())
    index, k = 40, 7
    assert float(table[index] / SCALE_RATIO**k) == pytest.approx(float(table[index - k]))


def test_the_amplifier_coarsens() -> None:
    raw = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    steps = [gain_steps(raw, torch.tensor([ga])) for ga in (1.0, 4.0, 64.0)]
    assert bool((steps[1] >= steps[0]).all())
    assert bool((steps[2] > steps[1]).all())
    expected = torch.nn.functional.softplus(raw) * 64 + 1  # Eq. D.1
    torch.testing.assert_close(step_of(steps[2]), expected, rtol=SCALE_RATIO**0.5 - 1 + 1e-4, atol=0.0)


@torch.no_grad()
def test_a_larger_amplifier_costs_fewer_bits() -> None:
    torch.manual_seed(0)
    model = ScaleSpaceFlow(small_flow(LatentScaling(gain=GAIN))).eval()
    frames, mask = clip(1)
    costs = [
        float(model(frames, torch.ones(1), mask=mask, amplifier=torch.tensor([ga]), rounding="plain").bits["intra"].sum())
        for ga in (1.0, 8.0, 64.0)
    ]
    assert costs[0] > costs[1] > costs[2]


@torch.no_grad()
def test_gains_start_at_the_plain_codec() -> None:
    gain = GainCodec(GAIN, 16, paper=False)
    raw = gain(torch.ones(1, 1, 64, 64), "plain").raw
    assert raw.shape == (1, 16, 4, 4)
    h = 1 + torch.nn.functional.softplus(raw)
    assert float((h - 1.05).abs().max()) < 0.02
    assert not bool(gain_steps(raw, torch.ones(1)).any())


# -------------------------------------------------------------------------------------------------------------- starts


def test_the_initial_linear_path_of_motion_is_lossless() -> None:
    analysis, synthesis = flow_basis(32)
    field = torch.randn(5, 2, 4, 4)
    y = torch.einsum("bcij,mcij->bm", field, analysis)
    torch.testing.assert_close(torch.einsum("bm,mcij->bcij", y, synthesis), field)
    constant = torch.einsum("cij,mcij->m", torch.stack([torch.full((4, 4), 3.0), torch.zeros(4, 4)]), analysis)
    assert constant[0] == pytest.approx(24)  # eight steps per unit
    assert float(constant[1:].abs().max()) < 1e-5


@pytest.mark.parametrize("method", METHODS[1:], ids=lambda method: method.kind)
@torch.no_grad()
def test_a_method_starts_as_plain_flow(method: Method) -> None:
    torch.manual_seed(0)
    plain = ScaleSpaceFlow(small_flow(Plain())).eval()
    model = ScaleSpaceFlow(small_flow(method)).eval()
    model.load_state_dict(plain.state_dict())
    frames, mask = clip()
    expected = plain(frames, torch.ones(2), rounding="plain").frames
    found = model(frames, torch.ones(2), mask=torch.ones_like(mask), rounding="plain").frames
    torch.testing.assert_close(found, expected)


def test_the_codec_of_first_frames_starts_as_an_image_codec() -> None:
    donor, model = (ScaleSpaceFlow(small_flow(Plain())) for _ in range(2))
    model.load_state_dict(donor.intra.state_dict())
    for name, tensor in donor.intra.state_dict().items():
        assert torch.equal(model.intra.state_dict()[name], tensor)


def test_other_weights_are_refused() -> None:
    model = ScaleSpaceFlow(small_flow(LatentScaling(gain=GAIN)))
    state = dict(model.state_dict())
    del state["intra_gain.decoder.0.weight"]
    with pytest.raises(RuntimeError, match="decoder"):
        model.load_state_dict(state)


# ---------------------------------------------------------------------------------------------------------------- OBIC


@torch.no_grad()
def test_bits_of_the_map_of_obic_are_counted_per_frame() -> None:
    model = ScaleSpaceFlow(small_flow(Obic())).eval()
    frames, mask = clip(2, 3)
    coded: CodedClip = model(frames, torch.ones(2), mask=mask, rounding="plain")
    cells = torch.stack([cells_of(part) for part in mask.unbind(1)], dim=1)
    torch.testing.assert_close(coded.bits["map"], map_cost(cells))
    assert float(coded.bits["map"].sum(1)[0]) > 0
    assert float(bits_per_pixel(coded)[0]) == pytest.approx(
        sum(float(part[0].sum()) for part in coded.bits.values()) / 3 / 64**2, rel=1e-5
    )


def test_a_cell_belongs_to_the_region_if_any_pixel_does() -> None:
    mask = torch.zeros(1, 1, 48, 32)
    mask[0, 0, 16, 31] = 1
    assert cells_of(mask)[0, 0].tolist() == [[False, False], [False, True], [False, False]]


@torch.no_grad()
def test_each_position_is_coded_by_its_own_hyper_codec() -> None:
    torch.manual_seed(0)
    model = ScaleSpaceFlow(small_flow(Obic())).eval()
    codec = model.intra
    assert codec.background is not None
    y = torch.randn(1, 16, 4, 4)
    cells = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    cells[..., :2] = True
    joint = codec._split(y, cells, "plain")
    inside, outside = codec.parameters_of(y * cells, "plain"), codec.background.parameters_of(y * ~cells, "plain")
    assert torch.equal(joint.mean[..., :2], inside.mean[..., :2])
    assert torch.equal(joint.scale[..., 2:], outside.scale[..., 2:])
    torch.testing.assert_close(joint.bits, inside.bits + outside.bits)
