"""`latens parts --teach`, `--names` and `--clusters`: a name for every pixel."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from latens.cli.batch import FileBatch
from latens.cli.common import ImageComputeOptions
from latens.cli.parts import without_results
from latens.cli.watching import WatchOptions
from latens.errors import OutputExists, UsageError, counted, one_line
from latens.launch import announce
from latens.progress import OnProgress

if TYPE_CHECKING:
    from latens.inference.batch import Job
    from latens.systems.parts.naming.namer import Namer
    from latens.systems.parts.naming.outputs import Entry
    from latens.systems.parts.naming.query import Question
    from latens.systems.parts.predict import Parts

NAMING = "naming parts"  # of the request in OUT
NAMES = "names"  # folder of the names in OUT
ENDING = "_labels.png"
EXPORTS = ("coco", "labelme", "cvat")

logger = logging.getLogger(__name__)


class Naming(NamedTuple):
    """The flags of `latens parts` that concern names."""

    teach: Path | None = None
    names: Path | None = None
    clusters: int | None = None
    sure: float = 0.0
    find: str | None = None
    export: str | None = None

    @property
    def asked(self) -> bool:
        return any(value is not None for value in (self.teach, self.names, self.clusters))

    def check(self) -> None:
        """Raise UsageError for flags that contradict each other."""
        if sum(value is not None for value in (self.teach, self.names, self.clusters)) > 1:
            raise UsageError("--teach, --names and --clusters exclude each other", hint="give one of them")
        if not self.asked and (self.find is not None or self.export is not None or self.sure):
            what = "--find, --export and --sure need names"
            raise UsageError(what, hint="add --teach EXAMPLES, --names FOLDER or --clusters N")
        if self.export is not None and self.export not in EXPORTS:
            raise UsageError(f"'{self.export}' is not a format", where="--export", hint=f"choose {', '.join(EXPORTS)}")
        if not 0 <= self.sure < 1:
            raise UsageError(f"a probability is from 0 to below 1, not {self.sure}", where="--sure")


def name_images(
    inputs: list[str],
    naming: Naming,
    out: Path,
    finder: Parts,
    *,
    watching: WatchOptions,
    force: bool,
    options: ImageComputeOptions,
) -> int:
    """Write label maps, tables, a page and the names. Returns the exit status."""
    from latens.data.folders import check_request, check_writable, note_request, noting_results
    from latens.data.images import IMAGE_ENDINGS
    from latens.data.inputs import find_inputs
    from latens.inference.batch import plan_jobs
    from latens.inference.finished import Request
    from latens.systems.parts.naming.examples import LABELS
    from latens.systems.parts.naming.outputs import IMAGES, PAGE, TABLE, cvat_stems, read_entry
    from latens.systems.parts.naming.query import parse

    if watching.watch and naming.clusters is not None:
        raise UsageError("clusters are those of a finished set of images", where="--watch", hint="leave it out, or add --names")

    def find() -> list[Job]:
        files = without_results(find_inputs(inputs, IMAGE_ENDINGS, out, skip_results=True), out)
        return plan_jobs(files, f"{out}/", ENDING)

    batch = FileBatch(watching.jobs(inputs, out, find), out, options, force=force, check=False)
    check_writable(out)
    namer = _namer(naming, [job.input for job in batch.jobs], finder)
    question = None if naming.find is None else parse(naming.find, namer.distinct)
    announce(namer.parts)
    entries: dict[Path, Entry] = {}

    def work(job: Job, on_progress: OnProgress) -> dict[str, Any]:
        record, entries[job.input] = name_one(namer, job, naming.sure)
        return record

    settings = {"names": namer.fingerprint(), "sure": naming.sure, **options.choice()}
    results = [TABLE, IMAGES, PAGE, LABELS, NAMES]
    check_request(out, NAMING, settings, results=results, force=force)
    if naming.export is not None:
        check_export(naming.export, out, force=force)
    if naming.export == "cvat":
        cvat_stems((job.relative or job.input.name for job in batch.jobs), namer.distinct)
    report = batch.run(work, Request(NAMING, settings, outputs=lambda job: [job.output, arrays(job)]))
    if report.stopped is not None:
        return report.exit_status
    failed = {failure.input for failure in report.failed}
    good = [job for job in batch.jobs if str(job.input) not in failed]
    for job in good:
        if job.input not in entries:  # finished in an earlier run
            entries[job.input] = read_entry(arrays(job))
    if good:
        note_request(out, NAMING, settings)
        with noting_results(out, NAMING, results):
            namer.save(out / NAMES)
            summarize(namer, good, entries, out, naming, question, batch)
    return report.exit_status


def arrays(job: Job) -> Path:
    """The NPZ file of a job."""
    return job.output.with_suffix(".npz")


def _namer(naming: Naming, files: list[Path], finder: Parts) -> Namer:
    from latens.systems.parts.naming.examples import read_examples
    from latens.systems.parts.naming.namer import cluster, load_namer, teach

    if naming.names is not None:
        return load_namer(naming.names, finder)
    if naming.teach is not None:
        examples = read_examples(naming.teach)
        names = ", ".join(map(one_line, examples.names))
        logger.info("%s: %s marked in %s", naming.teach, names, counted(len(examples.marked), "image"))
        return teach(finder, examples.marked, examples.names)
    return cluster(finder, files, naming.clusters or 0)


def name_one(namer: Namer, job: Job, sure: float) -> tuple[dict[str, Any], Entry]:
    """Write the label map and the arrays of one image; return the record of the result and its line of the tables."""
    from latens.data.files import write_atomic
    from latens.data.images import read_image
    from latens.systems.parts.naming.outputs import label_png, measure, npz_bytes
    from latens.systems.parts.naming.query import PRESENT

    started = time.perf_counter()
    image = read_image(job.input)
    found = namer(image, sure=sure)
    entry = measure(found, found.mean, len(namer.distinct))
    write_atomic(arrays(job), npz_bytes(found, entry, namer.distinct))
    write_atomic(job.output, label_png(found.labels, len(namer.distinct)))
    shares, seconds = _shares(namer, entry), time.perf_counter() - started
    there = sorted((name for name in shares if shares[name] >= PRESENT), key=lambda name: -shares[name])
    notes = image.notes_without_alpha()
    shown = ", ".join(f"{name} {100 * shares[name]:.0f} %" for name in there)
    record = {
        "shares": {name: round(share, 5) for name, share in shares.items()},
        "certainty": round(entry.certainty, 4),
        "seconds": round(seconds, 3),
        "notes": list(notes),
        "text": "; ".join([f"{job.output}: {shown}, {seconds:.2f} s", *notes]),
    }
    return record, entry


def _shares(namer: Namer, entry: Entry) -> Mapping[str, float]:
    return {name: float(share) for name, share in zip(namer.distinct, entry.shares, strict=True)}


def summarize(
    namer: Namer,
    jobs: list[Job],
    entries: Mapping[Path, Entry],
    out: Path,
    naming: Naming,
    question: Question | None,
    batch: FileBatch,
) -> None:
    """Tables, page and export over all images; the images that --find selects are printed."""
    from latens.systems.parts.naming.outputs import outlying, write_page, write_tables

    by_name = {job.relative or job.input.name: job for job in jobs}
    shown = {name: entries[job.input] for name, job in by_name.items()}
    outliers = outlying(shown)
    written = write_tables(shown, namer.distinct, outliers, out)
    selected = None if question is None else [name for name in shown if question(_shares(namer, shown[name]))]
    files = {name: (job.input, job.output) for name, job in by_name.items()}
    written.append(write_page(shown, files, namer, outliers, out, selected))
    if naming.export is not None:
        written += export(naming.export, namer, by_name, out)
    text = f"{out}: {counted(len(namer.distinct), 'name')} in {counted(len(shown), 'image')}; "
    names = [path.relative_to(out).as_posix() for path in written[:6]]
    record = {"output": str(out), "files": [str(path) for path in written], "names": list(namer.distinct)}
    batch.reporter.result(record, text + ", ".join(names) + (", ..." if len(written) > 6 else ""))
    if selected is not None:
        found = [str(by_name[name].input) for name in selected]
        batch.reporter.result({"find": naming.find, "images": found}, "\n".join(found) or f"no image: {naming.find}")


def export_place(form: str, out: Path) -> Path:
    """The file or folder of an export."""
    return out / ("coco.json" if form == "coco" else form)


def check_export(form: str, out: Path, *, force: bool) -> None:
    """Raise OutputExists if an export would replace files that latens did not write, or that were corrected since."""
    from latens.data.folders import earlier_request
    from latens.data.records import hash_of

    place = export_place(form, out)
    there = sorted(path for path in place.rglob("*") if path.is_file()) if place.is_dir() else [place] * os.path.lexists(place)
    known = earlier_request(out, exporting(form)) or {}
    foreign = [path for path in there if known.get(path.relative_to(out).as_posix()) != hash_of([path])]
    if foreign and not force:
        what = f"{counted(len(foreign), 'file')} would be replaced that latens did not write, or that changed since"
        raise OutputExists(what, where=str(foreign[0]), hint="choose another -o, or add --force to lose them")


def exporting(form: str) -> str:
    """The name of an export in the record of its folder, which has the hash of every file."""
    return f"exporting names to {form}"


def export(form: str, namer: Namer, jobs: Mapping[str, Job], out: Path) -> list[Path]:
    """Write the names for another tool: coco.json, or the folders labelme/ and cvat/. `check_export` comes first."""
    from latens.data.convert import write_collection
    from latens.data.folders import note_request
    from latens.data.records import hash_of
    from latens.systems.parts.naming.outputs import collection_of, write_cvat

    place = export_place(form, out)
    if form == "cvat":
        written = write_cvat({name: job.output for name, job in jobs.items()}, namer.distinct, place)
    else:
        labels = {os.path.abspath(job.input): job.output for job in jobs.values()}
        root = Path(os.path.commonpath([os.path.dirname(path) for path in labels]))
        relative = {os.path.relpath(path, root): output for path, output in labels.items()}
        written = write_collection(collection_of(relative, namer.distinct, root), form, place, force=True)
    note_request(out, exporting(form), {path.relative_to(out).as_posix(): hash_of([path]) for path in written})
    return written
