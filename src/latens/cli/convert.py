"""`latens convert`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from latens.cli.common import Force, OutputOptions, Reporter
from latens.errors import counted


def convert(
    source: Annotated[
        str,
        Parameter(help="coco:FILE.json,IMAGES (or kins, cocoa, d2sa, aistron), labelme:FOLDER or labels:FOLDER."),
    ],
    /,
    *,
    to: Annotated[
        Literal["coco", "kins", "kins2019", "cocoa", "aistron", "labelme", "labels"],
        Parameter(help="The form that is wanted; coco is what `latens segment` writes."),
    ],
    out: Annotated[Path, Parameter(name=["--out", "-o"], help="A JSON file; for labelme and labels a folder.")],
    classes: Annotated[
        str | None, Parameter(help="Of labelme only: the classes in their order, as in cell,debris.  [default: sorted labels]")
    ] = None,
    force: Force = False,
    options: OutputOptions = OutputOptions(),  # noqa: B008
) -> None:
    """Annotations of whole and visible outlines from one form into another.

    Masks pass unchanged; polygons become masks. What `latens segment` found can be corrected in labelme and trained on.

        latens convert coco:out/embryo.json,images/ --to labelme -o images/
        latens convert labelme:images/ --to coco -o annotations.json
        latens convert kins:update_test_2020.json,image_2/ --to cocoa -o test.json
    """
    from latens.data.convert import read_collection, write_collection
    from latens.data.files import STANDARD_STREAM

    names = None if classes is None else [name.strip() for name in classes.split(",") if name.strip()]
    found = read_collection(source, names)
    written = write_collection(found, to, out, force=force)
    objects = sum(len(scene.instances) for scene in found.scenes)
    record = {
        "source": source,
        "form": to,
        "output": str(out),
        "files": len(written),
        "images": len(found.scenes),
        "objects": objects,
        "classes": list(found.categories),
    }
    said = f"{counted(len(found.scenes), 'image')}, {counted(objects, 'object')}"
    text = f"{out}: {said} of {', '.join(found.categories) or 'no class'}"
    Reporter(options, results_to_stderr=out == STANDARD_STREAM).result(record, text)
