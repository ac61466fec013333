"""A few steps of training from Python, interrupted and resumed; the model folder is used at the end.

python examples/train_on_your_photos.py PHOTOS RUN
"""

import sys
from pathlib import Path

import latens
from latens.training.run import train

photos, run = Path(sys.argv[1]), Path(sys.argv[2])
settings = {"run.steps": "40", "run.validate_every": "20"}
first = train("image_codec", recipe="tiny", data=[photos], run_dir=run, overrides=settings, max_time=3.0)
print(first)
last = train("image_codec", recipe="tiny", data=[photos], run_dir=run, overrides=settings, resume=True)
print(last)
codec = latens.load(run / "best")
picture = next(iter(sorted(photos.iterdir())))
print(f"{picture.name}: {len(codec.compress(picture, quality=1)):,} bytes")
