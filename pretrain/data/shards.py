"""`ROOT/<split>/*.tar`: WebDataset shards, each sample a `KEY.jpg` (or .png, …) and a `KEY.cls` with its class number.

The shards are indexed once at the start and then read at random, so shuffling and exact resume work as with files.
"""

import tarfile
from pathlib import Path, PurePosixPath

from pretrain.config import DataConfig
from pretrain.data.images import Images
from pretrain.data.listing import SUFFIXES, ImageFile, tar_members
from runs.errors import UserError


def open_shards(config: DataConfig, split: str) -> Images:
    """Index the shards of a split.

    Raises:
        UserError: no shards, a file that is no uncompressed tar, or a sample without image or class.
    """
    folder = Path(config.root) / split
    shards = sorted(folder.glob("*.tar"))
    if not shards:
        raise UserError(f"{folder}: no *.tar shards; data.root must hold {split}/*.tar")
    found = [sample for shard in shards for sample in sorted(_samples(shard))]
    labels = [label for _, label in found]
    classes = [str(i) for i in range(max(labels) + 1)]
    missing = sorted(set(range(len(classes))) - set(labels))
    if missing:
        raise UserError(f"{folder}: class {missing[0]} has no images; number the classes from 0 without gaps")
    names = [file.name for file, _ in found]
    return Images(config.name, split, names, labels, classes, lambda i: found[i][0].read())


def _samples(shard: Path) -> list[tuple[ImageFile, int]]:
    """Image, whose path is the sample's key, and class number of each sample."""
    images: dict[str, ImageFile] = {}
    labels: dict[str, int] = {}
    try:
        for name, place in tar_members(str(shard)):
            path = PurePosixPath(name)
            # WebDataset: the key ends at the first dot of the file name.
            key, _, extension = path.name.partition(".")
            file = ImageFile(str(path.parent / key), str(shard), place)
            if place and f".{extension.lower()}" in SUFFIXES:
                images[file.path] = file
            elif place and extension == "cls":
                labels[file.path] = int(file.read())
    except (tarfile.TarError, ValueError, OSError) as error:
        raise UserError(
            f"{shard}: not a readable, uncompressed tar of KEY.jpg and KEY.cls ({error}); write it again"
        ) from error
    if lacking := sorted(images.keys() ^ labels.keys()):
        what = "image" if lacking[0] in labels else ".cls"
        raise UserError(f"{shard}: sample {lacking[0]!r} lacks its {what}; write it again")
    return [(file, labels[key]) for key, file in images.items()]
