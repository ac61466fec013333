"""The tabs of the page: their inputs and knobs, the commands that they run, and what they show."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from latens.app.views import View, files_below, images, is_clip, pair, table, table_of
from latens.catalogue import TUNES

Values = Mapping[str, Any]
Rows = Sequence[Mapping[str, Any]]


class Knob(NamedTuple):
    """A control: a slider (low, high, step), a choice, a number, or a text that may be empty."""

    name: str
    label: str
    kind: Literal["slider", "choice", "number", "text"]
    value: Any
    bounds: tuple[float, float, float] = (0.0, 1.0, 0.1)
    choices: tuple[str, ...] = ()
    info: str = ""


class Tab(NamedTuple):
    """One tab. `commands` gives the words of one or more commands, which run after each other."""

    name: str  # of its elements
    title: str
    about: str
    knobs: tuple[Knob, ...]
    commands: Callable[[list[Path], Path, Values], list[list[str]]]
    view: Callable[[list[Path], Path, Rows], View]
    region: bool = False  # a region is drawn on the first frame


def _names(paths: Sequence[Path]) -> list[str]:
    return [str(path) for path in paths]


def _given(words: Sequence[str], options: Mapping[str, Any]) -> list[str]:
    """Words with the options that have a value, each in one word: a text that begins with -- stays a value."""
    texts = {name: "" if value is None else _text(value).strip() for name, value in options.items()}
    return [*words, *(f"{name}={text}" for name, text in texts.items() if text)]


def made(rows: Rows) -> list[tuple[Path, Path]]:
    """Inputs and outputs of the results that are there, in the order of the inputs; failed ones also name an output."""
    return [
        (Path(str(row["input"])), Path(str(row["output"])))
        for row in rows
        if row.get("output") and row.get("input") and row.get("status") != "failed"
    ]


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


# ---------------------------------------------------------------------------------------------------------------- codec


def _compress(files: list[Path], out: Path, values: Values) -> list[list[str]]:
    words = ["compress", *_names(files), "-o", f"{out}/", "--quality", _text(float(values["quality"]))]
    options = {"--tune": values["tune"], "--refine": values["refine"]}
    return [_given(words, options), ["decompress", str(out), "-o", f"{out / 'decoded'}/"]]


def _compressed(files: list[Path], out: Path, rows: Rows) -> View:
    columns, cells = table([row for row in rows if row.get("bpp") is not None], ("input", "bytes", "bpp", "quality", "seconds"))
    results = made(rows)
    decoded = {code: image for code, image in results if code.suffix == ".ltn"}
    pairs = [(source, code, decoded.get(code)) for source, code in results if code.suffix == ".ltn"]
    compared = next((pair(source, image) for source, _, image in pairs if image is not None), None)
    shown = [path for _, code, image in pairs for path in (code, image) if path is not None]
    return View(compared=compared, columns=columns, rows=cells, files=shown)


# ------------------------------------------------------------------------------------------------------------- segment


def _segment(files: list[Path], out: Path, values: Values) -> list[list[str]]:
    model = values["model"]
    diameter = values["diameter"] if model == "cells" else None
    words = ["segment", *_names(files), "-o", f"{out}/", "--model", model, "--score", _text(float(values["score"]))]
    return [_given(words, {"--diameter": diameter})]


def _segmented(files: list[Path], out: Path, rows: Rows) -> View:
    columns, cells = table_of(out / "cells.csv")
    if not columns:
        columns, cells = table_of(next(iter(sorted(out.rglob("*.cells.csv"))), out / "none"))
    done = [row for row in rows if row.get("files")]
    overlays = [(Path(str(row["input"])), Path(str(path))) for row in done for path in row["files"] if ".overlay." in path]
    compared = pair(*overlays[0]) if overlays else None
    more = images([path for _, path in overlays[1:]])
    return View(compared=compared, gallery=more, columns=columns, rows=cells, files=files_below(out))


# ---------------------------------------------------------------------------------------------------------------- haze


def _dehaze(files: list[Path], out: Path, values: Values) -> list[list[str]]:
    if values["task"] == "add":
        return [["haze", *_names(files), "-o", f"{out}/", "--visibility", _text(float(values["visibility"]))]]
    words = ["dehaze", *_names(files), "-o", f"{out}/", "--method", values["method"]]
    return [[*words, "--strength", _text(float(values["strength"])), "--keep-brightness", _text(float(values["brightness"]))]]


def _dehazed(files: list[Path], out: Path, rows: Rows) -> View:
    results = made(rows)
    columns, cells = table(rows, ("input", "method", "strength", "visibility", "width", "height", "seconds"))
    clip = next((path for _, path in results if is_clip(path)), None)
    compared = pair(*results[0]) if results else None
    paths = [path for _, path in results]
    return View(compared=compared, gallery=images(paths[1:]), clip=clip, columns=columns, rows=cells, files=paths)


# --------------------------------------------------------------------------------------------------------------- parts


def _parts(files: list[Path], out: Path, values: Values) -> list[list[str]]:
    clusters = int(values["clusters"] or 0)
    return [_given(["parts", *_names(files), "-o", str(out)], {"--clusters": clusters or None})]


def _parted(files: list[Path], out: Path, rows: Rows) -> View:
    columns, cells = table([row for row in rows if "input" in row], ("input", "parts", "seconds"))
    sheets = [path for path in files_below(out) if path.suffix == ".png"]
    return View(gallery=images(sheets), columns=columns, rows=cells, files=files_below(out))


# --------------------------------------------------------------------------------------------------------------- video


def _video(files: list[Path], out: Path, values: Values) -> list[list[str]]:
    words = ["video", "compress", str(files[0]), "-o", str(out / f"{files[0].stem}.mp4")]
    words += ["--quality", _text(float(values["quality"])), "--codec", values["codec"]]
    return [_given(words, {"--roi": values.get("region"), "--size": values["size"]})]


def _coded(files: list[Path], out: Path, rows: Rows) -> View:
    paths = sorted(out.glob("*.mp4"))
    columns, cells = table(rows, ("input", "output", "bytes", "frames", "quality", "region", "seconds"))
    compared = pair(files[0], paths[0]) if paths else None
    return View(compared=compared, clip=paths[0] if paths else None, columns=columns, rows=cells, files=paths)


# ------------------------------------------------------------------------------------------------------------- density


def _density(files: list[Path], out: Path, values: Values) -> list[list[str]]:
    words = ["density", *_names(files), "-o", str(out / "scores.csv"), "--draws", str(int(values["draws"]))]
    return [words]


def _scored(files: list[Path], out: Path, rows: Rows) -> View:
    ranked = sorted((row for row in rows if row.get("unusual") is not None), key=lambda row: -float(row["unusual"]))
    columns, cells = table(ranked, ("input", "bits_per_dim", "standard_error", "unusual"))
    gallery = [
        (pixels, f"{name}: {float(row['unusual']):.3f}") for row in ranked for pixels, name in images([Path(str(row["input"]))])
    ]
    return View(gallery=gallery, columns=columns, rows=cells, files=files_below(out))


# ----------------------------------------------------------------------------------------------------------- seedlings


def _grade(files: list[Path], out: Path, values: Values) -> list[list[str]]:
    return [_given(["grade", *_names(files), "-o", str(out)], {f"--{name}": values[name] for name in ("rows", "cols", "day")})]


def _graded(files: list[Path], out: Path, rows: Rows) -> View:
    columns, cells = table_of(out / "plants.csv")
    overlays = sorted(out.glob("*.overlay.*"))
    first = next((path for path in overlays if path.name.startswith(f"{files[0].stem}.overlay.")), None)
    compared = None if first is None else pair(files[0], first)
    others = images([path for path in overlays if compared is None or path != first])
    return View(compared=compared, gallery=others, columns=columns, rows=cells, files=files_below(out))


QUALITY = Knob("quality", "Quality", "slider", 4.0, (1.0, 8.0, 0.5), info="1 is small, 8 is fine")
TABS: tuple[Tab, ...] = (
    Tab(
        "compress",
        "Compress",
        "Photographs into small .ltn files. Drag the handle to compare the original with the decoded file.",
        (
            QUALITY,
            Knob("tune", "Tuned for", "choice", "psnr", choices=tuple(TUNES), info="perceptual looks sharper at a lower PSNR"),
            Knob("refine", "Refinement", "text", "", info="for psnr: a time for each such as 20s, or steps such as 200"),
        ),
        _compress,
        _compressed,
    ),
    Tab(
        "segment",
        "Cells",
        "Nuclei, or blastomeres of an embryo with their hidden parts.",
        (
            Knob("model", "Model", "choice", "cells", choices=("cells", "embryo")),
            Knob("score", "Smallest score", "slider", 0.5, (0.05, 0.95, 0.05)),
            Knob("diameter", "Diameter in pixels", "text", "", info="empty: estimated from the image; only for cells"),
        ),
        _segment,
        _segmented,
    ),
    Tab(
        "haze",
        "Haze",
        "Remove haze from images and clips, or add haze of a visibility to images.",
        (
            Knob("task", "Task", "choice", "remove", choices=("remove", "add")),
            Knob("method", "Method of removal", "choice", "physical", choices=("physical", "dcp", "bccr", "dehazenet", "mmd")),
            Knob("strength", "Strength of removal", "slider", 1.0, (0.0, 1.0, 0.05)),
            Knob("brightness", "Brightness that is kept", "slider", 0.0, (0.0, 1.0, 0.1)),
            Knob("visibility", "Visibility of added haze in meters", "slider", 150.0, (20.0, 1000.0, 10.0)),
        ),
        _dehaze,
        _dehazed,
    ),
    Tab(
        "parts",
        "Parts",
        "Patterns that repeat within and across photographs, found without labels.",
        (Knob("clusters", "Clusters to name", "slider", 0, (0, 24, 1), info="0: none"),),
        _parts,
        _parted,
    ),
    Tab(
        "video",
        "Video",
        "A clip for any player, with a region that stays sharp. Paint the region on the first frame.",
        (
            QUALITY._replace(info="of the region, or of the whole frame without one"),
            Knob("size", "Size of the file", "text", "", info="such as 2MB; empty: by quality"),
            Knob("codec", "Encoder", "choice", "h264", choices=("h264", "h265", "av1")),
        ),
        _video,
        _coded,
        region=True,
    ),
    Tab(
        "density",
        "Unusual images",
        "How probable an image is under a model of photographs, at 32 x 32 pixels: unusual images first.",
        (Knob("draws", "Draws for each score", "slider", 4, (1, 16, 1)),),
        _density,
        _scored,
    ),
    Tab(
        "seedlings",
        "Seedlings",
        "Trays of seedlings from above: emerged plants, and the probability that they will be usable.",
        (
            Knob("rows", "Rows of cells", "number", 10),
            Knob("cols", "Columns of cells", "number", 15),
            Knob("day", "Day after sowing", "text", "", info="empty: from the name of the file, such as tray_day6.png"),
        ),
        _grade,
        _graded,
    ),
)
