"""Image sets as Hugging Face `datasets` writes them: `ROOT/<split>*.parquet`, and `ROOT/<split>/data-*.arrow`.

A row holds an image file's bytes, `image: struct<bytes, path>`, and a class number, `label`; the class names lie in the
schema's metadata. Labels are read at the start, images by group of rows when they are asked for, so that shuffling and
exact resume work as with files.
"""

import json
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from pretrain.config import DataConfig
from pretrain.data.decoding import broken_image
from pretrain.data.images import Images, names_of_numbered_classes
from runs.errors import UserError

# Groups of rows that a process keeps: enough to read in order. A shuffled epoch decompresses a whole group for each
# image, 15 ms where the group holds 100 of ImageNet's, as `datasets` wrote them up to version 4 (its config.py,
# PARQUET_ROW_GROUP_SIZE_FOR_IMAGE_DATASETS), and 1.5 ms where it holds 10.
KEPT = 4


class _TableFile(NamedTuple):
    """One file, in groups of rows that are read when they are asked for."""

    schema: Any
    """Of its table."""
    sizes: list[int]
    """Rows of each group."""
    read: Callable[[str, Sequence[int]], Any]
    """Reads a column, or one field of its values (`image.path`), of some groups as a table."""

    def column(self, name: str, groups: Sequence[int]) -> Any:
        """The values of a column, or of one field of its values."""
        from pyarrow.compute import struct_field

        column, *field = name.split(".")
        values = self.read(name, groups)[column]
        return struct_field(values, field) if field else values


def _open_parquet_file(path: Path) -> _TableFile:
    """Open a Parquet file."""
    from pyarrow import parquet

    with parquet.ParquetFile(path) as opened:
        metadata, schema = opened.metadata, opened.schema_arrow

    def read(name: str, groups: Sequence[int]) -> Any:
        # Opened anew each time: there may be more files than a process may hold open.
        with parquet.ParquetFile(path, metadata=metadata) as opened:
            return opened.read_row_groups(groups, [name], use_threads=False)

    return _TableFile(schema, [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)], read)


def _open_arrow_file(path: Path) -> _TableFile:
    """Map a file of Arrow's stream or file format into memory, as one group."""
    from pyarrow import ipc, memory_map

    source = memory_map(str(path))
    open_table = ipc.open_file if source.read(6) == b"ARROW1" else ipc.open_stream
    source.seek(0)
    table = open_table(source).read_all()
    return _TableFile(table.schema, [len(table)], lambda *_: table)


def open_parquet(config: DataConfig, split: str) -> Images:
    """List the rows of `ROOT/<split>*.parquet`; `val*` takes in `datasets`' own name, `validation`.

    Raises:
        UserError: pyarrow is missing, or a file is, or is damaged, or lacks the columns, or a label is no class number.
    """
    root = Path(config.root)
    files = next((found for name in (split, f"{split}*/") if (found := sorted(root.glob(f"{name}*.parquet")))), [])
    return _open(config, split, files, f"{split}*.parquet")


def open_arrow(config: DataConfig, split: str) -> Images:
    """As `open_parquet`, of `ROOT/<split>/data-*.arrow`, written by `save_to_disk`; a set without splits is `train`."""
    root = Path(config.root)
    places = [root / split, root / "validation"] if split == "val" else [root / split, root]
    files = next((found for place in places if (found := sorted(place.glob("data-*.arrow")))), [])
    return _open(config, split, files, f"{split}/data-*.arrow")


