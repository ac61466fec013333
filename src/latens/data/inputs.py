"""Input files by name, folder or pattern.

Standard library only. The path `-` is standard input.
"""

from __future__ import annotations

import fnmatch
import glob
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from latens.data.files import STANDARD_STREAM, reading
from latens.data.heic import with_heic
from latens.data.origins import DRAWN, SOFT_MAPS, drawn, with_origin
from latens.data.other_formats import UNREAD
from latens.errors import UnreadableInput, UsageError, counted

logger = logging.getLogger(__name__)


STDIN = Path("stdin")  # name of standard input without another one


class InputFile(NamedTuple):
    """One input file.

    `relative` is its path relative to the input folder or pattern (for a named file, its name). It is unique within a request
    and determines the output path. `named` is True if the user named this file.
    """

    path: Path
    relative: Path
    named: bool = True


def shown_name(path: Path, relative: Path) -> str:
    """The name of an input in results: its path, or the name given for standard input."""
    return str(relative if path == STANDARD_STREAM and relative != STDIN else path)


# ---------------------------------------------------------------------------------------------------------- finding


def find_inputs(
    inputs: Sequence[str | Path],
    endings: frozenset[str],
    out: Path | None = None,
    *,
    skip_results: bool = False,
    skip_drawn: bool = True,
    marks: Sequence[str] = (),
    companions: Sequence[str] = (),
    name: str | None = None,
) -> list[InputFile]:
    """Distinct files of `inputs`: files, folders, patterns (`album/*.jpg`, `**`) and `-`.

    Folders are searched recursively in natural order, following symbolic links (each folder once), without hidden files. In
    folders and patterns only names that end in one of `endings` (lower case, with the dot) count; a named file may have any
    ending. Left out, with a warning that counts them, are

    - files in `out`, if it is a folder below an input folder;
    - with `skip_results`, results of latens according to the record of their folder, if the file that they were made from is an
      input as well: a folder or the shell's *.png may hold both. A result that is named alone is taken;
    - with `skip_drawn`, figures, label maps and other results that are no images, unless all inputs are such files by name;
    - files with a mark of `companions` or that of soft maps before their ending, if the file that they belong to is an input as
      well: photo_depth.png next to photo.jpg.

    `name` is the relative path of standard input, in place of stdin.
    A mark of `marks` is that of a result, photo.clear.png; without a record such files are taken, with a warning.
    Raises UnreadableInput for a single input that is missing or unreadable, and for a folder or pattern that is unreadable or
    has no such files. Other unreadable files are returned: their errors come later and do not stop the rest.
    Images of kinds that latens does not read are counted in a warning that names the package for them.
    """
    if not inputs:
        raise UsageError("no input was given", hint="name files, folders, patterns such as 'album/*.jpg', or -")
    endings = with_heic(endings)
    found: dict[str, InputFile] = {}
    for entry in inputs:
        for file in _expand(os.fspath(entry), endings, alone=len(inputs) == 1):
            if file.path == STANDARD_STREAM and name is not None:
                file = file._replace(relative=Path(name))
            place = os.path.abspath(file.path)
            if file.named or place not in found:
                found[place] = file
    if out is not None:
        _leave_out(found, _below(found, out, inputs), "which earlier runs wrote", out)
    if skip_results:
        _leave_out(found, with_origin(list(found)), "which latens made from other inputs; name a file alone to take it")
    if skip_drawn:
        _leave_out(found, _drawn_among(found), f"{DRAWN}; name a file alone to take it")
    companions = (*companions, SOFT_MAPS)
    _leave_out(found, _marked(found, companions), f"which belong to other inputs ({', '.join(companions)})")
    taken = [place for place in _marked(found, marks) if not found[place].named]
    if taken:
        what = f"{counted(len(taken), 'file')} named like a result, such as {os.path.basename(taken[0])}"
        logger.warning("%s: took %s; no record says that latens wrote it so", Path(taken[0]).parent, what)
    return _unique_relatives(list(found.values()))


def _leave_out(found: dict[str, InputFile], names: Sequence[str], why: str, place: Path | None = None) -> None:
    """Remove files with a warning. Raises UnreadableInput if none remains."""
    if not names:
        return
    for name in names:
        del found[name]
    where = str(place or os.path.dirname(names[0]))
    logger.warning("%s: left out %s, %s", Path(where), counted(len(names), "file"), why)
    if not found:
        raise UnreadableInput("the only files are results of earlier runs", where=where, hint="name the files")


def _drawn_among(found: Mapping[str, InputFile]) -> list[str]:
    """Results that are no images; those that the user named only if other inputs remain."""
    names = drawn(list(found))
    return names if len(names) < len(found) else [name for name in names if not found[name].named]


def _marked(found: Mapping[str, InputFile], marks: Sequence[str]) -> list[str]:
    """Files with a mark before their ending, with their input among `found`."""
    stems = {os.path.splitext(name)[0] for name in found}
    marked = []
    for name in found:
        stem = os.path.splitext(name)[0]
        source = next((stem.removesuffix(mark) for mark in marks if stem.endswith(mark)), stem)
        if source != stem and source in stems:
            marked.append(name)
    return marked


def _without_unread(files: Iterable[InputFile], endings: frozenset[str], where: str) -> list[InputFile]:
    """The files with one of `endings`, without images that latens does not read, which a warning counts."""
    kept: list[InputFile] = []
    counts: Counter[str] = Counter()
    for file in files:
        ending = file.path.suffix.lower()
        if ending in UNREAD and ending not in endings and not os.path.isdir(file.path):
            counts[ending] += 1
        else:
            kept.append(file)
    if counts:
        kinds = ", ".join(f"{count} {ending} ({UNREAD[ending]})" for ending, count in sorted(counts.items()))
        what = f"left out {counted(counts.total(), 'image')} that latens does not read"
        logger.warning("%s: %s; the package in brackets reads them: %s", Path(where), what, kinds)
    return kept


