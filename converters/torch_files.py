"""PyTorch's own files: the zip of 1.6 and later, and the older sequence of pickles."""

import io
import struct
import zipfile
from typing import Any

import torch

from converters.safe_pickle import CALLS, Global, ObjectTree, StandInUnpickler, Storage
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


def read_torch_zip(archive: zipfile.ZipFile) -> ObjectTree:
    """Read a zip that torch.save wrote.

    Raises:
        UserError: it holds code, is another kind of zip, or has entries that PyTorch would not write.
        BadZipFile, ValueError and the like: it is damaged; an entry differs from its CRC-32.
    """
    names = archive.namelist()
    index = next((name for name in names if name.endswith("/data.pkl") and name.count("/") == 1), None)
    if any(name.endswith(("/constants.pkl", "/archive_format")) or "/code/" in name for name in names):
        kind = "a torch.export archive" if any(name.endswith("/archive_format") for name in names) else "TorchScript"
        raise UserError(f"{kind}, which holds code; save the model's state_dict() with torch.save instead")
    if index is None:
        raise UserError(
            f"a zip, but neither PyTorch's nor NumPy's ({', '.join(names[:3]) or 'empty'}); unpack it first"
        )
    if archive.getinfo(index).file_size > MAX_INDEX:
        raise UserError(f"{index}: larger than any checkpoint's; the file is hostile")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
        raise UserError("a PyTorch archive with compressed entries, which PyTorch never writes; save it again")
    summed = any(entry.CRC for entry in archive.infolist())
    if not summed:  # torch.serialization.set_crc32_options(False) writes zeros
        for entry in archive.infolist():
            del entry.CRC
    entries = {name: archive.read(name) for name in names}
    root = index.removesuffix("data.pkl")
    if entries.get(f"{root}byteorder", b"little") != b"little":
        raise UserError("written on a big-endian machine; load and save it there as safetensors")
    storages = {name.removeprefix(f"{root}data/"): part for name, part in entries.items()}
    unpickler = StandInUnpickler(io.BytesIO(entries[index]), lambda pid: _storage(pid, storages))
    checksum = f"CRC-32 of {len(entries)} parts" if summed else "no checksum in this file"
    return ObjectTree(unpickler.load(), "torch zip", checksum, unpickler.names)


def read_torch_legacy(data: bytes) -> ObjectTree:
    """Read a file of PyTorch before 1.6.

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

    unpickler = StandInUnpickler(file, remember)
    # Magic number, protocol, system, the object, the storages' keys (torch/serialization.py, `_legacy_save`).
    *_, tree, keys = (unpickler.load() for _ in range(5))
    place = file.tell()
    for key in map(str, keys):
        (count,) = struct.unpack("<q", data[place : place + 8])
        if key not in sizes or count != sizes[key].size:
            raise UserError(f"storage {key}: {count:,} values where the index says otherwise; the file is damaged")
        size = count * sizes[key].dtype.itemsize
        # Not aligned in the file, so copied.
        storages[key] = bytearray(data[place + 8 : place + 8 + size])
        place += 8 + size
    return ObjectTree(tree, "torch before 1.6", names=unpickler.names)


# Tensors in a plain pickle: each storage is a whole file of torch.save (torch/storage.py, `__reduce__`).
CALLS["torch.storage._load_from_bytes"] = lambda data: read_torch_legacy(bytes(data)).content
