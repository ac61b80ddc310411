"""The data sets: each YAML file in this folder names one; the layouts they lie in are the modules."""

from pretrain.data.base import BrokenImage, DataConfig, Images
from pretrain.data.cifar import open_cifar
from pretrain.data.folder import open_folder
from pretrain.data.shards import open_shards

OPENERS = {"folder": open_folder, "cifar10": open_cifar, "cifar100": open_cifar, "shards": open_shards}


def open_images(config: DataConfig, split: str) -> Images:
    """Open one split of a data set.

    Args:
        config: which, and where.
        split: `"train"` or `"val"`.

    Raises:
        UserError: it is missing or malformed; the message names the file or folder.
    """
    return OPENERS[config.layout](config, split)


__all__ = ["BrokenImage", "DataConfig", "Images", "open_images"]
