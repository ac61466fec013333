"""Commands in documents parse and name existing systems, recipes, settings, tables and models; links lead to existing files."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.marks import fences

from latens.catalogue import MODELS, SYSTEMS, default_model
from latens.cli.common import parse_settings
from latens.cli.main import VERBS, build_app, with_streams
from latens.contract import open_system
from latens.launch import plan_training
from latens.papers import EVERYTHING
from latens.settings import override

ROOT = Path(__file__).parent.parent
TRANSCRIPTS = ROOT / "docs/notes/transcripts.md"  # of commands that are refused, too
DOCUMENTS = sorted(
    {ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "src/latens").rglob("README.md")} - {TRANSCRIPTS},
    key=lambda path: path.as_posix(),
)
TEXTS = [*DOCUMENTS, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
FENCE = re.compile(r"^```.*?\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(latens [a-z]+ [^`]+)`")
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
BENCHMARK = re.compile(r"\bbenchmarks/\w+\.py")
PLACEHOLDER = re.compile(r"[A-Z]{3,}|\.\.\.|\[|<")  # of synopses, as SYSTEM or [-o OUT]
TWO_WORDS = {verb.name for verb in VERBS if " " in verb.name}


class Command(NamedTuple):
    place: str
    words: list[str]


def commands() -> Iterator[Command]:
    for document in DOCUMENTS:
        text = document.read_text()
        blocks = [line for block in FENCE.findall(text) for line in block.replace("\\\n", " ").splitlines()]
        for line in [*blocks, *INLINE.findall(text)]:
            if line.startswith("latens ") and not PLACEHOLDER.search(re.sub(r"=\[[^\]]*\]|[A-Z_]+/|:[A-Z]+", "", line)):
                words = shlex.split(re.split(r"\s#\s|\s&&\s|\s\|\s", line)[0], comments=True)[1:]
                if " ".join(words) not in TWO_WORDS:  # the name of a verb alone
                    yield Command(f"{document.relative_to(ROOT)}: {line.strip()}", words)


ALL = list(commands())
FENCES = [fence for document in DOCUMENTS for fence in fences(document)]
LEAST_SHARE = 0.85  # of fences that the tests run


@pytest.mark.parametrize("document", TEXTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_and_benchmarks_exist(document: Path) -> None:
    text = document.read_text()
    links = [target for target in LINK.findall(text) if "://" not in target]
    assert [target for target in links if not (document.parent / target).exists()] == []
    assert [name for name in BENCHMARK.findall(text) if not (ROOT / name).exists()] == []


def test_every_system_has_a_page_of_results_in_the_index() -> None:
    index = (ROOT / "docs/results/index.md").read_text()
    pages = {path.stem for path in (ROOT / "docs/results").glob("*.md")} - {"index"}
    assert pages >= set(SYSTEMS)
    assert {Path(target).stem for target in LINK.findall(index)} >= pages


def test_the_readme_has_the_sizes_of_the_weights() -> None:
    text = (ROOT / "README.md").read_text()
    sizes = re.findall(r"`(\w+)`, (\d+\.\d) MB", text)
    assert {name for name, _ in sizes} >= {default_model(system) for system in SYSTEMS} - {"amodal", "haze"}
    assert {name: size for name, size in sizes} == {name: f"{MODELS[name].size / 1e6:.1f}" for name, _ in sizes}
    (total,) = re.findall(r"in the package \((\d+) MB\)", text)
    assert int(total) == round(sum(model.size for model in MODELS.values()) / 1e6)


def test_the_readme_has_small_images_and_two_make_commands() -> None:
    text = (ROOT / "README.md").read_text()
    images = [target for target in LINK.findall(text) if target.endswith(".webp")]
    assert len(images) == 6
    assert sum((ROOT / image).stat().st_size for image in images) < 600_000
    assert [line.split("#")[0].strip() for line in text.splitlines() if line.startswith("make ")] == ["make demo", "make test"]


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_page_of_a_system_answers_the_questions_of_a_user(system: str) -> None:
    headings = re.findall(r"^## (.+)$", (ROOT / f"src/latens/systems/{system}/README.md").read_text(), re.MULTILINE)
    assert [each for each in ("Command", "Python", "Options", "How good", "When not to use it") if each not in headings] == []


def test_every_verb_is_on_the_page_of_the_command_line() -> None:
    table = (ROOT / "docs/cli.md").read_text().partition("## Global options")[0]
    assert [verb.name for verb in VERBS if f"`{verb.name} " not in table and f"`{verb.name}`" not in table] == []


def test_every_fence_is_marked_and_most_are_run() -> None:
    """A line <!-- run -->, <!-- tiny --> or <!-- shown: reason --> precedes each; see docs/commands.md."""
    assert [f"{each.document}:{each.line} needs a mark" for each in FENCES if not each.kind] == []
    assert [f"{each.document}:{each.line} needs a reason" for each in FENCES if each.kind == "shown" and not each.reason] == []
    count = Counter(each.kind for each in FENCES)
    assert count["run"] + count["tiny"] >= LEAST_SHARE * count.total(), dict(count)


def test_the_page_of_commands_lists_the_fences_that_are_only_shown() -> None:
    shown = Counter((each.document, each.reason) for each in FENCES if each.kind == "shown")
    rows = [f"| {document} | {count} | {reason} |" for (document, reason), count in sorted(shown.items())]
    table = "\n".join(["| page | fences | reason |", "|---|---|---|", *rows])
    assert table in (ROOT / "docs/commands.md").read_text(), f"docs/commands.md needs this table:\n{table}"


def test_there_are_commands() -> None:
    assert len(ALL) > 40
    assert {command.words[0] for command in ALL} >= {"compress", "segment", "dehaze", "parts", "train", "evaluate", "reproduce"}


@pytest.mark.parametrize("command", ALL, ids=lambda command: command.place)
def test_it_parses(command: Command) -> None:
    words = with_streams(command.words)
    _, bound, _ = build_app(words[0]).parse_args(words, print_error=False, exit_on_error=False)
    verb, given = command.words[0], bound.arguments
    if verb in ("train", "evaluate", "bench"):
        assert given["system"] in SYSTEMS
    settings = parse_settings(given.get("settings") or [])
    if verb == "train" and not given.get("resume"):
        plan_training(given["system"], Path("new"), recipe=given.get("recipe"), settings=settings)
    if verb == "evaluate":
        override(open_system(given["system"]).evaluation.options, settings)
    if verb == "reproduce" and given.get("what", EVERYTHING) != EVERYTHING and not given.get("listed"):
        system, _, name = given["what"].partition("/")
        opened = open_system(system)
        for artifact in [opened.artifacts[name]] if name else opened.artifacts.values():
            override(artifact.scales[given.get("recipe") or "cpu"], settings)
    model = given.get("model")
    if isinstance(model, str) and not re.search(r"[/.]|^hub:|^my", model):
        assert model in {*MODELS, *SYSTEMS} or model in LOCAL_FOLDERS


LOCAL_FOLDERS = {"small"}
