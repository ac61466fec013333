"""Reading and writing of annotation files with amodal and visible masks, in the dialects of COCO that the field uses.

| dialect | amodal | visible | depth | where |
|---|---|---|---|---|
| coco | segmentation | visible_mask | order | ours; D2SA without the order |
| kins2019 | segmentation | inmodal_seg | | KINS as first published |
| kins2020 | a_segm | i_segm | ico_id | KINS update |
| aistron | amodal_segm | visible_segm | | aistron's unified files |
| cocoa | regions[].segmentation | regions[].visible_mask | regions[].order, from 1 | COCOA |

Run-length codes are kept unchanged; polygons are rasterized by COCO's rules on reading. Inconsistent keys or classes raise
InputError, because an evaluation with wrong ones would silently return zeros. In the dialect coco, an object without
`visible_mask` has only a whole outline; its visible part is derived from the overlaps (`visibility`). Regions of several
objects (`iscrowd`) are left out with a note.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from latens.data.annotation_tools import export_hint
from latens.data.instances import Collection, Instance, Scene
from latens.data.json_objects import read_json_object
from latens.data.masks import Rle, corner_box, image_size, read_segmentation
from latens.data.planes import Plane
from latens.data.visibility import Drawn, Repairs, completed, visible_inside
from latens.errors import InputError, LatensError, UsageError

AGNOSTIC = ("object",)  # the class of COCOA, where names are free text


class Dialect(NamedTuple):
    """Keys of an annotation format; `order` is "" if it has no depth order, `first` is the order of the front object."""

    name: str
    amodal: str
    visible: str
    order: str = ""
    first: int = 0
    amodal_box: str = "bbox"
    visible_box: str = ""


DIALECTS = (
    Dialect("kins2020", "a_segm", "i_segm", "ico_id", 0, "a_bbox", "i_bbox"),
    Dialect("kins2019", "segmentation", "inmodal_seg", "", 0, "bbox", "inmodal_bbox"),
    Dialect("aistron", "amodal_segm", "visible_segm", "", 0, "amodal_bbox", "visible_bbox"),
    Dialect("coco", "segmentation", "visible_mask", "order"),
)
COCOA = Dialect("cocoa", "segmentation", "visible_mask", "order", 1)


def read_annotations(path: Path, root: Path | None = None) -> Collection:
    """Read a JSON file of any dialect; `root` is the folder of the images.

    Raises InputError for keys of no dialect or of two dialects, unknown classes or images, and masks of another size.
    """
    document = read_json_object(path, "an annotation file", hint="give the annotation file")
    repairs = Repairs()
    try:
        annotations = _list(document, "annotations")
        if annotations and isinstance(annotations[0], dict) and "regions" in annotations[0]:
            found = _read_cocoa(document, annotations, root, repairs)
        else:
            found = _read_flat(document, annotations, root, repairs)
    except LatensError as error:
        raise error.at(str(path)) from error
    except (KeyError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError) as error:
        what = f"the annotations are not in the form of COCO ({type(error).__name__}: {str(error)[:200]})"
        raise InputError(
            what, where=str(path), hint="known dialects: " + ", ".join(d.name for d in (*DIALECTS, COCOA))
        ) from None
    repairs.log(path)
    return found


def _list(document: dict[str, Any], key: str) -> list[Any]:
    value = document.get(key)
    if not isinstance(value, list):
        hint = export_hint(Path(), document) or f"keys found: {', '.join(sorted(document)[:8])}"
        raise InputError(f"there is no list '{key}'", hint=hint)
    return value


def _by(document: dict[str, Any], key: str, name: str) -> dict[Any, dict[str, Any]]:
    """The entries of a list by a value that each has. Raises InputError if two have the same: one of them would be lost."""
    found: dict[Any, dict[str, Any]] = {}
    for entry in _list(document, key):
        if entry[name] in found:
            what = f"two entries of '{key}' have the {name} {str(entry[name])[:100]}"
            raise InputError(what, hint="join them, or rename one; tools that merge data sets must renumber them")
        found[entry[name]] = entry
    return found


def dialect_of(annotations: list[dict[str, Any]]) -> Dialect:
    """The dialect of all annotations. Raises InputError if there is none or if dialects are mixed."""
    if not annotations:
        return DIALECTS[-1]
    found = [d for d in DIALECTS if all(d.amodal in a and d.visible in a for a in annotations)]
    if found:
        return found[0]
    parts = [d.name for d in DIALECTS if any(d.amodal in a and d.visible in a for a in annotations)]
    keys = sorted({key for annotation in annotations[:50] for key in annotation})
    what = f"annotations of {' and '.join(parts)} are mixed" if parts else "no dialect has these keys"
    known = "; ".join(f"{d.name}: {d.amodal} and {d.visible}" for d in DIALECTS)
    raise InputError(f"{what} (found: {', '.join(keys)})", hint=f"every annotation needs both masks ({known})")


def _read_flat(document: dict[str, Any], annotations: list[dict[str, Any]], root: Path | None, repairs: Repairs) -> Collection:
    classes = {identity: str(category["name"]) for identity, category in _by(document, "categories", "id").items()}
    positions = {identity: place for place, identity in enumerate(classes)}
    images = _by(document, "images", "id")
    _by(document, "categories", "name")
    _by(document, "images", "file_name")
    sizes = {identity: image_size(image["height"], image["width"]) for identity, image in images.items()}
    repairs.crowds += sum(bool(annotation.get("iscrowd")) for annotation in annotations)
    annotations = [_with_visible(annotation) for annotation in annotations if not annotation.get("iscrowd")]
    dialect = dialect_of(annotations)
    groups: dict[Any, list[Drawn]] = defaultdict(list)
    for annotation in annotations:
        image = images.get(annotation["image_id"])
        if image is None:
            raise InputError(f"annotation {annotation.get('id')} names image {annotation['image_id']!r}, which is not listed")
        if annotation["category_id"] not in positions:
            listed = ", ".join(f"{i} {name}" for i, name in classes.items())
            raise InputError(
                f"annotation {annotation.get('id')} is of class {annotation['category_id']}, which is not listed",
                hint=f"classes of the file: {listed}; two releases of a data set may number them differently",
            )
        try:
            drawn = _drawn(annotation, dialect, sizes[annotation["image_id"]], positions[annotation["category_id"]], repairs)
        except LatensError as error:
            raise error.of(f"annotation {annotation.get('id')}") from error
        groups[annotation["image_id"]].append(drawn)
    scenes = [_scene(image, completed(groups.get(identity, []), repairs)) for identity, image in images.items()]
    info = {"dialect": dialect.name if annotations else ""}
    return Collection(categories=tuple(classes.values()), scenes=tuple(scenes), root=root, info=info)


def _with_visible(annotation: dict[str, Any]) -> dict[str, Any]:
    """The annotation with a visible mask if the dialect coco allows its omission: None if only the whole outline is known.

    COCOA-cls omits it for objects with an `occlude_rate` of 0, plain COCO for all objects.
    """
    others = {key for dialect in DIALECTS for key in (dialect.amodal, dialect.visible)} - {"segmentation"}
    if "segmentation" not in annotation or others & set(annotation):
        return annotation
    whole = annotation["segmentation"] if annotation.get("occlude_rate") == 0 else None
    return {"visible_mask": whole, **annotation}


def _drawn(annotation: dict[str, Any], dialect: Dialect, size: tuple[int, int], category: int, repairs: Repairs) -> Drawn:
    amodal, seen = read_segmentation(annotation[dialect.amodal], size), annotation[dialect.visible]
    visible = None if seen is None and dialect.name == "coco" else read_segmentation(seen, size)
    order = annotation.get(dialect.order) if dialect.order else None
    score = float(annotation.get("score", 1.0))
    if not math.isfinite(score):
        raise InputError(f"the score {score} is not finite")
    return Drawn(
        amodal,
        None if visible is None else visible_inside(amodal, visible, repairs),
        category,
        None if order is None else int(order) - dialect.first,
        score,
    )


def _scene(image: dict[str, Any], instances: tuple[Instance, ...]) -> Scene:
    height, width = image_size(image["height"], image["width"])
    plane = Plane.of_record(image)
    known = None if plane == Plane() else plane
    return Scene(file=str(image["file_name"]), height=height, width=width, instances=instances, plane=known)


def _read_cocoa(document: dict[str, Any], annotations: list[dict[str, Any]], root: Path | None, repairs: Repairs) -> Collection:
    """Region names are free text, so all regions have one class unless the file lists classes (as our files do)."""
    images = _by(document, "images", "id")  # several annotators may have annotated one image
    listed = _by(document, "categories", "id") if "categories" in document else {}
    classes = {identity: str(category["name"]) for identity, category in listed.items()}
    named = bool(classes) and all("category_id" in region for each in annotations for region in each["regions"])
    positions = {identity: place for place, identity in enumerate(classes)}
    scenes = []
    for annotation in annotations:
        image = images.get(annotation["image_id"])
        if image is None:
            raise InputError(f"annotation {annotation.get('id')} names image {annotation['image_id']!r}, which is not listed")
        size = image_size(image["height"], image["width"])
        # A region without a visible mask is fully visible.
        regions = [{"visible_mask": region["segmentation"], **region} for region in annotation["regions"]]
        strange = {region["category_id"] for region in regions} - set(positions) if named else set()
        if strange:
            raise InputError(f"annotation {annotation.get('id')} has a region of class {min(strange)}, which is not listed")
        found = []
        for number, region in enumerate(regions, start=1):
            try:
                found.append(_drawn(region, COCOA, size, positions[region["category_id"]] if named else 0, repairs))
            except LatensError as error:
                raise error.of(f"region {number} of annotation {annotation.get('id')}") from error
        scenes.append(_scene(image, completed(found, repairs)))
    names = tuple(classes.values()) if named else AGNOSTIC
    return Collection(categories=names, scenes=tuple(scenes), root=root, info={"dialect": COCOA.name})


# ---------------------------------------------------------------------------------------------------------- writing


def to_document(collection: Collection, dialect: str = "coco") -> dict[str, Any]:
    """The JSON document of a collection in a dialect; run-length codes are kept unchanged.

    Dialects without depth order lose it. Raises UsageError for an unknown dialect.
    """
    keys = next((known for known in (*DIALECTS, COCOA) if known.name == dialect), None)
    if keys is None:
        raise UsageError(f"'{dialect}' cannot be written", hint=f"choose {', '.join(d.name for d in (*DIALECTS, COCOA))}")
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, scene in enumerate(collection.scenes, start=1):
        plane = {} if scene.plane is None else scene.plane.record()
        images.append({"id": number, "file_name": scene.file, "height": scene.height, "width": scene.width, **plane})
        if keys is COCOA:
            regions = [_region(instance, collection.categories) for instance in scene.instances]
            annotations.append({"id": number, "image_id": number, "size": len(regions), "regions": regions})
            continue
        for instance in scene.instances:
            annotations.append(_annotation(instance, keys, len(annotations) + 1, number))
    categories = [{"id": place, "name": name} for place, name in enumerate(collection.categories, start=1)]
    info = {"description": "converted by latens", "version": "1.0"}  # pycocotools needs the key
    return {"info": info, "licenses": [], "images": images, "annotations": annotations, "categories": categories}


def _annotation(instance: Instance, keys: Dialect, identity: int, image: int) -> dict[str, Any]:
    record: dict[str, Any] = {
        "id": identity,
        "image_id": image,
        "category_id": instance.category + 1,
        "iscrowd": 0,
        "area": instance.area,
        keys.amodal: _plain(instance.amodal),
        keys.visible: _plain(instance.visible),
        keys.amodal_box: list(instance.box),
    }
    if keys.visible_box:
        record[keys.visible_box] = list(corner_box(instance.visible))
    if keys.order and instance.layer is not None:
        record[keys.order] = instance.layer + keys.first
    if keys.name == "coco":
        record["score"] = round(instance.score, 6)
        record["hidden_fraction"] = round(instance.hidden_fraction, 6)
    return record


def _region(instance: Instance, categories: Sequence[str]) -> dict[str, Any]:
    """A region of COCOA. Masks are run-length codes, which are exact, instead of COCOA's polygons."""
    record: dict[str, Any] = {
        "name": categories[instance.category],
        "category_id": instance.category + 1,
        "segmentation": _plain(instance.amodal),
        "visible_mask": _plain(instance.visible),
        "area": instance.area,
        "isStuff": 0,
        "occlude_rate": round(instance.hidden_fraction, 6),
    }
    return record if instance.layer is None else {**record, COCOA.order: instance.layer + COCOA.first}


def _plain(rle: Rle) -> dict[str, Any]:
    return {"size": list(rle["size"]), "counts": rle["counts"]}
