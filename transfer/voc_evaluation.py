"""PASCAL VOC average precision by Detectron2's definition, in one vectorised pass a class.

The definition is `detectron2/evaluation/pascal_voc_evaluation.py`: detections pass through text files that keep three
decimals of a score and one of a coordinate; a detection belongs to the object of its class with the largest overlap,
also if another detection has taken it; objects marked difficult neither help nor harm; 2007 is measured at eleven
recalls at every IoU threshold, 2012 by the area under the curve. "AP" averages the thresholds .50, .55, ..., .95.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from transfer.detections import Detections

THRESHOLDS = [t / 100.0 for t in range(50, 100, 5)]
_RECALLS = np.arange(0.0, 1.1, 0.1)
_EPSILON = np.finfo(np.float64).eps


@dataclass
class Truth:
    """The objects of a split.

    Attributes:
        image: (G,) int64, index of the object's image.
        category: (G,) int64, class number.
        box: (G, 4) float64, xmin, ymin, xmax, ymax as in the XML: from 1, inclusive.
        difficult: (G,) bool.
    """

    image: np.ndarray
    category: np.ndarray
    box: np.ndarray
    difficult: np.ndarray

    @classmethod
    def of(cls, images: Sequence[dict[str, Any]]) -> "Truth":
        """From Detectron2's dataset dicts with `difficult` (see `transfer.voc`)."""
        rows = [
            (i, a["category_id"], *a["bbox"], a.get("difficult", 0))
            for i, image in enumerate(images)
            for a in image["annotations"]
        ]
        table = np.array(rows, np.float64).reshape(-1, 7)
        box = table[:, 2:6] + [1.0, 1.0, 0.0, 0.0]
        return cls(table[:, 0].astype(np.int64), table[:, 1].astype(np.int64), box, table[:, 6] > 0)


@dataclass
class Curve:
    """Precision over recall of one class at one threshold, a point a detection in falling order of score."""

    recall: np.ndarray
    precision: np.ndarray


def evaluate_voc(
    detections: Detections, truth: Truth, classes: Sequence[str], use_07: bool
) -> tuple[dict[str, float], dict[str, dict[str, float]], dict[str, Curve]]:
    """Average precision of a split.

    Args:
        detections: boxes from 0, as a detector gives them.
        truth: the split's objects; its image numbers are those of `detections`.
        classes: names; number c of both tables is `classes[c]`.
        use_07: eleven-point metric (VOC 2007) instead of the area (2010 and later).

    Returns:
        (`bbox/AP`, `bbox/AP50`, `bbox/AP75` in percent; the same for each class by name; each class's curve at IoU .50)
    """
    table = np.zeros((len(classes), len(THRESHOLDS)))
    curves = {}
    # What the text files keep: products with 1000 and 10 of 32-bit numbers are exact in 64 bits, so rounding them is
    # rounding the decimal expansion, as formatting does.
    score = np.rint(detections.score.astype(np.float32).astype(np.float64) * 1000) / 1000
    shifted = detections.box.astype(np.float32) + np.array([1, 1, 0, 0], np.float32)
    box = np.rint(shifted.astype(np.float64) * 10) / 10
    for number, name in enumerate(classes):
        mine, objects = np.flatnonzero(detections.category == number), np.flatnonzero(truth.category == number)
        # The same call on the same numbers as Detectron2: the order of equal scores is NumPy's choice.
        mine = mine[np.argsort(-score[mine])]
        aps, curves[name] = _class(
            detections.image[mine].astype(np.int64), box[mine],
            truth.image[objects], truth.box[objects], truth.difficult[objects], use_07,
        )  # fmt: skip
        table[number] = aps
    table *= 100
    by_threshold = [np.mean(table[:, t]) for t in range(len(THRESHOLDS))]
    metrics = {
        "bbox/AP": float(np.mean(by_threshold)),
        "bbox/AP50": float(by_threshold[0]),
        "bbox/AP75": float(by_threshold[5]),
    }
    per_class = {
        name: {"AP": float(np.mean(row)), "AP50": float(row[0]), "AP75": float(row[5])}
        for name, row in zip(classes, table, strict=True)
    }
    return metrics, per_class, curves


