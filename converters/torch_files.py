"""PyTorch's own files: the zip of 1.6 and later, and the older sequence of pickles."""

import io
import struct
from typing import Any
from zipfile import ZipInfo

import torch

from converters.archives import read_zip_entries
from converters.safe_pickle import CALLS, Global, Interpreter, Storage
from runs.errors import UserError

# torch/serialization.py: a pickled 0x1950a86a20f9469cfc6c begins a file of PyTorch before 1.6, behind the
# protocol (and, from protocol 4 on, a frame).
LEGACY = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
# The pickled index of a ResNet-50 checkpoint with optimiser is under 1 MB.
MAX_INDEX = 8 << 20
_TYPES = {
    "Double": torch.float64, "Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16,
    "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8,
    "Bool": torch.bool, "ComplexFloat": torch.complex64, "ComplexDouble": torch.complex128, "Untyped": torch.uint8,
}  # fmt: skip


def _storage(pid: Any, source: dict[str, Any]) -> Storage | None:
    """What a persistent id `("storage", type, key, device, size)` stands for; None for anything else."""
    if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage" or not isinstance(pid[1], Global):
        return None
    kind = _TYPES.get(pid[1].name.rsplit(".", 1)[-1].removesuffix("Storage"))
    plain = kind is not None and isinstance(pid[2], (str, int)) and isinstance(pid[4], int) and pid[4] >= 0
    return Storage(str(pid[2]), kind, pid[4], source) if plain and kind else None


def read_torch_zip(data: bytes, directory: list[ZipInfo]) -> tuple[Any, set[str], str]:
    """(the object tree, the names in its pickle, what the checksums say) of a zip that torch.save wrote.

    Raises:
        UserError: it is damaged, holds code, or is another kind of zip.
    """
    names = [entry.filename for entry in directory]
    index = next((name for name in names if name.endswith("/data.pkl") and name.count("/") == 1), None)
    if any(name.endswith(("/constants.pkl", "/archive_format")) or "/code/" in name for name in names):
        kind = "a torch.export archive" if any(name.endswith("/archive_format") for name in names) else "TorchScript"
        raise UserError(f"{kind}, which holds code; save the model's state_dict() with torch.save instead")
    if index is None:
        raise UserError(
            f"a zip, but neither PyTorch's nor NumPy's ({', '.join(names[:3]) or 'empty'}); unpack it first"
        )
    entries, checksum = read_zip_entries(data, directory)
    if len(entries[index]) > MAX_INDEX:
        raise UserError(f"{index}: {len(entries[index]):,} bytes, more than any checkpoint's; the file is hostile")
    root = index.removesuffix("data.pkl")
    if bytes(entries.get(f"{root}byteorder", b"little")) != b"little":
        raise UserError("written on a big-endian machine; load and save it there as safetensors")
    storages = {name.removeprefix(f"{root}data/"): part for name, part in entries.items()}
    interpreter = Interpreter(io.BytesIO(entries[index]), lambda pid: _storage(pid, storages))
    return interpreter.load(), interpreter.names, checksum


def read_torch_legacy(data: bytes) -> tuple[Any, set[str]]:
    """(the object tree, the names in its pickles) of a file of PyTorch before 1.6.

    Raises:
        UserError, ValueError and the like: it is damaged.
    """
    storages: dict[str, Any] = {}
    file = io.BytesIO(data)
    sizes: dict[str, Storage] = {}

    def remember(pid: Any) -> Any:
        found = _storage(pid, storages)
        if found:
            sizes[found.key] = found
        return found

    interpreter = Interpreter(file, remember)
    # Magic number, protocol, system, the object, the storages' keys (torch/serialization.py, `_legacy_save`).
    *_, tree, keys = (interpreter.load() for _ in range(5))
    place = file.tell()
    for key in map(str, keys):
        (count,) = struct.unpack("<q", data[place : place + 8])
        if key not in sizes or count != sizes[key].size:
            raise UserError(f"storage {key}: {count:,} values where the index says otherwise; the file is damaged")
        size = count * sizes[key].dtype.itemsize
        # Not aligned in the file, so copied.
        storages[key] = bytearray(data[place + 8 : place + 8 + size])
        place += 8 + size
    return tree, interpreter.names


# Tensors in a plain pickle: each storage is a whole file of torch.save (torch/storage.py, `__reduce__`).
CALLS["torch.storage._load_from_bytes"] = lambda data: read_torch_legacy(bytes(data))[0]
