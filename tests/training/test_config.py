"""Overrides change what they name and refuse, in words, what they cannot."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from latens.errors import UsageError
from latens.systems.image_codec.recipes import desk, desk_hard, gpu, paper, tiny
from latens.training.config import override, to_dict


def test_overrides_are_typed() -> None:
    config = override(
        tiny(),
        {"run.steps": "7", "optim.lr": "1", "model.lambdas": "[0.1, 0.2, 0.3]", "objective.rounding": "hard"},
    )
    assert config.run.steps == 7
    assert config.optim.lr == 1.0
    assert isinstance(config.optim.lr, float)
    assert config.model.lambdas == (0.1, 0.2, 0.3)
    assert config.objective.rounding == "hard"
    assert tiny().run.steps != 7


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("run.stepz", "7", "did you mean 'steps'"),
        ("run.steps", "many", "'many' is not a int"),
        ("run.steps", "1.5", "'1.5' is not a int"),
        ("run", "1", "set one of run.steps"),
        ("run.steps.more", "1", "has no parts"),
        ("model.lambdas", "0.1", "list"),
    ],
)
def test_a_bad_override_is_explained(key: str, value: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        override(tiny(), {key: value})
    assert said in str(caught.value)


@dataclass(frozen=True)
class Switch:
    on: bool = False


def test_a_switch_is_true_or_false() -> None:
    assert override(Switch(), {"on": "True"}).on is True
    assert override(Switch(on=True), {"on": "false"}).on is False
    with pytest.raises(UsageError, match="bool"):
        override(Switch(), {"on": "maybe"})


def test_recipes_survive_json() -> None:
    for recipe in (tiny, desk, desk_hard, gpu, paper):
        plain = to_dict(recipe())
        assert json.loads(json.dumps(plain)) == plain


def test_the_paper_recipe_is_the_papers() -> None:
    # 003, sections 5.4.1 and C.1.
    config = paper()
    assert (config.optim.lr, config.optim.warmup, config.run.steps) == (1e-4, 1000, 2_000_000)
    assert (config.data.batch, config.data.crop) == (32, 256)
    assert (config.model.hidden, config.model.latent, config.model.transforms) == (192, 192, "paper")