def _below(found: Mapping[str, InputFile], out: Path, inputs: Sequence[str | Path]) -> list[str]:
    """Files in the folder `out` that the user did not name; none if `out` is itself an input."""
    folder = os.path.abspath(out)
    if any(os.path.abspath(entry) == folder for entry in inputs):
        return []
    return [name for name, file in found.items() if not file.named and name.startswith(folder + os.sep)]


def files_under(folder: Path, endings: frozenset[str]) -> list[Path]:
    """Files in a folder and its subfolders whose names end in one of `endings`, in natural order of their paths.

    Hidden files are omitted; the list may be empty. Raises UnreadableInput for a missing or unreadable folder.
    """
    return [folder / name for name in sorted(_names_under(folder, endings, set()), key=natural_key)]


def _expand(text: str, endings: frozenset[str], *, alone: bool) -> list[InputFile]:
    path = Path(text)
    if path == STANDARD_STREAM:
        return [InputFile(STANDARD_STREAM, STDIN)]
    if os.path.isdir(path):
        prefix = Path() if alone else Path(os.path.basename(os.path.abspath(path)))
        if ".jpg" in endings:
            files = _without_unread(_walk(path, prefix, endings | UNREAD.keys(), set()), endings, text)
        else:
            files = list(_walk(path, prefix, endings, set()))
        return _need_some(files, f"no file in this folder ends in {_listing(endings)}", text)
    if not os.path.lexists(path) and glob.has_magic(text):
        files = list(_match(Path(text).parts, endings))
        return _need_some(files, f"no file matches this pattern and ends in {_listing(endings)}", text)
    if alone:
        with reading(path):
            os.stat(path)
    return [InputFile(path, Path(path.name))]


def _match(parts: tuple[str, ...], endings: frozenset[str]) -> Iterator[InputFile]:
    """Files that match a pattern, and all files of matching folders. glob's `**` is not used: it follows links in cycles."""
    fixed = Path(*parts[: next(i for i, part in enumerate(parts) if glob.has_magic(part))])
    head = parts[: parts.index("**")] if "**" in parts else parts
    rest = parts[len(head) :]
    seen: set[tuple[int, int]] = set()
    for found in sorted(glob.glob(os.path.join(*head)) if head else ["."], key=natural_key):
        path = Path(found)
        if os.path.isdir(path):
            for file in _walk(path, path.relative_to(fixed), endings, seen):
                if not rest or _parts_match(file.path.relative_to(path).parts, rest):
                    yield file
        elif not rest and _ends_in(path.name, endings):
            yield InputFile(path, path.relative_to(fixed), named=False)


def _parts_match(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_parts_match(parts[start:], pattern[1:]) for start in range(len(parts) + 1))
    return bool(parts) and fnmatch.fnmatch(parts[0], pattern[0]) and _parts_match(parts[1:], pattern[1:])


def _walk(folder: Path, prefix: Path, endings: frozenset[str], seen: set[tuple[int, int]]) -> Iterator[InputFile]:
    """Files of the tree in natural order. An unreadable folder below the top is returned as a file."""
    for name in _names_under(folder, endings, seen):
        yield InputFile(folder / name, prefix / name, named=False)


def _names_under(folder: Path, endings: frozenset[str], seen: set[tuple[int, int]]) -> Iterator[str]:
    """The paths of `_walk` relative to the folder, as texts: a path object for every level of every file takes seconds."""
    with reading(folder):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            return
        seen.add((status.st_dev, status.st_ino))
        entries = sorted(os.scandir(folder), key=lambda entry: natural_key(entry.name))
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if _is(entry.is_dir):
            try:
                yield from [os.path.join(entry.name, name) for name in _names_under(folder / entry.name, endings, seen)]
            except UnreadableInput:
                yield entry.name
        elif _ends_in(entry.name, endings) and (entry.is_symlink() or _is(entry.is_file)):  # no pipes
            yield entry.name


def _is(test: Callable[[], bool]) -> bool:
    """Result of `DirEntry.is_dir` or `is_file`, mostly without a system call; False for a loop of links, which raises."""
    try:
        return test()
    except OSError:
        return False


def _unique_relatives(files: list[InputFile]) -> list[InputFile]:
    """Prepend folders to equal relative paths until they differ."""
    parts = [Path(os.path.abspath(file.path)).parts[1:] for file in files]
    relatives = [file.relative for file in files]
    while True:
        counts = Counter(relatives)
        longer = [
            Path(*own[-len(relative.parts) - 1 :]) if counts[relative] > 1 else relative
            for own, relative in zip(parts, relatives, strict=True)
        ]
        if longer == relatives:
            return [file._replace(relative=relative) for file, relative in zip(files, relatives, strict=True)]
        relatives = longer


def _need_some(files: list[InputFile], what: str, where: str) -> list[InputFile]:
    if not files:
        raise UnreadableInput(what, where=where, hint="name the file itself if it has another ending")
    return files


def _ends_in(name: str, endings: frozenset[str]) -> bool:
    return name.lower().endswith(tuple(endings))


def _listing(endings: frozenset[str]) -> str:
    return ", ".join(sorted(endings))


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Sort key of natural order (`shot2` before `shot10`): alternating text and numbers."""
    parts = re.split(r"([0-9]+)", name.lower())
    return [int(part) if odd % 2 else part for odd, part in enumerate(parts)], name
