"""The `matches.npz` of a fine-tuning: which detections are right, so that AP can be computed for any choice of images.

`transfer` writes it beside the detections (docs/transfer.md describes it) and names its SHA-256 in the run's record.
"""

import hashlib
import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runs.errors import UserError
from runs.files import read_bytes
from runs.record import Record

FILE = "matches.npz"
FORMAT = 1
THRESHOLDS = np.arange(50, 100, 5) / 100
FALSE, TRUE, IGNORED = 0, 1, 2
# Unpacked: half a million detections take 12 MB.
BYTES = 2**30


@dataclass(frozen=True)
class Matches:
    """What a detector found on a split, and what there was to find. N detections, I images, K classes.

    Attributes:
        image_ids: (I,) names of the images.
        classes: (K,) names of the classes.
        image: (N,) index of each detection's image.
        category: (N,) class number.
        score: (N,) confidence, detections in falling order of it.
        verdict: (N, 10) FALSE, TRUE or IGNORED at IoU .50, .55, …, .95.
        objects: (I, K) how many objects that count each image has of each class.
        metric: `voc_2007`, eleven points of the curve, or `voc_area`, the area under it.
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
        if not whole or not np.isfinite(self.score).all() or (self.objects < 0).any():
            raise ValueError("its arrays do not fit together")
        for numbers, most in ((self.image, images), (self.category, classes), (self.verdict, 3)):
            if len(numbers) and not (numbers.min() >= 0 and numbers.max() < most):
                raise ValueError("a number in it is out of range")

    def part(self, chosen: Sequence[int]) -> "Matches":
        """The same for some of the images only, by index."""
        place = np.full(len(self.image_ids), -1)
        place[np.asarray(chosen)] = np.arange(len(chosen))
        kept = place[self.image] >= 0
        return Matches(
            tuple(self.image_ids[i] for i in chosen), self.classes, place[self.image[kept]], self.category[kept],
            self.score[kept], self.verdict[kept], self.objects[np.asarray(chosen)], self.metric,
        )  # fmt: skip


def read_matches(folder: Path, record: Record) -> Matches | None:
    """Read the matches of a VOC fine-tuning.

    Args:
        folder: the run's folder.
        record: its record, which names the file's SHA-256.

    Returns:
        None where the record names none, or for another metric than VOC's.

    Raises:
        UserError: the file that the record names is gone, another one, or damaged.
    """
    files = record.details.get("files")
    wanted = files.get(FILE) if isinstance(files, dict) else None
    if record.kind != "transfer" or wanted is None:
        return None
    path = folder / FILE
    remedy = "restore it, or run the fine-tuning again"
    if not path.exists():
        raise UserError(f"{path}: is missing, and the record beside it names it; {remedy}")
    content = read_bytes(path)
    if hashlib.sha256(content).hexdigest() != wanted:
        raise UserError(f"{path}: is not the file that the record beside it names; {remedy}")
    try:
        arrays = unpack(content)
        if arrays["format"] != FORMAT:
            raise ValueError(f"format {arrays['format']}, this program reads {FORMAT}")
        if str(arrays["metric"]) not in ("voc_2007", "voc_area"):
            return None
        return from_arrays(arrays, "bbox_")
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not a file of matches ({error}); {remedy}") from error


def unpack(content: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of an `.npz`, if they are not too large.

    Raises:
        ValueError: they are; NumPy and zipfile raise what else is wrong with it.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > BYTES:
        raise ValueError(f"{size:,} bytes unpacked, more than {BYTES:,}")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays}


def from_arrays(arrays: Mapping[str, NDArray[Any]], kind: str, shared: str = "") -> Matches:
    """Matches from the arrays of a file: those of the detections begin with `kind`, the others with `shared`."""
    ids = tuple(map(str, arrays[f"{shared}image_ids"].tolist()))
    image, category, score, verdict = (arrays[kind + name] for name in ("image", "category", "score", "verdict"))
    return Matches(
        ids, tuple(map(str, arrays[f"{shared}classes"].tolist())), image.astype(np.int64), category.astype(np.int64),
        score.astype(np.float64), verdict.astype(np.int8), arrays[f"{shared}objects"].astype(np.int64),
        str(arrays[f"{shared}metric"]),
    )  # fmt: skip


def to_arrays(matches: Matches, prefix: str) -> dict[str, NDArray[Any]]:
    """The reverse, every name with one prefix."""
    arrays = {name: getattr(matches, name) for name in ("image", "category", "score", "verdict", "objects")}
    words = {"image_ids": np.array(matches.image_ids), "classes": np.array(matches.classes),
             "metric": np.array(matches.metric)}  # fmt: skip
    return {prefix + name: value for name, value in (arrays | words).items()}
