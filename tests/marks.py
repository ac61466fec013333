"""Fenced commands of the documents, their marks, and how the tests run them. docs/commands.md describes the rules.

A mark is a comment in the line before a fence:

    <!-- run -->               the lines run as printed, on small files with the printed names
    <!-- tiny -->              training, evaluation and tables run at the smallest scale, on data that the system writes
    <!-- shown: reason -->     the lines are parsed only
"""

from __future__ import annotations

import ast
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

from latens.cli.main import main
from latens.contract import Evaluation, open_system
from latens.data.source import parse_source
from latens.reproduction import example_data
from latens.settings import to_dict

ROOT = Path(__file__).parent.parent
FENCE = re.compile(
    r"^(?P<mark><!-- (?P<kind>run|tiny|shown)(?:: (?P<reason>.+?))? -->\n)?```(?P<language>\w*)\n(?P<body>.*?)^```", re.M | re.S
)
OUTPUT = {"text", "csv", "json", "yaml", "toml"}  # languages of fences that hold results or files instead of commands
SYSTEM_VERBS = ("train", "evaluate", "reproduce")
KEPT = ("-o", "--model", "--branch", "--resume", "--decay")  # options of them that stay
SMALL_SIZES = {"8MB": "8kB", "20kB": "1kB"}
PARTIAL = 4  # exit status of a command that names what it could not do, such as a target out of reach


class Fence(NamedTuple):
    document: str  # path from the root
    line: int
    language: str
    kind: str  # run, tiny or shown; "" without a mark
    reason: str
    body: str

    def lines(self) -> list[str]:
        """Commands without comments, with continued lines joined."""
        joined = self.body.replace("\\\n", " ").splitlines()
        return [line for line in joined if line.strip() and not line.lstrip().startswith("#")]


def documents() -> list[Path]:
    """The README and all pages, model cards included; transcripts quote commands that are refused."""
    found = {ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "src/latens").rglob("README.md")}
    return sorted(found - {ROOT / "docs/notes/transcripts.md"}, key=lambda path: path.as_posix())


def fences(document: Path) -> Iterator[Fence]:
    """The fences of a page that hold commands or code."""
    text = document.read_text(encoding="utf-8")
    for found in FENCE.finditer(text):
        if found["language"] not in OUTPUT:
            place = text.count("\n", 0, found.start()) + 1
            kind, reason = found["kind"] or "", found["reason"] or ""
            yield Fence(document.relative_to(ROOT).as_posix(), place, found["language"], kind, reason, found["body"])


PRELUDE = """
from pathlib import Path
import latens, numpy as np
from PIL import Image
image = Image.open("photo.png").convert("RGB")
images = sorted(Path("photos").glob("*.png"))
frames = np.zeros((3, 64, 96, 3), np.uint8)
codec = latens.load("image_codec_joint")
show = lambda pixels: None
"""


class Runner:
    """Runs fences of pages. What `reproduce` makes at the smallest scale is made once, for all pages."""

    def __init__(self) -> None:
        self.reproduced: set[str] = set()

    def run(self, chosen: Iterable[Fence], folder: Path) -> None:
        """Run fences of a page in order, in a folder with the files that they name. AssertionErrors name the line."""
        names: dict[str, Any] = {}
        with working_in(folder):
            exec(PRELUDE, names)
            for fence in chosen:
                where = f"{fence.document}:{fence.line}"
                if fence.language == "python":
                    body = fence.body.replace("8_000_000", "8_000") if fence.kind == "tiny" else fence.body
                    exec(compile(body, where, "exec"), names)
                    continue
                written: set[str] = set()
                for line in fence.lines():
                    for part in re.split(r"\s(?:&&|\|)\s", line):
                        self.run_command(shlex.split(part, comments=True), fence.kind, written, f"{where}: {line}")

    def run_command(self, words: list[str], kind: str, written: set[str], what: str) -> None:
        """Run one command. `written` holds the outputs of earlier ones in the fence, which this one may replace."""
        if words[0] == "latens":
            words = tiny_words(words[1:], written) if kind == "tiny" else words[1:]
            if kind == "tiny" and words[0] == "reproduce":
                if words[1] in self.reproduced:
                    return
                self.reproduced.add(words[1])
            remove_earlier_output(words, written)
            run_latens(words, what)
        elif words[:2] == ["python", "-c"]:
            run_call(words[2], what)
        elif words[0] == "python" and kind == "run":
            ended = subprocess.run([sys.executable, *words[1:]], capture_output=True, text=True, check=False)
            assert ended.returncode == 0, f"{what}\n{ended.stdout}{ended.stderr}"
        else:
            raise AssertionError(f"{what}: only latens and python can be run")


