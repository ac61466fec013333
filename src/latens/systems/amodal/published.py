"""The rows of the tables of 000: the names it prints, what each is here, and its mAP in percent (one run)."""

from __future__ import annotations

import math
from typing import NamedTuple


class Row(NamedTuple):
    name: str
    variant: str  # a key of `variants.VARIANTS`
    printed: float  # not a number where the paper has no such row


EMBRYOS, KINS = "embryo cells, private", "KINS"

TABLE_1 = (
    Row("Mask R-CNN, FCN", "fcn-plain", 66.5),
    Row("Mask R-CNN, FCN, wider", "fcn-wide", math.nan),
    Row("Mask R-CNN, FCN and dense path", "fcn", math.nan),
    Row("Mask R-CNN, VQ-VAE (ours)", "vq", 68.2),
)
TABLE_2 = (
    Row("Mask R-CNN, FCN", "fcn", 29.3),
    Row("Mask R-CNN, VQ-VAE (ours)", "vq", 30.3),
    Row("Mask R-CNN + ASN, FCN", "asn-fcn", 31.1),
    Row("Mask R-CNN + ASN, VQ-VAE (ours)", "asn-vq", 31.5),
)
TABLE_3 = (
    Row("VQ-VAE", "vq-alone", 28.1),
    Row("VQ-VAE + refinement", "vq-refined", 29.8),
    Row("VQ-VAE + refinement + occlusion map", "vq", 30.3),
)
