"""The data sets: each YAML file in this folder names one; the layouts they lie in are the modules."""

from pretrain.config import DataConfig
from pretrain.data.cifar import open_cifar
from pretrain.data.folder import open_folder
from pretrain.data.huggingface import open_arrow, open_parquet
from pretrain.data.images import Images, fingerprints
from pretrain.data.validation_labels import LABEL_FILES
from pretrain.data.webdataset import open_webdataset
from runs import plugins
from runs.errors import UserError

OPENERS = {
    "folder": open_folder, "cifar10": open_cifar, "cifar100": open_cifar, "shards": open_webdataset,
    "parquet": open_parquet, "arrow": open_arrow,
}  # fmt: skip


def open_images(config: DataConfig, split: str) -> Images:
    """Open one split of a data set, `train` or `val`.

    Raises:
        UserError: it is missing or malformed; the message names the file or folder.
    """
    if config.layout in OPENERS:
        return OPENERS[config.layout](config, split)
    [path] = plugins.find_files(f"data/{config.layout}.py")[:1]
    images: Images = plugins.load(path).open_images(config, split)
    return images


def open_training(config: DataConfig, evaluates: bool = True) -> tuple[Images, Images | None]:
    """Open the training images and, where they have classes and `evaluates`, the others; see `open_splits`."""
    train = open_images(config, "train")
    return train, _open_val(config, train) if train.classes and evaluates else None


def open_splits(config: DataConfig) -> tuple[Images, Images]:
    """Open the training and the validation images.

    Raises:
        UserError: a split is missing or malformed or has no classes, or their classes differ, so that one number would
            mean two classes.
    """
    train = open_images(config, "train")
    return train, _open_val(config, train)


def _open_val(config: DataConfig, train: Images) -> Images:
    val = open_images(config, "val")
    for images in (train, val):
        if not images.classes:
            raise UserError(
                f"data.root={config.root}: {images.split} has no classes; put its images into class folders, or put "
                f"{LABEL_FILES} beside them"
            )
    if list(train.classes) != list(val.classes):
        odd = next(iter(sorted(set(train.classes) ^ set(val.classes))), "their order")
        raise UserError(f"data.root={config.root}: train and val differ in their classes ({odd}); both must have all")
    return val


__all__ = ["Images", "fingerprints", "open_images", "open_splits", "open_training"]
