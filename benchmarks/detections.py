"""Detections of a VOC run matched with the objects, so that AP can be computed again for any choice of images.

The definition is that of Detectron2 (detectron2/evaluation/pascal_voc_evaluation.py): a detection belongs to the object
of its class and image with the largest overlap; the best-scored one of an object is true if the overlap exceeds the
threshold, further ones are false; difficult objects neither help nor harm.
"""

import io
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runs.errors import UserError
from runs.record import Record

THRESHOLDS = np.arange(50, 100, 5) / 100
FALSE, TRUE, IGNORED = 0, 1, 2


@dataclass(frozen=True)
class Matches:
    """What a detector found on a split, and what there was to find.

    Attributes:
        image_ids: (I,) names of the images.
        classes: names of the classes.
        image: (N,) index of each detection's image.
        category: (N,) class number.
        score: (N,) confidence, detections in falling order of it.
        verdict: (N, 10) FALSE, TRUE or IGNORED at IoU .50, .55, …, .95.
        objects: (I, C) how many objects that are not difficult each image has of each class.
        eleven_points: the metric of VOC 2007 instead of the area under the curve.
    """

    image_ids: tuple[str, ...]
    classes: tuple[str, ...]
    image: NDArray[np.int64]
    category: NDArray[np.int64]
    score: NDArray[np.float64]
    verdict: NDArray[np.int8]
    objects: NDArray[np.int64]
    eleven_points: bool = True

    def part(self, chosen: Sequence[int]) -> "Matches":
        """The same for some of the images only, by index."""
        place = np.full(len(self.image_ids), -1)
        place[np.asarray(chosen)] = np.arange(len(chosen))
        kept = place[self.image] >= 0
        return Matches(
            tuple(self.image_ids[i] for i in chosen), self.classes, place[self.image[kept]], self.category[kept],
            self.score[kept], self.verdict[kept], self.objects[np.asarray(chosen)], self.eleven_points,
        )  # fmt: skip


def match(
    image_ids: Sequence[str], classes: Sequence[str], image: NDArray[Any], category: NDArray[Any], score: NDArray[Any],
    box: NDArray[Any], truth_image: NDArray[Any], truth_category: NDArray[Any], truth_box: NDArray[Any],
    difficult: NDArray[Any], eleven_points: bool = True,
) -> Matches:  # fmt: skip
    """Match detections with objects.

    Args:
        image_ids: names of the images; the image numbers below index them.
        classes: names of the classes.
        image: (N,) image of each detection.
        category: (N,) class of each detection.
        score: (N,) confidence.
        box: (N, 4) x0, y0, x1, y1 in pixels from 0.
        truth_image: (G,) image of each object.
        truth_category: (G,) class of each object.
        truth_box: (G, 4) xmin, ymin, xmax, ymax from 1, inclusive, as in the XML.
        difficult: (G,) bool.
        eleven_points: see `Matches`.
    """
    # Detectron2 writes three decimals of a score and one of a coordinate, and reads them again.
    score = np.rint(score.astype(np.float64) * 1000) / 1000
    box = np.rint((box.astype(np.float64) + np.array([1, 1, 0, 0])) * 10) / 10
    order = np.argsort(-score, kind="stable")
    image, category, score, box = (
        image[order].astype(np.int64),
        category[order].astype(np.int64),
        score[order],
        box[order],
    )
    overlap, best = _best(image, category, box, truth_image, truth_category, truth_box)
    verdict = np.full((len(score), len(THRESHOLDS)), FALSE, np.int8)
    hit = overlap[:, None] > THRESHOLDS
    ignored = hit & np.where(best >= 0, difficult[best] if len(difficult) else False, False)[:, None]
    for t in range(len(THRESHOLDS)):
        candidates = np.flatnonzero(hit[:, t] & ~ignored[:, t])
        # The first one of an object is its best-scored one; unique() keeps first places.
        verdict[candidates[np.unique(best[candidates], return_index=True)[1]], t] = TRUE
    verdict[ignored] = IGNORED
    objects = np.zeros((len(image_ids), len(classes)), np.int64)
    np.add.at(objects, (truth_image[~difficult], truth_category[~difficult]), 1)
    return Matches(tuple(image_ids), tuple(classes), image, category, score, verdict, objects, eleven_points)


