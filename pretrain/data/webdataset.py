"""`ROOT/<split>/*.tar`: WebDataset shards, each sample a `KEY.jpg` (or .png, …) and a `KEY.cls` with its class number.

Without any `.cls` the images serve for pre-training alone.

The shards are indexed once at the start and then read at random, so shuffling and exact resume work as with files.
"""

import tarfile
from pathlib import Path, PurePosixPath

from pretrain.config import DataConfig
from pretrain.data.image_files import SUFFIXES, FileOrMember, walk_tar_members
from pretrain.data.images import Images, names_of_numbered_classes
from runs.errors import UserError


def open_webdataset(config: DataConfig, split: str) -> Images:
    """Index the shards of a split.

    Raises:
        UserError: no shards, a file that is no uncompressed tar, or a sample without image, or one without a class
            among others that have one.
    """
    folder = Path(config.root) / split
    shards = sorted(folder.glob("*.tar"))
    if not shards:
        raise UserError(f"{folder}: no *.tar shards; data.root must hold {split}/*.tar")
    found = [sample for shard in shards for sample in sorted(_samples(shard), key=lambda sample: sample[0].path)]
    if not found:
        raise UserError(f"{folder}: no images in its shards; they must hold KEY.jpg and KEY.cls")
    labels = [0 if label is None else label for _, label in found]
    unlabelled = [file.name for file, label in found if label is None]
    if unlabelled and len(unlabelled) < len(found):
        raise UserError(f"{unlabelled[0]}: lacks its .cls, which other samples have; write the shard again")
    classes = [] if unlabelled else names_of_numbered_classes(labels, folder)
    names = [file.name for file, _ in found]
    return Images(config.name, split, names, labels, classes, lambda i: found[i][0].read())


def _samples(shard: Path) -> list[tuple[FileOrMember, int | None]]:
    """Image, whose path is the sample's key, and class number of each sample; None for one without."""
    images: dict[str, FileOrMember] = {}
    labels: dict[str, int] = {}
    try:
        for name, place in walk_tar_members(str(shard)):
            path = PurePosixPath(name)
            # WebDataset: the key ends at the first dot of the file name.
            key, _, extension = path.name.partition(".")
            file = FileOrMember(str(path.parent / key), str(shard), place)
            if place and f".{extension.lower()}" in SUFFIXES:
                if file.path in images:
                    raise UserError(f"{shard}: sample {file.path!r} has two images; write one a sample")
                images[file.path] = file
            elif place and extension == "cls":
                labels[file.path] = int(file.read())
    except (tarfile.TarError, ValueError, OSError) as error:
        raise UserError(
            f"{shard}: not a readable, uncompressed tar of KEY.jpg and KEY.cls ({error}); write it again"
        ) from error
    if lacking := sorted(labels.keys() - images.keys()):
        raise UserError(f"{shard}: sample {lacking[0]!r} lacks its image; write it again")
    return [(file, labels.get(key)) for key, file in images.items()]
