"""Construction of graders by backbone. torchvision networks are adapted to the channels and classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latens.errors import ModelError, UnreadableInput
from latens.systems.seedlings.config import TORCHVISION, GraderConfig
from latens.systems.seedlings.model import Grader, SmallNetwork, perceptron

HIDDEN = {"logistic": (), "mlp500": (500,), "mlp1000-500": (1000, 500)}


def grader(config: GraderConfig, classes: int, *, fresh: bool = True) -> Grader:
    """Grader with random or pretrained weights. `fresh=False` skips initialization that loading overwrites."""
    if config.backbone in HIDDEN:
        widths = HIDDEN[config.backbone]
        pixels = config.channels * config.size**2
        return Grader(config, classes, perceptron(pixels, widths), widths[-1] if widths else pixels)
    if config.backbone in TORCHVISION:
        body, features = torchvision_body(config, fresh=fresh)
        return Grader(config, classes, body, features)
    small = SmallNetwork(config.channels, config.width)
    return Grader(config, classes, small, small.features)


class Repeated(nn.Module):
    """Network for three channels, applied to gray crops with the channel repeated (Perugachi-Diaz 2024, section 3.3.2)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, crops: Tensor) -> Tensor:
        found: Tensor = self.network(crops.expand(-1, 3, -1, -1))
        return found


def torchvision_body(config: GraderConfig, *, fresh: bool) -> tuple[nn.Module, int]:
    """Network without its last layer, and its number of features."""
    from torchvision import models

    network: Any = getattr(models, config.backbone)(weights=None)
    if fresh and config.pretrained:
        load_pretrained(network, Path(config.pretrained))
    elif fresh and config.init == "he":
        he_normal(network)
    head = "fc" if config.backbone == "resnet101" else "classifier"
    last = getattr(network, head)
    if isinstance(last, nn.Sequential):
        features = int(last[-1].in_features)  # type: ignore[arg-type]
        last[-1] = nn.Identity()
    else:
        features = int(last.in_features)
        setattr(network, head, nn.Identity())
    return Repeated(network), features


def he_normal(network: nn.Module) -> None:
    """Initializes weights from a normal distribution of variance 2 / fan-in, and biases with 0 (He et al. 2015)."""
    for part in network.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def load_pretrained(network: nn.Module, path: Path) -> None:
    """Loads a state dict (safetensors, or a file of torch.save with tensors only). Raises UnreadableInput or ModelError."""
    from safetensors.torch import load_file

    if not path.is_file():
        hint = "download the weights of torchvision and give their path"
        raise UnreadableInput("file of weights not found", where=str(path), hint=hint)
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict(state)
    except Exception as error:  # the parsers of both formats raise various exceptions
        first = (str(error).splitlines() or ["unreadable"])[0]
        raise ModelError(
            f"the weights do not fit the network ({first})", where=str(path), hint="give the state dict of the same network"
        ) from None
