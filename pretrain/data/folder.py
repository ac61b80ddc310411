"""`ROOT/<split>/<class>/<image>`: the layout of ImageNet and of torchvision's ImageFolder."""

import os
from pathlib import Path

from pretrain.data.base import DataConfig, Images
from runs.errors import UserError

# torchvision/datasets/folder.py, IMG_EXTENSIONS
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def open_folder(config: DataConfig, split: str) -> Images:
    """List `ROOT/<split>`; files are opened later.

    Raises:
        UserError: the folder is missing, holds no class, or a class has no image.
    """
    root = Path(config.root)
    if not root.is_dir():
        raise UserError(f"data.root={config.root}: no such folder; give the folder that holds {split}/<class>/<image>")
    folder = root / split
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; data.root must hold {split}/<class>/<image>")
    classes = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    if not classes:
        raise UserError(f"{folder}: no class folders; it must hold <class>/<image>")
    names: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = _images(folder / name)
        if not found:
            raise UserError(f"{folder / name}: a class folder without images; fill or delete it")
        names += found
        labels += [label] * len(found)
    return Images(config.name, split, names, labels, classes, lambda index: Path(names[index]).read_bytes())


def _images(folder: Path) -> list[str]:
    found = [
        os.path.join(parent, file)
        for parent, _, files in sorted(os.walk(folder, followlinks=True))
        for file in sorted(files)
        if file.lower().endswith(EXTENSIONS) and not file.startswith(".")
    ]
    return found
