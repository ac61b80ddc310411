"""Small images of four classes that differ in colour, in the layout of ImageFolder."""

from pathlib import Path

import numpy
import pytest
from PIL import Image


def draw(folder: Path, per_class: int, classes: int = 4, side: int = 32, seed: int = 0) -> None:
    """Write coloured noise: the class is the hue, the rest is chance."""
    chance = numpy.random.default_rng(seed)
    for number in range(classes):
        place = folder / f"class{number}"
        place.mkdir(parents=True)
        colour = numpy.array([[220, 40, 40], [40, 200, 60], [50, 60, 220], [210, 200, 40]][number])
        for i in range(per_class):
            coarse = chance.integers(0, 120, (4, 4, 3)).repeat(side // 4, 0).repeat(side // 4, 1)
            pixels = (0.6 * colour + coarse + chance.integers(0, 20, (side, side, 3))).clip(0, 255)
            Image.fromarray(pixels.astype(numpy.uint8)).save(place / f"{i:03d}.png")


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 training and 32 validation images."""
    root = tmp_path_factory.mktemp("images")
    draw(root / "train", 16, seed=0)
    draw(root / "val", 8, seed=1)
    return root
