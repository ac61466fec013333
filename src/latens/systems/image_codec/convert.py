"""Import of CompressAI `mbt2018_mean` checkpoints, whose architecture is that of `model.py` with other tensor names.

Three more things differ. The hyper-synthesis of CompressAI outputs the scale before the mean. The constants of its GDN
reparametrization are buffers. It rounds z relative to a trained entry of `quantiles`, latens relative to the median of the
prior; `tilted` shifts the prior so that the two agree.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import logging
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

from latens.codes.entropy import FactorizedPrior
from latens.data.files import read_bytes
from latens.data.images import read_image
from latens.data.samples import photographs
from latens.data.tensors import to_tensor
from latens.errors import LatensError, LimitExceeded, ModelError, OutputExists, UnreadableInput, counted
from latens.hub import CONFIG, save_model
from latens.nn.gdn import BETA_MIN, PEDESTAL
from latens.shapes import Float
from latens.systems.image_codec.config import HYPER_STRIDE, HyperpriorConfig
from latens.systems.image_codec.model import MeanScaleHyperprior
from latens.systems.image_codec.objective import frozen_coding

logger = logging.getLogger(__name__)

MAX_BYTES = 2**30  # four times the largest published checkpoint with optimizer states
MAX_CHANNELS = 1024
# A tilt by t costs about t^2/6 nats per entry of z (Fisher information of the logistic), so MAX_TILT costs 0.06 bits at most.
# For a density narrower than a bin the tilt is large, but a shift below MAX_SHIFT moves almost no probability out of the bin.
MAX_TILT = 0.5
MAX_SHIFT = 0.1

_PARTS = {"analysis": "g_a", "synthesis": "g_s", "hyper_analysis": "h_a", "hyper_synthesis": "h_s"}
_PRIOR = {"weights": "matrices", "biases": "biases", "gates": "factors"}
_OLD_PRIOR = re.compile(r"entropy_bottleneck\._(matri|bias|factor)(?:x|ces|es|s)?\.?(\d)")  # before CompressAI 1.2.7
_NEW_PRIOR = {"matri": "matrices", "bias": "biases", "factor": "factors"}
_DERIVED = re.compile(  # tables and constants that are computed from the other tensors
    r"(entropy_bottleneck|gaussian_conditional)\.(_offset|_quantized_cdf|_cdf_length|target|scale_table|scale_bound)"
    r"|.*\.(pedestal|bound)"
)
_HINT = "only mbt2018_mean checkpoints can be imported"


def import_checkpoint(path: Path, out_folder: Path) -> HyperpriorConfig:
    """Write the model folder of a CompressAI `mbt2018_mean` checkpoint, for `latens.load(out_folder)`; return its sizes.

    The weights stay float32. The bundled photographs calibrate the integer hyper-synthesis. `path` ends in .safetensors, or is
    a file of `torch.save` (.pth, .pth.tar, .pt). Raises UnreadableInput or LimitExceeded for a file that cannot be read,
    OutputExists if the folder holds a model, and ModelError for another architecture (see `convert_compressai`).
    """
    path, out_folder = Path(path), Path(out_folder)
    if (out_folder / CONFIG).exists():
        raise OutputExists("the folder holds a model already", where=str(out_folder), hint="name another folder")
    blob = read_bytes(path, limit=MAX_BYTES)
    try:
        config, weights = convert_compressai(parse_checkpoint(blob, safetensors=path.suffix == ".safetensors"))
        model = MeanScaleHyperprior(config)
        model.load_state_dict(weights)
        calibration = [_whole_blocks(photo.path) for photo in photographs()]
        # The cost of coarser integers is not measured for these weights, so they get the finest.
        coding = frozen_coding(model.eval(), calibration, activation_bits=16)
    except LatensError as error:
        raise error.at(str(path)) from None
    except ValueError as error:
        raise ModelError(f"its hyper-synthesis cannot be converted to integers ({error})", where=str(path)) from None
    described = {
        "system": "image_codec",
        "model": dataclasses.asdict(config),
        "coding": coding.spec(),
        "source": {"program": "CompressAI", "file": path.name, "sha256": hashlib.sha256(blob).hexdigest()},
    }
    save_model(out_folder, described, weights, coding.tensors())
    return config


def _whole_blocks(path: Path) -> Float[Tensor, "1 3 H W"]:
    """A photograph in [0, 1], cropped to sides that are multiples of 64, which the transforms need."""
    pixels = read_image(path).pixels
    height, width = (side // HYPER_STRIDE * HYPER_STRIDE for side in pixels.shape[:2])
    return to_tensor(pixels[:height, :width])


def convert_compressai(state: Mapping[str, Any]) -> tuple[HyperpriorConfig, dict[str, Tensor]]:
    """Sizes and float32 weights of a `MeanScaleHyperprior` from a CompressAI `mbt2018_mean` state dict.

    `state` is the dict itself or a training checkpoint that holds it under "state_dict". "module." prefixes and the parameter
    names of all CompressAI versions are accepted. Checkpoints do not record the lambda of the training, so the configuration
    has its default. Raises ModelError for another architecture and for tensors that are missing, not finite or misshapen.
    """
    source = plain_names(state)
    refuse_other_architectures(source)
    latent = _channels(source, "g_a.6.weight")
    hidden = _channels(source, "g_a.0.weight")
    config = HyperpriorConfig(hidden=hidden, latent=latent, hyper=latent, transforms="paper")
    wanted = _expected_shapes(config)
    origins = {name: origin_of(name) for name in wanted}
    _refuse_leftovers(source, set(origins.values()))
    weights = {name: _checked(source, origins[name], shape) for name, shape in wanted.items()}
    for name in wanted:
        if name.startswith("hyper_synthesis.4."):
            weights[name] = torch.cat([*reversed(weights[name].chunk(2))])  # scale, mean -> mean, scale
        elif name.endswith("_root"):
            weights[name] = gdn_root(weights[name], source, origins[name])
    quantiles = _checked(source, "entropy_bottleneck.quantiles", torch.Size([config.hidden, 1, 3]))
    weights.update(tilted(weights, quantiles[:, 0, 1]))
    return config, weights


def parse_checkpoint(blob: bytes, *, safetensors: bool) -> Mapping[str, Any]:
    """Contents of a safetensors file or of a file of `torch.save`, without running code from the file.

    Raises UnreadableInput for damaged bytes and for objects other than tensors and plain values, and LimitExceeded for an
    archive that unpacks to more than 1 GiB.
    """
    try:
        contents = load_safetensors(blob) if safetensors else _load_pickled(blob)
    except SafetensorError as error:
        raise UnreadableInput(f"not a safetensors file, or damaged ({error})", hint=_HINT) from None
    if not isinstance(contents, Mapping):
        raise UnreadableInput("the file holds no named tensors", hint=_HINT)
    return contents


def _load_pickled(blob: bytes) -> Any:
    stream = io.BytesIO(blob)
    if zipfile.is_zipfile(stream):
        _refuse_packed(stream)
    stream.seek(0)
    try:
        return torch.load(stream, map_location="cpu", weights_only=True)
    except MemoryError:
        raise LimitExceeded("reading it needs more memory than this machine has") from None
    except Exception as error:  # the restricted unpickler raises exceptions of many types
        what = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
        raise UnreadableInput(f"not a checkpoint of tensors and plain values ({what})", hint=_HINT) from None


def _refuse_packed(stream: io.BytesIO) -> None:
    """Raise LimitExceeded for an archive that unpacks to more than MAX_BYTES; `torch.save` itself does not compress."""
    try:
        with zipfile.ZipFile(stream) as archive:
            total = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, ValueError, OSError) as error:
        raise UnreadableInput(f"the archive is damaged ({error})", hint="download the checkpoint again") from None
    if total > MAX_BYTES:
        raise LimitExceeded(f"the archive unpacks to {total:,} bytes; the limit is {MAX_BYTES:,}")


def plain_names(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors with the names of CompressAI 1.2.8. Raises ModelError for a name that occurs twice."""
    inner = state.get("state_dict", state)
    if not isinstance(inner, Mapping):
        raise ModelError("'state_dict' holds no named tensors", hint=_HINT)
    tensors: dict[str, Tensor] = {}
    for key, value in inner.items():
        if isinstance(key, str) and isinstance(value, Tensor):
            name = key.removeprefix("module.")
            old = _OLD_PRIOR.fullmatch(name)
            name = f"entropy_bottleneck.{_NEW_PRIOR[old[1]]}.{old[2]}" if old else name
            if name in tensors:
                raise ModelError(f"the checkpoint has two tensors for '{name}'", hint="save the state dict again")
            tensors[name] = value
    return tensors


