"""A few steps of training on a folder of photographs, then what its parts are and features for a classifier.

python examples/parts_of_your_photos.py PHOTOS RUN
"""

import sys
from pathlib import Path

import latens

photos, run = Path(sys.argv[1]), Path(sys.argv[2])
settings = {"run.steps": "60", "run.validate_every": "30", "data.batch": "16"}
print(latens.train("parts", recipe="cpu", data=[photos], out=run, settings=settings, resume=True))

parts = latens.load(run / "best")
images = sorted(path for path in photos.iterdir() if path.suffix.lower() in (".jpg", ".png"))[:20]
for gallery in parts.gallery(images, most=3):
    print(f"part {gallery.part}: {', '.join(images[patch.image].name for patch in gallery.patches)}")
print(f"features: {parts.embed(images).shape}")
