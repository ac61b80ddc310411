"""The data sets: each YAML file in this folder names one; the layouts they lie in are the modules."""

from pretrain.config import DataConfig
from pretrain.data.base import BrokenImage, Images
from pretrain.data.cifar import open_cifar
from pretrain.data.folder import open_folder
from pretrain.data.parquet import open_parquet
from pretrain.data.shards import open_shards
from runs.errors import UserError

OPENERS = {
    "folder": open_folder, "cifar10": open_cifar, "cifar100": open_cifar, "shards": open_shards,
    "parquet": open_parquet,
}  # fmt: skip


def open_images(config: DataConfig, split: str) -> Images:
    """Open one split of a data set.

    Args:
        config: which, and where.
        split: `"train"` or `"val"`.

    Raises:
        UserError: it is missing or malformed; the message names the file or folder.
    """
    return OPENERS[config.layout](config, split)


def open_splits(config: DataConfig) -> tuple[Images, Images]:
    """Open the training and the validation images.

    Raises:
        UserError: one is missing or malformed, or their classes differ, so that one number would mean two classes.
    """
    train, val = open_images(config, "train"), open_images(config, "val")
    if list(train.classes) != list(val.classes):
        odd = next(iter(sorted(set(train.classes) ^ set(val.classes))), "their order")
        raise UserError(f"data.root={config.root}: train and val differ in their classes ({odd}); both must have all")
    return train, val


__all__ = ["BrokenImage", "Images", "open_images", "open_splits"]
