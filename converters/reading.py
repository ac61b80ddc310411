"""From a file of any kind to named tensors and settings, without running anything that the file says.

Readers, chosen by the file's first bytes: PyTorch's zip and older formats, safetensors (also sharded, by their index),
NumPy archives, plain pickles (Detectron2, Caffe2, Haiku, torch), msgpack (Flax).
"""

import contextlib
import hashlib
import io
import json
import math
import struct
import warnings
import zipfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from converters import safe_pickle, torch_files
from converters.safe_pickle import ObjectTree, OpaqueTensor, StandIn, TensorData
from converters.untrusted_files import (
    INDEX,
    MAX_EXPANSION,
    SHARD,
    SLACK,
    read_weight_map,
    read_with_sha256,
    unpack_containers,
)
from runs.errors import UserError
from runs.files import unpack_arrays

# Nesting of the deepest layout read here: Flax's parameter tree (10 levels).
MAX_DEPTH = 16
# A ResNet-152 with optimiser and momentum copy has some 5,000 tensors.
MAX_TENSORS = 100_000
# A list of networks is short; of statistics over a training it is long.
MAX_ITEMS = 64
# A configuration as text (MMEngine keeps its whole file).
MAX_TEXT = 200_000

Array = Tensor | np.ndarray[Any, Any] | OpaqueTensor


@dataclass
class Contents:
    """What a file holds.

    Attributes:
        tensors: path -> array; nested dictionaries' keys are joined by "/": "state_dict/module.encoder.conv1.weight".
        entries: the top-level names, tensors or not.
        reader: how the file was read, outermost container first, e.g. "gzip, torch zip".
        sha256: of the bytes that were read.
        checksum: what the format's own checksums say.
        provenance: the `provenance` entry of a file that this project wrote, else empty.
        settings: path -> text, number, or tuple of numbers, beside the tensors.
        names: the classes that a pickle names.
    """

    tensors: dict[str, Array]
    entries: list[str]
    reader: str
    sha256: str
    checksum: str
    provenance: dict[str, Any]
    settings: dict[str, Any]
    names: Collection[str]


