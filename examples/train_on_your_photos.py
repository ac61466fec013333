"""A few steps of training from Python, interrupted and resumed; the model folder is used at the end.

python examples/train_on_your_photos.py PHOTOS RUN
"""

import sys
from pathlib import Path

import latens

photos, run = Path(sys.argv[1]), Path(sys.argv[2])
settings = {"run.steps": "40", "run.validate_every": "20"}
first = latens.train("image_codec", recipe="tiny", data=[photos], out=run, settings=settings, max_time=3.0)
print(first)
last = latens.train("image_codec", out=run, resume=True)
print(last)
codec = latens.load(run / "best")
image = next(iter(sorted(photos.iterdir())))
print(f"{image.name}: {len(codec.compress(image, quality=1)):,} bytes")
