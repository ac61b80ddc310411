"""Open untrusted files: read once, hashed as read; gzip, bzip2, xz and tar unpacked within limits."""

import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import re
import stat
import sys
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast

from runs.errors import UserError
from runs.files import read_bytes

# Trained weights shrink by a tenth or two; an expansion beyond this is a bomb, not a checkpoint.
MAX_EXPANSION = 16
# Allowance for small files, where headers dominate and compression can be high.
SLACK = 1 << 20
# Two layers are `.tar.gz`; more has no use and makes bombs.
MAX_LAYERS = 2

_COMPRESSED: dict[bytes, tuple[str, Callable[[Any], Any]]] = {
    b"\x1f\x8b": ("gzip", lambda file: gzip.GzipFile(fileobj=file)),
    b"BZh": ("bzip2", bz2.BZ2File),
    b"\xfd7zXZ\x00": ("xz", lzma.LZMAFile),
}
# What people give by mistake, by its first bytes; capitals do not matter.
_MISTAKES: dict[bytes, str] = {
    b"version https://git-lfs": "a Git LFS pointer, not the file itself; fetch it with `git lfs pull`",
    **dict.fromkeys(
        (b"<!doctype", b"<html", b"<?xml"),
        "a web page or a server's message, not a checkpoint; the download failed, fetch it again",
    ),
    b"\x89HDF": "an HDF5 file; export its arrays with numpy.savez",
    b"\x93NUMPY": "a single array; store all arrays in one file with numpy.savez",
    b"\x57\xfb\x80\x8b": "a TensorFlow table; export the variables with numpy.savez, see docs/converters.md",
}
# How the name of an index of several files ends (Hugging Face), and one of them.
INDEX = ".index.json"
SHARD = re.compile(r"-\d+-of-(?!0*1\.)\d+\.(safetensors|bin)")
_DCP = "python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER OUT.pth"
# Sharded checkpoints are folders: a file that only such a folder has, and what to do.
_FOLDERS = {
    ".metadata": f"a sharded checkpoint of torch.distributed; join it with `{_DCP}`",
    "zero_to_fp32.py": "a DeepSpeed checkpoint; join it with `python zero_to_fp32.py . OUT` in that folder",
    "model.safetensors.index.json": "sharded safetensors; give the file model.safetensors.index.json in it",
    "pytorch_model.bin.index.json": "a sharded checkpoint; give the file pytorch_model.bin.index.json in it",
}


def check_regular(path: Path) -> None:
    """Raise UserError unless `path` is a readable, non-empty, regular file; devices and pipes are never opened."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read ({reason}); check the path and its permissions") from None
    if stat.S_ISDIR(status.st_mode):
        kind = next((kind for name, kind in _FOLDERS.items() if (path / name).exists()), None)
        raise UserError(f"{path}: {kind or 'a folder; give the checkpoint file in it'}")
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path}: no regular file (a device, pipe or socket); give a checkpoint file")
    if status.st_size == 0:
        raise UserError(f"{path}: the file is empty; fetch or write it again")
    if path.suffix == ".distcp":
        raise UserError(f"{path}: one part of a sharded checkpoint of torch.distributed; join it with `{_DCP}`")


def read_with_sha256(path: Path) -> tuple[bytes, str]:
    """The file's bytes and the sha256 of exactly these.

    The file is opened once and read once, so another file under its name, or a change in it, never mixes two contents.
    """
    check_regular(path)
    data = read_bytes(path, sys.maxsize)
    return data, hashlib.sha256(data).hexdigest()


def read_weight_map(index: bytes) -> dict[str, str]:
    """Tensor -> file of an index of several files, all in its own folder.

    Raises:
        UserError: it names files elsewhere, or is no index.
    """
    try:
        found = json.loads(index)["weight_map"]
        names = {Path(name).name: name for name in found.values()}
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise UserError("no index of several files (a weight_map of names); fetch it again") from error
    if any(name != file for name, file in names.items()) or len(names) > 1000:
        raise UserError("names files outside its folder; the file is hostile")
    return found


def unpack_containers(data: bytes, max_layers: int = MAX_LAYERS) -> tuple[bytes, list[str]]:
    """The innermost content of compressed and tar containers, and the containers' names from the outside in.

    Raises:
        UserError: it is certainly no checkpoint; a container is damaged, nested too deep, holds not exactly one
            checkpoint, or expands beyond `MAX_EXPANSION` times its size.
    """
    for magic, reason in _MISTAKES.items():
        if data[:512].removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(magic.lower()):
            raise UserError(reason)
    kind = next(((name, opener) for magic, (name, opener) in _COMPRESSED.items() if data.startswith(magic)), None)
    if kind is None and data[257:262] != b"ustar":
        return data, []
    if max_layers == 0:
        raise UserError(f"containers nested deeper than {MAX_LAYERS}; unpack the file first")
    limit = MAX_EXPANSION * len(data) + SLACK
    try:
        if kind is not None:
            with kind[1](io.BytesIO(data)) as source:
                inner = _read(source, limit)
        else:
            with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
                inner = _read(_only_member(archive), limit)
    except (EOFError, OSError, lzma.LZMAError, tarfile.TarError, ValueError, zlib.error) as error:
        raise UserError(f"damaged container ({error}); fetch the file again") from error
    found, names = unpack_containers(inner, max_layers - 1)
    return found, [kind[0] if kind else "tar", *names]


def _only_member(archive: tarfile.TarFile) -> IO[bytes]:
    members = [member for member in archive if member.isfile() and not Path(member.name).name.startswith(".")]
    if {"pickle", "storages", "tensors"} <= {member.name for member in members}:
        raise UserError("PyTorch's tar format of before 2017; load and save it with PyTorch 1.x first")
    if len(members) != 1:
        names = ", ".join(member.name for member in members[:4]) or "none"
        raise UserError(f"a tar with {len(members)} files ({names}); unpack it and give the checkpoint")
    return cast(IO[bytes], archive.extractfile(members[0]))


def _read(source: IO[bytes], limit: int) -> bytes:
    chunks, total = [], 0
    while chunk := source.read(1 << 20):
        total += len(chunk)
        if total > limit:
            raise UserError(f"a container expands beyond {MAX_EXPANSION} times its size, as bombs do; nothing was kept")
        chunks.append(chunk)
    return b"".join(chunks)
