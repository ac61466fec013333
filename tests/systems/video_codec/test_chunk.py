import pytest
import torch

from latens.systems.video_codec.chunk_model import MAP_LEVELS, ChunkCodec, chunk_basis, map_cost, map_levels, spread

from .conftest import small_chunk


@pytest.mark.parametrize("size", [(64, 64), (65, 100), (1, 1)])
@pytest.mark.parametrize("frames", [1, 4, 6])
@torch.no_grad()
def test_clips_of_any_size_and_length(size: tuple[int, int], frames: int) -> None:
    model = ChunkCodec(small_chunk()).eval()
    clip = torch.rand(1, frames, 3, *size)
    coded = model(clip, torch.ones(1), mask=torch.zeros_like(clip[:, :, :1]), amplifier=torch.tensor([8.0]), rounding="plain")
    assert coded.frames.shape == clip.shape
    assert all(part.shape == (1, frames) for part in coded.bits.values())


def test_bits_of_a_chunk_are_divided_among_its_frames() -> None:
    found = spread([torch.tensor([8.0]), torch.tensor([6.0])], 4, 6)
    assert found.tolist() == [[2.0, 2.0, 2.0, 2.0, 3.0, 3.0]]


def test_every_parameter_gets_a_gradient() -> None:
    torch.manual_seed(0)
    model = ChunkCodec(small_chunk())
    frames, mask = torch.rand(2, 8, 3, 64, 64), (torch.rand(2, 8, 1, 64, 64) < 0.3).float()
    reached: set[str] = set()
    for _ in range(2):
        coded = model(frames, torch.tensor([1.2, 1.7]), mask=mask, amplifier=torch.tensor([4.0, 32.0]))
        (coded.total().mean() / 64**2 + 100 * (coded.frames - frames).square().mean()).backward()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.grad is not None and bool(parameter.grad.any()):
                    assert bool(parameter.grad.isfinite().all()), name
                    reached.add(name)
                    parameter.sub_(0.05 * parameter.grad / parameter.grad.norm())
        model.zero_grad()
    assert {name for name, _ in model.named_parameters()} - reached == set()


def test_basis_is_orthonormal() -> None:
    flat = chunk_basis(192, 4).flatten(1)
    torch.testing.assert_close(flat @ flat.T, torch.eye(192), atol=1e-5, rtol=0.0)


def test_levels_are_half_octaves_of_the_weight() -> None:
    mask = torch.zeros(1, 1, 1, 128, 64)
    mask[..., :64, :] = 1
    assert map_levels(mask, torch.tensor([16.0])).flatten().tolist() == [0, 8]
    assert map_levels(mask, torch.tensor([1.0])).flatten().tolist() == [0, 0]
    assert int(map_levels(torch.zeros_like(mask), torch.tensor([1e9])).max()) == MAP_LEVELS - 1


def test_a_partly_covered_cell_has_a_level_in_between() -> None:
    mask = torch.zeros(1, 1, 1, 64, 64)
    mask[..., :16, :] = 1  # a quarter: half of the levels
    assert map_levels(mask, torch.tensor([16.0])).item() == 4


@torch.no_grad()
def test_the_map_lowers_the_gain_by_the_square_root_of_the_weight() -> None:
    model = ChunkCodec(small_chunk())
    gain = model.map_gain(torch.full((1, 4, 2, 3), 8)).exp()
    assert gain.shape == (1, 24, 16, 24)
    torch.testing.assert_close(gain, torch.full_like(gain, 16**-0.5))
    alone = torch.zeros(1, 4, 2, 3, dtype=torch.long)
    alone[0, 1] = 8  # one frame of four
    torch.testing.assert_close(model.map_gain(alone).exp(), torch.full_like(gain, 16**-0.125))


@torch.no_grad()
def test_the_map_is_smooth_and_its_bits_are_counted() -> None:
    model = ChunkCodec(small_chunk())
    levels = torch.zeros(1, 4, 1, 2, dtype=torch.long)
    levels[..., 1] = 12
    profile = model.map_gain(levels)[0, 0, 0]
    assert bool((profile.diff() <= 0).all())
    assert float(profile.diff().abs().max()) < float(profile.abs().max()) / 4
    assert float(map_cost(torch.zeros(1, 4, 1, 2, dtype=torch.long))) == 1.0
    assert float(map_cost(levels)) > 8


@torch.no_grad()
def test_a_coarser_background_costs_fewer_bits() -> None:
    torch.manual_seed(0)
    model = ChunkCodec(small_chunk()).eval()
    clip, mask = torch.rand(1, 4, 3, 64, 128), torch.zeros(1, 4, 1, 64, 128)
    mask[..., :64] = 1
    costs = [
        float(model(clip, torch.ones(1), mask=mask, amplifier=torch.tensor([ga]), rounding="plain").bits["latent"].sum())
        for ga in (1.0, 8.0, 64.0)
    ]
    assert costs[0] > costs[1] > costs[2]


@torch.no_grad()
def test_a_still_clip_is_predicted_by_the_previous_chunk() -> None:
    """The linear path codes differences from the last frame, which are zero once that frame is exact."""
    model = ChunkCodec(small_chunk()).eval()
    frame = torch.full((1, 3, 64, 64), 0.3)
    still = model.analysis.linear((frame[:, None] - frame[:, None]).expand(-1, 4, -1, -1, -1).flatten(1, 2))
    assert not bool(still.any())
