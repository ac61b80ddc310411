"""A layout of images: ROOT/{train,val}/<class>/*.jpg, and nothing else."""

from pathlib import Path

from pretrain.config import DataConfig
from pretrain.data import Images
from runs.errors import UserError


def open_images(config: DataConfig, split: str) -> Images:
    """Open `train` or `val`."""
    files = sorted(Path(config.root, split).glob("*/*.jpg"))
    if not files:
        raise UserError(f"data.root={config.root}: holds no {split}/<class>/*.jpg")
    classes = sorted({file.parent.name for file in files})
    labels = [classes.index(file.parent.name) for file in files]
    return Images(config.name, split, list(map(str, files)), labels, classes, lambda i: files[i].read_bytes())
