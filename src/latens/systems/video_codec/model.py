"""Scale-space flow with a region of interest (Agustsson et al. 2020; Perugachi-Diaz 2024, section 6.3).

    first frame:  x_0 --intra--> x_hat_0
    next frames:  x_i, x_hat_(i-1) --motion--> flow, scale --warp of the scale-space volume of x_hat_(i-1)--> prediction
                  x_i - prediction --residual--> r_hat;  x_hat_i = prediction + r_hat

The five methods of Figure 6.4.1 differ in `Treatment`: a mask for the three encoders, quantization steps for the latents of
first frames and residuals, or cells that select one of two hyper-codecs. Frames are padded to whole hyper-latent samples.

Letters: B batch, T frames, H W frame size, M latent channels, h w = H/16 W/16.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latens.codes.counts import map_bits
from latens.codes.integer import IntegerNetwork
from latens.codes.quantize import float_parameters
from latens.data.tensors import pad_to_multiple
from latens.nn.transforms import (
    DifferenceSynthesis,
    compact_difference_analysis,
    compact_image_analysis,
    compact_image_synthesis,
    paper_analysis,
    paper_synthesis,
)
from latens.nn.warp import scale_space_volume, warp_volume
from latens.shapes import Bool, Float
from latens.systems.video_codec.codec import GainCodec, HyperpriorCodec, Rounding, gain_steps, step_of
from latens.systems.video_codec.config import STRIDE, Implicit, LatentScaling, Obic, ScaleSpaceFlowConfig
from latens.systems.video_codec.motion import MotionAnalysis, MotionSynthesis


class CodedClip(NamedTuple):
    """Decoded frames, not clamped, and bits per frame by part of the code.

    The sum of all parts is the rate (Perugachi-Diaz 2024, Eqs. 6.3.6 and 6.3.7, with the hyper-latents).
    """

    frames: Float[Tensor, "B T 3 H W"]
    bits: dict[str, Float[Tensor, "B T"]]

    def total(self) -> Float[Tensor, "B T"]:
        return torch.stack(list(self.bits.values())).sum(0)


class CodedFrame(NamedTuple):
    image: Float[Tensor, "B 3 H W"]
    bits: dict[str, Float[Tensor, "B"]]


class Treatment(NamedTuple):
    """Coding options of one frame: its rate, and the inputs that a method derives from its mask."""

    quality: Float[Tensor, "B"]
    mask: Float[Tensor, "B 1 H W"] | None = None  # for the encoders
    cells: Bool[Tensor, "B 1 h w"] | None = None  # True in the region; for OBIC
    step: Float[Tensor, "B M h w"] | None = None  # quantization steps of latent scaling
    bits: Mapping[str, Float[Tensor, "B"]] = {}  # bits of the mask


class ScaleSpaceFlow(nn.Module):
    """The codecs of first frames, motion and residuals; for latent scaling also two gain codecs."""

    starts_from = ("image_codec",)  # systems whose weights initialize the codec of first frames

    def __init__(self, config: ScaleSpaceFlowConfig) -> None:
        super().__init__()
        self.config = config
        self.coding_only = False  # True: weights may lack the networks that coding has as integers
        method = config.method
        masked, split = isinstance(method, Implicit | LatentScaling), isinstance(method, Obic)
        self.masked = masked
        self.intra = intra_codec(config, mask=masked, split=split)
        self.motion = motion_codec(config, mask=masked)
        self.residual = residual_codec(config, mask=masked, split=split)
        paper = config.transforms == "paper"
        scaled = method if isinstance(method, LatentScaling) else None
        self.intra_gain = GainCodec(scaled.gain, config.intra.latent, paper=paper) if scaled else None
        self.residual_gain = GainCodec(scaled.gain, config.residual.latent, paper=paper) if scaled else None

    def forward(
        self,
        frames: Float[Tensor, "B T 3 H W"],
        quality: Float[Tensor, "B"],
        *,
        mask: Float[Tensor, "B T 1 H W"] | None = None,
        amplifier: Float[Tensor, "B"] | None = None,
        rounding: Rounding = "mixed",
    ) -> CodedClip:
        """Code a clip. `mask` (default: 1 everywhere) is in [0, 1]; `amplifier` is ga of Eq. D.1 (default: 1).

        The decoded first frame of a group is detached before it predicts the next frame; later frames keep their gradient.
        """
        height, width = frames.shape[3:]
        amplifier = torch.ones_like(quality) if amplifier is None else amplifier
        mask = torch.ones_like(frames[:, :, :1]) if mask is None else mask
        padded = [self.padded(frame) for frame in frames.unbind(1)]
        masks = [self.padded(part) for part in mask.unbind(1)]
        coded: list[CodedFrame] = []
        for index, (frame, part) in enumerate(zip(padded, masks, strict=True)):
            if index % self.config.group == 0:
                found = self.code_intra(frame, self.treatment(self.intra_gain, quality, part, amplifier, rounding), rounding)
                reference = found.image.detach()
            else:
                treated = self.treatment(self.residual_gain, quality, part, amplifier, rounding)
                found = self.code_inter(frame, reference.clamp(0, 1), treated, rounding)
                reference = found.image
            coded.append(found)
        bits = self._by_frame(coded)
        if isinstance(self.config.method, Obic):
            bits["map"] = map_cost(torch.stack([cells_of(part) for part in masks], dim=1))
        return CodedClip(torch.stack([frame.image[:, :, :height, :width] for frame in coded], dim=1), bits)

    def treatment(
        self, gain: GainCodec | None, quality: Tensor, mask: Tensor, amplifier: Tensor, rounding: Rounding
    ) -> Treatment:
        """The coding options that the method derives from the mask of a frame."""
        if isinstance(self.config.method, Obic):
            return Treatment(quality, cells=cells_of(mask))
        if gain is None:
            return Treatment(quality, mask if self.masked else None)
        coded = gain(mask, rounding)
        bits = {"gain": coded.bits.sum((1, 2)), "gain_hyper": coded.bits_hyper}
        return Treatment(quality, mask, step=step_of(gain_steps(coded.raw, amplifier)), bits=bits)

    def code_intra(self, frame: Float[Tensor, "B 3 H W"], treatment: Treatment, rounding: Rounding) -> CodedFrame:
        """Code a frame without prediction. Sides are multiples of `config.multiple`."""
        y = self.intra.analysis(frame, treatment.mask)
        coded = self.intra.code(y, treatment.quality, rounding, step=treatment.step, cells=treatment.cells)
        bits = {"intra": coded.bits.sum((1, 2)), "intra_hyper": coded.bits_hyper, **treatment.bits}
        return CodedFrame(self.intra.synthesis(coded.y_hat).float(), bits)

    def code_inter(
        self, frame: Float[Tensor, "B 3 H W"], reference: Float[Tensor, "B 3 H W"], treatment: Treatment, rounding: Rounding
    ) -> CodedFrame:
        """Code a frame by motion and residual; `reference` is the decoded frame before it."""
        motion = self.motion.code(self.motion.analysis(frame, reference, treatment.mask), treatment.quality, rounding)
        predicted = self.predict(reference, motion.y_hat)
        y = self.residual.analysis(frame - predicted, treatment.mask)
        coded = self.residual.code(y, treatment.quality, rounding, step=treatment.step, cells=treatment.cells)
        bits = {
            "motion": motion.bits.sum((1, 2)),
            "motion_hyper": motion.bits_hyper,
            "residual": coded.bits.sum((1, 2)),
            "residual_hyper": coded.bits_hyper,
            **treatment.bits,
        }
        return CodedFrame(predicted + self.residual.synthesis(coded.y_hat, motion.y_hat).float(), bits)

    def predict(self, reference: Float[Tensor, "B 3 H W"], motion: Float[Tensor, "B M h w"]) -> Float[Tensor, "B 3 H W"]:
        """The prediction: the reference, warped and blurred by the scale-space flow of the decoded motion latent."""
        field = self.motion.synthesis(motion).float()
        with torch.autocast(reference.device.type, enabled=False):
            volume = scale_space_volume(reference.float(), self.config.levels, sigma=self.config.sigma)
            return warp_volume(volume, field[:, :2], field[:, 2:])

    def padded(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H2 W2"]:
        """The image, padded by replication to whole hyper-latent samples."""
        return pad_to_multiple(image, self.config.multiple).contiguous(memory_format=torch.channels_last)

    @staticmethod
    def _by_frame(coded: list[CodedFrame]) -> dict[str, Float[Tensor, "B T"]]:
        names = list(dict.fromkeys(name for frame in coded for name in frame.bits))
        zero = torch.zeros(len(coded[0].image), device=coded[0].image.device)
        return {name: torch.stack([frame.bits.get(name, zero) for frame in coded], dim=1) for name in names}

    def restored(
        self, stored: Mapping[str, Tensor], coding: Mapping[str, Tensor], config: Mapping[str, Any]
    ) -> Mapping[str, Tensor]:
        """The weights of a model folder; networks that it stores only as frozen integers are converted to floats."""
        weights, spec = dict(stored), config["coding"]
        frozen = {f"{name}.hyper_synthesis": (own["network"], f"{name}|network.") for name, own in spec["parts"].items()}
        frozen |= {f"{name}.decoder": (own["network"], f"{name}|decoder.") for name, own in spec["decoders"].items()}
        for name, (layout, prefix) in frozen.items():
            if any(key.startswith(f"{name}.") for key in weights):
                continue
            tensors = {key.removeprefix(prefix): value for key, value in coding.items()}
            found = float_parameters(IntegerNetwork.from_spec(layout, tensors))
            stack = self.get_submodule(name)
            layers = [key for key, layer in stack.named_modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
            for key, layer in zip(layers, found, strict=True):
                weights |= {f"{name}.{key}.weight": layer.weight, f"{name}.{key}.bias": layer.bias}
        return weights

    def complete(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Weights of an image codec or of plain scale-space flow as initial weights of this model; see `completed`."""
        return completed(self, weights)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """`nn.Module.load_state_dict` of the weights that `completed` returns."""
        return super().load_state_dict(completed(self, state_dict), strict=strict, assign=assign)


