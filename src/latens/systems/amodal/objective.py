"""Training losses of Jang et al. 2020: Eq. 1 for the mask code, then the sum of section 4.3 with the code frozen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latens.codes.vq import usage
from latens.data.instances import Layers, layers_of_placed
from latens.data.masks import boxes_of, crop
from latens.data.tensors import to_pixels
from latens.metrics.instances import Quality
from latens.nn.ranks import share_of_mean
from latens.settings import to_dict
from latens.shapes import Float
from latens.systems.amodal.config import LossConfig
from latens.systems.amodal.draw import overlay
from latens.systems.amodal.model import MaskAutoencoder, MaskCode, code_loss
from latens.systems.amodal.order import SCORE_THRESHOLD, objects_of
from latens.systems.amodal.pipeline import AmodalRCNN, Detections, Regions, Training, Truth
from latens.training.objective import Export, Group, Step

HIDDEN = 0.05  # hidden fraction above which an object counts as occluded in the loss of ASN
ASN_WEIGHT = 8.0  # weight of occluded objects in that loss (Qi et al. 2019)


class AmodalObjective:
    """Two stages in one run: the mask code for `code_steps` steps, then the pipeline with the mask code frozen."""

    optimizers: Mapping[str, Sequence[Group]]

    def __init__(self, config: LossConfig, model: AmodalRCNN, code_steps: int) -> None:
        self.config = config
        self.code_steps = code_steps
        parts = [name for name, _ in model.named_children() if name != "code"]
        self.optimizers = {"model": [Group(tuple(f"{name}." for name in parts))]}
        if code_steps:
            self.optimizers = {"code": [Group(("code.",))], **self.optimizers}

    def __call__(self, model: nn.Module, batch: dict[str, Tensor], step: int) -> Iterator[Step]:
        code: MaskAutoencoder | None = cast(AmodalRCNN, model).code
        if code is not None:
            code.requires_grad_(step < self.code_steps)
        if code is not None and step < self.code_steps:
            found_code: MaskCode = model(batch["crops"], None)
            yield self.code_step(found_code, batch["crops"], code)
            return
        truth = truth_of(batch)
        found: Training = model(batch["image"], truth)
        terms = {"proposals": found.proposal_loss, "detection": found.detection_loss * self.config.detection}
        if found.occlusion_logits:
            terms["occlusion"] = self.config.occlusion * occlusion_loss(found.occlusion_logits, truth, len(batch["image"]))
        regions = found.regions
        share = share_of_mean(torch.ones((), device=truth.owner.device), 0 if regions is None else len(regions.label))
        if regions is not None:
            each = self.region_terms(regions, code)
            terms |= {name: term * (share * len(regions.label)) for name, term in each.items()}
        yield Step("model", torch.stack(list(terms.values())).sum(), {**terms})

    def code_step(self, found: MaskCode, crops: Tensor, code: MaskAutoencoder) -> Step:
        """Step on L_v of Eq. 1; logs the share of codewords in use and their perplexity."""
        used = usage(found.indices, code.config.codewords)
        iou = binary_iou(found.logits, crops).mean()
        return Step("code", code_loss(found, crops), {"code_iou": iou, "used": used.share, "perplexity": used.perplexity})

    def region_terms(self, regions: Regions, code: MaskAutoencoder | None) -> dict[str, Tensor]:
        """Losses of the mask heads: L_e, L_r (or the baseline's mask loss), visible masks, ASN's classification."""
        terms: dict[str, Tensor] = {}
        prediction = regions.prediction
        if code is not None and prediction.code is not None:
            terms["codewords"] = self.config.code * codeword_loss(prediction.code, regions.amodal_target, code)
        if prediction.direct:
            terms["mask"] = self.config.refinement * mask_loss(prediction.mask, regions.mask_target, regions.label)
        visible = F.binary_cross_entropy_with_logits(regions.visible, regions.visible_target)
        terms["visible"] = self.config.visible * visible
        if regions.hidden is not None:
            weight = torch.tensor(ASN_WEIGHT, device=regions.hidden.device)
            target = (regions.hidden_target > HIDDEN).float()
            terms["asn"] = F.binary_cross_entropy_with_logits(regions.hidden, target, pos_weight=weight)
        return terms

    def validate(self, model: AmodalRCNN, batches: Sequence[dict[str, Tensor]]) -> dict[str, float]:
        """Loss 1 - panoptic quality of detections above SCORE_THRESHOLD; IoU of true masks and their reconstructions.

        Where the panoptic quality is 0, 1 - IoU is added, so that the best weights of the first stage are selected.
        """
        quality, ious, indices = Quality(), [], []
        for batch in batches:
            truth = truth_of(batch)
            for index, found in enumerate(model.detect(batch["image"])):
                own = (truth.owner == index).cpu().numpy()
                seen = found_layers(found, (batch["image"].shape[2], batch["image"].shape[3]))
                quality = quality.plus(batch["amodal"].cpu().numpy()[own] > 0, seen.amodal)
            if model.code is not None and len(truth.amodal):
                target = crop(truth.amodal, boxes_of(truth.amodal), model.config.code.size)[:, None]
                code = model.code.encode(target)
                indices.append(code)
                ious.append(binary_iou(model.code.decode(code), target))
        numbers = {"loss": 1 - quality.value, "missed": float(quality.missed), "false": float(quality.false)}
        if indices and model.code is not None:
            used = usage(torch.cat(indices), model.config.code.codewords)
            numbers |= {"code_iou": float(torch.cat(ious).mean()), "used": used.share, "perplexity": used.perplexity}
            if not quality.value:
                numbers["loss"] += 1 - numbers["code_iou"]
        return numbers

    def images(self, model: AmodalRCNN, batches: Sequence[dict[str, Tensor]]) -> dict[str, np.ndarray]:
        """Up to four held-out images: detections in the upper row, truth in the lower row."""
        batch = {name: tensor.cpu() for name, tensor in batches[0].items()}
        found = model.detect(batches[0]["image"])
        columns = []
        for index in range(min(4, len(found))):
            pixels = to_pixels(batch["image"][index])
            own = (batch["owner"] == index).numpy()
            amodal, visible = batch["amodal"].numpy()[own] > 0, batch["visible"].numpy()[own] > 0
            label = batch["label"].numpy()[own]
            truth = Layers(amodal, visible, np.arange(len(label)), label)
            seen = found_layers(found[index], (pixels.shape[0], pixels.shape[1]))
            columns.append(np.concatenate((overlay(pixels, seen), overlay(pixels, truth))))
        return {"found": np.concatenate(columns, axis=1)}

    def export(self, model: AmodalRCNN, batches: Sequence[dict[str, Tensor]]) -> Export:
        """Weights in float16, and the model settings with the classes of the data."""
        weights = {name: tensor.half() for name, tensor in model.state_dict().items()}
        return Export(weights, {}, {"model": to_dict(model.config)})


def truth_of(batch: dict[str, Tensor]) -> Truth:
    return Truth(batch["owner"], batch["label"], batch["amodal"].float(), batch["visible"].float())


def found_layers(found: Detections, size: tuple[int, int]) -> Layers:
    """Dense masks of the detections above SCORE_THRESHOLD at size (H, W), as in `AmodalSegmenter`."""
    kept = found.scores >= SCORE_THRESHOLD
    scores, label = found.scores[kept].cpu().numpy(), found.label[kept].cpu().numpy()
    objects = objects_of(found.mask[kept], found.visible[kept], found.boxes[kept], scores, label, size)
    return layers_of_placed(objects.placed, size)


def occlusion_loss(logits: Sequence[Float[Tensor, "B h w"]], truth: Truth, images: int) -> Float[Tensor, ""]:
    """L_o of Eq. 2, mean over pixels and levels. The target of a pixel of a level is the occluded share of its area."""
    hidden = truth.amodal * (1 - truth.visible)
    height, width = truth.amodal.shape[1:]
    target = hidden.new_zeros(images, height, width).index_add_(0, truth.owner, hidden).clamp(max=1)
    losses = []
    for level in logits:
        share = F.interpolate(target[:, None], level.shape[1:], mode="area")[:, 0]
        losses.append(F.binary_cross_entropy_with_logits(level, share))
    return torch.stack(losses).mean()


def codeword_loss(logits: Float[Tensor, "R K M M"], target: Float[Tensor, "R S S"], code: MaskAutoencoder) -> Float[Tensor, ""]:
    """L_e of Eq. 3: binary cross-entropy per codeword, summed over K, mean over the grid and the regions."""
    with torch.no_grad(), torch.autocast(logits.device.type, enabled=False):
        indices = code.encode(target[:, None].float())
    truth = F.one_hot(indices, logits.shape[1]).movedim(-1, 1).to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, truth, reduction="sum") / indices.numel()


def mask_loss(logits: Float[Tensor, "R C N N"], target: Float[Tensor, "R N N"], label: Tensor) -> Float[Tensor, ""]:
    """L_r of Eq. 4: binary cross-entropy of the channel of the true class, mean over pixels and regions."""
    channel = label if logits.shape[1] > 1 else torch.zeros_like(label)
    chosen = logits[torch.arange(len(label), device=label.device), channel]
    return F.binary_cross_entropy_with_logits(chosen, target)


def binary_iou(found: Float[Tensor, "N 1 S S"], target: Float[Tensor, "N 1 S S"]) -> Float[Tensor, "N"]:
    """Intersection over union of logits above 0 and coverages above one half."""
    with torch.no_grad():
        a, b = found > 0, target > 0.5
        return (a & b).sum((1, 2, 3)) / (a | b).sum((1, 2, 3)).clamp(min=1)
