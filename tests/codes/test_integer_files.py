"""Files of integer networks: round trips, and refusal of damaged files."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from latens.codes.integer import IntegerNetwork
from latens.errors import ModelError

Make = Callable[..., Any]


def test_model_file_round_trip(inputs: Make, network: Make) -> None:
    net, z = network(), inputs()
    spec, tensors = json.loads(json.dumps(net.spec())), load(save(net.state_dict()))
    again = IntegerNetwork.from_spec(spec, tensors)
    assert torch.equal(again(z), net(z))
    assert again.fingerprint() == net.fingerprint()
    assert again.bounds() == net.bounds()
    assert again.spec() == net.spec()


def test_loading_other_weights_updates_the_network(inputs: Make, network: Make) -> None:
    net, other, z = network(seed=0), network(seed=1), inputs()
    first = net(z)
    net.load_state_dict(other.state_dict())
    assert not torch.equal(net(z), first)
    assert torch.equal(net(z), other(z))
    assert net.bounds() == other.bounds()


@pytest.mark.parametrize(
    "damage",
    [
        lambda spec, tensors: spec.pop("layers"),
        lambda spec, tensors: spec.update(layers=[]),
        lambda spec, tensors: spec.update(format=2),
        lambda spec, tensors: spec.update(input_bound=-1),
        lambda spec, tensors: spec.update(input_bound=1 << 39),
        lambda spec, tensors: spec["layers"][0].update(stride=[0, 2]),
        lambda spec, tensors: spec["layers"][0].update(output_padding=[2, 2]),
        lambda spec, tensors: spec["layers"][1].update(clamp="many"),
        lambda spec, tensors: spec["layers"].pop(1),
        lambda spec, tensors: tensors.pop("layers.1.bias"),
        lambda spec, tensors: tensors.update({"layers.0.weight": tensors["layers.0.weight"].float()}),
        lambda spec, tensors: tensors.update({"layers.0.weight": tensors["layers.0.weight"][:1]}),
        lambda spec, tensors: tensors["layers.2.shift"].fill_(63),
        lambda spec, tensors: tensors["layers.2.shift"].fill_(-1),
        lambda spec, tensors: tensors["layers.2.positive"].fill_(-1),
        lambda spec, tensors: tensors["layers.2.bias"].fill_(1 << 60),
        lambda spec, tensors: tensors["layers.1.bias"].fill_(1 << 52),
    ],
)
def test_damaged_model_files_are_refused(network: Make, damage: Callable[..., object]) -> None:
    net = network()
    spec = json.loads(json.dumps(net.spec()))
    tensors = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    damage(spec, tensors)
    with pytest.raises(ModelError):
        IntegerNetwork.from_spec(spec, tensors)
