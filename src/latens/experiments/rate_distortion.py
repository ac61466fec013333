"""Rate and distortion of codecs on images or clips: means, curves, BD-rates, times, check of file sizes.

Conventions, as usual on Kodak: bits per pixel, PSNR in dB and MS-SSIM are averaged over inputs at each setting. MS-SSIM is
compared and drawn on the scale -10 log10(1 - mean), SSIMULACRA2 on its own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain
from typing import Any, Literal, NamedTuple

from latens.errors import InputError, counted
from latens.experiments.codec_rows import OURS, CodecRow
from latens.experiments.report import Report
from latens.inference.page import Figure, Part, Table
from latens.metrics.image import mean_db, similarity_db
from latens.metrics.plot import Panel, rate_distortion_plot
from latens.metrics.rate import BdRate, Curve, MeanRate, Point, compare, mean_rate, rate_at

Measure = Literal["psnr", "ms_ssim", "ssimulacra2"]
TITLES: dict[Measure, str] = {"psnr": "PSNR (dB)", "ms_ssim": "MS-SSIM (dB)", "ssimulacra2": "SSIMULACRA2"}
ALLOWED_SHARE, ALLOWED_BYTES = 0.01, 200.0  # allowed deviation of a file size from the code length of its symbols


class Means(NamedTuple):
    """One codec at one setting, over all inputs.

    The rate is all bits over all pixels, as in the challenges of CLIC: a mean over images would be that of the smallest ones,
    whose headers are larger than their pixels. PSNR and MS-SSIM are means over images.
    """

    codec: str
    setting: float
    bpp: float
    psnr: float
    ms_ssim: float | None
    encode_seconds: float
    decode_seconds: float
    ssimulacra2: float | None = None


class ProcessorSeconds(NamedTuple):
    """Mean times of the processor per megapixel, of all threads."""

    encode: float
    decode: float


class SizeCheck(NamedTuple):
    """File sizes compared with the code length by the model's probabilities, over all files of our codec.

    `worst` is the file with the largest deviation relative to the allowed one, 1 % + 200 bytes.
    """

    files: int
    within: int
    worst: CodecRow

    @property
    def difference(self) -> float:
        return _difference(self.worst)


@dataclass(frozen=True)
class RateDistortionResults:
    """Rows of every input, codec and setting, with curves and BD-rates of the codec named OURS against the others."""

    model: str
    model_id: str
    rows: tuple[CodecRow, ...]
    settings: dict[str, str]  # of the other codecs, for captions
    failures: tuple[str, ...] = ()  # inputs that could not be read, and why
    duplicates: tuple[str, ...] = ()  # inputs that are the same as others, and which
    noun: str = "image"  # word for an input in captions

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the inputs."""
        return tuple(dict.fromkeys(row.name for row in self.rows))

    @cached_property
    def codecs(self) -> tuple[str, ...]:
        """Names of the codecs; OURS comes first."""
        return tuple(dict.fromkeys((OURS, *(row.codec for row in self.rows))))

    def means(self, codec: str) -> list[Means]:
        """Means over inputs at every setting of a codec."""
        groups = _by_setting([row for row in self.rows if row.codec == codec])
        return [_means(codec, setting, group) for setting, group in groups.items()]

    def curve(self, codec: str, measure: Measure) -> Curve:
        """Mean rate against mean quality; inputs without the measure, such as MS-SSIM of small ones, are left out."""
        return _curve(codec, self.rows, measure)

    def bd_rates(self, measure: Measure) -> dict[str, BdRate | None]:
        """BD-rate of our codec against every other; None if the curves share no range of quality."""
        return self._bd_rates(self.rows, measure)

    def bd_rates_by_input(self, measure: Measure) -> dict[str, dict[str, BdRate | None]]:
        """`bd_rates` of every input by itself, by its name."""
        rows: dict[str, list[CodecRow]] = {name: [] for name in self.names}
        for row in self.rows:
            rows[row.name].append(row)
        return {name: self._bd_rates(own, measure) for name, own in rows.items()}

    def mean_bd_rates(self, measure: Measure) -> dict[str, MeanRate | None]:
        """Means of `bd_rates_by_input`, over the inputs whose curves share a range of quality."""
        found = list(self.bd_rates_by_input(measure).values())
        return {codec: mean_rate([bd.percent for each in found if (bd := each[codec])]) for codec in self.codecs[1:]}

    def _bd_rates(self, rows: Sequence[CodecRow], measure: Measure) -> dict[str, BdRate | None]:
        ours = _curve(OURS, rows, measure)
        return {codec: _compare(_curve(codec, rows, measure), ours) for codec in self.codecs[1:]}

    def processor_seconds(self, codec: str) -> ProcessorSeconds | None:
        """Over all files of the codec; None if none was timed."""
        timed = [row for row in self.rows if row.codec == codec and row.encode_cpu is not None]
        if not timed:
            return None
        megapixels = sum(row.pixels for row in timed) / 1e6
        encode, decode = (sum(getattr(row, name) or 0.0 for row in timed) for name in ("encode_cpu", "decode_cpu"))
        return ProcessorSeconds(encode / megapixels, decode / megapixels)

    def size_check(self) -> SizeCheck | None:
        """Sizes of our files compared with their code lengths; None if no code length is known."""
        files = [row for row in self.rows if row.estimated_bytes is not None]
        within = sum(_share_of_allowed(row) <= 1 for row in files)
        return SizeCheck(len(files), within, max(files, key=_share_of_allowed)) if files else None

    # ------------------------------------------------------------------------------------------------------ tables

    def rate_table(self) -> Table:
        """Our codec at every setting, with the rates that the other codecs need for the same PSNR."""
        others = [self.curve(codec, "psnr") for codec in self.codecs[1:]]
        columns: dict[str, Callable[[Means], str]] = {
            "quality": lambda mean: f"{mean.setting:g}",
            "bpp": lambda mean: f"{mean.bpp:.4f}",
            "PSNR dB": lambda mean: f"{mean.psnr:.2f}",
            "MS-SSIM": lambda mean: "-" if mean.ms_ssim is None else f"{mean.ms_ssim:.4f}",
            "SSIMULACRA2": lambda mean: "-" if mean.ssimulacra2 is None else f"{mean.ssimulacra2:.1f}",
            "compress s": lambda mean: f"{mean.encode_seconds:.3f}",
            "decompress s": lambda mean: f"{mean.decode_seconds:.3f}",
            **{f"{curve.name} bpp": partial(_needed, curve) for curve in others},
        }
        rows = [[show(mean) for show in columns.values()] for mean in self.means(OURS)]
        caption = (
            f"Means over {counted(len(self.names), self.noun)} at each quality; bits from bytes of real files, over all pixels."
        )
        if others:
            caption += " On the right: bits per pixel that the other codecs need for the same PSNR."
        return _without_empty(Table(list(columns), rows, caption))

    def bd_table(self) -> Table:
        """BD-rates of our codec, each with its mean over inputs and its range of quality, and the times of the other codecs."""
        found = [self.bd_rates(measure) for measure in TITLES]
        means = [self.mean_bd_rates(measure) for measure in TITLES]
        blanks = ["no overlap" if self.curve(OURS, measure).points else "-" for measure in TITLES]
        others = self.codecs[1:]
        rows = [
            [
                f"against {codec}",
                *chain(*(_cells(bd[codec], blank, each[codec]) for bd, each, blank in zip(found, means, blanks, strict=True))),
                *_times(self.processor_seconds(codec)),
            ]
            for codec in others
        ]
        settings = "; ".join(f"{codec}: {text}" for codec, text in self.settings.items() if codec in others)
        caption = f"Difference in rate at equal quality (negative: fewer bits), over the qualities that both reach. {settings}."
        if any(each for mean in means for each in mean.values()):
            caption += f" In brackets: mean of the BD-rates of each {self.noun} by itself, with its 95 % interval."
        if ours := self.processor_seconds(OURS):
            encode, decode = _times(ours)
            caption += f" Processor seconds per megapixel, all threads; {OURS} takes {encode} to encode and {decode} to decode."
        if blanks[1] != "-":
            caption += " MS-SSIM in dB: -10 log10(1 - MS-SSIM)."
        heads = ["BD-rate", "PSNR", "over dB", "MS-SSIM", "over dB ", "SSIMULACRA2", "over", "encode s/Mpx", "decode s/Mpx"]
        return _without_empty(Table(heads, rows, caption))

    def input_table(self) -> Table:
        """Per input: our codec at its middle setting, and BD-rates (PSNR)."""
        settings = [mean.setting for mean in self.means(OURS)]
        middle = settings[(len(settings) - 1) // 2]
        rows = []
        for name, found in self.bd_rates_by_input("psnr").items():
            row = next(row for row in self.rows if (row.name, row.codec, row.setting) == (name, OURS, middle))
            deltas = [_cells(found[codec])[0] for codec in self.codecs[1:]]
            rows.append([name, f"{row.bpp:.4f}", f"{row.psnr:.2f}", *deltas])
        heads = [self.noun, f"bpp at {middle:g}", "PSNR dB", *(f"BD-rate {codec}" for codec in self.codecs[1:])]
        return Table(heads, rows, f"BD-rates (PSNR) of every {self.noun} by itself; positive where ours needs more bits.")

    def size_line(self) -> str:
        """A sentence on the check of file sizes; empty if no code length is known."""
        check = self.size_check()
        if check is None:
            return ""
        relative = 100 * check.difference / (check.worst.estimated_bytes or 1)
        return (
            f"File size compared with the code length by the model: {check.within} of {check.files} files within 1 % + "
            f"200 bytes; worst {check.difference:+.0f} bytes ({relative:+.2f} %), {check.worst.name} at quality "
            f"{check.worst.setting:g}."
        )

    # ------------------------------------------------------------------------------------------------------ report

    def report(self, title: str) -> Report:
        """Tables, curves and rows."""
        count = counted(len(self.names), self.noun)
        tables = [self.rate_table(), *([self.bd_table()] if len(self.codecs) > 1 else [])]
        once = [f"{line}." for line in self.duplicates]
        about = [f"{self.model}, weights {self.model_id[:12]}, {count}.", self.size_line(), *once]
        return Report(
            name="evaluation",
            title=title,
            about=" ".join(part for part in about if part),
            blocks=[self.figure(), *tables],
            parts=[Part(f"{self.noun.capitalize()} by {self.noun}", [self.input_table()])],
            facts=self.facts(),
            rows=[row._asdict() for row in self.rows],
            failures=self.failures,
        )

    def facts(self) -> dict[str, Any]:
        """Means, BD-rates and check of file sizes as JSON-able values, without times."""
        means = [mean._asdict() for codec in self.codecs for mean in self.means(codec)]
        for mean in means:
            del mean["encode_seconds"], mean["decode_seconds"]
        return {
            "model": self.model,
            "model_id": self.model_id,
            f"{self.noun}s": list(self.names),
            "settings": self.settings,
            "means": means,
            "bd_rate": {
                measure: {codec: bd and bd._asdict() for codec, bd in self.bd_rates(measure).items()} for measure in TITLES
            },
            f"mean_bd_rate_of_{self.noun}s": {
                measure: {codec: mean and mean._asdict() for codec, mean in self.mean_bd_rates(measure).items()}
                for measure in TITLES
            },
            "size_check": self._size_facts(),
        }

    def _size_facts(self) -> dict[str, Any] | None:
        check = self.size_check()
        if check is None:
            return None
        worst = check.worst
        numbers = {"quality": worst.setting, "bytes": worst.bytes, "estimated_bytes": worst.estimated_bytes}
        within = {"within_1_percent_and_200_bytes": check.within}
        return {"files": check.files, **within, "worst": {"name": worst.name, **numbers}}

    def figure(self) -> Figure:
        """The curves of all measures that are known."""
        panels = [Panel(title, [c for c in self._curves(measure) if c.points]) for measure, title in TITLES.items()]
        caption = f"Rate against quality, means over {counted(len(self.names), self.noun)}."
        return Figure(rate_distortion_plot(panels), caption=caption, alt="rate-distortion curves", chart=True)

    def _curves(self, measure: Measure) -> Sequence[Curve]:
        ours = self.curve(OURS, measure)
        return [ours, *(self.curve(codec, measure) for codec in self.codecs[1:])] if ours.points else []


def _by_setting(rows: Sequence[CodecRow]) -> dict[float, list[CodecRow]]:
    groups: dict[float, list[CodecRow]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.setting):
        groups[row.setting].append(row)
    return dict(groups)


def _means(codec: str, setting: float, rows: Sequence[CodecRow]) -> Means:
    similarities = [row.ms_ssim for row in rows if row.ms_ssim is not None]
    scores = [row.ssimulacra2 for row in rows if row.ssimulacra2 is not None]
    return Means(
        codec=codec,
        setting=setting,
        bpp=8 * sum(row.bytes for row in rows) / sum(row.pixels for row in rows),
        psnr=mean_db(row.psnr for row in rows),
        ms_ssim=_mean(similarities) if similarities else None,
        encode_seconds=_mean([row.encode_seconds for row in rows]),
        decode_seconds=_mean([row.decode_seconds for row in rows]),
        ssimulacra2=_mean(scores) if scores else None,
    )


def _curve(codec: str, rows: Sequence[CodecRow], measure: Measure) -> Curve:
    """The curve of a codec over those of the rows that are its own and have the measure."""
    own = [row for row in rows if row.codec == codec and getattr(row, measure) is not None]
    points = []
    for setting, group in _by_setting(own).items():
        mean = _means(codec, setting, group)
        points.append(Point(setting, mean.bpp, _quality(mean, measure)))
    return Curve(codec, tuple(points))


def _quality(mean: Means, measure: Measure) -> float:
    if measure == "ms_ssim":
        return similarity_db(mean.ms_ssim or 0.0)
    return mean.psnr if measure == "psnr" else mean.ssimulacra2 or 0.0


def _compare(anchor: Curve, tested: Curve) -> BdRate | None:
    try:
        return compare(anchor, tested)
    except InputError:
        return None


def _without_empty(table: Table) -> Table:
    """The table without columns that are empty in every row."""
    kept = [i for i in range(len(table.columns)) if any(row[i] != "-" for row in table.rows)]
    return Table([table.columns[i] for i in kept], [[row[i] for i in kept] for row in table.rows], table.caption)


def _needed(curve: Curve, mean: Means) -> str:
    rate = rate_at(curve, mean.psnr)
    return "-" if rate is None else f"{rate:.4f}"


def _cells(delta: BdRate | None, blank: str = "-", each: MeanRate | None = None) -> tuple[str, str]:
    """BD-rate, with its mean over inputs in brackets if there is one; range of quality."""
    if delta is None:
        return blank, "-"
    bracket = f" ({each.percent:+.1f} ± {each.margin:.1f})" if each else ""
    return f"{delta.percent:+.1f} %{bracket}", f"{delta.lowest:.1f} to {delta.highest:.1f}"


def _times(seconds: ProcessorSeconds | None) -> tuple[str, str]:
    return (f"{seconds.encode:.2f}", f"{seconds.decode:.2f}") if seconds else ("-", "-")


def _difference(row: CodecRow) -> float:
    return row.bytes - (row.estimated_bytes or 0.0)


def _share_of_allowed(row: CodecRow) -> float:
    return abs(_difference(row)) / (ALLOWED_SHARE * (row.estimated_bytes or 0.0) + ALLOWED_BYTES)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
