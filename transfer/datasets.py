"""Named splits of VOC and COCO, read and checked in one place for training, checking and evaluating."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runs.errors import UserError
from transfer.coco import coco_files, coco_splits, read_coco
from transfer.voc import intended_root, read_voc, voc_splits


@dataclass
class Split:
    """A named split.

    Attributes:
        source: the split as in the recipe, several joined by `+`.
        images: Detectron2's dataset dicts, boxes and classes included.
        classes: names in the order of `category_id`.
        part: which images of the named split these are; empty for all.
    """

    source: str
    images: list[dict[str, Any]]
    classes: list[str]
    part: str = ""

    @property
    def name(self) -> str:
        """Its name in records: the source, and the part of it."""
        return f"{self.source} ({self.part})" if self.part else self.source

    @property
    def voc(self) -> bool:
        """Whether it is one of PASCAL VOC's, with its layout and metric."""
        return self.source.startswith("voc")

    @property
    def countable(self) -> int:
        """Objects that an evaluation counts: neither difficult nor crowds."""
        objects = (a for image in self.images for a in image["annotations"])
        return sum(not (a.get("difficult") or a.get("iscrowd")) for a in objects)

    def fingerprint(self) -> str:
        """SHA-256 over file names, sizes, boxes and classes, in hexadecimal digits."""
        digest = hashlib.sha256(json.dumps(self.classes).encode())
        for image in self.images:
            boxes = [(a["category_id"], a["bbox"], a.get("difficult", 0)) for a in image["annotations"]]
            line = (Path(image["file_name"]).name, image["width"], image["height"], boxes)
            digest.update(json.dumps(line).encode())
        return digest.hexdigest()


def read_split(root: Path, name: str, classes: Sequence[str], masks: bool) -> tuple[Split, list[str]]:
    """Read a split past every fault.

    Args:
        root: the folder that holds `VOC2007/`, `VOC2012/`, `coco/`.
        name: e.g. `voc_2007_trainval`.
        classes: the VOC class names; COCO's come from its file.
        masks: whether COCO's objects need masks.

    Returns:
        (the images and objects without fault; what is wrong, each with its file and the remedy)

    Raises:
        UserError: the split's folder, list or file is missing or no such thing.
    """
    if name.startswith("coco"):
        images, categories, faults = read_coco(*coco_files(root, name), masks)
        split = Split(name, images, list(categories.values()))
    else:
        images, faults = read_voc(root, name, classes)
        split = Split(name, images, list(classes))
    if not faults and not split.countable:
        faults.append(f"{name}: no object counts (all are difficult, crowds, or absent); annotate some")
    return split, faults


def find_splits(root: Path) -> list[str]:
    """Names of all splits whose lists lie under `root`.

    Raises:
        UserError: there is no folder, or no split in it.
    """
    _check_root(root)
    names = voc_splits(root) + coco_splits(root)
    if not names:
        hint = intended_root(root)
        raise UserError(
            f"data.root={root}: holds no split of VOC or COCO in Detectron2's layout{'; ' if hint else ''}{hint}"
        )
    return names


def load_splits(root: str, names: Sequence[str], classes: Sequence[str], masks: bool = False) -> Split:
    """Read splits and put them behind one another; the arguments are those of `read_split`.

    Raises:
        UserError: anything missing or wrong, with the file's name.
    """
    _check_root(Path(root))
    whole: Split | None = None
    for name in names:
        split, faults = read_split(Path(root), name, classes, masks)
        if faults:
            more = f" ({len(faults) - 1} more: python -m transfer.check data.root={root})" if faults[1:] else ""
            raise UserError(faults[0] + more)
        if whole and whole.classes != split.classes:
            raise UserError(f"{name}: other classes than {whole.source}; use splits of one data set")
        whole = Split(f"{whole.source}+{name}", whole.images + split.images, split.classes) if whole else split
    assert whole is not None
    return whole


def _check_root(root: Path) -> None:
    if not root.is_dir():
        raise UserError(f"data.root={root}: no such folder; give the one that holds VOC2007, VOC2012 or coco")
