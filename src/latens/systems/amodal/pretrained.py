"""Pretrained weights of ResNet-50 from a local file: state dicts of torchvision and of detectron2.

No code of the file is run.

Files of `torch.save`, safetensors, and the .pkl files of detectron2 (a pickle of named NumPy arrays, read by an unpickler that
knows nothing else). Only the backbone is read; heads and pyramid of a whole detector are left out.

Weights that detectron2 converted from Caffe2 (`R-50.pkl` of MSRA) are refused: their strides are in other layers.
"""

from __future__ import annotations

import io
import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor

from latens.errors import ModelError, UnreadableInput, UsageError
from latens.systems.amodal.config import BackboneConfig
from latens.systems.amodal.pipeline import Backbone, ResNet50

HINT = "give the state dict of torchvision's ResNet-50, or a detectron2 model with torchvision's ResNet-50"
PREFIXES = ("module.", "model.", "backbone.", "bottom_up.", "body.")  # of wrappers and of whole detectors
FIXED_STAGES = 1  # stages after the stem that stay as they were pretrained, as in detectron2 (FREEZE_AT = 2)


def load_backbone(backbone: Backbone, config: BackboneConfig, path: Path) -> None:
    """Load pretrained weights into a ResNet-50 with frozen normalization; its stem and first stage are fixed.

    Raises UsageError for another backbone, UnreadableInput for a file that cannot be read, ModelError for other weights.
    """
    if config.kind != "resnet50" or config.norm != "frozen":
        hint = "add --set model.backbone.kind=resnet50 --set model.backbone.norm=frozen"
        raise UsageError("pretrained weights need a ResNet-50 with frozen normalization", where="model.backbone", hint=hint)
    body = backbone.body
    assert isinstance(body, ResNet50)
    weights = own_names(read_weights(path), path)
    try:
        body.load_state_dict(weights)
    except RuntimeError as error:
        what = f"the weights do not fit ResNet-50 ({str(error).splitlines()[-1].strip()[:200]})"
        raise ModelError(what, where=str(path), hint=HINT) from None
    for part in (body.stem, *body.stages[:FIXED_STAGES]):
        part.requires_grad_(False)


def own_names(weights: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The weights of the stem and the stages, by our names. Raises ModelError if there are none."""
    found: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        short = name
        while (cut := next((p for p in PREFIXES if short.startswith(p)), None)) is not None:
            short = short.removeprefix(cut)
        own = own_name(short)
        if own is not None and not own.endswith("num_batches_tracked"):
            found[own] = tensor.float()
    if not found:
        caffe = any(re.match(r"(conv1|res2_0_branch2a)_w$", name) for name in weights)
        what = "weights of Caffe2 have strides in other layers" if caffe else "the file holds no weights of a ResNet"
        raise ModelError(what, where=str(path), hint=HINT)
    return found


def own_name(name: str) -> str | None:
    """Our name of a tensor of torchvision or detectron2; None for tensors of other parts.

    >>> own_name("layer2.0.downsample.1.weight"), own_name("res2.1.conv3.norm.bias"), own_name("fc.weight")
    ('stages.1.0.downsample.1.weight', 'stages.0.1.bn3.bias', None)
    """
    name = re.sub(r"^stem\.(?=conv1)", "", name)
    name = re.sub(r"^res([2-5])\.", lambda match: f"layer{int(match[1]) - 1}.", name)
    name = re.sub(r"conv([1-3])\.norm\.", r"bn\1.", name)
    name = re.sub(r"shortcut\.norm\.", "downsample.1.", name).replace("shortcut.", "downsample.0.")
    name = re.sub(r"^layer([1-4])\.", lambda match: f"stages.{int(match[1]) - 1}.", name)
    name = name.replace("conv1.", "stem.0.", 1) if name.startswith("conv1.") else name
    name = name.replace("bn1.", "stem.1.", 1) if name.startswith("bn1.") else name
    return name if name.startswith(("stem.", "stages.")) else None


def read_weights(path: Path) -> dict[str, Tensor]:
    """All tensors of a file by name. Raises UnreadableInput for a missing or damaged file and for other contents."""
    try:
        blob = path.read_bytes()
    except OSError as error:
        raise UnreadableInput(f"file of weights not readable ({error.strerror})", where=str(path), hint=HINT) from None
    try:
        if path.suffix == ".safetensors":
            return load_safetensors(blob)
        contents: Any = ArrayUnpickler(io.BytesIO(blob)).load() if path.suffix == ".pkl" else _torch_load(blob)
    except Exception as error:  # the parsers raise exceptions of many types
        what = f"not a file of named tensors ({(str(error).splitlines() or [type(error).__name__])[0][:150]})"
        raise UnreadableInput(what, where=str(path), hint=HINT) from None
    for key in ("model", "state_dict"):
        if isinstance(contents, Mapping) and isinstance(contents.get(key), Mapping):
            contents = contents[key]
    if not isinstance(contents, Mapping):
        raise UnreadableInput("the file holds no named tensors", where=str(path), hint=HINT)
    arrays = {name: value for name, value in contents.items() if isinstance(value, Tensor | np.ndarray)}
    return {str(name): torch.as_tensor(value) for name, value in arrays.items()}


def _torch_load(blob: bytes) -> Any:
    return torch.load(io.BytesIO(blob), map_location="cpu", weights_only=True)


class ArrayUnpickler(pickle.Unpickler):
    """Reads pickles of dictionaries, texts, numbers and NumPy arrays; refuses all other types, so no code is run."""

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream, encoding="latin1")

    def find_class(self, module: str, name: str) -> Any:
        arrays = np.zeros(1).__reduce__()[0], np.float32(0).__reduce__()[0]  # NumPy's functions that make arrays and scalars
        known: dict[str, Any] = {"_reconstruct": arrays[0], "scalar": arrays[1], "ndarray": np.ndarray, "dtype": np.dtype}
        if module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray") and name in known:
            return known[name]
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("_codecs", "encode"):
            return _latin1
        raise pickle.UnpicklingError(f"{module}.{name} is not an array")


def _latin1(text: str, encoding: str) -> bytes:
    """Bytes of arrays in pickles of protocol 2."""
    return text.encode("latin1")
