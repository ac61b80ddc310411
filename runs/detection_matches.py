"""`matches.npz`: which detections are right at every IoU threshold. Enough for an AP of any choice of the images.

`transfer` writes it beside the detections (docs/transfer.md describes it) and names its SHA-256 in the run's record;
the gate reads it.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runs.errors import UserError
from runs.files import atomic_write, read_bytes, sha256, unpack_arrays

FILE = "matches.npz"
FORMAT = 1
THRESHOLDS = np.arange(50, 100, 5) / 100
FALSE, TRUE, IGNORED = 0, 1, 2
OWN = ("image", "category", "score", "verdict")
METRICS = ("voc_2007", "voc_area", "coco")
SHARED = ("image_ids", "classes", "objects", "metric")


@dataclass(frozen=True)
class Matches:
    """What a detector found on a split, and what there was to find. N detections, I images, K classes.

    Attributes:
        image_ids: (I,) names of the images.
        classes: (K,) names of the classes.
        image: (N,) index of each detection's image.
        category: (N,) class number.
        score: (N,) confidence, falling. Of equal scores the image with the lower number comes first (COCO: the lower
            id), and within an image the detector's order holds.
        verdict: (N, 10) FALSE, TRUE or IGNORED at IoU .50, .55, …, .95.
        objects: (I, K) how many objects count: neither difficult (VOC) nor a crowd (COCO).
        metric: how AP is taken from the curve: `voc_2007`, at 11 recalls; `voc_area`, the area under it; `coco`, at 101
            recalls, and a class without objects is left out of the mean.
    """

    image_ids: tuple[str, ...]
    classes: tuple[str, ...]
    image: NDArray[Any]
    category: NDArray[Any]
    score: NDArray[Any]
    verdict: NDArray[Any]
    objects: NDArray[Any]
    metric: str = "voc_2007"

    def __post_init__(self) -> None:
        count, images, classes = len(self.score), len(self.image_ids), len(self.classes)
        shapes = (self.image.shape, self.category.shape, self.verdict.shape, self.objects.shape)
        whole = shapes == ((count,), (count,), (count, len(THRESHOLDS)), (images, classes)) and images and classes
        if self.metric not in METRICS:
            raise ValueError(f"metric {self.metric!r}, not one of {', '.join(METRICS)}")
        if not whole or not np.isfinite(self.score).all() or (self.objects < 0).any():
            raise ValueError("its arrays do not fit together")
        for numbers, most in ((self.image, images), (self.category, classes), (self.verdict, 3)):
            if len(numbers) and not (numbers.min() >= 0 and numbers.max() < most):
                raise ValueError("a number in it is out of range")

    def select_images(self, chosen: Sequence[int]) -> "Matches":
        """The same for some of the images, each once, by index and in the order given."""
        place = np.full(len(self.image_ids), -1)
        place[np.asarray(chosen)] = np.arange(len(chosen))
        kept = place[self.image] >= 0
        return Matches(
            tuple(self.image_ids[i] for i in chosen), self.classes, place[self.image[kept]], self.category[kept],
            self.score[kept], self.verdict[kept], self.objects[np.asarray(chosen)], self.metric,
        )  # fmt: skip


def save_matches(path: Path, matches_by_kind: Mapping[str, Matches]) -> str:
    """Write those by `bbox` and `segm`, of the same images and classes, to a compressed `.npz`; returns its SHA-256."""
    arrays: dict[str, Any] = to_arrays(next(iter(matches_by_kind.values())), "", SHARED) | {"format": np.array(FORMAT)}
    for kind, matches in matches_by_kind.items():
        arrays |= to_arrays(matches, f"{kind}_", OWN)
    return write_arrays(path, arrays)


def read_matches(path: Path, sha256: str | None = None) -> dict[str, Matches]:
    """Read what `save_matches` wrote: by `bbox` and `segm`, as far as the file has them.

    Raises:
        UserError: it is gone, damaged, or has another SHA-256 than the one given.
    """
    remedy = "restore it, or run the fine-tuning again"
    try:
        arrays = read_arrays(path, sha256, remedy)
        if arrays["format"] != FORMAT:
            raise ValueError(f"format {arrays['format']}, this program reads {FORMAT}")
        return {kind: from_arrays(arrays, f"{kind}_") for kind in ("bbox", "segm") if f"{kind}_score" in arrays}
    except (ValueError, KeyError) as error:
        raise UserError(f"{path}: not a file of matches ({error}); {remedy}") from error


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> str:
    """Write arrays to a compressed `.npz`; returns its SHA-256."""
    with atomic_write(path) as file:
        np.savez_compressed(file, **dict[str, Any](arrays))
    return sha256(path)


def read_arrays(path: Path, sha256: str | None, remedy: str) -> dict[str, NDArray[Any]]:
    """Read what `write_arrays` wrote.

    Raises:
        UserError: it is gone or has another SHA-256 than the one given; the message ends with the `remedy`.
        ValueError: it is damaged.
    """
    if not path.exists():
        raise UserError(f"{path}: is missing; {remedy}")
    content = read_bytes(path)
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise UserError(f"{path}: is not the file that the record or baseline beside it names; {remedy}")
    return unpack_arrays(content)


def from_arrays(arrays: Mapping[str, NDArray[Any]], prefix: str, shared_prefix: str = "") -> Matches:
    """Matches from a file's arrays: the detections' names begin with `prefix`, the others' with `shared_prefix`."""
    numbers = {
        name: arrays[prefix + name].astype(dtype) for name, dtype in zip(OWN, (int, int, float, np.int8), strict=True)
    }
    ids, classes = (tuple(map(str, arrays[shared_prefix + name].tolist())) for name in ("image_ids", "classes"))
    objects, metric = arrays[f"{shared_prefix}objects"].astype(int), str(arrays[f"{shared_prefix}metric"])
    return Matches(ids, classes, **numbers, objects=objects, metric=metric)


def to_arrays(matches: Matches, prefix: str, names: Sequence[str] = (*OWN, *SHARED)) -> dict[str, NDArray[Any]]:
    """The reverse, every name with one prefix."""
    return {prefix + name: np.asarray(getattr(matches, name)) for name in names}
