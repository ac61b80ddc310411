"""Named splits of VOC and COCO, read and checked in one place for training, checking and evaluating."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runs.errors import UserError
from runs.record import Dataset
from transfer.coco import coco_files, coco_splits, read_coco
from transfer.settings import DataConfig
from transfer.subset import balanced, hold_out
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

    @property
    def without_objects(self) -> list[str]:
        """The fault of a split in which nothing counts, in a list; empty for any other."""
        told = f"{self.source}: no object counts (all are difficult, crowds, or absent); annotate some"
        return [] if self.countable else [told]

    def described(self) -> Dataset:
        """What a record says of it."""
        return Dataset("VOC" if self.voc else "COCO", self.name, len(self.images), self.fingerprint())

    def fingerprint(self) -> str:
        """SHA-256 over file names, sizes, boxes and classes, in hexadecimal digits."""
        digest = hashlib.sha256(json.dumps(self.classes).encode())
        for image in self.images:
            boxes = [(a["category_id"], a["bbox"], a.get("difficult", 0)) for a in image["annotations"]]
            line = (Path(image["file_name"]).name, image["width"], image["height"], boxes)
            digest.update(json.dumps(line).encode())
        return digest.hexdigest()


def read_split(
    root: Path, name: str, classes: Sequence[str], masks: bool, images: bool = True
) -> tuple[Split, list[str]]:
    """Read a split past every fault.

    Args:
        root: the folder that holds `VOC2007/`, `VOC2012/`, `coco/`.
        name: e.g. `voc_2007_trainval`.
        classes: the VOC class names; COCO's come from its file.
        masks: whether COCO's objects need masks.
        images: whether VOC's images have to be there.

    Returns:
        (the images and objects without fault; what is wrong, each with its file and the remedy)

    Raises:
        UserError: the split's folder, list or file is missing or no such thing.
    """
    if name.startswith("coco"):
        found, categories, faults = read_coco(*coco_files(root, name), masks)
        split = Split(name, found, list(categories.values()))
    else:
        found, faults = read_voc(root, name, classes, images)
        split = Split(name, found, list(classes))
    return split, faults or split.without_objects


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


def refuse(faults: Sequence[str], more: str = "") -> None:
    """Raise the first fault, if there is one; the message says how many more there are and where they are listed."""
    if faults:
        raise UserError(faults[0] + (f" ({len(faults) - 1} more{more})" if faults[1:] else ""))


def load_splits(
    root: str, names: Sequence[str], classes: Sequence[str], masks: bool = False, images: bool = True
) -> Split:
    """Read splits and put them behind one another; the arguments are those of `read_split`.

    Raises:
        UserError: anything missing or wrong, with the file's name.
    """
    _check_root(Path(root))
    whole: Split | None = None
    for name in names:
        split, faults = read_split(Path(root), name, classes, masks, images)
        refuse(faults, f": python -m transfer.check data.root={root}")
        if whole and whole.classes != split.classes:
            raise UserError(f"{name}: other classes than {whole.source}; use splits of one data set")
        whole = Split(f"{whole.source}+{name}", whole.images + split.images, split.classes) if whole else split
    assert whole is not None
    return whole


def open_splits(data: DataConfig, cfg: Any) -> tuple[Split, Split]:
    """The images to train on and those to report on, as the settings ask for them.

    Args:
        data: the settings.
        cfg: Detectron2's, which name the splits and say whether there are masks; INPUT.MASK_FORMAT follows the masks.

    Raises:
        UserError: anything missing or wrong, with the file's name.
    """
    train = load_splits(data.root, cfg.DATASETS.TRAIN, data.classes, cfg.MODEL.MASK_ON)
    if data.held_out:
        images, held = hold_out(train.images, data.held_out, data.seed)
        test = replace(train, images=held, part=f"{data.held_out:g} held out, seed {data.seed}")
        train = replace(train, images=images, part=f"without {test.part}")
    else:
        test = load_splits(data.root, cfg.DATASETS.TEST, data.classes, cfg.MODEL.MASK_ON)
        if test.classes != train.classes:
            raise UserError(f"data.test={test.name}: other classes than {train.name}; use splits of one data set")
    if not test.countable:
        raise UserError(f"data.test={test.name}: no object counts; choose another share or split")
    if data.images:
        chosen = balanced(train.images, len(train.classes), data.images, data.seed)
        part = f"{data.images} images, seed {data.seed}"
        train = replace(train, images=chosen, part=f"{train.part}, {part}" if train.part else part)
    objects = (a for image in train.images for a in image["annotations"])
    if any(isinstance(a.get("segmentation"), dict) and not a["iscrowd"] for a in objects):
        # Detectron2 cuts polygons alone out of an image, unless all masks are made of pixels.
        cfg.INPUT.MASK_FORMAT = "bitmask"
    return train, test


def _check_root(root: Path) -> None:
    if not root.is_dir():
        raise UserError(f"data.root={root}: no such folder; give the one that holds VOC2007, VOC2012 or coco")
