"""Probes of a representation: three fine-tunings, a linear classifier and nearest neighbors (Gupta et al. 2020, section 4.1).

    conv1     the first stage of phi is frozen       conv1-3   the first two       conv1-5   the first three
    (with two residual stages conv1-5 freezes all of phi, which is then computed once)

Batch normalization of phi keeps its statistics and weights. Epoch, penalty and number of neighbors are chosen on a validation
split of the training images; the test split is evaluated once.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latens.data.labeled import LabeledImages
from latens.data.splits import place_of
from latens.data.squares import Squares, readable
from latens.data.tensors import to_tensor
from latens.errors import InputError
from latens.nn.stages import StagedEncoder, classifier_head, normalized
from latens.settings import Count, NonNegative, Positive, Share, settings, to_dict
from latens.shapes import Float, Int
from latens.training.config import Decay

logger = logging.getLogger(__name__)

Probe = Literal["conv1", "conv1-3", "conv1-5", "linear", "knn"]
PROBES: tuple[Probe, ...] = get_args(Probe)
FROZEN: Mapping[str, int] = MappingProxyType({"conv1": 1, "conv1-3": 2, "conv1-5": 3})  # stages
PENALTIES = (1e-1, 1e-3, 1e-5)  # of the squared weights of the linear probe
NEIGHBORS = (1, 5, 20, 50, 200)
TEMPERATURE = 0.07  # of the weights of neighbors (Wu et al. 2018)
CELLS = 4  # side of the map that the linear and knn probes see
CACHE_BYTES = 2 * 10**9
PROGRESS_LINES = 9  # of a fine-tuning probe


@settings
class ProbeConfig:
    """Schedule of the fine-tuning probes; the defaults are the paper's (section 4, "Training details")."""

    epochs: Count = 90  # passes over the training images
    batch: Count = 128  # images
    lr: Positive = 1e-2  # learning rate, divided by 10 after each third of the epochs
    momentum: Decay = 0.9  # decay of the velocity
    decay: NonNegative = 1e-4  # weight decay
    validation_share: Share = 0.1  # share of the training images that choose epoch, penalty and neighbors
    precision: Literal["bf16", "no"] = "bf16"  # arithmetic of the networks; losses and the other probes stay in float32


class ProbeResult(NamedTuple):
    """Accuracies in percent."""

    probe: str
    test: float  # top-1
    top5: float  # of the test split
    validation: float  # top-1
    chosen: str  # epoch, penalty or number of neighbors


class Split(NamedTuple):
    squares: Squares
    labels: Int[Tensor, "n"]


@dataclass(frozen=True)
class Splits:
    """Labeled squares. `left_out` has a line for each image that cannot be read."""

    train: Split
    validation: Split
    test: Split
    classes: int
    left_out: tuple[str, ...]

    @property
    def all(self) -> tuple[Split, Split, Split]:
        return self.train, self.validation, self.test


def split_sets(train: LabeledImages, test: LabeledImages, size: int, validation_share: float) -> Splits:
    """Squares of `size` pixels. A set too small to divide is its own validation split.

    Raises InputError where images have no labels, or the test split has classes that the training split lacks.
    """
    check_labels(train, test)
    chance = np.array([place_of(f"probe {key}") for key in train.keys])
    held_out = np.flatnonzero(chance < validation_share)
    kept = np.flatnonzero(chance >= validation_share)
    if not len(held_out) or not len(kept):
        logger.warning(
            "%s: %d images are too few to divide; the probes choose on their training images", train.name, len(train)
        )
        kept = held_out = np.arange(len(train))
    found = [readable(part, size) for part in (train.subset(kept), train.subset(held_out), test)]
    splits = [Split(one.squares, torch.from_numpy(one.squares.found.labels.copy())) for one in found]
    left_out = tuple(dict.fromkeys(line for one in found for line in one.left_out))
    return Splits(splits[0], splits[1], splits[2], len(train.classes), left_out)


def check_labels(train: LabeledImages, test: LabeledImages) -> None:
    """Raises InputError where images have no labels, or the test split has classes that the training split lacks."""
    if len(train.classes) < 2 or train.labels.min() < 0 or test.labels.min() < 0:
        hint = "give one folder of images for every class, or a labeled data set"
        raise InputError("a probe needs labeled images", where=train.name, hint=hint)
    if test.labels.max() >= len(train.classes):
        raise InputError("the test split has classes that the training split lacks", where=test.name)


