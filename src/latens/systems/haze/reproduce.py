"""Table 1 of 002 and the ablation of its prior, on any scenes with depth: rows without weights are trained first, all alike.

`latens reproduce haze/table1 --data scenes/` keeps runs in OUT/runs, so that a stopped command goes on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

from latens.data.files import write_atomic
from latens.errors import UsageError
from latens.inference.page import Table
from latens.inference.reproduction import Reproduction, scale_of
from latens.systems.haze.config import TRANSLATORS
from latens.systems.haze.evaluate import DEHAZE, SYNTHESIS, EvaluationReport, Protocol, evaluate
from latens.systems.haze.predict import REACH, Haze, read_folder, ready, recipe_for
from latens.training.run import train

NAMES = ("table1", "ablation")
ROWS = ("unit", "cyclegan", "dehazenet", "mmd", "physical")
PRIORS: Mapping[str, dict[str, str]] = MappingProxyType(
    {
        "none": {"objective.prior.kind": "none"},
        "KL": {"objective.prior.kind": "kl"},
        "MMD, lambda 0.01": {"objective.prior.weight": "0.01"},
        "MMD, lambda 1": {"objective.prior.weight": "1"},
        "MMD, lambda 10": {"objective.prior.weight": "10"},
        "MMD, five kernels": {"objective.prior.weight": "1", "objective.prior.kernels": "[0.25,0.5,1,2,4]"},
    }
)

VARIANTS: Mapping[str, dict[str, str]] = MappingProxyType(
    {
        "unit": {"model.kind": "unit", "objective.prior.kind": "kl"},
        "cyclegan": {
            "model.kind": "cyclegan",
            "model.judge.scales": "1",
            "model.judge.layers": "3",
            "model.judge.norm": "true",
            "model.judge.pool": "50",
            "objective.prior.kind": "none",
            "objective.identity_weight": "5",
        },
    }
)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How long rows are trained and what they are shown; `train` are folders of scenes (A,B) beside simulated ones."""

    minutes: float = 60.0  # of training for every row
    steps: int = 0  # above 0: instead of the recipe's
    prefix: str = "desk"
    train: str = ""
    side: int = 240
    draws: int = 3
    scenes: int = 0
    border: int = 0


SCALES: Mapping[str, Scale] = MappingProxyType(
    {
        "tiny": Scale(minutes=1, steps=8, prefix="tiny", side=96, draws=1, scenes=2),
        "desk": Scale(),
        "paper": Scale(minutes=6000),
    }
)


def reproduce(
    name: str,
    haze: Haze,
    data: Path | None,
    out: Path,
    *,
    recipe: str = "desk",
    settings: Mapping[str, str] = MappingProxyType({}),
    progress: Callable[[str], None] = lambda line: None,
) -> Reproduction:
    """A table, saved into `out`. Raises UsageError for an unknown name or recipe."""
    scale = scale_of("haze", name, NAMES, recipe, SCALES, settings)
    protocol = Protocol(
        side=scale.side,
        draws=scale.draws,
        scenes=scale.scenes,
        border=scale.border,
        reach=0.0 if data else REACH,
        simulated=scale.scenes or 8,
    )
    make = _table1 if name == "table1" else _ablation
    blocks, setting = make(haze, data, out, scale, protocol, progress)
    facts = {"recipe": recipe, "scale": asdict(scale), "protocol": asdict(protocol), "model": haze.name}
    found = Reproduction(name, setting, facts, tuple(blocks))
    found.save(out)
    return found


def _table1(
    haze: Haze, data: Path | None, out: Path, scale: Scale, protocol: Protocol, progress: Callable[[str], None]
) -> tuple[list[Table], str]:
    for kind in ROWS:
        if not haze.has(kind):
            folder = trained(out / "runs" / kind, scale, recipe_of(scale, kind), kind_settings(scale, kind), progress)
            haze.learned[kind] = ready(read_folder(folder)[1], haze.device)
    report = evaluate(haze, data, out, protocol=protocol, progress=progress)
    return report.tables(), report.setting()


