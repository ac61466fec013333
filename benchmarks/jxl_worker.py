"""JPEG XL for `codec_anchors.py`; runs in the environment of pillow-jxl-plugin. Pixels and files are sent in base64."""

from __future__ import annotations

import base64
import io
import re
from importlib.metadata import files, version

from PIL import Image
from pillow_jxl import JpegXLImagePlugin
from serving import Answer, serve, timed

EFFORT = 7  # the default of libjxl


class Worker:
    def __init__(self) -> None:
        JpegXLImagePlugin.DECODE_THREADS = 0  # no other threads
        self.seconds = 0.0

    def encode(self, mode: str, size: list[int], pixels: str, quality: int) -> Answer:
        width, height = size
        image = Image.frombytes(mode, (width, height), base64.b64decode(pixels))
        file = io.BytesIO()
        _, times = timed(lambda: image.save(file, "JXL", quality=quality, effort=EFFORT, num_threads=0))
        self.seconds += times["cpu"]
        return {"data": base64.b64encode(file.getvalue()).decode()}

    def decode(self, data: str) -> Answer:
        file = io.BytesIO(base64.b64decode(data))
        image, times = timed(lambda: Image.open(file).convert("RGB"))
        self.seconds += times["cpu"]
        return {"size": image.size, "pixels": base64.b64encode(image.tobytes()).decode()}

    def clock(self) -> Answer:
        """Seconds of the processor in all calls, without reading and sending of pixels."""
        return {"seconds": self.seconds}

    def version(self) -> Answer:
        materials = [file.read_text() for file in files("pillow-jxl-plugin") or () if "sboms" in file.parts]
        library = re.search(r"libjxl-([0-9.]+)", "".join(materials))
        built = f" (libjxl {library[1]})" if library else ""
        return {"version": f"pillow-jxl-plugin {version('pillow-jxl-plugin')}{built}, 4:4:4, effort {EFFORT}"}


if __name__ == "__main__":
    worker = Worker()
    serve({"encode": worker.encode, "decode": worker.decode, "clock": worker.clock, "version": worker.version})
