"""A sheet of test images with what was found on them and what is there."""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from runs.files import atomic_write
from runs.matches import FALSE, TRUE, Matches
from transfer.datasets import Split
from transfer.detections import Detections
from transfer.inference import Evaluation
from transfer.rle import coder

TILE, GAP = 288, 12
# Okabe and Ito's palette, which colour-blind readers can tell apart; classes take its colours in turn.
COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))
TRUTH, PAPER, INK = (255, 255, 255), (250, 250, 250), (40, 40, 40)


def draw_sheets(folder: Path, split: Split, found: Evaluation, count: int) -> None:
    """Draw `detections.png`, images at even distances, and `best_and_worst.png`, of `count` images each."""
    sheet(folder / "detections.png", split, found.detections, evenly(split, count))
    sheet(folder / "best_and_worst.png", split, found.detections, best_and_worst(found.matches["bbox"], count))


def evenly(split: Split, count: int) -> list[int]:
    """Numbers of `count` images at even distances."""
    places = np.linspace(0, len(split.images) - 1, min(count, len(split.images)))
    return sorted({int(n) for n in places.round()})


def best_and_worst(matches: Matches, count: int, threshold: float = 0.5) -> list[int]:
    """Numbers of the images that the detector did best on, then of those that it did worst on, half of `count` each.

    By the F-measure at IoU .5 of detections with a score of at least `threshold`. Images without objects are left out.
    """
    shown = matches.score >= threshold
    verdict, image = matches.verdict[shown, 0], matches.image[shown]
    right, wrong = (np.bincount(image[verdict == v], minlength=len(matches.objects)) for v in (TRUE, FALSE))
    objects = matches.objects.sum(axis=1)
    with_objects = np.flatnonzero(objects)
    score = 2 * right[with_objects] / (objects + right + wrong)[with_objects]
    # Among equals the image with the lower number, at both ends.
    best = with_objects[np.argsort(-score, kind="stable")][: (count + 1) // 2].tolist()
    worst = [n for n in with_objects[np.argsort(score, kind="stable")].tolist() if n not in best]
    return best + worst[: count // 2]


def sheet(path: Path, split: Split, detections: Detections, numbers: Sequence[int], threshold: float = 0.5) -> None:
    """Draw test images: truth dashed in white, detections in their class's colour.

    Args:
        path: the PNG to write.
        split: the images with their truth.
        detections: of that split, in the same order of images.
        numbers: which images to draw, in this order.
        threshold: score below which a detection is left out; an image without any shows its best one.
    """
    columns = min(4, len(numbers))
    rows = math.ceil(len(numbers) / columns)
    legend = 28
    page = Image.new("RGB", (columns * (TILE + GAP) + GAP, rows * (TILE + GAP) + GAP + legend), PAPER)
    for place, number in enumerate(numbers):
        corner = GAP + place % columns * (TILE + GAP), GAP + place // columns * (TILE + GAP)
        tile = _tile(split, detections, int(number), threshold)
        page.paste(tile, (corner[0] + (TILE - tile.width) // 2, corner[1] + (TILE - tile.height) // 2))
    text = f"white, dashed: truth    colours: detections with a score of at least {threshold:g}, or the best one"
    ImageDraw.Draw(page).text((GAP, page.height - legend + 4), text, INK, _font(14))
    buffer = io.BytesIO()
    page.save(buffer, "PNG", optimize=True)
    with atomic_write(path) as file:
        file.write(buffer.getvalue())


def _tile(split: Split, detections: Detections, number: int, threshold: float) -> Image.Image:
    image = split.images[number]
    with Image.open(image["file_name"]) as opened:
        picture = ImageOps.exif_transpose(opened).convert("RGB")
    scale = TILE / max(picture.size)
    picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS)
    mine = np.flatnonzero(detections.image == number)
    mine = mine[np.argsort(-detections.score[mine], kind="stable")]
    shown = mine[detections.score[mine] >= threshold]
    shown = mine[:1] if not len(shown) else shown
    if detections.masks is not None:
        picture = _blend(picture, detections, shown)
    draw = ImageDraw.Draw(picture)
    for annotation in image["annotations"]:
        x0, y0, x1, y1 = _corners(annotation)
        _dashed(draw, (x0 * scale, y0 * scale, x1 * scale, y1 * scale))
    for index in shown[::-1]:
        _box(draw, detections, index, split.classes[detections.category[index]], scale)
    return picture


def _box(draw: ImageDraw.ImageDraw, detections: Detections, index: int, name: str, scale: float) -> None:
    colour = COLOURS[detections.category[index] % len(COLOURS)]
    x0, y0, x1, y1 = (float(v) * scale for v in detections.box[index])
    draw.rectangle((x0, y0, x1, y1), outline=colour, width=2)
    font, text = _font(12), f"{name} {detections.score[index]:.2f}"
    width = draw.textlength(text, font) + 6
    x0 = max(0.0, min(x0, TILE - width))
    top = y0 - 15 if y0 >= 15 else y0
    draw.rectangle((x0, top, x0 + width, top + 15), fill=colour)
    draw.text((x0 + 3, top), text, (0, 0, 0), font)


def _blend(picture: Image.Image, detections: Detections, shown: np.ndarray) -> Image.Image:
    assert detections.masks is not None
    for index in shown[::-1]:
        size = detections.sizes[detections.image[index]].tolist()
        covered = coder.decode({"size": size, "counts": detections.masks[index]}) * 115  # 45 % of 255
        alpha = Image.fromarray(covered.astype(np.uint8)).resize(picture.size, Image.Resampling.BILINEAR)
        colour = Image.new("RGB", picture.size, COLOURS[detections.category[index] % len(COLOURS)])
        picture = Image.composite(colour, picture, alpha)
    return picture


def _dashed(draw: ImageDraw.ImageDraw, box: tuple[float, float, float, float], dash: int = 6) -> None:
    x0, y0, x1, y1 = box
    for a in np.arange(x0, x1, 2 * dash):
        for y in (y0, y1):
            draw.line((a, y, min(a + dash, x1), y), TRUTH, 2)
    for a in np.arange(y0, y1, 2 * dash):
        for x in (x0, x1):
            draw.line((x, a, x, min(a + dash, y1)), TRUTH, 2)


def _corners(annotation: dict[str, Any]) -> tuple[float, float, float, float]:
    from detectron2.structures import BoxMode

    x0, y0, x1, y1 = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
    return x0, y0, x1, y1


def _font(size: int) -> Any:
    return ImageFont.load_default(size)
