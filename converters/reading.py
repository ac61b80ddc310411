"""From a file of any kind to named tensors, without running anything that the file says.

Readers, tried by the file's first bytes: PyTorch's zip and older formats (`weights_only`, memory-mapped), safetensors,
NumPy archives, plain pickles (Detectron2, Caffe2, Haiku), msgpack (Flax).
"""

import io
import json
import mmap
import pickle
import re
import struct
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from converters import safe_pickle
from converters.containers import check_regular, check_zip, read_entry, read_start, unpacked
from runs.errors import UserError

# torch/serialization.py: a pickled 0x1950a86a20f9469cfc6c begins a file of PyTorch before 1.6.
LEGACY_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
# The pickled index of a ResNet-50 checkpoint with optimiser is under 1 MB.
MAX_INDEX = 8 << 20
# Nesting of the deepest layout read here: Flax's parameter tree (10 levels).
MAX_DEPTH = 16

# What a state dict needs; any other name of torch in a file that `weights_only` refuses is the reason for it.
_PLAIN_TORCH = re.compile(
    r"torch\.(\w+|_utils\._rebuild_\w+|(storage\.)?\w+Storage|nn\.parameter\.\w+|serialization\._get_layout)"
)

Array = Tensor | np.ndarray[Any, Any]


@dataclass
class Contents:
    """What a file holds.

    Attributes:
        tensors: path -> array; nested dictionaries' keys are joined by "/": "state_dict/module.encoder.conv1.weight".
        entries: the top-level names, tensors or not.
        reader: how the file was read, outermost container first, e.g. "gzip, torch zip".
        provenance: the `provenance` entry of a pkl that this project wrote, else empty.
    """

    tensors: dict[str, Array]
    entries: list[str]
    reader: str
    provenance: dict[str, Any] = field(default_factory=dict)


def read(path: Path, trust: bool = False) -> Contents:
    """Read a checkpoint file.

    Args:
        path: a regular file.
        trust: unpickle without restrictions, in a process of its own that hands back arrays alone.

    Raises:
        UserError: the file is unreadable, damaged, hostile, of no known kind, or needs `trust`.
    """
    check_regular(path)
    try:
        with warnings.catch_warnings(), unpacked(path) as (inner, containers):
            warnings.simplefilter("ignore")  # torch announces its own plans for TypedStorage
            tree, kind = _read(inner, trust)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except MemoryError as error:
        raise UserError(f"{path}: reading it needs more memory than its size can explain; fetch it again") from error
    except Exception as error:  # the readers of untrusted bytes may raise anything
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise UserError(f"{path}: damaged or truncated ({reason}); fetch or write it again") from error
    tensors = flatten(tree)
    entries = [str(key) for key in tree] if isinstance(tree, dict) else []
    provenance = tree.get("provenance") if isinstance(tree, dict) else None
    return Contents(
        tensors=tensors,
        entries=entries,
        reader=", ".join([*containers, kind]),
        provenance=provenance if isinstance(provenance, dict) else {},
    )


def _read(path: Path, trust: bool) -> tuple[Any, str]:
    start = read_start(path)
    if start.startswith(b"PK\x03\x04"):
        return _read_zip(path, trust)
    if start.startswith(LEGACY_TORCH):
        return _read_legacy_torch(path, trust), "torch before 1.6"
    header = struct.unpack("<Q", start[:8])[0] if len(start) >= 8 else 0
    if start[8:9] == b"{" and 0 < header < path.stat().st_size:
        return _read_safetensors(path), "safetensors"
    if (start[0] == 0x80 and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")) or start[:1] in (
        b"(",
        b"}",
        b"]",
        b"c",
    ):
        return _read_pickle(path, trust), "pickle"
    if 0x81 <= start[0] <= 0x8F or start[0] in (0xDE, 0xDF):
        return _read_msgpack(path), "msgpack"
    raise UserError(
        "of no known kind; known: PyTorch, safetensors, NumPy .npz, pickle, msgpack, and these in gzip or tar"
    )


def _read_zip(path: Path, trust: bool) -> tuple[Any, str]:
    with check_zip(path, compressed=True) as archive:
        names = archive.namelist()
    if names and all(name.endswith(".npy") for name in names):
        return _read_npz(path), "NumPy npz"
    index = [name for name in names if name.endswith("/data.pkl")]
    if len(index) != 1:
        raise UserError(
            f"a zip archive, but neither PyTorch's nor NumPy's ({', '.join(names[:3]) or 'empty'}); unpack it first"
        )
    if any(name.endswith("/constants.pkl") for name in names):
        raise UserError("a TorchScript archive, which holds code; save its state_dict() with torch.save instead")
    with check_zip(path, compressed=False) as archive:
        data = read_entry(archive, index[0], MAX_INDEX)
    names_in_index = safe_pickle.globals_of(io.BytesIO(data))
    return _torch_load(path, names_in_index, trust, mmap=True), "torch zip"


