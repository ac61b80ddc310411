"""`ROOT/<split>/<class>/<image>`: the layout of ImageNet and of torchvision's ImageFolder.

Each folder may be a zip or a tar, so ILSVRC's archives are read as they are; the validation images may lie in one
folder where a file names their classes (`pretrain.data.labels`); and images without any classes serve for pre-training.
"""

import os
import re
from os.path import samefile
from pathlib import Path, PurePosixPath

from pretrain.config import DataConfig
from pretrain.data.images import Images
from pretrain.data.labels import find_labels
from pretrain.data.listing import ARCHIVES, ImageFile, Listing, is_system, list_images
from runs.errors import UserError

SPLITS = ("train", "val")
NAMES = {"train": "train", "val": "val", "validation": "val"}
# As a word by itself: `val2017` and `imagenet-train`, not `valve`.
LIKE_A_SPLIT = re.compile(r"(?<![a-z])(train|val|valid|validation|test)(ing|set)?(?![a-z])", re.IGNORECASE)
LAYOUT = "{train,val}/<class>/<image>, or for pre-training alone images without classes"


def open_folder(config: DataConfig, split: str) -> Images:
    """List a split; files are opened later.

    Raises:
        UserError: it is missing or holds no image, a class has none, or an image of a flat folder has no class.
    """
    root = Path(config.root)
    if not root.is_dir() and not root.name.lower().endswith(ARCHIVES):
        raise UserError(f"data.root={root}: no such folder, zip or uncompressed tar; it must hold {LAYOUT}")
    place, listing = _list_split(root, split)
    if not listing.files and not listing.folders:
        left_out = f" (left out: {listing.describe_left_out()})" if listing.left_out else ""
        raise UserError(f"{place}: no images in it{left_out}; data.root must hold {LAYOUT}")
    classes = sorted(listing.folders) if place != root else []
    of_file = find_labels(root, place, split) if len(listing.folders) < 2 else {}
    if of_file:
        classes = sorted(set(of_file.values()))
        listing.keep(lambda file: file.stem in of_file, f"without a class in {split}'s labels")
    elif classes:
        listing.keep(lambda file: "/" in file.path, "outside the class folders")
    numbers = {name: number for number, name in enumerate(classes)}

    def label(file: ImageFile) -> int:
        return numbers[of_file[file.stem] if of_file else file.path.partition("/")[0]] if classes else 0

    if not of_file:
        listing.files.sort(key=label)
    labels = [label(file) for file in listing.files]
    empty = sorted(set(range(len(classes))) - set(labels))
    if empty:
        raise UserError(f"{place / classes[empty[0]]}: a class without images; fill or delete it")
    files = listing.files
    names = [file.name for file in files]
    return Images(config.name, split, names, labels, classes, lambda i: files[i].read(), listing.describe_left_out())


def _list_split(root: Path, split: str) -> tuple[Path, Listing]:
    """Where a split lies and what it holds; the root itself where nothing there is named like a split."""
    listing, places = Listing(), dict[str, Path]()
    if root.is_dir():
        places = {name: place for name in SPLITS if (place := _place(root, name))}
        names = os.listdir(root)
        if split in places:
            if len(places) == len(SPLITS) and samefile(*places.values()):
                raise UserError(f"data.root={root}: train and val are one folder; give val images of its own")
            listing = list_images(places[split], places.values())
            # `train` may be one class of many.
            others = {name for name in names if (root / name).is_dir() and not is_system(name)} - set(NAMES)
            if others and split == "train":
                listing.left_out["folders beside it"] = len(others)
            return places[split], listing
        if not places:
            listing = list_images(root)
    else:
        listing = list_images(root)
        if len(listing.folders) == 1 and not listing.folders & set(NAMES):
            listing = listing.inside(*listing.folders)
        places = {NAMES[name]: root / name for name in NAMES if name in listing.folders}
        if split in places:
            return places[split], listing.inside(places[split].name)
        names = [*listing.folders]
    # Validation images would be trained on in silence.
    folders = {file.path.rpartition("/")[0] for file in listing.files}
    inside = {str(parent) for folder in folders for parent in PurePosixPath(folder, "image").parents}
    alike = sorted(name for name in {*names, *inside} - set(NAMES) if LIKE_A_SPLIT.search(PurePosixPath(name).name))
    if places or split != "train" or alike:
        but = f", but {', '.join(alike[:3])}" if alike else ""
        remedy = "or give the folder of the training images"
        if split == "val":
            remedy = "monitor.knn_every=0 pre-trains without val"
        raise UserError(f"data.root={root}: no {split} in it{but}; it must hold {LAYOUT}; {remedy}")
    return root, listing


def _place(root: Path, split: str) -> Path | None:
    stems = [name for name, meant in NAMES.items() if meant == split]
    names = (*stems, *(f"{stem}{end}" for stem in (*stems, f"ILSVRC2012_img_{split}") for end in ARCHIVES))
    return next((root / name for name in names if (root / name).exists()), None)