def _open(config: DataConfig, split: str, paths: list[Path], pattern: str) -> Images:
    try:
        import pyarrow
    except ImportError as error:
        raise UserError(f"data.layout={config.layout}: needs the package pyarrow; pip install pyarrow") from error
    root = Path(config.root)
    if not paths:
        there = sorted(entry.name for entry in root.iterdir())[:5] if root.is_dir() else []
        but = f", but {', '.join(there)}" if there else ""
        raise UserError(
            f"data.root={root}: no {pattern} in it{but}; give the folder that holds it, or rename the split"
        )
    _check_complete(paths)
    names: list[str] = []
    values: list[Any] = []
    groups: list[tuple[int, int, int]] = []  # of each row: file, group, row in it
    files: list[_TableFile] = []
    image, label, classes = "", "", list[str]()
    for number, path in enumerate(paths):
        try:
            file = _open_parquet_file(path) if config.layout == "parquet" else _open_arrow_file(path)
            image, label, found = _columns(file.schema, path)
            every = range(len(file.sizes))
            inside = file.column(f"{image}.path", every).to_pylist()
            values += file.column(label, every).to_pylist() if label else [0] * len(inside)
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(f"{path}: not a readable {config.layout} file ({error}); fetch it again") from error
        if number and found != classes:
            raise UserError(f"{path}: other class names than in {paths[0].name}; keep one data set in the folder")
        classes = found
        files.append(file)
        # The row finds the image in the file, the path is the name that its author gave it.
        names += [f"{path}:{row}" + (f":{name}" if name else "") for row, name in enumerate(inside)]
        for group, size in enumerate(file.sizes):
            groups += [(number, group, row) for row in range(size)]
    if not names:
        raise UserError(f"{paths[0]}: no rows; fetch it again")
    if label and not classes and all(isinstance(value, str) for value in values):
        classes = sorted(set(values))
        numbers = {name: number for number, name in enumerate(classes)}
        values = [numbers[value] for value in values]
    for name, value in zip(names, values, strict=True):
        # Test sets whose labels are secret have -1.
        if not isinstance(value, int) or value < 0 or (classes and value >= len(classes)):
            raise UserError(f"{name}: its {label} {value} is no class number; use a split that has labels")
    labels = [int(value) for value in values]
    if label and not classes:
        classes = names_of_numbered_classes(labels, paths[0].parent)

    # Arrow's columns are views of the mapped file.
    @lru_cache(maxsize=KEPT if config.layout == "parquet" else None)
    def contents(number: int, group: int) -> Any:
        return files[number].column(f"{image}.bytes", [group])

    def read(index: int) -> bytes:
        number, group, row = groups[index]
        try:
            content: bytes | None = contents(number, group)[row].as_py()
        except (pyarrow.ArrowException, OSError) as error:
            raise broken_image(names[index]) from error
        if content is None:
            raise broken_image(names[index], "names a file on the machine that wrote it; store the images' bytes")
        return content

    return Images(config.name, split, names, labels, classes, read)


def _columns(schema: Any, file: Path) -> tuple[str, str, list[str]]:
    """Names of the image and the label column (empty: there is none), and class names, where the metadata has them."""
    try:
        notes = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = notes.get("info", {}).get("features", {})
        kinds = {kind: [n for n, f in features.items() if f.get("_type") == kind] for kind in ("Image", "ClassLabel")}
    except (ValueError, AttributeError) as error:
        raise UserError(f"{file}: its schema's metadata is damaged ({error}); fetch it again") from error
    # CIFAR's column is `img`, CIFAR-100's are `fine_label` and `coarse_label`: the first of its kind is meant.
    image = next((n for n in ["image", *kinds["Image"]] if n in schema.names), None)
    label = next((n for n in ["label", *kinds["ClassLabel"]] if n in schema.names), "")
    if image is None:
        raise UserError(f"{file}: its columns are {', '.join(schema.names)}; it must have image, and label for classes")
    if not {f.name for f in getattr(schema.field(image).type, "fields", [])} >= {"bytes", "path"}:
        raise UserError(f"{file}: column {image} is {schema.field(image).type}; it must be struct<bytes, path>")
    return image, label, features.get(label, {}).get("names", [])


def _check_complete(paths: list[Path]) -> None:
    """Check that `…-00000-of-00003…` has its other parts: a fetch that broke off leaves some out."""
    parts: dict[tuple[str, int], set[int]] = {}
    for path in paths:
        if found := re.match(r"(.*-)(\d+)-of-(\d+)", path.name):
            parts.setdefault((found[1], int(found[3])), set()).add(int(found[2]))
    for (start, count), numbers in parts.items():
        if len(numbers) < count:
            missing = next(number for number in range(count) if number not in numbers)
            name = paths[0].with_name(f"{start}{missing:05d}-of-{count:05d}{paths[0].suffix}")
            raise UserError(f"{name}: missing, {len(numbers)} of {count} parts are there; fetch the others")