def read_checkpoint(path: Path) -> Contents:
    """Read a checkpoint file.

    Raises:
        UserError: the file is unreadable, damaged, hostile or of no known kind.
    """
    with prefix_errors(path, "damaged or truncated ({}); fetch or write it again"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that the file's bytes are read-only
        data, digest = read_with_sha256(path)
        inner, containers = unpack_containers(data)
        if path.name.endswith(INDEX):
            digest, tree = _read_shards(path, data)
        elif SHARD.search(path.name):
            raise UserError(f"one of several files; give the file …{INDEX} beside it, which names them all")
        else:
            tree = _read(inner)
        tensors, settings = arrays_and_settings(tree.content)
    top = tree.content if isinstance(tree.content, dict) else {}
    provenance = top.get("provenance")
    return Contents(
        tensors=tensors,
        entries=[str(key) for key in top],
        reader=", ".join([*containers, tree.kind]),
        sha256=digest,
        checksum=tree.checksum,
        provenance=provenance if isinstance(provenance, dict) else {},
        settings=settings,
        names=tree.names,
    )


@contextlib.contextmanager
def prefix_errors(path: Path, otherwise: str, foreign: tuple[type[Exception], ...] = (Exception,)) -> Iterator[None]:
    """Let errors begin with the file; `otherwise` words those of other libraries, which are of the types `foreign`."""
    try:
        yield
    except UserError as error:
        raise error if str(error).startswith(f"{path}: ") else UserError(f"{path}: {error}") from error
    except MemoryError as error:
        raise UserError(f"{path}: needs more memory than its size can explain; fetch it again") from error
    except foreign as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
        raise UserError(f"{path}: {otherwise.format(reason)}") from error


def _read(data: bytes) -> ObjectTree:
    if data.startswith(b"PK\x03\x04"):
        return _read_zip(data)
    if data[:1] == b"\x80" and torch_files.LEGACY in data[:24]:
        return torch_files.read_torch_legacy(data)
    if data[8:9] == b"{":
        return ObjectTree(_read_safetensors(data), "safetensors")
    if (data[0] == 0x80 and data[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")) or data[:1] in (b"(", b"}", b"]", b"c"):
        return safe_pickle.parse_pickle(data)
    if 0x81 <= data[0] <= 0x8F or data[0] in (0xDE, 0xDF):
        return ObjectTree(_read_msgpack(data), "msgpack")
    raise UserError(
        "of no known kind; known: PyTorch, safetensors, NumPy .npz, pickle, msgpack, and these in gzip or tar"
    )


def _read_zip(data: bytes) -> ObjectTree:
    archive = _open_zip(data)
    names = archive.namelist()
    if names and all(name.endswith(".npy") for name in names):
        try:
            arrays = unpack_arrays(data, most=MAX_EXPANSION * len(data) + SLACK)
        except ValueError as error:
            raise UserError(f"no plain arrays ({error}); write them again with numpy.savez") from error
        return ObjectTree(arrays, "NumPy npz", f"CRC-32 of {len(names)} parts")
    return torch_files.read_torch_zip(archive)


def _open_zip(data: bytes) -> zipfile.ZipFile:
    """A zip whose directory is sound: unique names, sizes that the file can hold.

    Raises:
        UserError: the archive is damaged, its parts disagree, or it claims more than `MAX_EXPANSION` times its size.
    """
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise UserError(f"damaged or truncated archive ({error}); fetch or write it again") from error
    entries = archive.infolist()
    if len({entry.filename for entry in entries}) != len(entries):
        raise UserError("damaged archive (an entry occurs twice); fetch or write it again")
    if any(entry.flag_bits & 0x1 for entry in entries):
        raise UserError("an encrypted archive; decrypt it first")
    packed, unpacked = (sum(getattr(e, size) for e in entries) for size in ("compress_size", "file_size"))
    if packed > len(data) or unpacked > MAX_EXPANSION * len(data) + SLACK:
        raise UserError("the archive claims to hold more than it can, as bombs do; fetch it again")
    # The end stand_in: a number of entries, the directory's size and its place (APPNOTE.TXT 4.3.16; 0xFFFF… in zip64).
    end = data.rindex(b"PK\x05\x06")
    count, size, place = struct.unpack("<HII", data[end + 10 : end + 20])
    wrong = count not in (len(entries), 0xFFFF) or place not in (archive.start_dir, 0xFFFFFFFF)
    if wrong or (size != 0xFFFFFFFF and not 0 <= end - place - size <= 76):
        raise UserError("damaged archive (its end stand_in disagrees with its directory); fetch or write it again")
    return archive


def _read_safetensors(data: bytes) -> dict[str, Any]:
    from safetensors.torch import load

    size = struct.unpack("<Q", data[:8])[0]
    if size > torch_files.MAX_INDEX or data.count(b'"dtype"', 8, 8 + size) > MAX_TENSORS:
        raise UserError(f"a header of {size:,} bytes, far more than a checkpoint's; the file is hostile")
    header = json.loads(data[8 : 8 + size])
    metadata, loaded = header.pop("__metadata__", None) or {}, load(data)
    tree: dict[str, Any] = {name: loaded[name] for name in header}  # in the file's order
    if "provenance" in metadata:
        metadata["provenance"] = json.loads(metadata["provenance"])
    return metadata | tree


def _read_shards(path: Path, data: bytes) -> tuple[str, ObjectTree]:
    """Join the files that a Hugging Face index names; the sha256 is of the index and its shards, one after another."""
    stated, digest = read_weight_map(data), hashlib.sha256(data)
    names = sorted(set(stated.values()))
    tree: dict[str, Any] = {}
    checksums = set()
    for name in names:
        part, _ = read_with_sha256(path.with_name(name))
        digest.update(part)
        shard = _read(part)
        if wrong := set(shard.content) ^ {tensor for tensor, file in stated.items() if file == name}:
            raise UserError(f"{min(wrong)}: in {name} or in the index, not in both; fetch all of them again")
        tree |= shard.content
        checksums.add(shard.checksum)
    return digest.hexdigest(), ObjectTree(tree, f"{len(names)} shards", ", ".join(sorted(checksums)))


def _read_msgpack(data: bytes) -> Any:
    import msgpack

    def extension(code: int, packed: bytes) -> Any:
        # flax/serialization.py: 1 is an array, packed as (shape, name of the type, bytes).
        if code != 1:
            return None
        shape, name, values = msgpack.unpackb(packed, strict_map_key=False)
        kind = np.dtype(name if name in ("float32", "float16", "float64", "int32", "int64") else "V1")
        if kind.kind == "V" or math.prod(shape) * kind.itemsize != len(values):
            raise UserError(f"an array of type {name} and shape {shape} with {len(values)} bytes; save it as float32")
        return np.frombuffer(values, dtype=kind).reshape(shape)

    return msgpack.unpackb(data, ext_hook=extension, strict_map_key=False, raw=False)


def arrays_and_settings(tree: Any) -> tuple[dict[str, Array], dict[str, Any]]:
    """Every array and every setting in nested dictionaries and lists, by its path; each of them is visited once."""
    arrays: dict[str, Array] = {}
    settings: dict[str, Any] = {}
    seen: dict[int, Any] = {}  # holds the objects, so that no other gets their number
    todo: list[tuple[tuple[str, ...], Any]] = [((), tree)]
    while todo:
        path, value = todo.pop()
        if isinstance(value, TensorData):
            value = value.tensor()
        elif isinstance(value, StandIn) and (array := value.array_or_none()) is not None:
            value = array
        elif isinstance(value, StandIn):
            if id(value) in seen:
                continue
            seen[id(value)] = value
            value = value.named_contents()
        if isinstance(value, (list, tuple)) and not _is_setting(value) and id(value) not in seen:
            seen[id(value)] = value
            value = _by_name(value)
        if isinstance(value, (Tensor, np.ndarray, OpaqueTensor)):
            if path:
                arrays["/".join(path)] = value
            if len(arrays) > MAX_TENSORS:
                raise UserError(f"more than {MAX_TENSORS:,} tensors, which no checkpoint has; the file is hostile")
        elif isinstance(value, dict) and id(value) not in seen and len(path) < MAX_DEPTH:
            seen[id(value)] = value
            # Reversed, so that tensors come out in the file's order.
            todo += [((*path, key), item) for key, item in reversed(value.items()) if isinstance(key, str)]
        elif path and len(settings) < MAX_TENSORS and _is_setting(value):
            settings["/".join(path)] = tuple(value) if isinstance(value, list) else value
    return arrays, settings


def _by_name(items: Sequence[Any]) -> dict[str, Any]:
    """Pairs of a name and a value as a dictionary; of other items the first, by their numbers."""
    if items and all(isinstance(i, (list, tuple)) and len(i) == 2 and isinstance(i[0], str) for i in items):
        return dict(items)
    return {str(number): item for number, item in enumerate(items[:MAX_ITEMS])}


def _is_setting(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return 0 < len(value) <= 8 and all(isinstance(item, (int, float)) for item in value)
    return isinstance(value, (bool, int, float)) or (isinstance(value, str) and len(value) <= MAX_TEXT)
