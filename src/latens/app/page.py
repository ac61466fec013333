"""The page: a tab for every system, built with Gradio. Import it after GRADIO_TEMP_DIR is set (see `serve`)."""

from __future__ import annotations

import contextlib
import itertools
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import gradio as gr
import numpy as np
from PIL import Image

from latens.app.runner import Runner, Step
from latens.app.tabs import TABS, Knob, Tab, made
from latens.app.views import View, first_frame, reduced

TITLE = "latens"
COMPARED = "Left: yours, right: the result"
KEPT_RUNS = 24  # folders of results that stay
SHOWN_LINES = 12  # of the log
CANCELLED = "Cancelled; unfinished files were removed."
NO_REGION = "no region is painted: the whole frame gets the same quality"
HEAD = (
    "Everything runs on this machine; files leave it only when you download them. "
    "Reloading the page clears files and results: download what you want to keep."
)


class Key(NamedTuple):
    """A tab of a page that is open in a browser; it has one run at a time."""

    session: str
    tab: str


class Desk:
    """Folders and processes of all runs of a page."""

    def __init__(self, runner: Runner, folder: Path) -> None:
        self.runner, self.folder = runner, folder
        self._numbers = itertools.count(1)
        self._cancelled: set[Key] = set()

    def permit(self, key: Key) -> None:
        """Forget that an earlier run was cancelled."""
        self._cancelled.discard(key)

    def cancel(self, key: Key) -> None:
        """Ask the run that waits or runs to end."""
        self._cancelled.add(key)

    def is_cancelled(self, key: Key) -> bool:
        return key in self._cancelled

    def new_folder(self, name: str) -> Path:
        """An empty folder for a run; the oldest ones are removed."""
        new = self.folder / f"{next(self._numbers):05d}-{name}"
        new.mkdir(parents=True)
        for old in sorted(self.folder.iterdir())[:-KEPT_RUNS]:
            shutil.rmtree(old, ignore_errors=True)
        return new


def build(desk: Desk) -> gr.Blocks:
    """The page."""
    page: gr.Blocks
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.Markdown(f"# {TITLE}\n{HEAD}")
        with gr.Tabs():
            for tab in TABS:
                with gr.Tab(tab.title, id=tab.name):
                    _add(tab, desk)
    return page


def _add(tab: Tab, desk: Desk) -> None:
    gr.Markdown(tab.about)
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            # Any ending may be given: the command tells what it cannot read.
            count: Literal["single", "multiple"] = "single" if tab.region else "multiple"
            files = gr.File(label="Your files", file_count=count, type="filepath", height=140, elem_id=f"{tab.name}-files")
            editor = _editor(tab) if tab.region else None
            controls = [_control(tab, knob) for knob in tab.knobs]
            with gr.Row():
                run = gr.Button("Run", variant="primary", elem_id=f"{tab.name}-run")
                cancel = gr.Button("Cancel", elem_id=f"{tab.name}-cancel")
        with gr.Column(scale=2, min_width=300):
            status = gr.Markdown("No run yet.", elem_id=f"{tab.name}-status")
            slider = gr.ImageSlider(label=COMPARED, format="png", **hidden(tab, "slider"))
            clip = gr.Video(label="Result", height=420, **hidden(tab, "clip"))
            gallery = gr.Gallery(label="Images", format="png", columns=3, object_fit="contain", **hidden(tab, "gallery"))
            table = gr.Dataframe(label="Table", **hidden(tab, "table"))
            downloads = gr.File(label="Files", file_count="multiple", **hidden(tab, "downloads"))
            log = gr.Textbox(label="Log", lines=3, max_lines=SHOWN_LINES, interactive=False, elem_id=f"{tab.name}-log")
    shown = [status, slider, clip, gallery, table, downloads, log]
    given = [files, *([editor] if editor is not None else []), *controls]
    run.click(_act(tab, desk), given, shown, concurrency_limit=1, concurrency_id="run", show_progress="minimal")
    run.click(_with_key(tab, desk.permit), queue=False)  # at once, as the run may wait for its turn
    # Not by `cancels` of Gradio: an update that is on its way could follow it, so that "is running" or an error stays.
    cancel.click(_with_key(tab, desk.cancel), queue=False)
    if editor is not None:
        files.change(_first_frame, files, editor)


def hidden(tab: Tab, name: str) -> dict[str, Any]:
    """Settings of a part of the result, which appears when it has contents."""
    return {"visible": False, "interactive": False, "elem_id": f"{tab.name}-{name}"}


def _editor(tab: Tab) -> gr.ImageEditor:
    return gr.ImageEditor(
        label="Region (paint it)",
        type="numpy",
        format="png",
        sources=(),
        transforms=(),
        brush=gr.Brush(default_size=40, colors=["#ff3b30"], color_mode="fixed"),
        layers=False,
        elem_id=f"{tab.name}-region",
    )


def _control(tab: Tab, knob: Knob) -> Any:
    name = f"{tab.name}-{knob.name}"
    info = knob.info or None
    if knob.kind == "slider":
        low, high, step = knob.bounds
        return gr.Slider(low, high, value=knob.value, step=step, label=knob.label, info=info, elem_id=name)
    if knob.kind == "choice":
        return gr.Radio(list(knob.choices), value=knob.value, label=knob.label, info=info, elem_id=name)
    if knob.kind == "number":
        return gr.Number(value=knob.value, label=knob.label, info=info, elem_id=name)
    return gr.Textbox(value=knob.value, label=knob.label, info=info, elem_id=name)


# ---------------------------------------------------------------------------------------------------------------- runs


