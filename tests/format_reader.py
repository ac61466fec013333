"""A second decoder of `.ltn` and `.ltv` files, written from docs/format.md alone: it imports nothing of latens.

It reads a file down to the integers of the latent and their means. The transform from there to pixels is a network in floating
point, which the document describes by its layers.
"""

from __future__ import annotations

import bisect
import json
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

TYPES = {"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "F32": "<f4"}
PHASES = ((0, 0), (1, 1), (0, 1), (1, 0))
PRECISION = 24
START = 0xA53C


def check(condition: bool, what: str) -> None:
    if not condition:
        raise ValueError(what)


# ------------------------------------------------------------------------------------------------------------ containers


class Parts(NamedTuple):
    profile: str
    model_id: bytes
    header: bytes
    sections: list[tuple[int, bytes]]


def read_ltn(data: bytes) -> Parts:
    check(data[:8] == bytes.fromhex("894C544E0D0A1A0A"), "signature")
    major, _, profile, model_id, total, n, k = struct.unpack_from("<BB4s8sIHH", data, 8)
    end = 30 + n + 10 * k
    check(major == 1 and total == len(data), "version or length")
    check(zlib.crc32(data[:end]) == int.from_bytes(data[end : end + 4], "little"), "header")
    sections, place = [], end + 4
    for index in range(k):
        kind, _, length, crc = struct.unpack_from("<BBII", data, 30 + n + 10 * index)
        payload = data[place : place + length]
        check(zlib.crc32(payload) == crc, f"section {index}")
        sections.append((kind, payload))
        place += length
    check(place == total, "end")
    return Parts(profile.decode("ascii"), model_id, data[30 : 30 + n], sections)


def read_ltv(data: bytes) -> Parts:
    check(data[:8] == bytes.fromhex("894C54560D0A1A0A"), "signature")
    major, _, profile, model_id, n = struct.unpack_from("<BB4s8sH", data, 8)
    check(major == 1, "version")
    check(zlib.crc32(data[: 24 + n]) == int.from_bytes(data[24 + n : 28 + n], "little"), "header")
    sections: list[tuple[int, bytes]] = []
    entries: list[tuple[int, ...]] = []
    place = 28 + n
    while True:
        mark, kind, _, number, first, frames, length, crc = struct.unpack_from("<4sBBIQIQI", data, place)
        check(mark == bytes.fromhex("C54C5453") and number == len(sections), "head of a section")
        check(zlib.crc32(data[place : place + 34]) == int.from_bytes(data[place + 34 : place + 38], "little"), "head")
        payload = data[place + 38 : place + 38 + length]
        check(zlib.crc32(payload) == crc, "payload")
        if kind == 255:
            check([entry for entry in struct.iter_unpack("<QBQI", payload)] == entries, "index")
            check(data[place + 38 + length :][:12] == struct.pack("<Q4s", place, bytes.fromhex("C54C5445")), "end")
            return Parts(profile.decode("ascii"), model_id, data[24 : 24 + n], sections)
        sections.append((kind, payload))
        entries.append((place, kind, first, frames))
        place += 38 + length


# ----------------------------------------------------------------------------------------------------------- model folder


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    data = path.read_bytes()
    (size,) = struct.unpack_from("<Q", data)
    table = json.loads(data[8 : 8 + size])
    found = {}
    for name, entry in table.items():
        if name != "__metadata__" and entry["dtype"] in TYPES:
            first, last = entry["data_offsets"]
            found[name] = np.frombuffer(data[8 + size + first : 8 + size + last], TYPES[entry["dtype"]]).reshape(entry["shape"])
    return found


def entropy_tensors(folder: Path) -> dict[str, np.ndarray]:
    """The tensors of the files `entropy` of a model folder."""
    found: dict[str, np.ndarray] = {}
    for name in json.loads((folder / "config.json").read_text())["files"]["entropy"]:
        found |= read_tensors(folder / name)
    return found


class Layer(NamedTuple):
    shape: dict[str, Any]
    weight: np.ndarray
    bias: np.ndarray
    positive: np.ndarray
    negative: np.ndarray
    shift: np.ndarray


def network(spec: dict[str, Any], tensors: dict[str, np.ndarray], prefix: str) -> list[Layer]:
    names = ("weight", "bias", "positive", "negative", "shift")
    return [
        Layer(shape, *(tensors[f"{prefix}layers.{index}.{name}"].astype(np.int64) for name in names))
        for index, shape in enumerate(spec["layers"])
    ]


def run_layer(layer: Layer, x: np.ndarray) -> np.ndarray:
    """(C, h, w) -> (O, H, W): convolution, then requantization with one multiplier for each sign."""
    weight = layer.weight if not layer.shape["transposed"] else layer.weight.transpose(1, 0, 2, 3)
    acc = (transposed if layer.shape["transposed"] else convolved)(layer.shape, weight, x) + layer.bias[:, None, None]
    multiplier = np.where(acc >= 0, layer.positive[:, None, None], layer.negative[:, None, None])
    shift = layer.shift[:, None, None]
    y = (acc * multiplier + (np.int64(1) << (shift - 1))) >> shift
    clamped: np.ndarray = np.clip(y, -layer.shape["clamp"], layer.shape["clamp"])
    return clamped


def convolved(shape: dict[str, Any], weight: np.ndarray, x: np.ndarray) -> np.ndarray:
    (kh, kw), (ph, pw), (sh, sw) = shape["kernel"], shape["padding"], shape["stride"]
    x = np.pad(x, ((0, 0), (ph, ph), (pw, pw)))
    height, width = (x.shape[1] - kh) // sh + 1, (x.shape[2] - kw) // sw + 1
    total = np.zeros((len(weight), height, width), np.int64)
    for i in range(kh):
        for j in range(kw):
            window = x[:, i : i + sh * (height - 1) + 1 : sh, j : j + sw * (width - 1) + 1 : sw]
            total += np.einsum("oc,chw->ohw", weight[:, :, i, j], window)
    return total


def transposed(shape: dict[str, Any], weight: np.ndarray, x: np.ndarray) -> np.ndarray:
    (kh, kw), (ph, pw), (sh, sw), (eh, ew) = (shape[name] for name in ("kernel", "padding", "stride", "output_padding"))
    height, width = (x.shape[1] - 1) * sh + kh + eh, (x.shape[2] - 1) * sw + kw + ew
    total = np.zeros((len(weight), height, width), np.int64)
    for i in range(kh):
        for j in range(kw):
            place = total[:, i : i + sh * x.shape[1] : sh, j : j + sw * x.shape[2] : sw]
            place += np.einsum("oc,chw->ohw", weight[:, :, i, j], x)
    return total[:, ph : height - ph, pw : width - pw]


def run_network(layers: Sequence[Layer], bound: int, x: np.ndarray) -> list[np.ndarray]:
    """Outputs of all layers."""
    outputs = [np.clip(x, -bound, bound)]
    for layer in layers:
        outputs.append(run_layer(layer, outputs[-1]))
    return outputs[1:]


# ---------------------------------------------------------------------------------------------------------- entropy coder


class Tables:
    def __init__(self, tensors: dict[str, np.ndarray], prefix: str) -> None:
        self.lows = [int(low) for low in tensors[f"{prefix}.lows"]]
        ends = np.cumsum(tensors[f"{prefix}.sizes"])[:-1]
        self.counts = [[int(count) for count in part] for part in np.split(tensors[f"{prefix}.counts"], ends)]
        self.edges = [[0, *np.cumsum(part).tolist()] for part in self.counts]


class Stack:
    """The coder: a stack of 32-bit words under a 64-bit state."""

    def __init__(self, payload: bytes) -> None:
        self.words = list(struct.unpack(f"<{len(payload) // 4}I", payload))
        self.state = 0
        while self.words and self.state < 1 << 32:
            self.state = self.state << 32 | self.words.pop()

    def pop(self, edges: Sequence[int]) -> int:
        place = self.state & ((1 << PRECISION) - 1)
        symbol = bisect.bisect_right(edges, place) - 1
        self.state = (self.state >> PRECISION) * (edges[symbol + 1] - edges[symbol]) + place - edges[symbol]
        if self.state < 1 << 32 and self.words:
            self.state = self.state << 32 | self.words.pop()
        return symbol

    def group(self, levels: np.ndarray, tables: Tables) -> np.ndarray:
        """The symbols of one group, in the order of its levels."""
        order = np.argsort(levels, kind="stable")
        values = np.zeros(len(levels), np.int64)
        escapes = []
        for index in order:
            level = int(levels[index])
            symbol = self.pop(tables.edges[level])
            values[index] = tables.lows[level] + symbol
            if symbol == len(tables.counts[level]) - 1:
                escapes.append(index)
        classes_edges = [(1 << PRECISION) - (1 << (PRECISION - c)) for c in range(23)] + [1 << PRECISION]
        classes = [self.pop(classes_edges) for _ in escapes]
        codes = [1 << c for c in classes]
        for c in range(1, 23):
            for index in [i for i, own in enumerate(classes) if own == c]:
                codes[index] += self.pop(range(0, (1 << PRECISION) + 1, 1 << (PRECISION - c)))
        for place, code in zip(escapes, codes, strict=True):
            steps, below = divmod(code - 1, 2)
            level = int(levels[place])
            low, high = tables.lows[level], tables.lows[level] + len(tables.counts[level]) - 2
            values[place] = low - 1 - steps if below else high + 1 + steps
        return values

    def finish(self) -> None:
        check(not self.words and self.state == START, "the coder ends in another state")


# --------------------------------------------------------------------------------------------------------------- contents


class Latent(NamedTuple):
    z: np.ndarray  # (N, hz, wz)
    y: np.ndarray  # (M, h, w)
    mean: np.ndarray  # (M, h, w), in 1/1024


def rounded(x: Any, bits: Any) -> Any:
    return (x + (np.int64(1) << (np.asarray(bits, np.int64) - 1))) >> bits


class ImageReader:
    """Reads the latents of .ltn files with the integers of a model folder, and of its base if it names one."""

    def __init__(self, folder: Path, base: Path | None = None) -> None:
        self.spec = json.loads((folder / "config.json").read_text())["coding"]
        tensors = entropy_tensors(folder) if base is None else entropy_tensors(base) | entropy_tensors(folder)
        self.tensors = {name: array.astype(np.int64) for name, array in tensors.items() if name != "feature_unit"}
        self.hyper = network(self.spec["network"], tensors, "network.")
        self.tables_y, self.tables_z = Tables(tensors, "y"), Tables(tensors, "z")
        self.has_context = "context" in self.spec
        if self.has_context:
            context = self.spec["context"]
            self.features = network(self.spec["features"]["network"], tensors, "features.")
            self.gates = [network(each, tensors, f"context.gates.{i}.") for i, each in enumerate(context["gates"])]
            self.slices = [network(each, tensors, f"context.slices.{i}.") for i, each in enumerate(context["slices"])]

    def read(self, data: bytes) -> Latent:
        parts = read_ltn(data)
        check(parts.profile == "IMG1", "profile")
        width, height, quality, _, band_rows = struct.unpack("<IIHBB", parts.header)
        h, w = (-(-side // 64) * 4 for side in (height, width))
        z = self.read_z(next(payload for kind, payload in parts.sections if kind == 1), h // 4, w // 4)
        prediction = self.predict(z, quality) if self.has_context else self.predict_plainly(z)
        read_band = self.read_band if self.has_context else self.read_plain_band
        bands = [payload for kind, payload in parts.sections if kind == 2]
        found = []
        for top, payload in zip(range(0, h, band_rows), bands, strict=True):
            rows = slice(top, min(top + band_rows, h))
            found.append(read_band(payload, *(image[:, rows] for image in prediction)))
        y, means = (np.concatenate(images, axis=1) for images in zip(*found, strict=True))
        return Latent(z, y, means)

    def read_z(self, payload: bytes, h: int, w: int) -> np.ndarray:
        channels = len(self.tensors["medians"])
        stack = Stack(payload)
        z = stack.group(np.repeat(np.arange(channels), h * w), self.tables_z)
        stack.finish()
        return z.reshape(channels, h, w)

    def predict_plainly(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Means and table numbers of a model without context."""
        x = (z << 8) + self.tensors["medians"][:, None, None]
        mean, scale = np.split(run_network(self.hyper, self.spec["network"]["input_bound"], x)[-1], 2)
        scales = 0.11 * (256 / 0.11) ** (np.arange(64) / 63)
        thresholds = np.rint(1024 * np.sqrt(scales[:-1] * scales[1:]))
        return mean, np.searchsorted(thresholds, scale, side="left")

    def read_plain_band(self, payload: bytes, mean: np.ndarray, level: np.ndarray) -> tuple[Any, Any]:
        check(zlib.crc32(level.astype(np.uint8).tobytes()) == int.from_bytes(payload[:4], "little"), "check of the levels")
        stack = Stack(payload[4:])
        y = stack.group(level.reshape(-1), self.tables_y).reshape(mean.shape)
        stack.finish()
        return y, mean

    def predict(self, z: np.ndarray, quality: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        x = (z << 8) + self.tensors["medians"][:, None, None]
        *_, hidden, output = run_network(self.hyper, self.spec["network"]["input_bound"], x)
        bound = self.spec["features"]["network"]["input_bound"]
        features = np.clip(run_network(self.features, bound, hidden)[-1], -127, 127)
        mean, scale = np.split(output, 2)
        thresholds = self.tensors["thresholds"]
        level = np.searchsorted(thresholds, scale, side="right") if len(thresholds) else rounded(scale, 6)
        return mean, level + self.rate_shift(quality)[:, None, None], features

    def rate_shift(self, quality: int) -> np.ndarray:
        table = self.tensors["context.rate_levels"]
        place = min(max(quality - 256, 0), 256 * (len(table) - 1))
        low, share = divmod(place, 256)
        high = min(low + 1, len(table) - 1)
        shift: np.ndarray = rounded(table[low] * (256 - share) + table[high] * share, 8)
        return shift

    def read_band(self, payload: bytes, mean: np.ndarray, level: np.ndarray, features: np.ndarray) -> tuple[Any, Any]:
        stack = Stack(payload[4:])
        strong = self.tensors["context.strong"]
        weak = np.setdiff1d(np.arange(len(mean)), strong)
        y, means = np.zeros_like(mean), mean.copy()
        known: list[np.ndarray] = []
        coded: list[np.ndarray] = []
        for k, (row, column) in enumerate(PHASES):
            own = (slice(None), slice(row, None, 2), slice(column, None, 2))
            base, base_level, hints = mean[own], level[own], features[own]
            moved, tuned = self.context(k, known, base_level, hints)
            fine = np.clip(base_level, 0, 1008)
            reciprocal = self.tensors["context.reciprocal"][fine]
            symbols = np.zeros_like(base)
            for channels in (strong, weak):
                chosen = tuned[channels]
                if channels is weak:
                    u = innovation(symbols[strong], moved[strong], reciprocal[strong])
                    spec = self.spec["context"]["slices"][k]
                    inputs = np.concatenate([np.abs(u) - 5, hints])
                    chosen = chosen + run_network(self.slices[k], spec["input_bound"], inputs)[-1]
                index = np.clip(rounded(chosen, 4), 0, 63).reshape(-1)
                symbols[channels] = stack.group(index, self.tables_y).reshape(chosen.shape)
                coded.append(index.astype(np.uint8))
            known.append(innovation(symbols, moved, reciprocal))
            y[own], means[own] = symbols, base + moved
        stack.finish()
        check(zlib.crc32(coded[0].tobytes()) & 0xFFFF == int.from_bytes(payload[:2], "little"), "first check")
        check(
            zlib.crc32(b"".join(each.tobytes() for each in coded)) & 0xFFFF == int.from_bytes(payload[2:4], "little"), "check"
        )
        return y, means

    def context(self, k: int, known: list[np.ndarray], level: np.ndarray, features: np.ndarray) -> tuple[Any, Any]:
        """What the innovations of earlier phases add to the means (1/1024), and the levels (1/16) with them."""
        if not known:
            return np.zeros_like(level), level
        spec, own = self.spec["context"]["gates"][k - 1], {n: self.tensors[f"context.{n}.{k - 1}"] for n in FILTERS}
        gate = np.clip(run_network(self.gates[k - 1], spec["input_bound"], features)[-1] + 256, 0, 511)
        total = filtered(known, own["mean_filters"])
        shift = np.clip(rounded(gate * total, own["mean_exponents"][:, None, None] + 3), -2047, 2047)
        moved = rounded(shift * self.tensors["context.sigma"][np.clip(level, 0, 1008)], 9)
        total = filtered([np.abs(u) - 5 for u in known], own["level_filters"])
        return moved, level + rounded(total, own["level_exponents"][:, None, None])


FILTERS = ("mean_filters", "mean_exponents", "level_filters", "level_exponents")


def filtered(images: list[np.ndarray], filters: np.ndarray) -> np.ndarray:
    """The sum over images of a 3 x 3 correlation with the filter of each channel and image, zeros outside."""
    height, width = images[0].shape[1:]
    total = np.zeros_like(images[0])
    for j, image in enumerate(images):
        padded = np.pad(image, ((0, 0), (1, 1), (1, 1)))
        for row in range(3):
            for column in range(3):
                total += padded[:, row : row + height, column : column + width] * filters[:, j, row, column, None, None]
    return total


def innovation(symbols: np.ndarray, moved: np.ndarray, reciprocal: np.ndarray) -> np.ndarray:
    d = np.clip((np.clip(symbols, -(1 << 12), 1 << 12) << 10) + moved, -(1 << 21), 1 << 21)
    u: np.ndarray = np.clip(rounded(d * reciprocal, 24), -127, 127)
    return u