def cache_key(probe: Probe, config: ProbeConfig) -> dict[str, Any]:
    """The settings that determine the result of a probe."""
    return to_dict(config) if probe in FROZEN else {"validation_share": config.validation_share}


def run_probe(probe: Probe, encoder: StagedEncoder, splits: Splits, config: ProbeConfig, *, seed: int = 0) -> ProbeResult:
    """Run one probe. The encoder is not changed. Fine-tuning uses `seed` for the order of images and the initial weights."""
    if probe in FROZEN:
        return fine_tune(probe, encoder, splits, config, seed=seed)
    encoder = encoder.eval()
    sets = [embed(encoder, split.squares, CELLS) for split in splits.all]
    labels = [split.labels for split in splits.all]
    return (linear if probe == "linear" else nearest)(sets, labels, splits.classes)


# -------------------------------------------------------------------------------------------------------- fine-tuning


def fine_tune(probe: Probe, encoder: StagedEncoder, splits: Splits, config: ProbeConfig, *, seed: int) -> ProbeResult:
    """Train a classifier and the unfrozen stages of a copy of phi. Frozen stages run once if memory allows."""
    device = next(encoder.parameters()).device
    first = min(FROZEN[probe], len(encoder.stages))
    torch.manual_seed(seed)
    encoder = partly_frozen(encoder, first)
    head = classifier_head(encoder.channels, splits.train.squares.size // encoder.stride, splits.classes).to(device)
    trained = [p for p in [*encoder.parameters(), *head.parameters()] if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=config.lr, momentum=config.momentum, weight_decay=config.decay)
    arithmetic = torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16")
    inputs = [_frozen(encoder, split.squares, first, arithmetic) for split in splits.all]

    def logits(which: int, indices: np.ndarray) -> Tensor:
        seen = inputs[which](indices)
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
            indices = order[start : start + config.batch]
            loss = F.cross_entropy(logits(0, indices), splits.train.labels[indices].to(device))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        head.eval()
        score = _accuracy(logits, 1, splits.validation.labels, config.batch)
        if score > best:
            best, chosen = score, epoch + 1
            kept = [copy.deepcopy(module.state_dict()) for module in (encoder, head)]
        if (epoch + 1) % max(1, config.epochs // PROGRESS_LINES) == 0 or epoch + 1 == config.epochs:
            line = "%s: epoch %d of %d, validation %.2f %% (best %.2f %%)"
            logger.info(line, probe, epoch + 1, config.epochs, score, best)
    if kept is not None:
        encoder.load_state_dict(kept[0])
        head.load_state_dict(kept[1])
    head.eval()
    top1, top5 = (_accuracy(logits, 2, splits.test.labels, config.batch, k) for k in (1, 5))
    return ProbeResult(probe, top1, top5, best, f"epoch {chosen}")


def partly_frozen(encoder: StagedEncoder, first: int) -> StagedEncoder:
    """A copy in which the convolutions after the first `first` stages are trainable.

    It stays in evaluation mode, so normalization layers keep their statistics.
    """
    copied = copy.deepcopy(encoder).requires_grad_(False).eval()
    for stage in copied.stages[first:]:
        for layer in stage.modules():
            if isinstance(layer, nn.Conv2d):
                layer.weight.requires_grad_(True)
    return copied


@torch.no_grad()
def _accuracy(logits: Callable[[int, np.ndarray], Tensor], which: int, labels: Tensor, batch: int, k: int = 1) -> float:
    parts = [np.arange(start, min(start + batch, len(labels))) for start in range(0, len(labels), batch)]
    return 100 * sum(top_k_correct(logits(which, part).cpu(), labels[part], k) for part in parts) / len(labels)


def top_k_correct(scores: Float[Tensor, "n K"], labels: Int[Tensor, "n"], k: int) -> int:
    """Number of rows whose label is among the k highest scores.

    scikit-learn's `top_k_accuracy_score` refuses scores (n, 2) of two classes, and splits in which a class is missing.
    """
    best = scores.topk(min(k, scores.shape[1]), dim=1).indices
    return int((best == labels[:, None]).sum())


def _frozen(encoder: StagedEncoder, squares: Squares, first: int, arithmetic: torch.autocast) -> Callable[[np.ndarray], Tensor]:
    """Output of the frozen stages by index: cached in half precision if it fits into memory, else computed on every call."""
    device = next(encoder.parameters()).device

    @torch.no_grad()
    def compute(indices: np.ndarray) -> Tensor:
        image = to_tensor(squares.pixels(indices), channels_last=True).to(device)
        with arithmetic:
            return encoder.run(normalized(image), 0, first)

    one = compute(np.arange(1))
    if one.numel() * 2 * len(squares) > CACHE_BYTES:
        return compute
    kept = torch.empty((len(squares), *one.shape[1:]), dtype=torch.float16)
    for start in range(0, len(squares), 256):
        indices = np.arange(start, min(start + 256, len(squares)))
        kept[start : start + 256] = compute(indices).half().cpu()
    return lambda indices: kept[torch.from_numpy(indices)].float().to(device).contiguous(memory_format=torch.channels_last)


# ------------------------------------------------------------------------------------------ linear and nearest neighbors


@torch.no_grad()
def embed(encoder: StagedEncoder, squares: Squares, cells: int) -> Float[Tensor, "n F"]:
    """Features phi, average-pooled to at most cells x cells and flattened."""
    device = next(encoder.parameters()).device
    found = []
    for batch in squares.batches(128):
        features = encoder(batch.to(device)).float()
        if max(features.shape[2:]) > cells:
            features = F.adaptive_avg_pool2d(features, cells)
        found.append(features.flatten(1).cpu())
    return torch.cat(found)


def linear(sets: Sequence[Float[Tensor, "n F"]], labels: Sequence[Int[Tensor, "n"]], classes: int) -> ProbeResult:
    """Multinomial logistic regression on standardized features; the penalty is chosen on the validation split.

    It minimizes mean cross-entropy + penalty / 2 * squared weights.
    """
    from sklearn.linear_model import LogisticRegression

    mean, deviation = sets[0].mean(0), sets[0].std(0) + 1e-6
    train, validation, test = (((features - mean) / deviation).numpy() for features in sets)
    best = ProbeResult("linear", 0.0, 0.0, -1.0, "")
    for penalty in PENALTIES:
        model = LogisticRegression(C=1 / (penalty * len(train)), max_iter=1000).fit(train, labels[0].numpy())

        def accuracy(x: np.ndarray, y: Int[Tensor, "n"], k: int, model: LogisticRegression = model) -> float:
            scores = torch.zeros(len(x), classes)  # a class without a training image has probability 0
            scores[:, model.classes_] = torch.from_numpy(model.predict_proba(x)).float()
            return 100 * top_k_correct(scores, y, k) / len(y)

        score = accuracy(validation, labels[1], 1)
        if score > best.validation:
            top1, top5 = (accuracy(test, labels[2], k) for k in (1, 5))
            best = ProbeResult("linear", top1, top5, score, f"penalty {penalty:g}")
    return best


def nearest(sets: Sequence[Float[Tensor, "n F"]], labels: Sequence[Int[Tensor, "n"]], classes: int) -> ProbeResult:
    """k-nearest-neighbor classifier by cosine, weighted by exp(cosine / TEMPERATURE); k is chosen on the validation split.

    One search serves all k. KNeighborsClassifier of scikit-learn, fitted for each k, gives the same accuracy in 1.5 times the
    time (2,000 + 1,000 images of 512 features).
    """
    center = sets[0].mean(0)
    unit = [F.normalize(features - center, dim=1) for features in sets]
    counts = [count for count in NEIGHBORS if count <= len(unit[0])]
    correct = {(count, which, k): 0 for count in counts for which in (1, 2) for k in (1, 5)}
    for which in (1, 2):
        for part, known in zip(torch.split(unit[which], 512), torch.split(labels[which], 512), strict=True):
            near = (part @ unit[0].T).topk(counts[-1], dim=1)
            votes = F.one_hot(labels[0][near.indices], classes) * (near.values / TEMPERATURE).exp()[..., None]
            for count in counts:
                for k in (1, 5):
                    correct[count, which, k] += top_k_correct(votes[:, :count].sum(1), known, k)
    best = max(counts, key=lambda count: correct[count, 1, 1])
    found = [100 * correct[best, which, k] / len(labels[which]) for which, k in ((2, 1), (2, 5), (1, 1))]
    return ProbeResult("knn", found[0], found[1], found[2], f"{best} neighbors")
