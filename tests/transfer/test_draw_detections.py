"""The sheets show what they say: the images done best come before those done worst, and every box is drawn."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageColor

from tests.transfer.conftest import CLASSES
from transfer.detections import Detections
from transfer.draw_detections import CLASS_COLOURS, best_then_worst_image_indices, draw_sheet, evenly_spaced_indices
from transfer.read_splits import Split, read_joined_splits
from transfer.voc_evaluation import SplitTruth, match_voc


def truth_as_detections(split: Split, right: set[int]) -> Detections:
    """Every object found; on images not in `right` it is taken for another class."""
    rows = [
        (n, (a["category_id"] + (n not in right)) % 8, *a["bbox"])
        for n, image in enumerate(split.images)
        for a in image["annotations"]
    ]
    table = np.array(rows, np.float32)
    return Detections(
        [i["image_id"] for i in split.images], split.classes,
        table[:, 0].astype(np.int32), table[:, 1].astype(np.int16), np.full(len(rows), 0.9, np.float32), table[:, 2:],
        np.array([(i["height"], i["width"]) for i in split.images], np.int32),
    )  # fmt: skip


def test_best_before_worst(generated: Path) -> None:
    split = read_joined_splits(str(generated), ["voc_2007_test"], CLASSES)
    easy = {n for n, i in enumerate(split.images) if not any(a["difficult"] for a in i["annotations"])}
    right = set(sorted(easy)[:2])
    found = match_voc(truth_as_detections(split, right), SplitTruth.from_images(split.images))
    numbers = best_then_worst_image_indices(found, 4)
    assert set(numbers[:2]) == right and len(set(numbers)) == 4


def test_a_sheet_has_the_colours_of_its_classes(generated: Path, tmp_path: Path) -> None:
    split = read_joined_splits(str(generated), ["voc_2007_test"], CLASSES)
    found = truth_as_detections(split, set(range(len(split.images))))
    numbers = evenly_spaced_indices(len(split.images), 3)
    assert numbers == [0, 4, 7]
    draw_sheet(tmp_path / "sheet.png", split, found, numbers)
    with Image.open(tmp_path / "sheet.png") as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    present = {tuple(int(v) for v in p) for p in np.unique(pixels, axis=0)}
    shown = found.category[np.isin(found.image, numbers)]
    assert {ImageColor.getrgb(CLASS_COLOURS[int(c) % len(CLASS_COLOURS)]) for c in shown} <= present


def test_the_colour_of_no_class_is_lost_on_a_dark_photograph() -> None:
    for colour in CLASS_COLOURS:
        rgb = ImageColor.getrgb(colour)
        assert max(rgb) - min(rgb) >= 64, f"{colour} is a grey, or black"
