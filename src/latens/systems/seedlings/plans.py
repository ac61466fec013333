"""Training configurations of the tables and figures of chapter 3, by row.

They are known before the data are read, so `run.steps` counts epochs of one batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from latens.systems.seedlings.chapter_tables import DECAYS, EXPERIMENTS, LEARNING_RATES
from latens.systems.seedlings.config import Backbone
from latens.systems.seedlings.experiments import OPTIMIZERS
from latens.systems.seedlings.recipes import SeedlingTraining
from latens.systems.seedlings.trials import CHAPTER, DISPLAY_NAMES, ChapterScale, Variant, config_of

Trainings = dict[str, SeedlingTraining]


def of_models(scale: ChapterScale) -> Trainings:
    """Table 3.5, Figures 3.3 and 3.6."""
    return _by_day(scale, [(DISPLAY_NAMES[one], one, CHAPTER) for one in scale.models])


def of_networks(scale: ChapterScale) -> Trainings:
    """Figures 3.4 and 3.5."""
    return _by_day(scale, [(DISPLAY_NAMES[one], one, CHAPTER) for one in scale.networks])


def of_imbalance(scale: ChapterScale) -> Trainings:
    """Table 3.6."""
    return _by_day(scale, [(name, scale.best, variant) for name, (variant, _) in EXPERIMENTS.items()])


def of_original(scale: ChapterScale) -> Trainings:
    """Figure 3.7: the first day."""
    rows = [("original", scale.best, EXPERIMENTS["original"][0]), ("oversampling + augmentation", scale.best, CHAPTER)]
    return _by_day(scale, rows, [min(scale.days)])


def of_exchange(scale: ChapterScale) -> Trainings:
    """Figure 3.8."""
    splits = dict.fromkeys(("leaky", scale.split))
    return _by_day(scale, [(f"split {by}", scale.best, Variant(split=by)) for by in splits])


def of_search(scale: ChapterScale) -> Trainings:
    """Tables 3.3 and 3.4. The rates of the weight decays other than the first depend on the results: any is planned."""
    pairs = [(rate, decay) for rate in LEARNING_RATES for decay in DECAYS]
    rows = [
        (f"{DISPLAY_NAMES[one]}, rate {rate:g}, decay {decay:g}", one, Variant(lr=rate, decay=decay))
        for one in scale.models
        for rate, decay in pairs
    ]
    return _by_day(scale, rows, [max(scale.days)])


def of_days(scale: ChapterScale) -> Trainings:
    """`days`: a model of each day, and one of all days."""
    mixed = _by_day(scale, [("all days", scale.best, Variant(days=scale.days))], scale.days[:1])
    return _by_day(scale, [("own", scale.best, CHAPTER)]) | mixed


def of_optimizers(scale: ChapterScale) -> Trainings:
    """`optimizers`."""
    return _by_day(scale, [(name, scale.best, variant) for name, variant in OPTIMIZERS.items()], [max(scale.days)])


def of_attention(scale: ChapterScale) -> Trainings:
    """`attention`."""
    return _by_day(scale, [(DISPLAY_NAMES[scale.best], scale.best, CHAPTER)], [max(scale.days)])


def of_chapter(scale: ChapterScale) -> Trainings:
    """`chapter`: all tables and figures."""
    return {
        name: config
        for plan in (of_models, of_networks, of_imbalance, of_original, of_exchange, of_search)
        for name, config in plan(scale).items()
    }


def _by_day(scale: ChapterScale, rows: Iterable[tuple[str, Backbone, Variant]], days: Sequence[int] | None = None) -> Trainings:
    chosen = scale.days if days is None else days
    return {f"{name}, day {day}": config_of(scale, one, day, 0, variant) for name, one, variant in rows for day in chosen}
