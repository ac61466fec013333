"""Axes and pixel sizes of TIFF files, from OME and ImageJ metadata."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from latens.data.planes import Plane, read_planes
from latens.errors import UnreadableInput

HYPERSTACK = np.zeros((2, 3, 2, 10, 12), np.uint16)  # T, Z, C


@pytest.mark.parametrize("big", [False, True])
def test_axes_and_micrometers_of_ome_and_imagej(tmp_path: Path, big: bool) -> None:
    size = {"PhysicalSizeX": 250, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.5, "PhysicalSizeYUnit": "µm"}
    tifffile.imwrite(tmp_path / "a.ome.tif", HYPERSTACK, ome=True, bigtiff=big, metadata={"axes": "TZCYX", **size})
    tifffile.imwrite(
        tmp_path / "a.tif", HYPERSTACK, imagej=True, resolution=(4, 2), metadata={"axes": "TZCYX", "unit": "\\u00B5m"}
    )
    expected = [Plane(t, z, c, (0.25, 0.5)) for t in (1, 2) for z in (1, 2, 3) for c in (1, 2)]
    assert read_planes(tmp_path / "a.ome.tif") == expected
    assert read_planes(tmp_path / "a.tif") == expected


def test_the_dimension_order_of_ome_is_honored(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.ome.tif", np.zeros((3, 2, 10, 12), np.uint8), ome=True, metadata={"axes": "ZTYX"})
    assert [(plane.t, plane.z) for plane in read_planes(tmp_path / "a.ome.tif")] == [
        (1, 1), (2, 1), (1, 2), (2, 2), (1, 3), (2, 3),
    ]  # fmt: skip


def test_samples_of_a_color_are_no_channels(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.ome.tif", np.zeros((4, 10, 12, 3), np.uint8), ome=True, metadata={"axes": "TYXS"})
    assert read_planes(tmp_path / "a.ome.tif") == [Plane(t) for t in (1, 2, 3, 4)]


def test_one_file_of_a_data_set_of_several(tmp_path: Path) -> None:
    blocks = "".join(
        f'<TiffData FirstT="{t}" IFD="0" PlaneCount="1"><UUID FileName="{name}">urn:uuid:{t}</UUID></TiffData>'
        for t, name in enumerate(("a.tif", "b.tif", "c.tif"))
    )
    pixels = (
        f'<Pixels DimensionOrder="XYZCT" SizeT="3" SizeZ="1" SizeC="1" PhysicalSizeX="2" PhysicalSizeY="2">{blocks}</Pixels>'
    )
    for name in ("b.tif", "renamed.tif"):
        tifffile.imwrite(tmp_path / name, HYPERSTACK[0, 0, 0], description=f"<OME><Image>{pixels}</Image></OME>", metadata=None)
    assert read_planes(tmp_path / "b.tif") == [Plane(2, pixel_um=(2.0, 2.0))]
    assert read_planes(tmp_path / "renamed.tif") == [Plane()]  # with a warning


def test_plain_files_have_neither_axes_nor_micrometers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tifffile.imwrite(tmp_path / "plain.tif", HYPERSTACK[0, 0], resolution=(72, 72))
    tifffile.imwrite(tmp_path / "stack.tif", HYPERSTACK[0, 0, 0], description="ImageJ=1.53\nunit=pixel\n", metadata=None)
    Image.fromarray(HYPERSTACK[0, 0, 0]).save(tmp_path / "a.png", dpi=(72, 72))
    assert read_planes(tmp_path / "plain.tif") == [Plane(), Plane()]
    assert read_planes(tmp_path / "stack.tif") == read_planes(tmp_path / "a.png") == [Plane()]
    assert not caplog.messages


@pytest.mark.parametrize(
    "description",
    [
        "<OME><Image/></OME>",
        "<OME",
        '<!DOCTYPE a [<!ENTITY b "c">]><OME>&b;</OME>',
        '<OME><Pixels SizeT="1000000000" SizeZ="9"/></OME>',
        '<OME><Pixels SizeT="x"/></OME>',
        '<OME><Pixels SizeT="5" SizeZ="1" SizeC="1"/></OME>',
        "ImageJ=1\nimages=7\nslices=7\nframes=9\n",
        "ImageJ=1\nimages=x\n",
    ],
)
def test_metadata_that_do_not_explain_the_pages_are_reported(
    tmp_path: Path, description: str, caplog: pytest.LogCaptureFixture
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", HYPERSTACK[0, 0], description=description, metadata=None)
    assert {plane[:3] for plane in read_planes(tmp_path / "a.tif")} <= {(None, None, None), (1, None, None), (2, None, None)}
    assert len(caplog.messages) == 1 or 'SizeT="5"' in description


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UnreadableInput):
        read_planes(tmp_path / "none.tif")


def test_records_of_other_types_are_unknown() -> None:
    plane = Plane(3, None, 1, (0.5, 0.25))
    assert Plane.of_record(plane.record()) == plane
    assert Plane.of_record({"t": "x", "z": -1, "c": None, "pixel_um": [1, "a"]}) == Plane()
    assert Plane.of_record({"pixel_um": [0, float("nan")]}) == Plane()
