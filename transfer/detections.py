"""What a detector found, small enough to keep: any metric can be computed again without the network."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from runs.detection_matches import Matches, write_arrays
from runs.errors import UserError
from runs.files import read_bytes, unpack_arrays

_SHAPES = {"image": (), "category": (), "score": (), "box": (4,)}


@dataclass
class Detections:
    """All detections on a split, ordered by image and, within one, as the detector gave them.

    Attributes:
        image_ids: ids of all images looked at, those without a detection too (str for VOC, int or str for COCO).
        classes: their names; class number c is `classes[c]`.
        image: (N,) int32, index into `image_ids`.
        category: (N,) int16, class number from 0.
        score: (N,) float32, 0 to 1.
        box: (N, 4) float32, x0, y0, x1, y1 in pixels, from 0.
        sizes: (len(image_ids), 2) int32, height and width.
        masks: N run-length codes as pycocotools writes them (`counts`), or None for a detector without masks.
    """

    image_ids: list[Any]
    classes: list[str]
    image: np.ndarray
    category: np.ndarray
    score: np.ndarray
    box: np.ndarray
    sizes: np.ndarray
    masks: list[bytes] | None = None

    @classmethod
    def load(cls, npz_path: Path) -> "Detections":
        """Read what `save` wrote; whatever no detector gives is refused, since it may come from anybody."""
        try:
            return _checked(unpack_arrays(read_bytes(npz_path, 2**30)))
        except ValueError as error:
            raise UserError(
                f"{npz_path}: not a file of detections ({error}); give the detections.npz of a run"
            ) from error

    @classmethod
    def from_table(
        cls, indexed_rows: Sequence[Sequence[float]], image_ids: Sequence[str], classes: Sequence[str]
    ) -> "Detections":
        """From rows of image index, class index, score, x0, y0, x1, y1 in pixels from 0; the sizes are left 0."""
        table = np.array(indexed_rows, np.float64).reshape(-1, 7)
        return cls(
            list(image_ids), list(classes), table[:, 0].astype(np.int32), table[:, 1].astype(np.int16),
            table[:, 2].astype(np.float32), table[:, 3:].astype(np.float32), np.zeros((len(image_ids), 2), np.int32),
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.score)

    def save(self, npz_path: Path) -> None:
        """Write the arrays, compressed and atomically."""
        arrays: dict[str, Any] = {
            "image_ids": np.array(self.image_ids), "classes": np.array(self.classes), "image": self.image,
            "category": self.category, "score": self.score, "box": self.box, "sizes": self.sizes,
        }  # fmt: skip
        if self.masks is not None:
            arrays["mask_bytes"] = np.frombuffer(b"".join(self.masks), np.uint8)
            arrays["mask_lengths"] = np.array([len(m) for m in self.masks], np.int32)
        write_arrays(npz_path, arrays)


class Evaluation(NamedTuple):
    """AP of detections by the definition that their benchmark is known for.

    Attributes:
        metrics: in percent, `bbox/AP`, ….
        per_class: the same by the class's name.
        matches: by `bbox` and `segm`, which detections are right.
        curves: of VOC, by the class's name: recall and precision at IoU .50 of at most 101 detections in falling order
            of score.
    """

    metrics: dict[str, float]
    per_class: dict[str, dict[str, float]]
    matches: dict[str, Matches]
    curves: dict[str, list[list[float]]] | None = None


def _checked(arrays: dict[str, np.ndarray]) -> Detections:
    lacking = {"image_ids", "classes", "sizes", *_SHAPES} - set(arrays)
    if lacking:
        raise ValueError(f"it lacks {', '.join(sorted(lacking))}")
    ids, classes, sizes = arrays["image_ids"], arrays["classes"], arrays["sizes"]
    count = arrays["score"].size
    for name, shape in _SHAPES.items():
        if arrays[name].shape != (count, *shape) or arrays[name].dtype.kind not in "iuf":
            raise ValueError(f"{name} has shape {arrays[name].shape} and type {arrays[name].dtype}")
    if ids.ndim != 1 or ids.dtype.kind not in "iuU" or classes.ndim != 1 or classes.dtype.kind != "U":
        raise ValueError("image_ids or classes are no lists of names")
    if len(np.unique(ids)) < len(ids) or len(np.unique(classes)) < len(classes):
        raise ValueError("image_ids or classes name something twice")
    if sizes.shape != (len(ids), 2) or sizes.dtype.kind not in "iu":
        raise ValueError(f"sizes has shape {sizes.shape} for {len(ids)} images")
    for name, limit in (("image", len(ids)), ("category", len(classes))):
        numbers = arrays[name]
        if numbers.dtype.kind == "f" or (count and not 0 <= int(numbers.min()) <= int(numbers.max()) < limit):
            raise ValueError(f"{name} counts beyond the {limit} there are")
    if not (np.isfinite(arrays["score"]).all() and np.isfinite(arrays["box"]).all()):
        raise ValueError("a score or a box is no finite number")
    masks = None
    if "mask_lengths" in arrays:
        lengths, content = arrays["mask_lengths"], arrays.get("mask_bytes", np.zeros(0, np.uint8))
        if lengths.shape != (count,) or lengths.dtype.kind not in "iu" or content.dtype != np.uint8:
            raise ValueError(f"{lengths.size} masks of {count} detections")
        if lengths.min(initial=0) < 0 or lengths.sum(dtype=np.int64) != content.size:
            raise ValueError("the lengths of its masks do not add up to mask_bytes")
        ends, whole = np.cumsum(lengths, dtype=np.int64), content.tobytes()
        masks = [whole[e - n : e] for e, n in zip(ends.tolist(), lengths.tolist(), strict=True)]
    return Detections(
        ids.tolist(), classes.tolist(), arrays["image"], arrays["category"], arrays["score"], arrays["box"], sizes,
        masks,
    )  # fmt: skip
