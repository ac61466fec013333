"""Frozen integer coding of a hyper-synthesis: close to the real-valued network, lossless, restored from its tensors."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from latens.codes.coding import FrozenCoding, freeze
from latens.codes.entropy import FactorizedPrior
from latens.errors import Corrupt, ModelError

HIDDEN, LATENT = 6, 5


@pytest.fixture(scope="module")
def network() -> nn.Sequential:
    torch.manual_seed(0)
    last = nn.Conv2d(8, 2 * LATENT, 3, padding=1)
    made = nn.Sequential(
        nn.ConvTranspose2d(HIDDEN, 8, 5, stride=2, padding=2, output_padding=1),
        nn.ReLU(),
        last,
    )
    assert last.bias is not None
    with torch.no_grad():
        last.bias[LATENT:] = 3.0  # scales
    return made.eval()


@pytest.fixture(scope="module")
def prior() -> FactorizedPrior:
    torch.manual_seed(1)
    return FactorizedPrior(HIDDEN)


@pytest.fixture(scope="module")
def coding(network: nn.Sequential, prior: FactorizedPrior) -> FrozenCoding:
    torch.manual_seed(2)
    return freeze(network, prior, 4 * torch.randn(3, HIDDEN, 6, 7))


@torch.no_grad()
def test_parameters_are_those_of_the_network(coding: FrozenCoding, network: nn.Sequential, prior: FactorizedPrior) -> None:
    torch.manual_seed(3)
    z = 4 * torch.randn(1, HIDDEN, 5, 4)
    symbols = coding.z_symbols(z)
    z_hat = coding.z_hat(symbols)
    torch.testing.assert_close(z_hat - prior.medians()[:, None, None], symbols.float(), atol=1 / 256, rtol=0)
    mean, scale = network(z_hat).chunk(2, dim=1)
    found = coding.parameters(symbols)
    torch.testing.assert_close(found.mean, mean, atol=0.05, rtol=0.01)
    ratio = coding.scale_of(found.level) / scale.clamp(0.11, 256)
    assert float(ratio.log().abs().max()) < 0.1  # half a level is 0.06


def test_round_trip_and_code_length(coding: FrozenCoding) -> None:
    torch.manual_seed(4)
    z = torch.randint(-20, 21, (1, HIDDEN, 9, 8))
    level = coding.parameters(z).level
    y = (coding.scale_of(level) * torch.randn(level.shape)).round().long()
    y[0, 0, 0, :2] = torch.tensor([5000, -7000])  # escapes
    coded_y, coded_z = coding.encode_y(y, level), coding.encode_z(z)
    assert torch.equal(coding.decode_y(coded_y, level), y)
    assert torch.equal(coding.decode_z(coded_z, 9, 8), z)
    bits_y, bits_z = coding.code_length(y, level, z)
    assert 0 <= 8 * len(coded_y) - bits_y <= 64 + 0.01 * bits_y
    assert 0 <= 8 * len(coded_z) - bits_z <= 64 + 0.01 * bits_z
    with pytest.raises(Corrupt):
        coding.decode_y(coded_y[:-4], level)


def test_restored_from_its_tensors(coding: FrozenCoding) -> None:
    again = FrozenCoding.from_tensors(coding.spec(), coding.tensors(), torch.device("cpu"))
    z = torch.randint(-20, 21, (1, HIDDEN, 3, 3))
    assert torch.equal(again.parameters(z).mean, coding.parameters(z).mean)
    assert again.spec() == coding.spec()
    tensors = coding.tensors()
    del tensors["y.counts"]
    with pytest.raises(ModelError, match=r"y\.counts"):
        FrozenCoding.from_tensors(coding.spec(), tensors, torch.device("cpu"))


def test_freezing_needs_no_entropy_coder() -> None:
    script = """
import sys; sys.modules["constriction"] = None
import torch
from torch import nn
from latens.codes.coding import freeze
from latens.codes.entropy import FactorizedPrior
coding = freeze(nn.Sequential(nn.Conv2d(2, 4, 1)), FactorizedPrior(2), torch.randn(1, 2, 4, 4))
print(sorted(coding.spec()))
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "['network', 'self_test']"
