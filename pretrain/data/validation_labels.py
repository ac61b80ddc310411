"""The classes of images that lie in one folder, as ImageNet and Tiny ImageNet publish those of their validation images.

- `LOC_val_solution.csv` of ImageNet's copy at Kaggle, in the root or where Kaggle's archive has it,
- ILSVRC's development kit, unpacked or as `ILSVRC2012_devkit_t12.tar.gz`: a number an image, and the numbers' classes,
- `val_annotations.txt` of Tiny ImageNet.
"""

import csv
import io
import os
import tarfile
from pathlib import Path

from pretrain.data.image_files import SUFFIXES
from runs.errors import UserError, from_os_error

DEVKIT = "ILSVRC2012_devkit_t12"
TRUTH, META = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"
LABEL_FILES = f"LOC_val_solution.csv, {DEVKIT}.tar.gz or val_annotations.txt"


def find_labels(root: Path, place: Path, split: str) -> dict[str, str]:
    """The class of each image of the split at `place`, by the stem of its file name; empty where no file says it.

    Raises:
        UserError: there is such a file, and it is damaged.
    """
    # Kaggle's archive has the images in ILSVRC/Data/CLS-LOC.
    folders = [place, root, *list(root.absolute().parents)[2:3]]
    readers = {f"LOC_{split}_solution.csv": _kaggle, f"{split}_annotations.txt": _tiny_imagenet}
    if split == "val":
        readers |= {f"{DEVKIT}/data/{TRUTH}": _devkit, TRUTH: _devkit, f"{DEVKIT}.tar.gz": _packed_devkit}
    for name, read in readers.items():
        for folder in folders:
            if (file := folder / name).is_file():
                try:
                    return read(file)
                except FileNotFoundError as error:
                    raise from_os_error(error) from error
                except (OSError, EOFError, KeyError, IndexError, ValueError, tarfile.TarError, csv.Error) as error:
                    raise UserError(f"{file}: damaged ({error!r:.100}); fetch it again") from error
    return {}


def _kaggle(file: Path) -> dict[str, str]:
    """ImageId,PredictionString; the latter begins with the class, boxes follow."""
    with open(file, newline="", encoding="utf-8-sig") as text:
        return {_stem(row["ImageId"]): row["PredictionString"].split()[0] for row in csv.DictReader(text)}


def _tiny_imagenet(file: Path) -> dict[str, str]:
    """Name, class and box, with tabs between, or spaces."""
    lines = [line for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    rows = [line.split("\t") if "\t" in line else line.split() for line in lines]
    return {_stem(row[0]): row[1].strip() for row in rows}


def _stem(name: str) -> str:
    stem, suffix = os.path.splitext(name.strip())
    return stem if suffix.lower() in SUFFIXES else stem + suffix


def _devkit(file: Path) -> dict[str, str]:
    return _numbered(file.read_bytes(), file.with_name(META).read_bytes())


def _packed_devkit(file: Path) -> dict[str, str]:
    with tarfile.open(file) as tar:
        truth, meta = (tar.extractfile(f"{DEVKIT}/data/{name}") for name in (TRUTH, META))
        if truth is None or meta is None:
            raise ValueError("no files")
        return _numbered(truth.read(), meta.read())


def _numbered(truth: bytes, meta: bytes) -> dict[str, str]:
    """Line i has the number of image i's class, which MATLAB's table names (readme.txt of the kit, section 3)."""
    # Here, as no other data set needs it.
    from scipy.io import loadmat

    try:
        synsets = loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"]
    except Exception as error:  # loadmat raises whatever the damage provokes
        raise ValueError(f"{META}: {error}") from error
    # Those without children are the classes; the others are the tree above them.
    classes = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets if not row["num_children"]}
    return {f"ILSVRC2012_val_{i:08d}": classes[int(n)] for i, n in enumerate(truth.split(), start=1)}