def refuse_other_architectures(source: Mapping[str, Tensor]) -> None:
    """Raise ModelError, with the kind of the checkpoint, unless it looks like a mean-scale hyperprior."""
    if not source:
        raise ModelError("the checkpoint holds no tensors", hint=_HINT)
    if any(name.startswith("context_prediction.") for name in source):
        raise ModelError("this is an autoregressive model (it has context_prediction layers)", hint=_HINT)
    if not any(name.startswith("g_a.") for name in source):
        raise ModelError("this is not a CompressAI image model (it has no g_a layers)", hint=_HINT)
    if not any(name.startswith("h_s.") for name in source):
        raise ModelError("this model has no hyperprior (it has no h_s layers)", hint=_HINT)
    last, latent = source.get("h_s.4.weight"), source.get("g_a.6.weight")
    if last is not None and latent is not None and last.shape[:1] == latent.shape[:1]:
        raise ModelError("this hyperprior has scales but no means (h_s has M output channels, not 2 M)", hint=_HINT)


def origin_of(name: str) -> str:
    """CompressAI's name of one of our tensors."""
    part, rest = name.split(".", 1)
    if part == "prior":
        kind, layer = rest.split(".")
        return f"entropy_bottleneck.{_PRIOR[kind]}.{layer}"
    return f"{_PARTS[part]}.{rest.removesuffix('_root')}"


