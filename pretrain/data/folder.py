"""`ROOT/<split>/<class>/<image>`: the layout of ImageNet and of torchvision's ImageFolder.

Each folder may be a zip or a tar, so ILSVRC's archives are read as they are; the validation images may lie in one
folder where a file names their classes (`validation_labels.py`); images without any classes serve for pre-training.
"""

import os
import re
from collections import Counter, defaultdict
from os.path import samefile
from pathlib import Path, PurePosixPath

from pretrain.config import DataConfig
from pretrain.data.image_files import ARCHIVES, FileOrMember, ImageListing, is_system, list_images
from pretrain.data.images import Images
from pretrain.data.validation_labels import find_labels
from runs.errors import UserError

SPLITS = ("train", "val")
NAMES = {"train": "train", "val": "val", "validation": "val"}
SPLIT = re.compile("(?:(train)|val|valid|validation|test)(?:ing|set)?")
# With these words a name is still nothing but a split's: `val_large`, `imagenet-val`, not `test_tube`.
AFFIXES = {
    "coco", "data", "dataset", "full", "gz", "ilsvrc", "image", "imagenet", "images", "img", "large", "mini", "places",
    "small", "tar", "tiny", "voc", "zip",
}  # fmt: skip
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
        left_out = f" (left out: {listing.format_left_out_counts()})" if listing.left_out else ""
        raise UserError(f"{place}: no images in it{left_out}; data.root must hold {LAYOUT}")
    classes = sorted(listing.folders) if place != root else []
    of_file = find_labels(root, place, split) if len(listing.folders) < 2 else {}
    if of_file:
        classes = sorted(set(of_file.values()))
        listing.keep_only(lambda file: file.stem in of_file, f"without a class in {split}'s labels")
    elif classes:
        listing.keep_only(lambda file: "/" in file.path, "outside the class folders")
    numbers = {name: number for number, name in enumerate(classes)}

    def label(file: FileOrMember) -> int:
        return numbers[of_file[file.stem] if of_file else file.path.partition("/")[0]] if classes else 0

    if not of_file:
        listing.files.sort(key=label)
    labels = [label(file) for file in listing.files]
    empty = sorted(set(range(len(classes))) - set(labels))
    if empty:
        raise UserError(f"{place / classes[empty[0]]}: a class without images; fill or delete it")
    files = listing.files
    names = [file.name for file in files]
    return Images(
        config.name, split, names, labels, classes, lambda i: files[i].read(), listing.format_left_out_counts()
    )


def _list_split(root: Path, split: str) -> tuple[Path, ImageListing]:
    """Where a split lies and what it holds; the root itself where nothing there is named like a split."""
    if root.is_dir():
        places = {name: place for name in SPLITS if (place := _place(root, name))}
        with os.scandir(root) as found:
            # Of a million images none costs a question to the file system.
            entries = [Path(entry) for entry in found if not entry.is_file(follow_symlinks=False)]
        folders = {entry.name for entry in entries if entry.is_dir() and not is_system(entry.name)}
        if split in places:
            if len(places) == len(SPLITS) and samefile(*places.values()):
                raise UserError(f"data.root={root}: train and val are one folder; give val images of its own")
            listing = list_images(places[split], places.values())
            # `train` may be one class of many.
            if split == "train" and (others := folders - set(NAMES)):
                listing.left_out["folders beside it"] = len(others)
            return places[split], listing
        listing = ImageListing() if places else list_images(root)
    else:
        listing = list_images(root)
        if len(listing.folders) == 1 and not listing.folders & set(NAMES):
            listing = listing.inside(*listing.folders)
        places = {NAMES[name]: root / name for name in NAMES if name in listing.folders}
        if split in places:
            return places[split], listing.inside(places[split].name)
        folders = listing.folders
    # Validation images would be trained on in silence.
    parents = {file.path.rpartition("/")[0] for file in listing.files}
    inside = {str(parent) for folder in parents for parent in PurePosixPath(folder, "image").parents} - {"."}
    alike = _like_splits({*folders, *inside} - set(NAMES))
    if places or split != "train" or alike:
        but = f", but {', '.join(alike[:3])}" if alike else ""
        remedy = "or give the folder of the training images alone; classes called like a split go into a folder `train`"
        if split == "val":
            remedy = "monitor.knn_every=0 pre-trains without val"
        raise UserError(f"data.root={root}: no {split} in it{but}; it must hold {LAYOUT}; {remedy}")
    return root, listing


def _like_splits(folders: set[str]) -> list[str]:
    """Those of the folders that are called like splits: `val2017`, `my-val` beside `my-train`, `train` all alone."""
    beside = Counter(folder.rpartition("/")[0] for folder in folders)
    named = defaultdict[tuple[str, ...], dict[str, set[str | None]]](dict)
    for folder in folders:
        parent, _, name = folder.rpartition("/")
        words = re.findall(r"[^\W\d_]+", name.lower())
        splits = {match[1] for word in words if (match := SPLIT.fullmatch(word))}
        if splits:
            named[parent, *(word for word in words if not SPLIT.fullmatch(word))][folder] = splits
    alike = list[str]()
    for (parent, *rest), group in named.items():
        splits = set[str | None]().union(*group.values())
        if len(splits) == 2 or (AFFIXES.issuperset(rest) and (None in splits or beside[parent] == 1)):
            alike += group
    return sorted(alike)


def _place(root: Path, split: str) -> Path | None:
    stems = [name for name, meant in NAMES.items() if meant == split]
    names = (*stems, *(f"{stem}{end}" for stem in (*stems, f"ILSVRC2012_img_{split}") for end in ARCHIVES))
    return next((root / name for name in names if (root / name).exists()), None)
