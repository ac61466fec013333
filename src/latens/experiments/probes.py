"""What a representation is worth for recognition: the paper's three fine-tunings, a linear probe and nearest neighbors.

    conv1     the first stage of phi is frozen       conv1-3   the first two       conv1-5   the first three
    (004, section 4.1; with two residual stages conv1-5 freezes all of phi, which is then computed once)

Batch normalization stays as pre-training left it in all of phi, statistics included. Whatever is chosen (epoch, penalty,
number of neighbors) is chosen on a validation split of the training pictures; the test split is looked at once.
"""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latens.data.labeled import LabeledSet
from latens.data.splits import place_of
from latens.data.squares import Squares, readable
from latens.data.tensors import to_tensor
from latens.errors import InputError, LatensError
from latens.nn.classifier import classifier
from latens.settings import Count, NonNegative, Positive, Share, settings, to_dict
from latens.shapes import Float, Int

logger = logging.getLogger(__name__)

Probe = Literal["conv1", "conv1-3", "conv1-5", "linear", "knn"]
FROZEN: Mapping[str, int] = MappingProxyType({"conv1": 1, "conv1-3": 2, "conv1-5": 3})
PROBES: tuple[Probe, ...] = ("conv1", "conv1-3", "conv1-5", "linear", "knn")
PENALTIES = (1e-1, 1e-3, 1e-5)  # of the linear probe's squared weights
NEIGHBORS = (1, 5, 20, 50, 200)
SHARPNESS = 0.07  # temperature of the votes (Wu et al. 2018)
LINEAR_CELLS = 4  # a side of the map that linear and knn probes see
CACHE_BYTES = 2 * 10**9
LOOKED_AT = 16  # pictures whose pixels are in the fingerprint of a data set
LINES = 9  # of progress that a fine-tuning probe logs


class StagedEncoder(Protocol):
    """A network that can be frozen from the front: a `torch.nn.Module` whose `stages` run one after the other."""

    stages: nn.ModuleList
    channels: int  # of the features
    stride: int  # pixels per cell of the map of features

    def __call__(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]: ...
    def normalized(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]: ...
    def run(self, x: Tensor, first: int, last: int | None = None) -> Tensor: ...
    def parameters(self) -> Iterator[nn.Parameter]: ...
    def state_dict(self) -> Any: ...
    def load_state_dict(self, state: Any) -> Any: ...
    def eval(self) -> Any: ...


@settings
class ProbeConfig:
    """The schedule of the fine-tuning probes (004, section 4, "Training details")."""

    epochs: Count = 90  # over the training images
    batch: Count = 128  # images
    lr: Positive = 1e-2  # learning rate; divided by 10 after each third of the epochs
    momentum: Share = 0.9  # of the gradient
    decay: NonNegative = 1e-4  # of the weights
    validation_share: Share = 0.1  # of the training images
    precision: Literal["bf16", "no"] = "bf16"  # arithmetic of the networks; losses and the other probes stay in float32


class ProbeResult(NamedTuple):
    """Accuracies in percent, top-1 unless it is said."""

    probe: str
    test: float
    top5: float  # of the test split
    validation: float
    chosen: str  # what the validation split chose


class Split(NamedTuple):
    """Squares and labels for one purpose."""

    squares: Squares
    labels: Int[Tensor, "n"]


class Splits(NamedTuple):
    train: Split
    validation: Split
    test: Split
    classes: int


def split_sets(train: LabeledSet, test: LabeledSet, size: int, share: float) -> Splits:
    """Images that cannot be read are logged and left out.

    Raises InputError when pictures have no labels, or the test split has others than the training split.
    """
    check_labels(train, test)
    chance = np.array([place_of(f"probe {key}") for key in train.keys])
    held_out = np.flatnonzero(chance < share)
    kept = np.flatnonzero(chance >= share)
    if not len(held_out) or not len(kept):
        kept = held_out = np.arange(len(train))  # too few pictures to divide
    squares = [readable(part, size) for part in (train.subset(kept), train.subset(held_out), test)]
    divided = [Split(part, torch.from_numpy(part.found.labels.copy())) for part in squares]
    return Splits(divided[0], divided[1], divided[2], len(train.classes))


def check_labels(train: LabeledSet, test: LabeledSet) -> None:
    """Raises InputError when pictures have no labels, or the test split has others than the training split."""
    if len(train.classes) < 2 or train.labels.min() < 0 or test.labels.min() < 0:
        hint = "give one folder of pictures for every class, or a labeled data set"
        raise InputError("a probe needs labeled pictures", where=train.name, hint=hint)
    if test.labels.max() >= len(train.classes):
        raise InputError("the test split has classes that the training split lacks", where=test.name)


def cache_key(name: str, config: ProbeConfig) -> dict[str, object]:
    """The part of a schedule that decides the result of a probe."""
    return to_dict(config) if name in FROZEN else {"validation_share": config.validation_share}


