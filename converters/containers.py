"""Opening files that strangers made: what kind of file it is, and unpacking gzip, bzip2, xz and tar within limits."""

import bz2
import contextlib
import gzip
import lzma
import os
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from runs.errors import UserError

# Trained weights shrink by a tenth or two; an expansion beyond this is a bomb, not a checkpoint.
MAX_EXPANSION = 16
# Room for small files, where headers dominate and compression can be high.
SLACK = 1 << 20
# WHY: two layers are `.tar.gz`; more has no use and makes bombs.
MAX_LAYERS = 2

_COMPRESSED: dict[bytes, tuple[str, Callable[[Path], Any]]] = {
    b"\x1f\x8b": ("gzip", gzip.GzipFile),
    b"BZh": ("bzip2", bz2.BZ2File),
    b"\xfd7zXZ\x00": ("xz", lzma.LZMAFile),
}
# What people give by mistake, by its first bytes.
_MISTAKES: dict[bytes, str] = {
    b"version https://git-lfs": "a Git LFS pointer, not the file itself; fetch it with `git lfs pull`",
    b"<!DOCTYPE": "a web page, not a checkpoint; the download failed, fetch it again",
    b"<!doctype": "a web page, not a checkpoint; the download failed, fetch it again",
    b"<html": "a web page, not a checkpoint; the download failed, fetch it again",
    b"<?xml": "an XML answer of a server, not a checkpoint; the download failed, fetch it again",
    b"\x89HDF": "an HDF5 file; export its arrays with numpy.savez",
    b"\x93NUMPY": "a single array; store all arrays in one file with numpy.savez",
    b"\x57\xfb\x80\x8b": "a TensorFlow table; export the variables with numpy.savez, see docs/converters.md",
}


def check_regular(path: Path) -> None:
    """Raise UserError unless `path` is a readable, non-empty, regular file; devices and pipes are never opened."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from None
    if stat.S_ISDIR(status.st_mode):
        raise UserError(f"{path}: a folder; give the checkpoint file in it")
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path}: no regular file (a device, pipe or socket); give a checkpoint file")
    if status.st_size == 0:
        raise UserError(f"{path}: the file is empty; fetch or write it again")
    if not os.access(path, os.R_OK):
        raise UserError(f"{path}: permission denied; mend its permissions")


def read_start(path: Path, count: int = 512) -> bytes:
    """The first `count` bytes; refuses what is certainly no checkpoint by its first bytes."""
    try:
        with open(path, "rb") as file:
            start = file.read(count)
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror}); mend its permissions") from error
    for magic, reason in _MISTAKES.items():
        if start.lstrip().startswith(magic):
            raise UserError(reason)
    return start


@contextlib.contextmanager
def unpacked(path: Path, layers: int = MAX_LAYERS) -> Iterator[tuple[Path, list[str]]]:
    """The innermost file of compressed and tar containers, and the containers' names from the outside in.

    A file that is no container is yielded as it is. Unpacked data lie in a temporary file that is gone afterwards.

    Raises:
        UserError: a container is damaged, nested too deep, holds not exactly one checkpoint, or expands beyond
            `MAX_EXPANSION` times its size.
    """
    start = read_start(path)
    kind = next(((name, opener) for magic, (name, opener) in _COMPRESSED.items() if start.startswith(magic)), None)
    is_tar = start[257:262] == b"ustar"
    if kind is None and not is_tar:
        yield path, []
        return
    if layers == 0:
        raise UserError(f"containers nested deeper than {MAX_LAYERS}; unpack the file first")
    limit = MAX_EXPANSION * path.stat().st_size + SLACK
    with tempfile.NamedTemporaryFile(prefix="converters-", suffix=".unpacked") as target:
        try:
            with contextlib.ExitStack() as stack:
                if kind is not None:
                    source: IO[bytes] = stack.enter_context(kind[1](path))
                else:
                    source = stack.enter_context(_only_member(path))
                _copy(source, target, limit)
        except (EOFError, OSError, lzma.LZMAError, tarfile.TarError, ValueError) as error:
            raise UserError(f"damaged container ({error}); fetch the file again") from error
        target.flush()
        with unpacked(Path(target.name), layers - 1) as (inner, names):
            yield inner, [kind[0] if kind else "tar", *names]


@contextlib.contextmanager
def _only_member(path: Path) -> Iterator[IO[bytes]]:
    with tarfile.open(path, "r:") as archive:
        members = []
        for count, member in enumerate(archive):
            if count > 1000:
                raise UserError("a tar of more than 1000 entries is no checkpoint; give the file in it")
            if member.isfile() and not Path(member.name).name.startswith("."):
                members.append(member)
        if {"pickle", "storages", "tensors"} <= {member.name for member in members}:
            raise UserError("PyTorch's tar format of before 2017; load and save it with PyTorch 1.x first")
        if len(members) != 1:
            names = ", ".join(member.name for member in members[:4]) or "none"
            raise UserError(f"a tar with {len(members)} files ({names}); unpack it and give the checkpoint")
        source = archive.extractfile(members[0])
        if source is None:
            raise UserError("the tar's entry cannot be read; fetch the file again")
        yield source


def _copy(source: IO[bytes], target: IO[bytes], limit: int) -> None:
    total = 0
    while chunk := source.read(1 << 20):
        total += len(chunk)
        if total > limit:
            raise UserError(f"a container expands beyond {MAX_EXPANSION} times its size, as bombs do; nothing was kept")
        target.write(chunk)


def check_zip(path: Path, compressed: bool) -> zipfile.ZipFile:
    """Open a zip whose directory is sound: unique names, no encryption, no claim beyond what the file can hold.

    Args:
        path: the archive.
        compressed: whether its entries may be compressed (NumPy's may, PyTorch's never are).

    Raises:
        UserError: the archive is damaged or claims more than `MAX_EXPANSION` times its size.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise UserError(f"damaged or truncated archive ({error}); fetch or write it again") from error
    entries = archive.infolist()
    names = {entry.filename for entry in entries}
    size = path.stat().st_size
    limit = MAX_EXPANSION * size + SLACK if compressed else size
    if len(names) != len(entries):
        raise UserError("damaged archive (an entry occurs twice); fetch or write it again")
    if any(entry.flag_bits & 0x1 for entry in entries):
        raise UserError("an encrypted archive; decrypt it first")
    if not compressed and any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise UserError("a PyTorch archive with compressed entries, which PyTorch never writes; save it again")
    if sum(entry.file_size for entry in entries) > limit:
        raise UserError("the archive claims to hold more than it can, as bombs do; fetch it again")
    return archive


def read_entry(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    """An entry of a checked archive, of at most `limit` bytes; its checksum is verified."""
    info: Any = archive.getinfo(name)
    if info.file_size > limit:
        raise UserError(
            f"{name}: {info.file_size:,} bytes where a checkpoint has less than {limit:,}; the file is hostile"
        )
    try:
        return archive.read(name)
    except (zipfile.BadZipFile, OSError, ValueError, RuntimeError) as error:
        raise UserError(f"damaged archive ({error}); fetch or write it again") from error