def _with_key(tab: Tab, act: Callable[[Key], None]) -> Callable[[gr.Request], None]:
    """A handler of a button that acts on the run of this tab in the browser that asks."""

    def handle(request: gr.Request) -> None:
        act(Key(str(request.session_hash), tab.name))

    return handle


def _act(tab: Tab, desk: Desk) -> Callable[..., Iterator[list[Any]]]:
    """The generator of a click: it yields while the commands run, and kills the running one when it is cancelled or closed."""

    def act(request: gr.Request, files: Any, *rest: Any) -> Iterator[list[Any]]:
        paths = [Path(str(path)) for path in ([files] if isinstance(files, str) else files or [])]
        if not paths:
            yield _shown(status="Give a file first.")
            return
        out = desk.new_folder(tab.name)
        values = dict(zip((knob.name for knob in tab.knobs), rest[1:] if tab.region else rest, strict=True))
        if tab.region:
            values["region"] = _mask(rest[0], paths[0], out)
        yield from _run(tab, desk, Key(str(request.session_hash), tab.name), paths, out / "results", values)

    return act


def _run(tab: Tab, desk: Desk, key: Key, paths: list[Path], results: Path, values: Mapping[str, Any]) -> Iterator[list[Any]]:
    """Updates of the page while the commands of a tab run, and at their end."""
    rows: list[dict[str, Any]] = []
    lines: list[str] = [NO_REGION] if tab.region and values["region"] is None else []
    worst = 0
    for words in tab.commands(paths, results, values):
        last: Step | None = None
        log = lines
        with contextlib.closing(desk.runner.run(words)) as steps:
            for last in steps:
                if desk.is_cancelled(key):
                    yield _shown(status=CANCELLED, lines=log)
                    return
                log = lines + with_names(last.lines, desk.folder.parent)
                yield _shown(status=progress(words, last.rows, len(paths)), lines=log)
        assert last is not None
        rows, lines, worst = rows + last.rows, log, _worse(worst, last.status or 0)
        if last.status and (last.status < 0 or not made(last.rows)):
            break
    yield _finished(tab, paths, results, rows, lines, worst)


def progress(words: Sequence[str], rows: Sequence[Mapping[str, Any]], count: int) -> str:
    """How far a command with `count` inputs is, as Markdown."""
    verb = " ".join(itertools.takewhile(lambda word: word.isalpha(), words))
    if count == 1:
        return f"**{verb}** is running."
    failed = sum(row.get("status") == "failed" for row in rows)
    text = f"**{verb}** is running; {len(rows) - failed} of {count} results so far"
    return f"{text}, {failed} failed." if failed else f"{text}."


def with_names(lines: Sequence[str], private: Path) -> list[str]:
    """Lines of a log with names of files in place of their paths in the private folder of the page."""
    place = re.compile(rf"{re.escape(str(private))}/(?:(uploads)/[^/\s]+|runs/[^/\s]+(?:/results)?)(/(?=[^\s:;,]))?")

    def name(found: re.Match[str]) -> str:
        return "" if found[2] else "your files" if found[1] else "the results"

    return [place.sub(name, line) for line in lines]


def _worse(one: int, other: int) -> int:
    """The status of two commands; a negative one (a signal) is the worst."""
    return min(one, other) if min(one, other) < 0 else max(one, other)


def _finished(
    tab: Tab, paths: list[Path], results: Path, rows: list[dict[str, Any]], lines: list[str], status: int
) -> list[Any]:
    """Everything that is shown at the end."""
    view = View()
    if rows:
        view = tab.view(paths, results, rows)
    if status < 0:
        text = f"**The command was killed** (signal {-status}); this machine may have too little memory."
    elif status and not rows:
        text = f"**Nothing was made** (status {status}). The log says why."
    elif status:
        text = f"**Finished, with problems** (status {status}); the log names them."
    else:
        text = "**Finished.**"
    return _shown(status=text, view=view, lines=lines)


def _shown(*, status: str, view: View | None = None, lines: Sequence[str] = ()) -> list[Any]:
    """Updates of status, slider, clip, gallery, table, downloads and log; without a view only of status and log."""
    log = gr.update(value="\n".join(lines[-SHOWN_LINES:]))
    if view is None:
        return [status, *[gr.skip()] * 5, log]
    return [
        status,
        gr.update(value=view.compared, visible=view.compared is not None, label=COMPARED + ", first frames" * bool(view.clip)),
        gr.update(value=None if view.clip is None else str(view.clip), visible=view.clip is not None),
        gr.update(value=list(view.gallery), visible=bool(view.gallery)),
        gr.update(value={"headers": list(view.columns), "data": [list(row) for row in view.rows]}, visible=bool(view.rows)),
        gr.update(value=[str(path) for path in view.files], visible=bool(view.files)),
        log,
    ]


# -------------------------------------------------------------------------------------------------------------- region


def _first_frame(file: str | None) -> Any:
    """The first frame of a clip, to paint on; nothing if it cannot be read."""
    if not file:
        return None
    pixels = first_frame(Path(file))
    return None if pixels is None else {"background": reduced(pixels), "layers": [], "composite": None}


def _mask(drawn: Any, path: Path, out: Path) -> str | None:
    """A mask image of what was painted, at the size of the clip; None if nothing was."""
    layers = drawn.get("layers") if isinstance(drawn, dict) else None
    if not layers:
        return None
    painted = np.asarray(layers[0])[..., 3] > 0
    frame = first_frame(path)
    if not painted.any() or frame is None:
        return None
    size = (frame.shape[1], frame.shape[0])
    mask = Image.fromarray(painted.astype(np.uint8) * 255).resize(size, Image.Resampling.NEAREST)
    place = out / "region.png"
    mask.save(place)
    return str(place)
