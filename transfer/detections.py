"""What a detector found, small enough to keep: any metric can be computed again without the network."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runs.errors import UserError
from runs.files import atomic_write, sha256


@dataclass
class Detections:
    """All detections on a split, ordered by image and, within one, as the detector gave them.

    Attributes:
        image_ids: ids of all images looked at, those without a detection too (str for VOC, int for COCO).
        image: (N,) int32, index into `image_ids`.
        category: (N,) int16, class number from 0.
        score: (N,) float32, 0 to 1.
        box: (N, 4) float32, x0, y0, x1, y1 in pixels, from 0.
        sizes: (len(image_ids), 2) int32, height and width.
        masks: N run-length codes as pycocotools writes them (`counts`), or None for a detector without masks.
    """

    image_ids: list[Any]
    image: np.ndarray
    category: np.ndarray
    score: np.ndarray
    box: np.ndarray
    sizes: np.ndarray
    masks: list[bytes] | None = None

    def __len__(self) -> int:
        return len(self.score)

    def save(self, path: Path) -> str:
        """Write a compressed `.npz`, atomically; returns its SHA-256."""
        arrays: dict[str, Any] = {
            "image_ids": np.array(self.image_ids), "image": self.image, "category": self.category,
            "score": self.score, "box": self.box, "sizes": self.sizes,
        }  # fmt: skip
        if self.masks is not None:
            arrays["mask_bytes"] = np.frombuffer(b"".join(self.masks), np.uint8)
            arrays["mask_lengths"] = np.array([len(m) for m in self.masks], np.int32)
        with atomic_write(path) as file:
            np.savez_compressed(file, **arrays)
        return sha256(path)


def read_detections(path: Path) -> Detections:
    """Read what `Detections.save` wrote.

    Raises:
        UserError: absent, damaged, or another file.
    """
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            masks = None
            if "mask_lengths" in arrays:
                ends = np.cumsum(arrays["mask_lengths"])
                whole = arrays["mask_bytes"].tobytes()
                masks = [whole[e - n : e] for e, n in zip(ends, arrays["mask_lengths"], strict=True)]
            return Detections(
                arrays["image_ids"].tolist(), arrays["image"], arrays["category"], arrays["score"], arrays["box"],
                arrays["sizes"], masks,
            )  # fmt: skip
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; give the detections.npz of a run") from error
    except (ValueError, KeyError, OSError, EOFError) as error:
        raise UserError(f"{path}: not a file of detections ({error}); give the detections.npz of a run") from error