def _class(
    image: np.ndarray,
    box: np.ndarray,
    truth_image: np.ndarray,
    truth_box: np.ndarray,
    difficult: np.ndarray,
    use_07: bool,
) -> tuple[np.ndarray, Curve]:
    """AP at each threshold, from detections in falling order of score. `image` (N,), `box` (N, 4), truth (G, ...)."""
    overlap, best = _best_overlaps(image, box, truth_image, truth_box)  # (N,), (N,)
    positives = float(np.sum(~difficult))
    aps, curve = np.zeros(len(THRESHOLDS)), Curve(np.zeros(0), np.zeros(0))
    for t, threshold in enumerate(THRESHOLDS):
        hit = overlap > threshold
        counted = hit.copy()
        counted[hit] = ~difficult[best[hit]]
        first = np.zeros(len(image), bool)
        candidates = np.flatnonzero(counted)
        # unique() gives the first place of each object, which is its best-scored detection.
        first[candidates[np.unique(best[candidates], return_index=True)[1]]] = True
        true = np.cumsum(first.astype(np.float64))
        false = np.cumsum((~hit | (counted & ~first)).astype(np.float64))
        with np.errstate(invalid="ignore"):  # a class without objects: 0 / 0, as in the definition
            recall = true / positives if positives else np.full(len(true), np.nan)
        precision = true / np.maximum(true + false, _EPSILON)
        aps[t] = _ap_07(recall, precision) if use_07 else _ap_area(recall, precision)
        if t == 0:
            curve = Curve(recall, precision)
    return aps, curve


def _best_overlaps(
    image: np.ndarray, box: np.ndarray, truth_image: np.ndarray, truth_box: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """For each detection, the largest IoU with an object of its image (-inf without one) and that object's index."""
    overlap, best = np.full(len(image), -np.inf), np.zeros(len(image), np.int64)
    order = np.argsort(truth_image, kind="stable")
    sorted_image = truth_image[order]
    start = np.searchsorted(sorted_image, image, "left")
    count = np.searchsorted(sorted_image, image, "right") - start  # objects in the detection's image, (N,)
    some = np.flatnonzero(count)
    if not len(some):
        return overlap, best
    begin = np.concatenate([[0], np.cumsum(count[some])[:-1]])  # first pair of each detection, (M,)
    rows = np.repeat(some, count[some])  # detection of each pair, (P,)
    columns = order[np.arange(len(rows)) - np.repeat(begin, count[some]) + np.repeat(start[some], count[some])]
    a, b = box[rows].T, truth_box[columns].T  # (4, P)
    width = np.maximum(np.minimum(b[2], a[2]) - np.maximum(b[0], a[0]) + 1.0, 0.0)
    height = np.maximum(np.minimum(b[3], a[3]) - np.maximum(b[1], a[1]) + 1.0, 0.0)
    inside = width * height
    union = (
        (a[2] - a[0] + 1.0) * (a[3] - a[1] + 1.0) + (b[2] - b[0] + 1.0) * (b[3] - b[1] + 1.0) - inside
    )  # the order of Detectron2's sum, so that equal overlaps are equal here too
    iou = inside / union
    overlap[some] = np.maximum.reduceat(iou, begin)
    # Of equal overlaps the first object wins, as argmax has it.
    at_best = np.where(iou == np.repeat(overlap[some], count[some]), np.arange(len(iou)), len(iou))
    best[some] = columns[np.minimum(np.minimum.reduceat(at_best, begin), len(iou) - 1)]
    return overlap, best


def _ap_07(recall: np.ndarray, precision: np.ndarray) -> float:
    """Mean over recalls 0, .1, ..., 1 of the best precision at that recall or beyond."""
    if not len(recall) or np.isnan(recall[-1]):
        return 0.0
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    ap = 0.0
    for index in np.searchsorted(recall, _RECALLS, "left"):
        ap += (envelope[index] if index < len(recall) else 0.0) / 11.0
    return ap


def _ap_area(recall: np.ndarray, precision: np.ndarray) -> float:
    """Area under the monotone envelope of the curve."""
    r = np.concatenate(([0.0], recall, [1.0]))
    p = np.concatenate(([0.0], precision, [0.0]))
    p = np.maximum.accumulate(p[::-1])[::-1]
    steps = np.flatnonzero(r[1:] != r[:-1])
    return float(np.sum((r[steps + 1] - r[steps]) * p[steps + 1]))