def completed(model: ScaleSpaceFlow, state: Mapping[str, Any]) -> Mapping[str, Any]:
    """Initial weights of `model` from those of a simpler model; missing ones are the model's own.

    Weights of an image codec become the codec of first frames. Plain scale-space flow gets the layers for masks and gains, and
    the second hyper-codecs of OBIC become copies of the first. Other weights are returned unchanged. Raises ValueError for
    weights that were stored for coding only.
    """
    own = model.state_dict()
    if any(name.startswith("analysis.") for name in state):
        if not any(name.startswith("hyper_synthesis.") for name in state):
            raise ValueError("the image codec stores its hyper-synthesis for coding only; use image_codec")
        return {**own, **{f"intra.{name}": tensor for name, tensor in state.items()}}
    missing = own.keys() - state.keys()
    parts = (".mask.", ".background.", "_gain.")
    added = {name for name in own if any(part in name for part in parts)}
    frozen = {name for name in missing if "hyper_synthesis." in name or "_gain.decoder." in name}
    if frozen and model.coding_only:
        return completed(model, {**state, **{name: own[name] for name in frozen}})
    if any("hyper_synthesis." in name for name in frozen - added):
        what = "these weights were stored for coding only, without hyper-synthesis; use `ScaleSpaceFlow.restored`"
        raise ValueError(what)
    if not missing or missing != added:
        return state
    copies = {name: state[name.replace(".background.", ".")] for name in added if ".background." in name}
    return {**state, **{name: own[name] for name in added}, **copies}


