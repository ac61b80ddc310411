"""The formats of boxes: detections and annotations in another one than expected are told by how their boxes fit."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runs.errors import UserError
from transfer.check_rle import coder

# The values of detectron2.structures.BoxMode; importing that takes seconds, and evaluating needs no detector.
XYXY_ABS, XYWH_ABS = 0, 1
SIDES, CORNERS = "x, y, width, height", "x0, y0, x1, y1"
# Official boxes reach past the edge by rounding, never further than this (pixels).
SLACK = 1.0
# With fewer images, another format may fit better by chance.
FEWEST = 5
# The quantile of the boxes' far edges that says how large images are; not the largest, as boxes may leave their images.
OUTER = 0.9
# The share of boxes that may reach beyond images in which all lie: not every detector cuts them off at the edge.
STRAY = 0.05


def check_box_format(
    path: Path, boxes: np.ndarray, image: np.ndarray, score: np.ndarray, images: Sequence[Mapping[str, Any]],
    expected: str,
) -> None:  # fmt: skip
    """Refuse detections whose boxes have another format or scale: their AP would be low and look like a result.

    The arguments are those of `find_better_format`, and the file that the message names.

    Raises:
        UserError: most boxes reach beyond their images, all lie within the first pixel, or another format fits better.
    """
    if not len(boxes):
        return
    if (boxes <= 1).all() or _share_beyond(_in_every_format(boxes)[expected], _limits(images)[image]) > 0.5:
        raise UserError(f"{path}: its boxes do not lie in their images; write {expected} in pixels")
    if found := find_better_format(boxes, image, score, images, expected):
        raise UserError(f"{path}: its boxes fit the objects as {found}; write {expected} in pixels of the image file")


def find_better_format(
    boxes: np.ndarray, image: np.ndarray, score: np.ndarray, images: Sequence[Mapping[str, Any]], expected: str = SIDES
) -> str | None:
    """The format as which boxes fit the objects far better: with a mean IoU above 0.5 and 1.5 times the expected one's.

    The best box of each image is compared with the object that it overlaps most. A poor detector's boxes may fit better
    in another format by chance. But a detector looks for objects inside its images: in its own format its boxes lie in
    these, and those of larger images reach beyond them.

    Args:
        boxes: (N, 4) the numbers as they were given.
        image: (N,) index of each box's image.
        score: (N,) of each box.
        images: Detectron2's dataset dicts; a width and a height of 0 are unknown.
        expected: the format that they should have, `SIDES` or `CORNERS`.

    Returns:
        The format in words; None where there is none, or of fewer than `FEWEST` images.
    """
    order = np.argsort(-score, kind="stable")
    first = order[np.unique(image[order], return_index=True)[1]]
    if len(first) < FEWEST:
        return None
    formats = _in_every_format(boxes)
    names, candidates = list(formats), [b[first] for b in formats.values()]
    # Images resized by one factor, to one size, to one longer side or to one shorter side.
    sizes = np.maximum([[entry["width"], entry["height"]] for entry in images], 1)
    truth = [_object_boxes(entry) for entry in images]
    objects, owner = np.concatenate(truth), np.repeat(np.arange(len(truth)), [len(t) for t in truth])
    end, object_end = (b[:, :2] + b[:, 2:] for b in (formats[expected], objects))
    sides = [np.ones_like(sizes), sizes, *(np.stack([side, side], axis=1) for side in (sizes.max(1), sizes.min(1)))]
    for side in sides:  # (images, 2)
        factor = np.quantile(end, OUTER, axis=0) / np.quantile(object_end / side[owner], OUTER, axis=0)
        names.append(f"{expected} in pixels of resized images")
        candidates.append(formats[expected][first] * np.tile(side[image[first]] / np.maximum(factor, 1e-9), 2))
    fit = np.zeros(len(names))
    for boxes_of_image, number in zip(np.stack(candidates, axis=1), image[first], strict=True):
        if len(truth[number]):
            boxes_of_image[:, 2:] = np.maximum(boxes_of_image[:, 2:], 0)
            fit += coder.iou(boxes_of_image, truth[number], [0] * len(truth[number])).max(axis=1) / len(first)
    best, given = int(fit.argmax()), names.index(expected)
    if fit[best] <= max(0.5, 1.5 * fit[given]):
        return None
    limits = _limits(images)[image[first]]
    as_best, as_given = candidates[best], candidates[given]
    if best < len(formats):
        plausible = _share_beyond(as_best, limits) <= STRAY
    else:
        plausible = as_best[:, 2:].sum() > as_given[:, 2:].sum() or _share_beyond(as_given, limits) > STRAY
    return names[best] if plausible else None


def _limits(images: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """How far boxes may reach in each image, (N, 2); without an end where its size is unknown."""
    return np.array([[image["width"] or np.inf, image["height"] or np.inf] for image in images]) + SLACK


def _share_beyond(boxes: np.ndarray, limits: np.ndarray) -> float:
    """The share of boxes (N, 4), x, y, width, height, whose far edges lie beyond `limits` (N, 2)."""
    return float((boxes[:, :2] + boxes[:, 2:] > limits).any(axis=1).mean())


def _in_every_format(boxes: np.ndarray) -> dict[str, np.ndarray]:
    """x, y, width, height (N, 4), by the format that the numbers may have."""
    a, b, c, d = np.asarray(boxes, np.float64).T
    formats = {
        SIDES: (a, b, c, d), CORNERS: (a, b, c - a, d - b),
        "centre x, centre y, width, height": (a - c / 2, b - d / 2, c, d),
        "y, x, height, width": (b, a, d, c), "y0, x0, y1, x1": (b, a, d - b, c - a),
    }  # fmt: skip
    return {name: np.stack(columns, axis=1) for name, columns in formats.items()}


def _object_boxes(image: Mapping[str, Any]) -> np.ndarray:
    """x, y, width, height of an image's objects, (G, 4)."""
    boxes = np.array([a["bbox"] for a in image["annotations"]], np.float64).reshape(-1, 4)
    if image["annotations"] and image["annotations"][0]["bbox_mode"] == XYXY_ABS:
        boxes[:, 2:] -= boxes[:, :2]
    return boxes
