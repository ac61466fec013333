"""Arrays in NumPy's format (NPY), whose header is compared with the size of the file before memory is taken."""

from __future__ import annotations

import io
import math
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy

HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def load_array(data: bytes) -> np.ndarray:
    """The array of an NPY file. Raises ValueError for objects of Python, and for a header that promises more than there is."""
    stream = io.BytesIO(data)
    check_header(stream, len(data))
    stream.seek(0)
    found: np.ndarray = np.load(stream, allow_pickle=False)
    return found


def check_header(stream: BinaryIO, size: int) -> None:
    """Raises ValueError unless an NPY file of `size` bytes holds the array of its header, which is read from a stream."""
    version = npy.read_magic(stream)
    if version not in HEADERS:
        raise ValueError(f"NPY version {version[0]}.{version[1]} is not supported")
    shape, _, kind = HEADERS[version](stream)
    if min(shape, default=0) < 0 or math.prod(shape) * max(kind.itemsize, 1) > size:
        raise ValueError(f"its header promises an array of shape {shape} and type {kind}, more than the file holds")
