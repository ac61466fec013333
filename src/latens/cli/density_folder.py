"""`latens density -o FOLDER`: a JSON file for every image, and one table of all of them."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latens.cli.batch import FileBatch
from latens.cli.common import ImageComputeOptions
from latens.errors import one_line
from latens.progress import OnProgress

if TYPE_CHECKING:
    from latens.inference.batch import Job
    from latens.systems.flow.predict import Density, DensityModel

logger = logging.getLogger(__name__)

ENDING = ".density.json"
TABLE = "scores.csv"
COLUMNS = ("file", "bits_per_dim", "standard_error", "unusual")
NAMED = 3  # names of the most unusual images that are shown

Row = tuple[Any, ...]  # values of COLUMNS; empty where a model has none


def row_of(name: str, found: dict[str, Any]) -> Row:
    """The row of an image, from its density as a dictionary."""
    return (name, *("" if found[column] is None else found[column] for column in COLUMNS[1:]))


def line_of(place: str, found: Density, draws: int) -> str:
    """The line of text of an image."""
    spread = "" if draws == 1 else f" ± {found.standard_error:.3f}"
    notes = "".join(f"; {note}" for note in found.notes)
    return f"{place}: {found.bits_per_dim:.3f}{spread} bits/dim, unusual {found.unusual:.2f}{notes}"


def most_unusual(rows: list[Row]) -> str:
    """The most unusual images, or their number if there are more than NAMED; empty without reference statistics."""
    known = [(float(row[3]), row[0]) for row in rows if row[3] != ""]
    if not known:
        return ""
    top = max(value for value, _ in known)
    names = [name for value, name in known if value == top]
    shown = ", ".join(map(one_line, names)) if len(names) <= NAMED else f"{len(names)} images"
    return f"most unusual ({top:.2f}): {shown}"


def score_folder(flow: DensityModel, batch: FileBatch, out: Path, draws: int, options: ImageComputeOptions) -> int:
    """Score images, a JSON file each, and write the table of all results in OUT; return the exit status.

    The table is written after every group of a watched folder, too.
    """
    from latens.inference.finished import Request

    rows = earlier_rows(out)

    def work(job: Job, on_progress: OnProgress) -> dict[str, Any]:
        record, rows[job.relative] = score_one(flow, job, draws)
        return record

    request = {"model": flow.model_id, "draws": draws, **options.choice()}
    report = batch.run(work, Request("scoring", request), after_group=lambda: join(rows, out))
    if len(rows) > 1 and (shown := most_unusual(list(rows.values()))):
        logger.info(shown)
    return report.exit_status


def score_one(flow: DensityModel, job: Job, draws: int) -> tuple[dict[str, Any], Row]:
    """Score one image and write its JSON file; return the record of the result, and its row of the table."""
    from latens.data.files import write_atomic
    from latens.systems.flow.predict import one_square

    (found,) = flow.density_of([one_square(job.input, flow.config)], draws=draws)  # type: ignore[arg-type]
    plain = found.to_dict()
    write_atomic(job.output, (json.dumps({"file": job.relative, **plain}) + "\n").encode())
    return {**plain, "text": line_of(str(job.output), found, draws)}, row_of(job.relative, plain)


def earlier_rows(out: Path) -> dict[str, Row]:
    """The rows of the results in a folder, by the relative paths of their images."""
    from latens.data.inputs import files_under

    rows: dict[str, Row] = {}
    for path in files_under(out, frozenset({ENDING})) if out.is_dir() else []:
        try:
            found = json.loads(path.read_bytes())
            rows[found["file"]] = row_of(found["file"], found)
        except (OSError, ValueError, TypeError, KeyError):
            logger.warning("%s: this is no score of latens and is not in the table", path)
    return rows


def join(rows: dict[str, Row], out: Path) -> None:
    """Write the table of all results; one that latens did not write, or that was changed since, is kept."""
    from latens.data.csv_files import csv_bytes
    from latens.data.inputs import natural_key
    from latens.data.joint_tables import may_replace_table, write_table
    from latens.data.records import Records

    records, place = Records(), out / TABLE
    if rows and may_replace_table(place, COLUMNS, records):
        write_table(place, [csv_bytes([COLUMNS, *(rows[name] for name in sorted(rows, key=natural_key))])], records)