def intra_codec(config: ScaleSpaceFlowConfig, *, mask: bool, split: bool) -> HyperpriorCodec:
    n, m = config.intra.hidden, config.intra.latent
    if config.transforms == "paper":
        transforms: tuple[nn.Module, nn.Module] = (paper_analysis(3, n, m, mask=mask), paper_synthesis(m, n, 3))
    else:
        transforms = (compact_image_analysis(n, m, mask=mask), compact_image_synthesis(m, n))
    paper = config.transforms == "paper"
    return HyperpriorCodec(*transforms, config.intra, config.lambdas, paper=paper, follow=False, split=split)


def motion_codec(config: ScaleSpaceFlowConfig, *, mask: bool) -> HyperpriorCodec:
    transforms = MotionAnalysis(config, mask=mask), MotionSynthesis(config)
    return HyperpriorCodec(*transforms, config.motion, config.lambdas, paper=config.transforms == "paper", follow=True)


def residual_codec(config: ScaleSpaceFlowConfig, *, mask: bool, split: bool) -> HyperpriorCodec:
    """The codec of residuals; its synthesis has the motion latent as a second input."""
    n, m, extra = config.residual.hidden, config.residual.latent, config.motion.latent
    if config.transforms == "paper":
        transforms: tuple[nn.Module, nn.Module] = (paper_analysis(3, n, m, mask=mask), Joined(paper_synthesis(m + extra, n, 3)))
    else:
        transforms = (compact_difference_analysis(n, m, mask=mask), DifferenceSynthesis(m, extra, n))
    paper = config.transforms == "paper"
    return HyperpriorCodec(*transforms, config.residual, config.lambdas, paper=paper, follow=True, split=split)


class Joined(nn.Module):
    """A synthesis of two latents of equal size, concatenated along the channels."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, y: Float[Tensor, "B M h w"], extra: Float[Tensor, "B E h w"]) -> Float[Tensor, "B 3 H W"]:
        image: Tensor = self.layers(torch.cat([y, extra], dim=1))
        return image


def cells_of(mask: Float[Tensor, "B 1 H W"]) -> Bool[Tensor, "B 1 h w"]:
    """The region at the size of the latent; a cell belongs to it if any of its pixels does."""
    return F.max_pool2d(mask.float(), STRIDE) > 0


def map_cost(cells: Bool[Tensor, "B T 1 h w"]) -> Float[Tensor, "B T"]:
    """Bits of the losslessly coded maps of clips, divided evenly among the frames."""
    maps = cells[:, :, 0].long().cpu().numpy()
    bits = torch.tensor([map_bits(clip, 2) for clip in maps], dtype=torch.float32, device=cells.device)
    return (bits / maps.shape[1])[:, None].expand(-1, maps.shape[1])