def _read_legacy_torch(path: Path, trust: bool) -> Any:
    names: set[str] = set()
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        for _ in range(5):  # magic number, protocol, system, the object, the storages' keys (torch/serialization.py)
            names |= safe_pickle.globals_of(view)  # type: ignore[arg-type]
    return _torch_load(path, names, trust, mmap=False)


def _torch_load(path: Path, names: set[str], trust: bool, mmap: bool) -> Any:
    if trust:
        from converters.trusted import read_trusted

        return read_trusted(path)
    safe_pickle.refuse(name for name in names if not name.startswith("torch.") and not safe_pickle.stand_in(name))
    # torch allows OrderedDict itself; what our stand-in for NumPy's constructor returns must be allowed as well.
    allowed: list[Any] = [(safe_pickle.ArrayData, "converters.safe_pickle.ArrayData")]
    for name in names - {"collections.OrderedDict"}:
        if inert := safe_pickle.stand_in(name):
            allowed.append((inert, name))
    try:
        with torch.serialization.safe_globals(allowed):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        safe_pickle.refuse(name for name in names if name.startswith("torch.") and not _PLAIN_TORCH.fullmatch(name))
        # torch wraps its reason in a page of advice to switch the protection off.
        reason = str(error).partition("WeightsUnpickler error: ")[2].strip()
        raise ValueError(reason or "not a pickled state dict") from error


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        tree: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        provenance = (file.metadata() or {}).get("provenance")
    if provenance and "provenance" not in tree:
        tree["provenance"] = json.loads(provenance)
    return tree


def _read_npz(path: Path) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    with check_zip(path, compressed=True) as archive:
        for entry in archive.infolist():
            data = io.BytesIO(read_entry(archive, entry.filename, 1 << 31))
            version = np.lib.format.read_magic(data)
            reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = reader(data)
            if dtype.hasobject:
                raise UserError(f"{entry.filename}: holds pickled objects; export plain arrays with numpy.savez")
            if int(np.prod(shape, dtype=object)) * dtype.itemsize != len(data.getvalue()) - data.tell():
                raise UserError(f"{entry.filename}: claims shape {shape}, which is not what it holds; write it again")
            data.seek(0)
            arrays[entry.filename.removesuffix(".npy")] = np.lib.format.read_array(data, allow_pickle=False)
    return arrays


def _read_pickle(path: Path, trust: bool) -> Any:
    if trust:
        from converters.trusted import read_trusted

        return read_trusted(path)
    return safe_pickle.load(path.read_bytes())


def _read_msgpack(path: Path) -> Any:
    import msgpack

    def extension(code: int, data: bytes) -> Any:
        # flax/serialization.py: 1 is an array, packed as (shape, name of the type, bytes).
        if code != 1:
            return None
        shape, name, values = msgpack.unpackb(data, strict_map_key=False)
        kind = np.dtype(name if name in ("float32", "float16", "float64", "int32", "int64") else "V1")
        if kind.kind == "V" or int(np.prod(shape, dtype=object)) * kind.itemsize != len(values):
            raise UserError(f"an array of type {name} and shape {shape} with {len(values)} bytes; save it as float32")
        return np.frombuffer(values, dtype=kind).reshape(shape)

    return msgpack.unpackb(path.read_bytes(), ext_hook=extension, strict_map_key=False, raw=False)


def flatten(tree: Any) -> dict[str, Array]:
    """Every array in nested dictionaries, by its path; each dictionary is visited once, lists are not entered."""
    found: dict[str, Array] = {}
    seen: set[int] = set()
    todo: list[tuple[tuple[str, ...], Any]] = [((), tree)]
    while todo:
        path, value = todo.pop()
        if isinstance(value, safe_pickle.ArrayData):
            value = value.array()
        if isinstance(value, safe_pickle.Record):
            value = value.content()
        if isinstance(value, (Tensor, np.ndarray)):
            if path:
                found["/".join(path)] = value
        elif isinstance(value, dict) and id(value) not in seen and len(path) < MAX_DEPTH:
            seen.add(id(value))
            # Reversed, so that tensors come out in the file's order.
            todo += [((*path, key), item) for key, item in reversed(dict.items(value)) if isinstance(key, str)]
    return found