def _best(
    image: NDArray[Any], category: NDArray[Any], box: NDArray[Any], truth_image: NDArray[Any],
    truth_category: NDArray[Any], truth_box: NDArray[Any],
) -> tuple[NDArray[Any], NDArray[Any]]:  # fmt: skip
    """For each detection the largest overlap with an object of its image and class (-1 without one) and which."""
    overlap, best = np.full(len(image), -1.0), np.full(len(image), -1)
    width = int(max(category.max(initial=0), truth_category.max(initial=0))) + 1
    key, truth_key = image * width + category, truth_image * width + truth_category
    order = np.argsort(truth_key, kind="stable")
    begin = np.searchsorted(truth_key[order], key, "left")
    end = np.searchsorted(truth_key[order], key, "right")
    # Few objects of a class share an image: as many passes as the fullest image has, each over all detections.
    for step in range(int((end - begin).max(initial=0))):
        rows = np.flatnonzero(begin + step < end)
        objects = order[begin[rows] + step]
        a, b = box[rows], truth_box[objects]
        sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]) + 1  # (rows, 2)
        inside = np.maximum(sides, 0).prod(axis=1)
        area = [(c[:, 2:] - c[:, :2] + 1).prod(axis=1) for c in (a, b)]
        iou = inside / (area[0] + area[1] - inside)
        better = iou > overlap[rows]
        overlap[rows[better]], best[rows[better]] = iou[better], objects[better]
    return overlap, best


def read_matches(folder: Path, record: Record) -> Matches:
    """Match the detections that a VOC fine-tuning run has stored.

    Args:
        folder: the run's folder, with `detections.npz`.
        record: its record, which names the data set.

    Raises:
        UserError: the run is not one on VOC, or a file is missing or damaged.
    """
    config = record.config
    if record.kind != "transfer" or record.dataset is None or not record.dataset.split.startswith("voc_"):
        raise UserError(f"{folder}: not a VOC fine-tuning run; the comparison over test images needs one")
    path = folder / "detections.npz"
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            found = {k: arrays[k] for k in ("image_ids", "image", "category", "score", "box")}
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; run the fine-tuning again, it stores its detections") from error
    except (ValueError, KeyError, OSError, EOFError) as error:
        raise UserError(f"{path}: not a file of detections ({error}); run the fine-tuning again") from error
    ids, classes = [str(i) for i in found["image_ids"]], list(config["data"]["classes"])
    year = record.dataset.split.split("_")[1]
    truth = _truth(Path(config["data"]["root"]) / f"VOC{year}" / "Annotations", ids, classes)
    boxes = found["image"], found["category"], found["score"], found["box"]
    return match(ids, classes, *boxes, *truth, eleven_points=year == "2007")


def _truth(
    folder: Path, ids: list[str], classes: list[str]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    rows: list[tuple[float, ...]] = []
    for number, image_id in enumerate(ids):
        path = folder / f"{image_id}.xml"
        try:
            root = ET.parse(path).getroot()
            for item in root.iter("object"):
                corners = [float(item.findtext(f"bndbox/{c}", "")) for c in ("xmin", "ymin", "xmax", "ymax")]
                rows.append(
                    (number, classes.index(item.findtext("name", "")), *corners, float(item.findtext("difficult", "0")))
                )
        except (OSError, ET.ParseError, ValueError) as error:
            raise UserError(
                f"{path}: cannot be read ({error}); give the data set that the run was measured on"
            ) from error
    table = np.array(rows, np.float64).reshape(-1, 7)
    return table[:, 0].astype(np.int64), table[:, 1].astype(np.int64), table[:, 2:6], table[:, 6] > 0
