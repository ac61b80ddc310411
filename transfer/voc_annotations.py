"""PASCAL VOC splits in Detectron2's form."""

import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runs.errors import UserError, user_message
from runs.files import read_bytes
from transfer.box_formats import XYXY_ABS
from transfer.image_files import checked_image_size

SUFFIXES = (".jpg", ".JPG", ".jpeg", ".JPEG", ".png", ".PNG")
_TRUTH_VALUES = {"": 0, "0": 0, "1": 1, "false": 0, "true": 1}


def read_voc_split_and_faults(
    root: Path, name: str, classes: Sequence[str], require_images: bool = True
) -> tuple[list[dict[str, Any]], list[str]]:
    """Read a split as Detectron2's loader does (detectron2/data/datasets/pascal_voc.py), difficult objects included.

    The arguments are those of `read_splits.read_split_and_faults`.

    Returns:
        (one dict an image without fault: `file_name`, `image_id`, `height`, `width`, `annotations`; a box is
        `[x0, y0, x1, y1]` in pixels from 0, and each annotation has `difficult` besides Detectron2's keys;
        what is wrong with the others, each with its file)
    """
    folder, listing = _layout(root, name)
    ids = _listed(listing, folder)
    numbers = {c.strip(): i for i, c in enumerate(classes)}
    if not numbers or len(numbers) < len(classes):
        raise UserError(f"data.classes={list(classes)}: must name classes, each once")
    faults = [f"{listing}: lists {i!r} twice; remove one" for i, n in Counter(ids).items() if n > 1]
    images = []

    def read(image_id: str) -> dict[str, Any]:
        file, pictures = annotation_file(image_id), [folder / f"JPEGImages/{image_id}{suffix}" for suffix in SUFFIXES]
        picture = next((path for path in pictures if path.is_file()), pictures[0])
        for needed in (file, picture) if require_images else (file,):
            if not needed.is_file():
                raise UserError(f"{needed}: missing, but listed in {listing.name}; restore it or remove it there")
        annotation = _annotation(file, numbers)
        if require_images:
            checked_image_size(picture, (annotation["width"], annotation["height"]))
        return {"file_name": str(picture), "image_id": image_id, **annotation}

    def annotation_file(image_id: str) -> Path:
        return folder / "Annotations" / f"{image_id}.xml"

    for image_id in ids:
        try:
            images.append(read(image_id))
        except (UserError, OSError, ValueError) as error:
            faults.append(user_message(error) or f"{annotation_file(image_id)}: {error}")
    return images, faults


def find_voc_split_names(root: Path) -> list[str]:
    """Names of the splits under `root`; lists of one class (`aeroplane_train.txt`) are for classification."""
    folders = sorted(root.glob("VOC[0-9][0-9][0-9][0-9]"))
    lists = [
        (folder.name[3:], path) for folder in folders for path in sorted((folder / "ImageSets/Main").glob("*.txt"))
    ]
    return [f"voc_{year}_{path.stem}" for year, path in lists if "_" not in path.stem]


def suggest_root(root: Path) -> str:
    """Where the folder lies that the user may have meant by `root`; empty if there is no sign of one."""
    if (root / "ImageSets" / "Main").is_dir():
        return f"this is VOC itself: give the folder above, data.root={root.absolute().parent}"
    below = next((p.parent for p in sorted(root.glob("*/VOC[0-9][0-9][0-9][0-9]"))), None)
    return f"did you mean data.root={below}?" if below else ""


def read_text(path: Path) -> str:
    """Text in UTF-8, or in UTF-16 with its mark; any other is refused."""
    data = read_bytes(path)
    try:
        return data.decode("utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig")
    except ValueError as error:
        raise UserError(f"{path}: not UTF-8 text ({error}); save it as UTF-8") from error


def _layout(root: Path, name: str) -> tuple[Path, Path]:
    match = re.fullmatch(r"voc_(\d{4})_([\w.+-]+)", name)
    if match is None:
        raise UserError(f"data: {name!r} is no VOC split; name it like voc_2007_trainval")
    folder = root / f"VOC{match[1]}"
    listing = folder / "ImageSets" / "Main" / f"{match[2]}.txt"
    if not folder.is_dir():
        remedy = suggest_root(root) or f"{name} needs it in Detectron2's layout"
        raise UserError(f"data.root={root}: has no folder {folder.name}; {remedy}")
    if not listing.is_file():
        splits = [s.split("_", 2)[2] for s in find_voc_split_names(root) if s.startswith(f"voc_{match[1]}_")]
        raise UserError(f"{listing}: no such split; {folder.name} has {', '.join(splits) or 'none'}")
    return folder, listing