def gdn_root(raw: Tensor, source: Mapping[str, Tensor], origin: str) -> Tensor:
    """The stored root of a GDN parameter for `nn.gdn.GDN`; equal to `raw` if the checkpoint has the usual constants.

    The effective value is max(raw, bound)^2 - pedestal in both programs. Missing buffers mean the usual constants. Raises
    ModelError for a value below the lower bound of `GDN`.
    """
    ours = ((BETA_MIN if origin.endswith("beta") else 0.0) + PEDESTAL) ** 0.5
    pedestal = _setting(source, f"{origin}_reparam.pedestal", PEDESTAL)
    bound = _setting(source, f"{origin}_reparam.lower_bound.bound", ours)
    floor = ours**2 - PEDESTAL
    value = raw.double().clamp_min(bound).square() - pedestal
    if bool((value < floor * (1 - 1e-6) - 1e-12).any()):
        raise ModelError(f"'{origin}' has values below {floor:g}, the lower bound of GDN here", hint=_HINT)
    same = abs(pedestal - PEDESTAL) <= 1e-6 * PEDESTAL and abs(bound - ours) <= 1e-6 * ours
    return raw if same else (value + PEDESTAL).sqrt().float()


def tilted(weights: Mapping[str, Tensor], centers: Float[Tensor, "C"]) -> dict[str, Tensor]:
    """Last bias of the prior, changed so that the median of each channel equals its entry of `centers`.

    CompressAI rounds z relative to `centers`, which it trains towards the median without reaching it. Without the tilt z would
    be rounded differently. Channels beyond both `MAX_TILT` and `MAX_SHIFT` were trained without the auxiliary loss: they keep
    their prior and are rounded relative to its median, which costs no rate.
    """
    prior = FactorizedPrior(len(centers))
    prior.load_state_dict({name.removeprefix("prior."): x for name, x in weights.items() if name.startswith("prior.")})
    name = f"biases.{len(prior.biases) - 1}"
    with torch.no_grad():
        shift = (centers - prior.medians())[:, None, None]
        tilt = prior.double().logits(centers.double()[:, None, None])
        near = (tilt.abs() <= MAX_TILT) | (shift.abs() <= MAX_SHIFT)
        if not near.all():
            what = f"{int((~near).sum())} of {counted(len(near), 'channel')} of z were trained without the auxiliary loss"
            logger.warning("%s; they are rounded relative to the median of their prior, in CompressAI to another value", what)
        changed = prior.get_parameter(name) - tilt.where(near, torch.zeros_like(tilt))
    return {f"prior.{name}": changed.float()}


def _expected_shapes(config: HyperpriorConfig) -> dict[str, torch.Size]:
    with torch.device("meta"):
        model = MeanScaleHyperprior(config)
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def _channels(source: Mapping[str, Tensor], name: str) -> int:
    """Output channels of a required layer, checked before a model of that size is built."""
    if name not in source:
        raise ModelError(f"the tensor '{name}' is missing", hint=_HINT)
    shape = tuple(source[name].shape)
    if len(shape) != 4 or not 1 <= shape[0] <= MAX_CHANNELS:
        raise ModelError(f"'{name}' has the shape {shape}, not (1 to {MAX_CHANNELS}, ...)", hint=_HINT)
    return shape[0]


def _checked(source: Mapping[str, Tensor], name: str, shape: torch.Size) -> Tensor:
    if name not in source:
        raise ModelError(f"the tensor '{name}' is missing", hint=_HINT)
    tensor = source[name]
    if tensor.shape != shape:
        raise ModelError(f"'{name}' has the shape {tuple(tensor.shape)}, not {tuple(shape)}", hint=_HINT)
    if not tensor.is_floating_point():
        raise ModelError(f"'{name}' holds {str(tensor.dtype).removeprefix('torch.')}, not real numbers", hint=_HINT)
    plain = tensor.detach().to("cpu", torch.float32, copy=True, memory_format=torch.contiguous_format)
    if not bool(plain.isfinite().all()):
        raise ModelError(f"'{name}' holds values that are not finite", hint="the training of this model diverged")
    return plain


def _setting(source: Mapping[str, Tensor], name: str, usual: float) -> float:
    return float(_checked(source, name, torch.Size([1]))) if name in source else usual


def _refuse_leftovers(source: Mapping[str, Tensor], used: set[str]) -> None:
    """Raise ModelError for tensors that a mean-scale hyperprior does not have."""
    used = {*used, "entropy_bottleneck.quantiles"}
    extra = sorted(name for name in source if name not in used and not _DERIVED.fullmatch(name))
    if extra:
        more = f" and {len(extra) - 1} more" if len(extra) > 1 else ""
        raise ModelError(f"a mean-scale hyperprior has no '{extra[0]}'{more}", hint=_HINT)
