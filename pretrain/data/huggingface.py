"""Image sets as Hugging Face `datasets` writes them: `ROOT/<split>*.parquet`, and `ROOT/<split>/data-*.arrow`.

A row holds an image file's bytes, `image: struct<bytes, path>`, and a class number, `label`; the class names lie in the
schema's metadata. Labels are read at the start, images by group of rows when they are asked for, so that shuffling and
exact resume work as with files.
"""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from pretrain.config import DataConfig
from pretrain.data.decoding import broken_image
from pretrain.data.images import Images
from runs.errors import UserError

# Groups of rows that a process keeps: enough to read in order. A shuffled epoch decompresses a whole group for each
# image, 15 ms where the group holds 100 of ImageNet's, as `datasets` wrote them up to version 4 (its config.py,
# PARQUET_ROW_GROUP_SIZE_FOR_IMAGE_DATASETS), and 1.5 ms where it holds 10.
KEPT = 4


class ParquetFile:
    """A Parquet file, opened anew for each group: there may be more than a process may hold open.

    Attributes:
        path: the file.
        schema: of its table.
        sizes: rows of each group.
    """

    def __init__(self, path: Path) -> None:
        from pyarrow import parquet

        self.path, self._open = path, parquet.ParquetFile
        with self._open(path) as opened:
            self.metadata, self.schema = opened.metadata, opened.schema_arrow
        self.sizes = [self.metadata.row_group(number).num_rows for number in range(self.metadata.num_row_groups)]

    def column(self, name: str, group: int | None = None) -> Any:
        """A column, or one field of its values (`image.path`): of one group, or of all."""
        with self._open(self.path, metadata=self.metadata) as opened:
            if group is None:
                return _field(opened.read([name], use_threads=False), name)
            return _field(opened.read_row_group(group, [name], use_threads=False), name)


class ArrowFile:
    """A file of Arrow's stream format, mapped into memory; attributes as `ParquetFile`'s."""

    def __init__(self, path: Path) -> None:
        from pyarrow import Table, ipc, memory_map

        self.path, self._table = path, Table.from_batches
        with ipc.open_stream(memory_map(str(path))) as stream:
            self.schema, self.batches = stream.schema, list(stream)
        self.sizes = [len(batch) for batch in self.batches]

    def column(self, name: str, group: int | None = None) -> Any:
        """See `ParquetFile`."""
        batches = self.batches if group is None else [self.batches[group]]
        return _field(self._table(batches, self.schema), name)


def _field(table: Any, name: str) -> Any:
    column, _, field = name.partition(".")
    values = table[column]
    if not field:
        return values
    # By chunk: joined, the bytes of all images would be copied.
    from pyarrow import chunked_array

    return chunked_array([chunk.field(field) for chunk in values.chunks], values.type.field(field).type)


def open_parquet(config: DataConfig, split: str) -> Images:
    """List the rows of `ROOT/<split>*.parquet`; `val*` takes in `datasets`' own name, `validation`.

    Raises:
        UserError: pyarrow is missing, or a file is, or is damaged, or lacks the columns, or a label is no class number.
    """
    root = Path(config.root)
    files = sorted(root.glob(f"{split}*.parquet"))
    if not files:
        raise UserError(f"data.root={root}: no {split}*.parquet in it; give the folder that holds the files themselves")
    return _open(config, split, files)


def open_arrow(config: DataConfig, split: str) -> Images:
    """List the rows of `ROOT/<split>/data-*.arrow`, as `save_to_disk` writes them; one set without splits is `train`.

    Raises:
        UserError: see `open_parquet`.
    """
    root = Path(config.root)
    places = [root / split, root / "validation"] if split == "val" else [root / split, root]
    files = next((found for place in places if (found := sorted(place.glob("data-*.arrow")))), [])
    if not files:
        raise UserError(f"data.root={root}: no {places[0].name}/data-*.arrow in it; give the folder of save_to_disk")
    return _open(config, split, files)


def _open(config: DataConfig, split: str, paths: list[Path]) -> Images:
    try:
        import pyarrow
    except ImportError as error:
        raise UserError(f"data.layout={config.layout}: needs the package pyarrow; pip install pyarrow") from error
    names: list[str] = []
    labels: list[int] = []
    groups: list[tuple[int, int, int]] = []  # of each row: file, group, row in it
    files: list[ParquetFile | ArrowFile] = []
    image, label, classes = "", "", list[str]()
    for number, path in enumerate(paths):
        try:
            file = ParquetFile(path) if config.layout == "parquet" else ArrowFile(path)
            image, label, found = _columns(file.schema, path)
            inside = file.column(f"{image}.path").to_pylist()
            values = file.column(label).to_pylist() if label else [0] * len(inside)
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(f"{path}: not a readable {config.layout} file ({error}); fetch it again") from error
        if number and found != classes:
            raise UserError(f"{path}: other class names than in {paths[0].name}; keep one data set in the folder")
        classes = found
        files.append(file)
        labels += _labels(values, found, path)
        # The row finds the image in the file, the path is the name that its author gave it.
        names += [f"{path}:{row}" + (f":{name}" if name else "") for row, name in enumerate(inside)]
        for group, size in enumerate(file.sizes):
            groups += [(number, group, row) for row in range(size)]
    if not names:
        raise UserError(f"{paths[0]}: no rows; fetch it again")
    if label and not classes:
        classes = [str(number) for number in range(max(labels) + 1)]

    @lru_cache(maxsize=KEPT)
    def contents(number: int, group: int) -> Any:
        return files[number].column(f"{image}.bytes", group)

    def read(index: int) -> bytes:
        number, group, row = groups[index]
        try:
            content: bytes | None = contents(number, group)[row].as_py()
        except (pyarrow.ArrowException, OSError) as error:
            raise broken_image(names[index]) from error
        # Without bytes, the row points to a file on the machine that wrote it.
        return content or b""

    return Images(config.name, split, names, labels, classes, read)


def _columns(schema: Any, file: Path) -> tuple[str, str, list[str]]:
    """Names of the image and the label column (empty: there is none), and class names, where the metadata has them."""
    notes = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = notes.get("info", {}).get("features", {})
    kinds = {kind: [n for n, f in features.items() if f.get("_type") == kind] for kind in ("Image", "ClassLabel")}
    # CIFAR's column is `img`, CIFAR-100's are `fine_label` and `coarse_label`: the first of its kind is meant.
    image = next((n for n in ["image", *kinds["Image"]] if n in schema.names), None)
    label = next((n for n in ["label", *kinds["ClassLabel"]] if n in schema.names), "")
    if image is None:
        raise UserError(f"{file}: its columns are {', '.join(schema.names)}; it must have image, and label for classes")
    if not {f.name for f in getattr(schema.field(image).type, "fields", [])} >= {"bytes", "path"}:
        raise UserError(f"{file}: column {image} is {schema.field(image).type}; it must be struct<bytes, path>")
    return image, label, features.get(label, {}).get("names", [])


def _labels(values: list[Any], classes: list[str], file: Path) -> list[int]:
    for row, value in enumerate(values):
        # Test sets whose labels are secret have -1.
        if not isinstance(value, int) or value < 0 or (classes and value >= len(classes)):
            raise UserError(f"{file}: label {value} of row {row} is no class number; use a split that has labels")
    return values
