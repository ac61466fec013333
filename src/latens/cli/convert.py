"""`latens convert`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from latens.cli.common import Force, ImageOptions, Reporter
from latens.errors import counted


def convert(
    source: Annotated[
        str,
        Parameter(help="coco:FILE.json,IMAGES (or kins, cocoa, d2sa, aistron), labelme:FOLDER,IMAGES or labels:FOLDER,HOW."),
    ],
    /,
    *,
    to: Annotated[
        Literal["coco", "kins", "kins2019", "cocoa", "aistron", "labelme", "labels", "table"],
        Parameter(help="Target format; `latens segment` writes coco; table is a CSV with one line per object."),
    ],
    out: Annotated[Path, Parameter(name=["--out", "-o"], help="A JSON or CSV file; a folder for labelme and labels.")],
    classes: Annotated[
        str | None, Parameter(help="For labelme only: classes in order, such as cell,debris.  [default: sorted labels]")
    ] = None,
    force: Force = False,
    options: ImageOptions = ImageOptions(),  # noqa: B008
) -> None:
    """Convert annotations of whole and visible outlines from one format to another.

    Masks are unchanged; polygons become masks. Results of `latens segment` can be corrected in labelme and used for training.

        latens convert coco:out/embryo.json,images/ --to labelme -o images/
        latens convert labelme:images/ --to coco -o annotations.json
        latens convert coco:out/,images/ --to coco -o all.json
        latens convert labelme:images/ --to table -o cells.csv
        latens convert labels:masks/,components --to coco -o cells.json
        latens convert kins:update_test_2020.json,image_2/ --to cocoa -o test.json
    """
    from latens.data.convert import read_collection, write_collection
    from latens.data.files import STANDARD_STREAM
    from latens.metrics.cells import write_table

    names = None if classes is None else [name.strip() for name in classes.split(",") if name.strip()]
    found = read_collection(source, names)
    written = [write_table(found, out, force=force)] if to == "table" else write_collection(found, to, out, force=force)
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
    counts = f"{counted(len(found.scenes), 'image')}, {counted(objects, 'object')}"
    text = f"{out}: {counts} of {', '.join(found.categories) or 'no class'}"
    Reporter(options, results_to_stderr=out == STANDARD_STREAM).result(record, text)
