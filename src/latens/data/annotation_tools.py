"""Annotations of tools whose own formats latens does not read: what to export from each instead."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

COCO = "export it as COCO and give coco:FILE.json,IMAGES"
LABELS = "save a label map of every image as TIFF or PNG and give labels:FOLDER"
BY_ENDING = {
    ".xml": f"XML of CVAT, Pascal VOC and other tools is not read: {COCO}",
    ".geojson": f"GeoJSON, as of QuPath, is not read: {LABELS}",
    ".txt": f"text files, as of YOLO, are not read: {COCO}",
    ".npy": f"arrays, as of cellpose, are not read: {LABELS}",
    ".zip": f"archives are not read: unpack them; of ROIs of Fiji, {LABELS}",
    ".roi": f"ROIs of Fiji are not read: {LABELS}",
    ".csv": f"tables are not read: {COCO}",
}


def export_hint(path: Path, document: Any = None) -> str | None:
    """What to export from the tool that wrote a file, by its ending or its JSON; None for an unknown one."""
    if isinstance(document, list):
        return f"Label Studio and other tools write lists, which are not read: {COCO}"
    if isinstance(document, dict) and document.get("type") in ("FeatureCollection", "Feature"):
        return BY_ENDING[".geojson"]
    if isinstance(document, dict):
        entries = [value for value in islice(document.values(), 8) if isinstance(value, dict)]
        if "_via_img_metadata" in document or any("regions" in entry for entry in entries):
            return f"projects of VIA are not read: {COCO}"
    return BY_ENDING.get(path.suffix.lower())
