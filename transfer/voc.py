"""PASCAL VOC splits in Detectron2's form, every annotation checked before any work is done."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runs.errors import UserError

# The value of detectron2.structures.BoxMode.XYXY_ABS; importing that takes seconds, and evaluating needs no detector.
XYXY_ABS = 0


def voc_folder(root: Path, name: str) -> tuple[Path, str]:
    """`voc_2007_train` -> (`root/VOC2007`, `train`).

    Raises:
        UserError: the name is no VOC split's.
    """
    match = re.fullmatch(r"voc_(\d{4})_(\w+)", name)
    if match is None:
        raise UserError(f"data: {name!r} is no VOC split; name it like voc_2007_trainval")
    return root / f"VOC{match[1]}", match[2]


def load_voc(root: Path, name: str, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Read a split as Detectron2's loader does (detectron2/data/datasets/pascal_voc.py), difficult objects included.

    Args:
        root: the folder that holds `VOC2007`, ...
        name: e.g. `voc_2007_trainval`.
        classes: class names in the order of their ids.

    Returns:
        One dict an image with `file_name`, `image_id`, `height`, `width` and `annotations`; a box is
        `[x0, y0, x1, y1]` in pixels from 0, and each annotation has `difficult` besides Detectron2's keys.

    Raises:
        UserError: a folder, list, annotation or image is missing or wrong; the message names the file.
    """
    folder, ids = _listed(root, name)
    return [_image(folder, image_id, {c: i for i, c in enumerate(classes)}) for image_id in ids]


def load_voc_truth(root: Path, name: str, classes: Sequence[str]) -> list[dict[str, Any]]:
    """The same without the images, which an evaluation does not need."""
    folder, ids = _listed(root, name)
    return [_annotation(folder, image_id, {c: i for i, c in enumerate(classes)}) for image_id in ids]


def voc_faults(root: Path, name: str, classes: Sequence[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """The same, past every fault instead of ending at the first.

    Returns:
        (the images whose annotation is right, what is wrong with the others)
    """
    folder, ids = _listed(root, name)
    images, faults = [], []
    for image_id in ids:
        try:
            images.append(_image(folder, image_id, {c: i for i, c in enumerate(classes)}))
        except UserError as error:
            faults.append(str(error))
    return images, faults


def meant(root: Path) -> str:
    """Where the folder lies that the user may have meant by `root`; empty if there is no sign of one."""
    if (root / "ImageSets" / "Main").is_dir():
        return f"this is VOC itself: give the folder above, data.root={root.absolute().parent}"
    below = next((p.parent for p in sorted(root.glob("*/VOC[0-9][0-9][0-9][0-9]"))), None)
    return f"did you mean data.root={below}?" if below else ""


def _listed(root: Path, name: str) -> tuple[Path, list[str]]:
    """Folder of a split's year, and the ids in its list."""
    folder, split = voc_folder(root, name)
    listing = folder / "ImageSets" / "Main" / f"{split}.txt"
    if not folder.is_dir():
        remedy = meant(root) or f"{name} needs it in Detectron2's layout"
        raise UserError(f"data.root={root}: has no folder {folder.name}; {remedy}")
    if not listing.is_file():
        splits = sorted(p.stem for p in listing.parent.glob("*.txt") if "_" not in p.stem)
        raise UserError(f"{listing}: no such split; {folder.name} has {', '.join(splits) or 'none'}")
    ids = [line.split()[0] for line in listing.read_text().splitlines() if line.strip()]
    if not ids:
        raise UserError(f"{listing}: lists no image; write one id a line")
    return folder, ids


def _image(folder: Path, image_id: str, classes: dict[str, int]) -> dict[str, Any]:
    image = _annotation(folder, image_id, classes)
    file = Path(image["file_name"])
    if not file.is_file():
        raise UserError(f"{file}: missing, but listed in the split; restore it or remove it from ImageSets")
    return image


def _annotation(folder: Path, image_id: str, classes: dict[str, int]) -> dict[str, Any]:
    file = folder / "Annotations" / f"{image_id}.xml"
    image = folder / "JPEGImages" / f"{image_id}.jpg"
    try:
        tree = ET.parse(file)
    except FileNotFoundError as error:
        raise UserError(f"{file}: missing, but listed in the split; restore it or remove it from ImageSets") from error
    except ET.ParseError as error:
        raise UserError(f"{file}: not XML ({error}); restore it") from error
    try:
        width, height = (int(_text(tree, f"size/{side}")) for side in ("width", "height"))
        objects = [_object(item, width, height, classes) for item in tree.iterfind("object")]
    except ValueError as error:
        raise UserError(f"{file}: {error}; mend the annotation or name other classes") from error
    return {
        "file_name": str(image), "image_id": image_id, "height": height, "width": width, "annotations": objects,
    }  # fmt: skip


def _object(item: ET.Element, width: int, height: int, classes: dict[str, int]) -> dict[str, Any]:
    name = _text(item, "name")
    if name not in classes:
        raise ValueError(f"unknown class {name!r} (the classes are {', '.join(classes)})")
    # 1-based and inclusive: a box of (1, W) covers the whole width, which is (0, W) in continuous coordinates.
    x0, y0, x1, y1 = (float(_text(item, f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax"))
    if not (1 <= x0 <= x1 <= width and 1 <= y0 <= y1 <= height):
        raise ValueError(f"box of {name!r} ({x0:g}, {y0:g}, {x1:g}, {y1:g}) outside its image of {width} x {height}")
    difficult = item.findtext("difficult", "0")
    return {
        "category_id": classes[name],
        "bbox": [x0 - 1, y0 - 1, x1, y1],
        "bbox_mode": XYXY_ABS,
        "difficult": int(difficult),
    }


def _text(element: Any, path: str) -> str:
    text = element.findtext(path)
    if text is None:
        raise ValueError(f"no <{path}>")
    return str(text).strip()
