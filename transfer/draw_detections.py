"""A sheet of test images with what was found on them and what is there."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from detectron2.data.detection_utils import read_image
from detectron2.structures import BoxMode
from detectron2.utils.visualizer import Visualizer
from PIL import Image, ImageDraw, ImageFont

from runs.detection_matches import FALSE, TRUE, Matches
from runs.files import DETECTIONS, atomic_write
from runs.palette import PALETTE
from transfer.check_rle import coder
from transfer.detections import Detections
from transfer.read_splits import Split

TILE, GAP, THRESHOLD = 288, 12, 0.5
PAPER, INK = (250, 250, 250), (40, 40, 40)
# Black and grey, the last two, are lost on a dark photograph.
CLASS_COLOURS = PALETTE[:6]


def draw_overview_and_best_worst_sheets(
    folder: Path, split: Split, detections: Detections, matches: Matches, count: int
) -> None:
    """Draw `detections.png`, images at even distances, and `best_and_worst.png`, of `count` images each."""
    draw_sheet(folder / DETECTIONS, split, detections, evenly_spaced_indices(len(split.images), count))
    draw_sheet(folder / "best_and_worst.png", split, detections, best_then_worst_image_indices(matches, count))


def evenly_spaced_indices(num_images: int, count: int) -> list[int]:
    """Indices of `count` images at even distances, or of all if there are fewer."""
    return np.unique(np.linspace(0, num_images - 1, min(count, num_images)).round().astype(int)).tolist()


def best_then_worst_image_indices(matches: Matches, total: int) -> list[int]:
    """Indices of the images that the detector did best on, then of those that it did worst on, half of `total` each.

    By the F-measure at IoU .5 of detections with a score of at least `THRESHOLD`. Images without objects are left out.
    """
    shown = matches.score >= THRESHOLD
    verdict, image = matches.verdict[shown, 0], matches.image[shown]
    right, wrong = (np.bincount(image[verdict == v], minlength=len(matches.objects)) for v in (TRUE, FALSE))
    objects = matches.objects.sum(axis=1)
    with_objects = np.flatnonzero(objects)
    score = 2 * right[with_objects] / (objects + right + wrong)[with_objects]
    # Among equals the image with the lower number, at both ends.
    best = with_objects[np.argsort(-score, kind="stable")][: (total + 1) // 2].tolist()
    worst = [n for n in with_objects[np.argsort(score, kind="stable")].tolist() if n not in best]
    return best + worst[: total // 2]


def draw_sheet(path: Path, split: Split, detections: Detections, numbers: Sequence[int]) -> None:
    """Draw some of a split's images as a PNG: truth dashed in white, detections in their class's colour.

    Those with a score below `THRESHOLD` are left out, but for the best one of an image without others.
    """
    columns = min(4, len(numbers))
    rows = math.ceil(len(numbers) / columns)
    legend = 28
    page = Image.new("RGB", (columns * (TILE + GAP) + GAP, rows * (TILE + GAP) + GAP + legend), PAPER)
    for place, number in enumerate(numbers):
        corner = GAP + place % columns * (TILE + GAP), GAP + place // columns * (TILE + GAP)
        tile = _tile(split, detections, int(number))
        page.paste(tile, (corner[0] + (TILE - tile.width) // 2, corner[1] + (TILE - tile.height) // 2))
    text = f"white, dashed: truth    colours: detections with a score of at least {THRESHOLD:g}, or the best one"
    ImageDraw.Draw(page).text((GAP, page.height - legend + 4), text, INK, ImageFont.load_default(14))
    with atomic_write(path) as file:
        page.save(file, "PNG", optimize=True)


def _tile(split: Split, detections: Detections, number: int) -> Image.Image:
    image = split.images[number]
    pixels = read_image(image["file_name"], "RGB")
    mine = np.flatnonzero(detections.image == number)
    mine = mine[np.argsort(-detections.score[mine], kind="stable")]
    shown = mine[detections.score[mine] >= THRESHOLD]
    drawing = Visualizer(pixels, scale=TILE / max(pixels.shape[:2]))
    for annotation in image["annotations"]:
        box = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
        drawing.draw_box(box, alpha=1, edge_color="white", line_style="--")
    for index in (shown if len(shown) else mine[:1])[::-1]:
        category, box = detections.category[index], detections.box[index]
        colour = CLASS_COLOURS[category % len(CLASS_COLOURS)]
        if detections.masks is not None:
            size = detections.sizes[number].tolist()
            mask = coder.decode({"size": size, "counts": detections.masks[index]})
            drawing.draw_binary_mask(mask, colour, alpha=0.45, area_threshold=0)
        drawing.draw_box(box, alpha=1, edge_color=colour)
        text = f"{split.classes[category]} {detections.score[index]:.2f}"
        drawing.draw_text(text, tuple(box[:2]), color=colour, horizontal_alignment="left")
    return Image.fromarray(drawing.get_output().get_image())