def remove_earlier_output(words: list[str], written: set[str]) -> None:
    """Alternatives in a fence write the same output: remove that of an earlier line."""
    if "-o" not in words:
        return
    out = words[words.index("-o") + 1]
    if out in written:
        shutil.rmtree(out) if Path(out).is_dir() else Path(out).unlink(missing_ok=True)
    written.add(out)


def run_latens(words: list[str], what: str) -> None:
    talk = io.StringIO()
    with redirect_stdout(io.TextIOWrapper(io.BytesIO(), encoding="utf-8")), redirect_stderr(talk):
        status = main(words)
    assert status in (0, PARTIAL), f"{what}\nran: latens {shlex.join(words)}\nexit status {status}\n{talk.getvalue()}"


def run_call(code: str, where: str) -> None:
    """A call of latens.train or latens.reproduce in `python -c`, at the smallest scale."""
    called = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    for node in called:
        assert isinstance(node.func, ast.Attribute)
        if node.func.attr in SYSTEM_VERBS:
            given = {each.arg: ast.literal_eval(each.value) for each in node.keywords if each.arg}
            system = ast.literal_eval(node.args[0]) if node.args else ""
            words = [node.func.attr, *([system] if system else []), "-o", str(given["out"])]
            for name in ("branch", "decay"):
                words += [f"--{name}", str(given[name])] if name in given else []
            run_latens(tiny_words(words), f"{where}: {code}")


def tiny_words(words: list[str], written: Collection[str] = ()) -> list[str]:
    """The words of a command at the smallest scale. Of other verbs than SYSTEM_VERBS and bench only sizes change.

    Training data stay if they were `written` by an earlier command of the fence.
    """
    words = [SMALL_SIZES.get(word, word) for word in words]
    if words[0] == "bench":
        return [*words, "--repeats", "1"]
    if words[0] not in SYSTEM_VERBS:
        return words
    positional, options = split_words(words[1:])
    kept = {name: values for name, values in options.items() if name in KEPT}
    system = positional[0].partition("/")[0] if positional else system_of_run(kept["--branch"][0])
    opened, settings = open_system(system), dict[str, Any]()
    if "--branch" in kept:
        kept["--decay"] = ["2"]
    elif words[0] == "train" and "--resume" not in kept:
        example = opened.example(Path("example") / system)
        given = options.get("--data", [])
        made_here = bool(given) and all(parse_source(source).place.startswith(tuple(written)) for source in given)
        kept |= {"--recipe": ["tiny"], "--data": given if made_here else [str(source) for source in example.sources]}
        settings = {**example.light, "run.steps": 2, "run.validate_every": 2}
    elif words[0] != "train":
        kept["--data"] = example_data(system, Path("example") / system)
    if words[0] == "reproduce":
        kept["--recipe"] = ["tiny"]
    if words[0] == "evaluate":
        settings = quick_settings(opened.evaluation)
        if not Path(kept.get("--model", [""])[0]).is_dir():
            kept.pop("--model", None)
    kept.setdefault("-o", [f"out-{len(list(Path().glob('out-*')))}"])
    flat = [word for name, values in kept.items() if values or name == "--resume" for word in (name, *values)]
    return [words[0], *positional, *flat, *(word for name, value in settings.items() for word in ("--set", f"{name}={value}"))]


def quick_settings(evaluation: Evaluation[Any, Any]) -> dict[str, str]:
    """The options of a short evaluation that differ from the defaults, as values of --set."""
    if evaluation.quick is None:
        return {}
    usual = to_dict(evaluation.options)
    return {name: text_of(value) for name, value in to_dict(evaluation.quick).items() if value != usual[name]}


def text_of(value: Any) -> str:
    return "[" + ",".join(map(text_of, value)) + "]" if isinstance(value, list | tuple) else str(value)


def system_of_run(run: str) -> str:
    return str(json.loads((Path(run) / "best/config.json").read_text())["system"])


def split_words(words: list[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Positional words, and the values of every option. All values of documents follow their option."""
    positional: list[str] = []
    options: dict[str, list[str]] = {}
    current = positional
    for word in words:
        if re.match(r"--?[a-z]", word):
            current = options.setdefault(word, [])
        else:
            current.append(word)
    return positional, options


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
