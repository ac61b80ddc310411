"""`matches.npz`: which detections are right at every IoU threshold. Enough for an AP of any choice of the images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runs.files import atomic_write, sha256

FORMAT = 1
FALSE, TRUE, IGNORED = 0, 1, 2


@dataclass
class Matches:
    """Detections of a split beside its objects. N detections, I images, K classes.

    Attributes:
        image: (N,) int32, number of the image.
        category: (N,) int16, number of the class.
        score: (N,) float64, falling. Of equal scores the image with the lower number comes first (COCO: the lower id),
            and within an image the detector's order holds.
        verdict: (N, 10) int8, FALSE, TRUE or IGNORED at IoU .50, .55, ..., .95.
        objects: (I, K) int32, how many objects count: neither difficult (VOC) nor a crowd (COCO).
    """

    image: np.ndarray
    category: np.ndarray
    score: np.ndarray
    verdict: np.ndarray
    objects: np.ndarray


def save_matches(
    path: Path, kinds: Mapping[str, Matches], image_ids: Sequence[Any], classes: Sequence[str], metric: str
) -> str:
    """Write a compressed `.npz`, atomically.

    Args:
        path: the file.
        kinds: by `bbox` and `segm`, of the same images and classes.
        image_ids: (I,) str or int.
        classes: (K,) names.
        metric: how AP is taken from the curve: `voc_2007`, `voc_area` or `coco`.

    Returns:
        The file's SHA-256.
    """
    arrays: dict[str, Any] = {
        "format": np.array(FORMAT), "image_ids": np.array(image_ids), "classes": np.array(classes),
        "metric": np.array(metric), "objects": next(iter(kinds.values())).objects,
    }  # fmt: skip
    for kind, matches in kinds.items():
        for name in ("image", "category", "score", "verdict"):
            arrays[f"{kind}_{name}"] = getattr(matches, name)
    with atomic_write(path) as file:
        np.savez_compressed(file, **arrays)
    return sha256(path)
