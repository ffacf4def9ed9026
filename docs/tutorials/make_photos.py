"""Write a dataset of photographs of three materials, from images of scikit-image, into photos/."""

from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

SIZE = 96
random = np.random.default_rng(0)
for name in ("brick", "grass", "gravel"):
    photo = getattr(data, name)()  # 512x512, grey
    for split, count, columns in (("train", 80, (0, 320)), ("val", 20, (320, 512))):
        folder = Path("photos", split, name)
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            top, left = random.integers(0, 512 - SIZE), random.integers(columns[0], columns[1] - SIZE)
            crop = Image.fromarray(photo[top : top + SIZE, left : left + SIZE])
            crop.convert("RGB").save(folder / f"{number}.jpg")
