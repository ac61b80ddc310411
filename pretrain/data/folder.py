"""`ROOT/<split>/<class>/<image>`: the layout of ImageNet and of torchvision's ImageFolder."""

from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset

from pretrain.config import DataConfig
from pretrain.data.base import Images
from runs.errors import UserError


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
    try:
        classes, numbers = find_classes(folder)
    except FileNotFoundError as error:
        raise UserError(f"{folder}: no class folders; it must hold <class>/<image>") from error
    samples = make_dataset(str(folder), numbers, is_valid_file=_is_image, allow_empty=True)
    names, labels = [name for name, _ in samples], [label for _, label in samples]
    empty = sorted(set(range(len(classes))) - set(labels))
    if empty:
        raise UserError(f"{folder / classes[empty[0]]}: a class folder without images; fill or delete it")
    return Images(config.name, split, names, labels, classes, lambda index: Path(names[index]).read_bytes())


def _is_image(file: str) -> bool:
    return file.lower().endswith(IMG_EXTENSIONS) and not Path(file).name.startswith(".")
