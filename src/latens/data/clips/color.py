"""Color of frames: tags, conversion to and from 8-bit RGB, tone mapping, rotation and padding.

Tags are the codes of ITU-T H.273: matrix 1 is BT.709, 5 and 6 BT.601, 9 BT.2020, 2 unknown; transfer 16 is PQ and 18 HLG.
Range 1 is limited ("MPEG"), 2 full ("JPEG"), 0 unknown.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from fractions import Fraction
from typing import Any, NamedTuple, cast

from latens.data.images import Pixels

UNKNOWN, BT709, BT601, BT2020 = 2, 1, 6, 9
PQ, HLG = 16, 18
LIMITED, FULL = 1, 2
HD_HEIGHT = 720  # untagged clips of at least this height are assumed to be BT.709, as players do
TONE_MAP = "scale", "out_color_matrix=bt709:out_primaries=bt709:out_transfer=bt709:out_range=tv:intent=perceptual"
THREADS = 1  # of a conversion: after a fork, waiting for a pool of threads never ends
_SWS = {BT709: "ITU709", 5: "ITU601", BT601: "ITU601", 7: "SMPTE240M", 4: "FCC"}


class Color(NamedTuple):
    """Color tags of a frame or clip, codes of H.273; range 1 limited, 2 full."""

    matrix: int = UNKNOWN
    primaries: int = UNKNOWN
    transfer: int = UNKNOWN
    range: int = 0

    @property
    def hdr(self) -> bool:
        return self.transfer in (PQ, HLG)

    @property
    def wide(self) -> bool:
        """True if conversion to BT.709 RGB needs tone or gamut mapping."""
        return self.hdr or self.primaries == BT2020


REC709 = Color(BT709, BT709, BT709, LIMITED)


def color_of(frame: Any) -> Color:
    """The tags of a frame. FFmpeg's formats `yuvj...` are full range; RGB is tagged BT.709."""
    if is_rgb(frame):
        return REC709
    full = frame.format.name.startswith("yuvj") or int(frame.color_range) == FULL
    matrix = int(frame.colorspace)
    matrix = UNKNOWN if matrix == 0 else matrix  # 0 is RGB, which is invalid for YUV planes
    return Color(matrix, int(frame.color_primaries), int(frame.color_trc), FULL if full else int(frame.color_range))


def guessed(color: Color, height: int) -> Color:
    """Replace unknown tags: the matrix by the one that players assume for this height, the range by limited."""
    matrix = color.matrix
    if matrix == UNKNOWN:
        matrix = BT709 if height >= HD_HEIGHT else BT601
    return color._replace(matrix=matrix, range=color.range or LIMITED)


def tag(frame: Any, color: Color) -> Any:
    """Set the tags of a frame (or codec context) and return it."""
    frame.colorspace, frame.color_primaries, frame.color_trc, frame.color_range = color
    return frame


def is_rgb(frame: Any) -> bool:
    name: str = frame.format.name
    rgb: bool = frame.format.is_rgb
    return rgb or name == "pal8"


def bits_of(frame: Any) -> int:
    return max(int(component.bits) for component in frame.format.components)


def has_alpha(frame: Any) -> bool:
    """True if some pixel of the frame is not opaque; only RGBA formats are inspected."""
    if frame.format.name in ("rgba", "bgra", "argb", "abgr", "pal8"):
        return bool((frame.reformat(format="rgba", threads=THREADS).to_ndarray()[..., 3] < 255).any())
    return str(frame.format.name).startswith("yuva")


# ----------------------------------------------------------------------------------------------------------------- RGB


def to_rgb(frame: Any) -> Pixels:
    """The frame as 8-bit RGB (H, W, 3).

    PQ, HLG and BT.2020 are tone mapped to BT.709. The matrix of untagged frames is guessed from the height.
    """
    if is_rgb(frame):
        return cast(Pixels, frame.reformat(format="rgb24", threads=THREADS).to_ndarray())
    color = guessed(color_of(frame), frame.height)
    if color.wide:
        frame, color = tone_map(frame), REC709
    source = _SWS.get(color.matrix)
    if source is None:  # BT.2020 matrix with other primaries: FFmpeg reads the tag
        return cast(Pixels, frame.reformat(format="rgb24", threads=THREADS).to_ndarray())
    range_ = _sws_range(color.range)
    return cast(
        Pixels, frame.reformat(format="rgb24", src_colorspace=source, src_color_range=range_, threads=THREADS).to_ndarray()
    )


