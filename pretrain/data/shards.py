"""`ROOT/<split>/*.tar`: WebDataset shards, each sample a `KEY.jpg` (or .png, …) and a `KEY.cls` with its class number.

The shards are indexed once at the start and then read at random, so shuffling and exact resume work as with files.
"""

import tarfile
from pathlib import Path, PurePosixPath

from pretrain.config import DataConfig
from pretrain.data.base import Images
from pretrain.data.listing import SUFFIXES
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
    names: list[str] = []
    labels: list[int] = []
    places: list[tuple[Path, int, int]] = []
    for shard in shards:
        for key, (place, label) in sorted(_index(shard).items()):
            if place is None or label is None:
                raise UserError(
                    f"{shard}: sample {key!r} lacks its {'image' if place is None else '.cls'}; write it again"
                )
            names.append(f"{shard}:{key}")
            labels.append(label)
            places.append((shard, *place))
    classes = [str(i) for i in range(max(labels) + 1)]
    missing = sorted(set(range(len(classes))) - set(labels))
    if missing:
        raise UserError(f"{folder}: class {missing[0]} has no images; number the classes from 0 without gaps")

    def read(index: int) -> bytes:
        shard, offset, size = places[index]
        with open(shard, "rb") as file:
            file.seek(offset)
            return file.read(size)

    return Images(config.name, split, names, labels, classes, read)


def _index(shard: Path) -> dict[str, tuple[tuple[int, int] | None, int | None]]:
    """Sample key -> ((offset, bytes) of its image, class number)."""
    samples: dict[str, tuple[tuple[int, int] | None, int | None]] = {}
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                path = PurePosixPath(member.name)
                # WebDataset: the key ends at the first dot of the file name.
                key, _, extension = path.name.partition(".")
                key = str(path.parent / key)
                place, label = samples.get(key, (None, None))
                if f".{extension.lower()}" in SUFFIXES:
                    place = (member.offset_data, member.size)
                elif extension == "cls":
                    content = tar.extractfile(member)
                    label = int(content.read()) if content else None
                samples[key] = (place, label)
    except (tarfile.TarError, ValueError, OSError) as error:
        raise UserError(
            f"{shard}: not a readable, uncompressed tar of KEY.jpg and KEY.cls ({error}); write it again"
        ) from error
    return samples
