"""Records of reproduced tables and figures, and the pages that are generated from them.

    latens reproduce all --recipe tiny -o tiny
    latens reproduce haze/figure3 --data hazy/ -o haze
    python benchmarks/results_pages.py collect tiny haze
    python benchmarks/results_pages.py render

`collect` takes the reports of these folders and their subfolders into the package, `src/latens/records`. A record is
replaced by one of the same or a larger scale. `render` writes `docs/results/papers`; a test fails when page and records differ.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from latens.data.source import Source, parse_sources
from latens.papers import PAPERS, RECORDS, Listed, listed, read_record

ROOT = Path(__file__).parent.parent
PAGES = ROOT / "docs" / "results" / "papers"
SCALES = ("tiny", "cpu", "paper")  # in increasing order
INTRO = (
    "Every table and figure below was made by the command above it, and this page was generated from the records of these runs "
    "(`src/latens/records`). The scale `tiny` shows that the computation runs: its models are trained for seconds, mostly on "
    "data that the system writes, and its numbers mean nothing. `cpu` is the scale of minutes to hours on two cores. Some of "
    "its records have fewer steps, images, rows or seeds, as their commands say; a few steps or one seed show no order of rows."
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("collect", help="take reports into the package").add_argument("folders", nargs="+", type=Path)
    verbs.add_parser("render", help="write the pages")
    arguments = parser.parse_args()
    if arguments.verb == "collect":
        print(f"{collect(arguments.folders)} records written")
        return
    PAGES.mkdir(parents=True, exist_ok=True)
    for system in PAPERS:
        (PAGES / f"{system}.md").write_text(page_of(system), encoding="utf-8")


# ----------------------------------------------------------------------------------------------------------- records


def collect(folders: Sequence[Path]) -> int:
    """Write the records of all reports in these folders that are listed; the number of records."""
    commit = subprocess.run(["git", "rev-parse", "--short=7", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    count = 0
    for path, report in _reports(folders):
        record = _record_of(report, path, commit.stdout.strip())
        earlier = read_record(record["system"], record["name"])
        if earlier is not None and _rank(earlier) > _rank(record):
            continue
        place = RECORDS / record["system"] / path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        count += 1
    return count


def _reports(folders: Sequence[Path]) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted(path for folder in folders for path in folder.rglob("*.json")):
        try:
            found = json.loads(path.read_text())
        except ValueError:
            continue
        if isinstance(found, dict) and isinstance(found.get("request"), dict) and "system" in found:
            if found["name"] in PAPERS[found["system"]].names:
                yield path, found


def _rank(record: Mapping[str, Any]) -> tuple[int, str]:
    return SCALES.index(record["recipe"]), record["date"]


def _record_of(report: Mapping[str, Any], path: Path, commit: str) -> dict[str, Any]:
    request = report["request"]
    data = [_shown(source) for source in parse_sources(request["data"])]
    written = any(part == "example" for place in request["data"] for part in Path(place).parts)
    return {
        "system": report["system"],
        "name": report["name"],
        "title": report["title"],
        "about": report["about"],
        "recipe": request["recipe"],
        "data": ["data that the system writes"] if written else data,
        "command": f"latens reproduce all --recipe {request['recipe']}" if written else _command_of(request, data),
        "date": datetime.fromtimestamp(path.stat().st_mtime, UTC).date().isoformat(),
        "commit": commit,
        "tables": report["tables"],
        "left_out": len(report["failures"]),
    }


def _shown(source: Source) -> str:
    """A value of --data without the folder above it, which is of one machine."""
    place = f"{source.path.name}/" if source.path.is_dir() else source.path.name
    return f"{source.kind}:{place}" if source.kind else place


def _command_of(request: Mapping[str, Any], data: Sequence[str]) -> str:
    words = ["latens", "reproduce", request["what"]]
    words += ["--recipe", request["recipe"]] if request["recipe"] != "cpu" else []
    words += ["--data", *data] if data else []
    for name, value in request["settings"].items():
        words += ["--set", f"{name}={value}"]
    return shlex.join(words)


# ------------------------------------------------------------------------------------------------------------- pages


def page_of(system: str) -> str:
    """The page of a system's paper, in Markdown."""
    paper = PAPERS[system]
    items = list(listed(system))
    lines = [f"# {paper.source}", "", f"System `{system}`. The paper's data: {paper.data}.", "", INTRO, ""]
    lines += [f"Numbers of longer runs, and what they show, are on the page of [results](../{system}.md).", ""]
    lines += ["| | state |", "|---|---|", *(f"| [{item.name}](#{_anchor(item)}) | {item.state} |" for item in items), ""]
    for item in items:
        lines += _section(item)
    return "\n".join(lines).rstrip() + "\n"


def _anchor(item: Listed) -> str:
    return item.name.lower().replace(".", "")


def _section(item: Listed) -> list[str]:
    record = item.record
    if record is None:
        return [f"## {item.name}", "", "Not reproduced yet.", ""]
    made = f"{record['date']}, commit {record['commit']}"
    left_out = f" Inputs left out: {record['left_out']}." if record["left_out"] else ""
    lines = [f"## {item.name}", "", f"{record['title']}. {record['about'].rstrip('.')}. {made[0].upper()}{made[1:]}.{left_out}"]
    lines += ["", "<!-- tiny -->", "```", record["command"], "```", ""]
    for table in record["tables"]:
        lines += [*_table(table), ""]
    return lines


def _table(table: Mapping[str, Any]) -> list[str]:
    columns = [_cell(column) or " " for column in table["columns"]]
    rows = [[_cell(str(cell)) for cell in row] for row in table["rows"]]
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}", *(f"| {' | '.join(row)} |" for row in rows)]
    return lines + (["", table["caption"]] if table["caption"] else [])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").strip()


if __name__ == "__main__":
    main()