def fingerprint(found: LabeledSet) -> str:
    """Tells data sets apart: a hash of the names, labels and classes of all pictures, and of the pixels of a few."""
    some = np.unique(np.linspace(0, len(found) - 1, LOOKED_AT).astype(int))
    parts = [repr((found.keys, found.classes)).encode(), found.labels.tobytes()]
    for number in some:
        try:
            pixels = found.read(int(number))
        except LatensError:  # the caller reports unreadable images
            continue
        parts += [repr(pixels.shape).encode(), pixels.tobytes()]
    return hashlib.sha256(b"|".join(parts)).hexdigest()


def run_probe(
    name: Probe,
    encoder: StagedEncoder,
    splits: Splits,
    config: ProbeConfig,
    *,
    seed: int = 0,
) -> ProbeResult:
    """The accuracy of one probe. The encoder is left as it is."""
    if name in FROZEN:
        return fine_tune(name, encoder, splits, config, seed=seed)
    encoder.eval()
    sets = [embed(encoder, split.squares, LINEAR_CELLS) for split in splits[:3]]
    labels = [split.labels for split in splits[:3]]
    return (linear if name == "linear" else nearest)(sets, labels, splits.classes)


# -------------------------------------------------------------------------------------------------------- fine-tuning


def fine_tune(name: Probe, encoder: StagedEncoder, splits: Splits, config: ProbeConfig, *, seed: int) -> ProbeResult:
    """Trains a classifier and the stages of a copy of phi that are not frozen. Frozen stages run once if memory allows."""
    device = next(encoder.parameters()).device
    first = min(FROZEN[name], len(encoder.stages))
    torch.manual_seed(seed)
    encoder = partly_frozen(encoder, first)
    head = classifier(encoder.channels, splits.train.squares.size // encoder.stride, splits.classes).to(device)
    trained = [p for p in [*encoder.parameters(), *head.parameters()] if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=config.lr, momentum=config.momentum, weight_decay=config.decay)
    arithmetic = torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16")
    inputs = [_frozen(encoder, split.squares, first, arithmetic) for split in splits[:3]]

    def logits(which: int, places: np.ndarray) -> Tensor:
        seen = inputs[which](places)
        with arithmetic:
            found: Tensor = head(encoder.run(seen, first))
        return found.float()

    best, chosen, kept = -1.0, 0, None
    for epoch in range(config.epochs):
        for group in optimizer.param_groups:
            group["lr"] = config.lr * 0.1 ** (3 * epoch // config.epochs)
        head.train()
        order = np.random.default_rng([seed, epoch]).permutation(len(splits.train.labels))
        for start in range(0, len(order), config.batch):
            places = order[start : start + config.batch]
            loss = F.cross_entropy(logits(0, places), splits.train.labels[places].to(device))
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimizer.step()
        head.eval()
        score = _accuracy(logits, 1, splits.validation.labels, config.batch)
        if score > best:
            best, chosen = score, epoch + 1
            kept = [copy.deepcopy(module.state_dict()) for module in (encoder, head)]
        if (epoch + 1) % max(1, config.epochs // LINES) == 0 or epoch + 1 == config.epochs:
            logger.info("%s: epoch %d of %d, validation %.2f %% (best %.2f %%)", name, epoch + 1, config.epochs, score, best)
    if kept is not None:
        encoder.load_state_dict(kept[0])
        head.load_state_dict(kept[1])
    head.eval()
    top = [_accuracy(logits, 2, splits.test.labels, config.batch, among) for among in (1, 5)]
    return ProbeResult(name, top[0], top[1], best, f"epoch {chosen}")


def partly_frozen(encoder: StagedEncoder, first: int) -> StagedEncoder:
    """A copy in which only the convolutions behind the first `first` stages can be trained.

    It is in evaluation mode and stays there, so that normalization layers keep their statistics.
    """
    copied: Any = copy.deepcopy(encoder)
    copied.requires_grad_(False).eval()
    for stage in copied.stages[first:]:
        for layer in stage.modules():
            if isinstance(layer, nn.Conv2d):
                layer.weight.requires_grad_(True)
    frozen: StagedEncoder = copied
    return frozen


@torch.no_grad()
def _accuracy(logits: Callable[[int, np.ndarray], Tensor], which: int, labels: Tensor, batch: int, among: int = 1) -> float:
    places = [np.arange(start, min(start + batch, len(labels))) for start in range(0, len(labels), batch)]
    return 100 * sum(top_k_correct(logits(which, part).cpu(), labels[part], among) for part in places) / len(labels)


def top_k_correct(scores: Float[Tensor, "n K"], labels: Int[Tensor, "n"], among: int) -> int:
    """For how many rows the label is among the `among` highest scores."""
    best = scores.topk(min(among, scores.shape[1]), dim=1).indices
    return int((best == labels[:, None]).sum())


def _frozen(encoder: StagedEncoder, squares: Squares, first: int, arithmetic: torch.autocast) -> Callable[[np.ndarray], Tensor]:
    """What the first stages give for pictures by place: from memory in half precision where it fits, else computed anew."""
    device = next(encoder.parameters()).device

    @torch.no_grad()
    def compute(places: np.ndarray) -> Tensor:
        image = to_tensor(squares.pixels(places), channels_last=True).to(device)
        with arithmetic:
            return encoder.run(encoder.normalized(image), 0, first)

    one = compute(np.arange(1))
    if one.numel() * 2 * len(squares) > CACHE_BYTES:
        return compute
    kept = torch.empty((len(squares), *one.shape[1:]), dtype=torch.float16)
    for start in range(0, len(squares), 256):
        places = np.arange(start, min(start + 256, len(squares)))
        kept[start : start + 256] = compute(places).half().cpu()
    return lambda places: kept[torch.from_numpy(places)].float().to(device).contiguous(memory_format=torch.channels_last)


# --------------------------------------------------------------------------------------------- linear and neighbors


@torch.no_grad()
def embed(encoder: StagedEncoder, squares: Squares, cells: int) -> Float[Tensor, "n F"]:
    """Features phi, averaged down to at most cells x cells and flattened."""
    device = next(encoder.parameters()).device
    found = []
    for batch in squares.batches(128):
        features = encoder(batch.to(device)).float()
        if max(features.shape[2:]) > cells:
            features = F.adaptive_avg_pool2d(features, cells)
        found.append(features.flatten(1).cpu())
    return torch.cat(found)


def linear(sets: list[Float[Tensor, "n F"]], labels: list[Int[Tensor, "n"]], classes: int) -> ProbeResult:
    """Multinomial logistic regression on standardized features; the penalty is chosen on the validation split."""
    mean, deviation = sets[0].mean(0), sets[0].std(0) + 1e-6
    scaled = [(features - mean) / deviation for features in sets]
    best = ProbeResult("linear", 0.0, 0.0, -1.0, "")
    for penalty in PENALTIES:
        weight, bias = logistic_regression(scaled[0], labels[0], classes, penalty)
        scores = [x @ weight + bias for x in scaled]
        validation = 100 * top_k_correct(scores[1], labels[1], 1) / len(labels[1])
        if validation > best.validation:
            test = [100 * top_k_correct(scores[2], labels[2], among) / len(labels[2]) for among in (1, 5)]
            best = ProbeResult("linear", test[0], test[1], validation, f"penalty {penalty:g}")
    return best


def logistic_regression(x: Float[Tensor, "n F"], y: Int[Tensor, "n"], classes: int, penalty: float) -> tuple[Tensor, Tensor]:
    """Weights (F, K) and bias (K,) that minimise mean cross-entropy + penalty / 2 * squared weights, by L-BFGS."""
    weight = torch.zeros(x.shape[1], classes, dtype=x.dtype, requires_grad=True)
    bias = torch.zeros(classes, dtype=x.dtype, requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=100, history_size=10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        solver.zero_grad()
        loss = F.cross_entropy(x @ weight + bias, y) + penalty / 2 * weight.square().sum()
        torch.autograd.backward(loss)
        return loss

    solver.step(closure)  # type: ignore[no-untyped-call]
    return weight.detach(), bias.detach()


def nearest(sets: list[Float[Tensor, "n F"]], labels: list[Int[Tensor, "n"]], classes: int) -> ProbeResult:
    """Votes of the nearest training pictures by cosine, weighted by exp(cosine / 0.07); their number is chosen."""
    centre = sets[0].mean(0)
    unit = [F.normalize(features - centre, dim=1) for features in sets]
    counts = [k for k in NEIGHBORS if k <= len(unit[0])]
    right = {(k, which, among): 0 for k in counts for which in (1, 2) for among in (1, 5)}
    for which in (1, 2):
        for start, part in _parts(unit[which], 512):
            near = (part @ unit[0].T).topk(counts[-1], dim=1)
            votes = F.one_hot(labels[0][near.indices], classes) * (near.values / SHARPNESS).exp()[..., None]
            for k in counts:
                for among in (1, 5):
                    scores, known = votes[:, :k].sum(1), labels[which][start : start + 512]
                    right[k, which, among] += top_k_correct(scores, known, among)
    best = max(counts, key=lambda k: right[k, 1, 1])
    found = [100 * right[best, which, among] / len(labels[which]) for which, among in ((2, 1), (2, 5), (1, 1))]
    return ProbeResult("knn", found[0], found[1], found[2], f"{best} neighbors")


def _parts(x: Tensor, count: int) -> Iterator[tuple[int, Tensor]]:
    for start in range(0, len(x), count):
        yield start, x[start : start + count]
