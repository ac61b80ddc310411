"""`ROOT/<split>*.parquet`: image sets as Hugging Face `datasets` writes them.

A row holds an image file's bytes, `image: struct<bytes, path>`, and a class number, `label`; the class names lie in the
schema's metadata. Labels are read at the start, images by row group when they are asked for, so that shuffling and
exact resume work as with files.
"""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from pretrain.config import DataConfig
from pretrain.data.base import BrokenImage, Images
from runs.errors import UserError

# Row groups that a process keeps: enough to read in order. A shuffled epoch decompresses a whole group for each image,
# 15 ms where the group holds 100 of ImageNet's, as `datasets` wrote them up to version 4 (its config.py,
# PARQUET_ROW_GROUP_SIZE_FOR_IMAGE_DATASETS), and 1.5 ms where it holds 10.
KEPT = 4


def open_parquet(config: DataConfig, split: str) -> Images:
    """List the rows of `ROOT/<split>*.parquet`; `val*` takes in `datasets`' own name, `validation`.

    Raises:
        UserError: pyarrow is missing, or a file is, or is damaged, or lacks the columns, or a label is no class number.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UserError("data.layout=parquet: the package pyarrow is missing; pip install pyarrow") from error
    root = Path(config.root)
    files = sorted(root.glob(f"{split}*.parquet"))
    if not files:
        raise UserError(f"data.root={root}: no {split}*.parquet in it; give the folder that holds the files themselves")
    names: list[str] = []
    labels: list[int] = []
    groups: list[tuple[int, int, int]] = []  # of each row: file, row group, row in it
    metadata, classes, image = [], None, ""
    for number, file in enumerate(files):
        try:
            with parquet.ParquetFile(file) as opened:
                metadata.append(opened.metadata)
                image, label, found = _columns(opened.schema_arrow, file)
                table = opened.read([f"{image}.path", label], use_threads=False)
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(f"{file}: not a readable Parquet file ({error}); write or download it again") from error
        if number and found != classes:
            raise UserError(f"{file}: other class names than in {files[0].name}; keep one data set in the folder")
        classes = found
        paths = table[image].combine_chunks().field("path").to_pylist()
        # The row finds the image in the file, the path is the name that its author gave it.
        names += [f"{file}:{row}" + (f":{path}" if path else "") for row, path in enumerate(paths)]
        labels += _labels(table[label].to_pylist(), found, file)
        for group in range(metadata[-1].num_row_groups):
            groups += [(number, group, row) for row in range(metadata[-1].row_group(group).num_rows)]
    if not names:
        raise UserError(f"{files[0]}: no rows; write or download it again")

    @lru_cache(maxsize=KEPT)
    def contents(number: int, group: int) -> Any:
        # Opened anew each time: there may be more files than a process may hold open, and the metadata is at hand.
        with parquet.ParquetFile(files[number], metadata=metadata[number]) as opened:
            table = opened.read_row_group(group, [f"{image}.bytes"], use_threads=False)
        return table[image].combine_chunks().field("bytes")

    def read(index: int) -> bytes:
        number, group, row = groups[index]
        try:
            content: bytes | None = contents(number, group)[row].as_py()
        except (pyarrow.ArrowException, OSError) as error:
            raise BrokenImage(names[index]) from error
        # Without bytes, the row points to a file on the machine that wrote it.
        return content or b""

    return Images(config.name, split, names, labels, classes or [str(i) for i in range(max(labels) + 1)], read)


def _columns(schema: Any, file: Path) -> tuple[str, str, list[str]]:
    """Names of the image and the label column, and class names (none where the metadata has none)."""
    notes = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = notes.get("info", {}).get("features", {})
    kinds = {kind: [n for n, f in features.items() if f.get("_type") == kind] for kind in ("Image", "ClassLabel")}
    # CIFAR's column is `img`, CIFAR-100's are `fine_label` and `coarse_label`: the first of its kind is meant.
    image = next((n for n in ["image", *kinds["Image"]] if n in schema.names), None)
    label = next((n for n in ["label", *kinds["ClassLabel"]] if n in schema.names), None)
    if image is None or label is None:
        raise UserError(f"{file}: its columns are {', '.join(schema.names)}; it must have image and label")
    if not {f.name for f in getattr(schema.field(image).type, "fields", [])} >= {"bytes", "path"}:
        raise UserError(f"{file}: column {image} is {schema.field(image).type}; it must be struct<bytes, path>")
    return image, label, features.get(label, {}).get("names", [])


def _labels(values: list[Any], classes: list[str], file: Path) -> list[int]:
    for row, value in enumerate(values):
        # Test sets whose labels are secret have -1.
        if not isinstance(value, int) or value < 0 or (classes and value >= len(classes)):
            raise UserError(f"{file}: label {value} of row {row} is no class number; use a split that has labels")
    return values