def rgb_to_yuv(frame: Any, format: str) -> Any:
    """Convert an RGB frame to YUV: BT.709, limited range, tagged."""
    return tag(frame.reformat(format=format, dst_colorspace="ITU709", dst_color_range="MPEG", threads=THREADS), REC709)


def change_format(frame: Any, format: str, color: Color) -> Any:
    """The frame in another YUV pixel format, with the same matrix and range."""
    if frame.format.name == format:
        return frame
    matrix, range_ = _SWS.get(color.matrix, "ITU709"), _sws_range(color.range)
    made = frame.reformat(
        format=format,
        src_colorspace=matrix,
        dst_colorspace=matrix,
        src_color_range=range_,
        dst_color_range=range_,
        threads=THREADS,
    )
    return tag(made, color)


def tone_map(frame: Any) -> Any:
    """Convert a PQ, HLG or BT.2020 frame to 8-bit BT.709; FFmpeg's perceptual intent compresses highlights."""
    color = guessed(color_of(frame), frame.height)
    if color.primaries == UNKNOWN:
        color = color._replace(primaries=BT2020)
    return tag(_tone_mapper()(tag(frame, color)), REC709)


@functools.cache
def _tone_mapper() -> Chain:
    """The tone mapping filters, cached per process, because FFmpeg needs seconds to compute their table."""
    return Chain((TONE_MAP, ("format", "pix_fmts=yuv420p")), reads_tags=True)


def _sws_range(value: int) -> str:
    return "JPEG" if value == FULL else "MPEG"


# -------------------------------------------------------------------------------------------------------------- filters


class Chain:
    """A chain of FFmpeg filters, one frame in, one frame out. It is rebuilt if the format or size of the frames changes.

    FFmpeg's conversions between YUV formats also convert colors according to the tags. Without `reads_tags`, the tags are
    removed before the chain and restored after it.
    """

    def __init__(self, filters: tuple[tuple[str, str], ...], *, reads_tags: bool = False) -> None:
        self.filters = filters
        self.reads_tags = reads_tags
        self._form: tuple[Any, ...] | None = None
        self._source: Any = None
        self._sink: Any = None
        self._graph: Any = None

    def __call__(self, frame: Any) -> Any:
        color = color_of(frame)
        form = (frame.width, frame.height, frame.format.name, color)
        if form != self._form:
            self._build(frame)
            self._form = form
        if not self.reads_tags and not is_rgb(frame):
            tag(frame, Color())
        self._source.push(frame)
        made = self._sink.pull()
        if self.reads_tags or is_rgb(frame):
            return made
        tag(frame, color)
        return tag(made, color)

    def _build(self, frame: Any) -> None:
        self._graph, self._source, self._sink = linear_graph(frame, self.filters)


def linear_graph(frame: Any, filters: Iterable[tuple[str, str]]) -> tuple[Any, Any, Any]:
    """(graph, source, sink) of a sequence of FFmpeg filters (name, arguments), for frames of this size and format."""
    import av.filter

    graph = av.filter.Graph()
    last = source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000))
    for name, text in filters:
        node = graph.add(name, text)
        last.link_to(node)
        last = node
    sink = graph.add("buffersink")
    last.link_to(sink)
    graph.configure()
    return graph, source, sink


ROTATIONS: dict[int, tuple[tuple[str, str], ...]] = {
    90: (("transpose", "cclock"),),
    180: (("hflip", ""), ("vflip", "")),
    270: (("transpose", "clock"),),
}


def upright(rotation: int) -> Chain | None:
    """Filters that rotate a frame counterclockwise by `rotation` degrees, a multiple of 90; None without a rotation."""
    turns = rotation % 360
    return Chain(ROTATIONS[turns]) if turns in ROTATIONS else None


def pad_filters(width: int, height: int, to_width: int, to_height: int, format: str) -> tuple[tuple[str, str], ...]:
    """Filters that pad frames of `format` to a larger size by replication of the last column and row."""
    full = "yuv444p10le" if "10le" in format else "yuv444p"
    return (
        ("format", f"pix_fmts={full}"),
        ("pad", f"{to_width}:{to_height}"),
        ("fillborders", f"right={to_width - width}:bottom={to_height - height}:mode=smear"),
        ("format", f"pix_fmts={format}"),
    )