def _listed(listing: Path, folder: Path) -> list[str]:
    lines = [line.strip() for line in read_text(listing).splitlines() if line.strip()]
    if not lines:
        raise UserError(f"{listing}: lists no image; write one id a line")
    ids = []
    for line in lines:
        # An id may hold spaces, and some lists name the image with its suffix or its path.
        tokens = line.split()
        texts = dict.fromkeys((line, tokens[0], Path(line.replace("\\", "/")).name))
        names = [n for text in texts for n in (text, *(text.removesuffix(s) for s in SUFFIXES if text.endswith(s)))]
        known = next((n for n in names if (folder / "Annotations" / f"{n}.xml").is_file()), None)
        if known != line and tokens[1:] and tokens[-1] in ("-1", "0", "1"):
            raise UserError(
                f"{listing}: a list of one class (its lines end in -1, 0 or 1); name a split, whose lines are ids alone"
            )
        ids.append(known or tokens[0])
    return ids


def _annotation(file: Path, classes: dict[str, int]) -> dict[str, Any]:
    root = _parse(file)
    width, height = (_whole(root, f"size/{side}") for side in ("width", "height"))
    objects = [_object(item, width, height, classes) for item in root.iterfind("object")]
    return {"height": height, "width": width, "annotations": objects}


def _parse(file: Path) -> ET.Element:
    """The XML tree without namespaces, in any encoding that Python knows."""
    data = read_bytes(file, 2**24)
    try:
        try:
            root = ET.fromstring(data)
        except (ValueError, LookupError):
            # Expat reads no encodings of several bytes, such as GBK.
            declared = re.match(rb"<\?xml[^>]*encoding=[\"']([\w.-]+)[^>]*\?>", data)
            if declared is None:
                raise
            root = ET.fromstring(data[declared.end() :].decode(declared[1].decode()))
    except (ET.ParseError, ValueError, LookupError) as error:
        raise ValueError(f"not XML ({error}); restore it") from error
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root


def _object(item: ET.Element, width: int, height: int, classes: dict[str, int]) -> dict[str, Any]:
    name = _text(item, "name")
    if name not in classes:
        raise ValueError(
            f"unknown class {name!r} (the classes are {', '.join(classes)}); correct it or set data.classes"
        )
    # 1-based and inclusive: a box of (1, W) covers the whole width, which is (0, W) in continuous coordinates.
    x0, y0, x1, y1 = (_number(item, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax"))
    if not (1 <= x0 <= x1 <= width and 1 <= y0 <= y1 <= height):
        remedy = "VOC counts pixels from 1: add 1 to all coordinates" if min(x0, y0) == 0 else "correct it"
        box = f"({x0:g}, {y0:g}, {x1:g}, {y1:g})"
        raise ValueError(f"box of {name!r} {box} outside its image of {width} x {height}; {remedy}")
    difficult = (item.findtext("difficult") or "").strip().lower()
    if difficult not in _TRUTH_VALUES:
        raise ValueError(f"<difficult> of {name!r} is {difficult!r}; write 0 or 1")
    return {
        "category_id": classes[name],
        "bbox": [x0 - 1, y0 - 1, x1, y1],
        "bbox_mode": XYXY_ABS,
        "difficult": _TRUTH_VALUES[difficult],
    }


def _text(element: ET.Element, path: str) -> str:
    found = element.findall(path)
    if len(found) != 1:
        raise ValueError(f"{len(found) or 'no'} <{path}> in it; write one")
    return (found[0].text or "").strip()


def _number(element: ET.Element, path: str) -> float:
    text = _text(element, path)
    try:
        # To Python 1_0 is ten.
        return float(text.replace("_", " "))
    except ValueError as error:
        raise ValueError(f"<{path}> is {text[:40]!r}; write a number") from error


def _whole(element: ET.Element, path: str) -> int:
    number = _number(element, path)
    if not 0 < number < 1e6 or number % 1:
        raise ValueError(f"<{path}> is {number:g}; write a whole number of pixels")
    return int(number)