def _ablation(
    haze: Haze, data: Path | None, out: Path, scale: Scale, protocol: Protocol, progress: Callable[[str], None]
) -> tuple[list[Table], str]:
    rows: list[list[str]] = []
    report: EvaluationReport | None = None
    for prior, settings in PRIORS.items():
        run = out / "runs" / f"prior-{prior.replace(' ', '-').replace(',', '')}"
        folder = trained(run, scale, recipe_of(scale, "mmd"), settings, progress)
        sha256, model = read_folder(folder)
        alone = Haze({"mmd": model}, name=prior, sha256=sha256, device=haze.device)
        report = evaluate(alone, data, None, protocol=protocol, progress=progress)
        means = report.means()
        cells = [means[task, "mmd"] for task in (DEHAZE, SYNTHESIS)]
        numbers = [text for psnr, ssim, _ in cells for text in (f"{psnr:.2f}", "-" if ssim is None else f"{ssim:.4f}")]
        rows.append([prior, *numbers, f"{code_snr(run):.1f}"])
    columns = ["prior", "removal PSNR", "SSIM", "synthesis PSNR", "SSIM ", "code SNR dB"]
    caption = "Code SNR: variance of the code's mean against the unit noise of its samples, at the end of training."
    assert report is not None
    return [Table(columns, rows, caption)], report.setting()


def recipe_of(scale: Scale, kind: str) -> str:
    """The recipe a row is trained with."""
    if scale.prefix == "tiny":
        return "tiny" if kind == "physical" else "tiny_mmd"
    if scale.prefix == "paper" and kind in TRANSLATORS:
        return "paper"
    return recipe_for(kind)


def kind_settings(scale: Scale, kind: str) -> dict[str, str]:
    """What makes a recipe of the paper's model another row, where that has none of its own."""
    if scale.prefix == "tiny" and kind == "dehazenet":
        hint = "train it with `latens train haze --recipe desk_dehazenet`"
        raise UsageError("there is no tiny recipe of dehazenet", hint=hint)
    return {} if scale.prefix == "desk" else dict(VARIANTS.get(kind, {}))


def trained(run: Path, scale: Scale, recipe: str, settings: Mapping[str, str], progress: Callable[[str], None]) -> Path:
    """The best weights of a run in this folder, which is started or continued; `scale.minutes` bound each call."""
    overrides = dict(settings) | ({"run.steps": str(scale.steps)} if scale.steps else {})
    overrides |= {"data.border": str(scale.border)} if scale.border else {}
    folders = [Path(folder) for folder in scale.train.split(",") if folder]
    if scale.prefix == "tiny":
        overrides |= {"data.scenes": "2"}
    wanted = json.dumps([recipe, overrides, scale.train], sort_keys=True)
    done = run / "done.json"
    if done.is_file() and done.read_text() == wanted and (run / "best" / "config.json").is_file():
        return run / "best"  # data would be made anew only to find that there is nothing to do
    progress(f"training {run.name} by recipe {recipe}")
    result = train(
        "haze", recipe=recipe, data=folders, run_dir=run, overrides=overrides, max_time=60 * scale.minutes, resume=True
    )
    if result.ended == "finished":
        write_atomic(done, wanted.encode())
    if not (run / "best" / "config.json").is_file():
        what = f"{scale.minutes:g} minutes did not reach the first validation"
        raise UsageError(what, where=str(run), hint="run the same command again, or --set minutes=...")
    return run / "best"


def code_snr(run: Path) -> float:
    """The last signal-to-noise ratio of the code that a run has logged, in dB."""
    values = [
        json.loads(line).get("code_snr_db") for line in (run / "metrics.jsonl").read_text().splitlines() if '"train"' in line
    ]
    return float(values[-1])
