"""Named splits of VOC and COCO, checked, with a fingerprint."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from runs.errors import UserError
from transfer.coco import load_coco
from transfer.voc import load_voc


@dataclass
class Split:
    """A named split.

    Attributes:
        source: the split as in the recipe, several joined by `+`.
        images: Detectron2's dataset dicts, boxes and classes included.
        classes: names in the order of `category_id`.
        category_ids: ids of the classes in the source file (COCO's have gaps); 0.. for VOC.
        root: the data root.
        part: which images of the named split these are; empty for all.
    """

    source: str
    images: list[dict[str, Any]]
    classes: list[str]
    category_ids: list[int]
    root: Path
    part: str = ""

    @property
    def name(self) -> str:
        """Its name in records: the source, and the part of it."""
        return f"{self.source} ({self.part})" if self.part else self.source

    @property
    def voc(self) -> bool:
        """Whether it is one of PASCAL VOC's, with its layout and metric."""
        return self.source.startswith("voc")

    def fingerprint(self) -> str:
        """SHA-256 over file names, sizes, boxes and classes, in hexadecimal digits."""
        digest = hashlib.sha256(json.dumps(self.classes).encode())
        for image in self.images:
            boxes = [(a["category_id"], a["bbox"], a.get("difficult", 0)) for a in image["annotations"]]
            line = (Path(image["file_name"]).name, image["width"], image["height"], boxes)
            digest.update(json.dumps(line).encode())
        return digest.hexdigest()


def load_splits(root: str, names: Sequence[str], classes: Sequence[str]) -> Split:
    """Read and check splits and put them behind one another.

    Args:
        root: the folder that holds `VOC2007/`, `VOC2012/`, `coco/`.
        names: e.g. `["voc_2007_trainval", "voc_2012_trainval"]`.
        classes: the VOC class names; not used for COCO.

    Raises:
        UserError: anything missing or wrong, with the file's name.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise UserError(f"data.root={root}: no such folder; give the one that holds VOC2007, VOC2012 or coco")
    images: list[dict[str, Any]] = []
    names_of_classes, ids = list(classes), list(range(len(classes)))
    for name in names:
        if name.startswith("coco"):
            part, found, found_ids = load_coco(folder, name)
            if images and (found, found_ids) != (names_of_classes, ids):
                raise UserError(f"{name}: other categories than {names[0]}; use splits of one data set")
            names_of_classes, ids = found, found_ids
        else:
            part = load_voc(folder, name, classes)
        images += part
    for image in images:
        check_header(image)
    return Split("+".join(names), images, names_of_classes, ids, folder)


def check_header(image: dict[str, Any]) -> None:
    """Check that an image is one and has the annotated size, from its first bytes (`transfer.check` decodes it all).

    Raises:
        UserError: it is not an image, or has another size.
    """
    file = image["file_name"]
    try:
        with Image.open(file) as opened:
            size = opened.size
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise UserError(f"{file}: not a readable image ({type(error).__name__}); restore it") from error
    if size != (image["width"], image["height"]):
        raise UserError(
            f"{file}: is {size[0]} x {size[1]}, its annotation says {image['width']} x {image['height']}; mend one"
        )
