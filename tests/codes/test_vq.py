"""The quantizer against vector-quantize-pytorch, its gradients, and the measures against codebook collapse."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from latens.codes.vq import VectorQuantizer, kmeans, usage

K, D = 12, 5


def pair(decay: float, commitment: float = 0.25) -> tuple[VectorQuantizer, torch.nn.Module]:
    """Our quantizer and the oracle with the same codebook, without k-means, revival and rotation trick."""
    from vector_quantize_pytorch import VectorQuantize

    ours = VectorQuantizer(K, D, commitment, decay=decay, revive=False)
    ours.seen += 1  # past the k-means start
    theirs = VectorQuantize(
        dim=D,
        codebook_size=K,
        decay=decay or 0.8,
        commitment_weight=commitment,
        rotation_trick=False,
        threshold_ema_dead_code=0,
        learnable_codebook=not decay,
        ema_update=bool(decay),
        accept_image_fmap=True,
        in_place_codebook_optimizer=None,
    )
    with torch.no_grad():
        theirs._codebook.embed.copy_(ours.codebook[None])
        theirs._codebook.embed_avg.copy_(ours.codebook[None])
        theirs._codebook.cluster_size.fill_(1)
    return ours, theirs


@pytest.mark.filterwarnings("ignore")
def test_codes_indices_and_moving_averages_equal_the_oracle() -> None:
    torch.manual_seed(0)
    ours, theirs = pair(decay=0.9)
    for _ in range(5):
        latent = torch.randn(3, D, 4, 6)
        mine = ours(latent)
        code, indices, loss = theirs(latent)
        assert torch.equal(mine.indices, indices)
        torch.testing.assert_close(mine.code, code)
        torch.testing.assert_close(mine.loss, loss.squeeze())
        codebook: Any = theirs._codebook
        torch.testing.assert_close(ours.codebook, codebook.embed[0], rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_gradients_equal_the_oracle() -> None:
    torch.manual_seed(1)
    ours, theirs = pair(decay=0.9)
    ours.eval()
    latent = torch.randn(2, D, 3, 3, requires_grad=True)
    weight = torch.randn(2, D, 3, 3)
    mine = ours(latent)
    (gradient,) = torch.autograd.grad((mine.code * weight).sum() + mine.loss, latent)
    theirs.train()
    code, _, loss = theirs(latent)
    (expected,) = torch.autograd.grad((code * weight).sum() + loss.sum(), latent)
    torch.testing.assert_close(gradient, expected)


def test_learned_codebook_moves_codewords_to_their_vectors() -> None:
    # Eq. 1: the codebook term pulls the codeword, the commitment term (beta) the vector, each towards the other.
    ours = VectorQuantizer(2, 2, 0.25, decay=0.0, revive=False).eval()
    with torch.no_grad():
        ours.codebook.copy_(torch.tensor([[0.0, 0.0], [9.0, 9.0]]))
    latent = torch.tensor([[1.0, 2.0]], requires_grad=True)
    found = ours(latent)
    assert found.indices.tolist() == [0]
    assert found.loss.item() == pytest.approx((1 + 4) / 2 * 1.25)
    found.loss.backward()
    assert ours.codebook.grad is not None
    assert ours.codebook.grad[0].tolist() == pytest.approx([-1.0, -2.0])
    assert latent.grad is not None
    assert latent.grad[0].tolist() == pytest.approx([0.25, 0.5])


def test_kmeans_finds_separated_clusters() -> None:
    torch.manual_seed(3)
    truth = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])
    vectors = (truth[:, None] + 0.1 * torch.randn(4, 50, 2)).reshape(-1, 2)
    found = min((kmeans(vectors, 4, 20) for _ in range(10)), key=lambda c: float(torch.cdist(vectors, c).min(1).values.sum()))
    assert float(torch.cdist(truth, found).min(1).values.max()) < 0.1
    assert kmeans(vectors[:3], 8, 5).shape == (8, 2)


def run(*, revive: bool, start_far: bool) -> float:
    """Share of used codewords after training on a fixed cloud away from the origin, to which unused averages shrink."""
    torch.manual_seed(0)
    quantizer = VectorQuantizer(32, 4, decay=0.9, revive=revive)
    if start_far:
        quantizer.seen += 1  # no k-means
        quantizer.codebook.mul_(5)
        quantizer.sums.copy_(quantizer.codebook)
    for _ in range(400):
        quantizer(torch.randn(16, 4, 8) + 30)
    quantizer.eval()
    return usage(quantizer(torch.randn(200, 4, 8) + 30).indices, 32).share


def test_dead_codewords_are_revived() -> None:
    assert run(revive=False, start_far=True) < 0.5
    assert run(revive=True, start_far=True) > 0.9
    assert run(revive=False, start_far=False) > 0.9  # k-means suffices if the vectors do not move


def test_delay_passes_vectors_unquantized_before_kmeans() -> None:
    torch.manual_seed(0)
    quantizer = VectorQuantizer(8, 3, delay=2)
    before = quantizer.codebook.clone()
    for _ in range(2):
        latent = torch.randn(2, 3, 5)
        found = quantizer(latent)
        assert torch.equal(found.code, latent)
        assert float(found.loss) == 0
        assert torch.equal(quantizer.codebook, before)
    found = quantizer(torch.randn(2, 3, 5))
    assert not torch.equal(quantizer.codebook, before)
    assert float(found.loss) > 0


def test_evaluation_changes_nothing_and_lookup_is_the_code() -> None:
    torch.manual_seed(0)
    quantizer = VectorQuantizer(8, 3).eval()
    state = {name: value.clone() for name, value in quantizer.state_dict().items()}
    found = quantizer(torch.randn(2, 3, 4, 4))
    assert all(torch.equal(value, state[name]) for name, value in quantizer.state_dict().items())
    torch.testing.assert_close(quantizer.lookup(found.indices), found.code)


def test_usage_counts_and_perplexity() -> None:
    even = usage(torch.arange(4).repeat(5), 8)
    assert even.share == 0.5
    assert even.perplexity == pytest.approx(4)
    skewed = usage(torch.tensor([0, 0, 0, 1]), 2)
    assert skewed.perplexity == pytest.approx(math.exp(0.75 * math.log(4 / 3) + 0.25 * math.log(4)))
    with pytest.raises(ValueError, match=r"^codebook usage needs at least one index$"):
        usage(torch.zeros(0, dtype=torch.long), 4)


def test_kmeans_draws_from_its_own_generator() -> None:
    """The same generator gives the same centers whatever torch's global seed; fewer vectors than clusters are repeated."""
    vectors = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        found.append(kmeans(vectors, 9, 3, torch.Generator().manual_seed(5)))
    assert torch.equal(found[0], found[1])
    few = kmeans(vectors[:2], 5, 2, torch.Generator().manual_seed(5))
    assert {tuple(center) for center in few.tolist()} == {tuple(vector) for vector in vectors[:2].tolist()}
