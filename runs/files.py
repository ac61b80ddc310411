"""Files that are either whole or absent: temporary name, flush, rename."""

import contextlib
import gzip
import hashlib
import io
import json
import os
import secrets
import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from runs.errors import UserError, from_os_error

# Names that one part writes and another reads: pictures of a run, the beginning of a trial's folder.
VIEWS, DETECTIONS, TRIAL = "views.png", "detections.png", "trial"
# In place of a file: the untrained network, for fine-tuning and for an evaluation of its features.
SCRATCH, RANDOM = "scratch", "random"


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path` that takes its name when the block ends without an exception.

    The data are flushed to the disk before the rename and the folder after it, so a crash at any moment leaves the old
    file or the new one, never a part of either.

    The folder is made if it is missing; `mode` is `"wb"` or `"w"` (UTF-8).

    Raises:
        UserError: the operating system refuses (no space, no permission, a file where a folder is needed).
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
        with open(temporary, mode.replace("w", "x"), encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        temporary = None
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:
        # On a full disk torch.save fails once more while it closes the archive, and that error hides the reason.
        reason = error if isinstance(error, OSError) else error.__context__
        if not isinstance(reason, OSError):
            raise
        # Writes through a descriptor carry no name, and the temporary one would mislead.
        reason.filename = str(path)
        raise from_os_error(reason) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` as indented JSON, atomically.

    Raises:
        UserError: the operating system refuses, see `atomic_write`.
        ValueError: `value` holds a NaN or an infinity, which JSON cannot hold.
    """
    text = json.dumps(value, indent=2, allow_nan=False)
    with atomic_write(path, "w") as file:
        file.write(text + "\n")


def read_bytes(path: str | os.PathLike[str], most: int = 2**28) -> bytes:
    """Read a whole file.

    Raises:
        UserError: it is absent, unreadable, no ordinary file (a pipe would wait for ever), or larger than `most` bytes.
    """
    path = Path(path)
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise UserError(f"{path}: not an ordinary file; give the file itself")
        if facts.st_size > most:
            raise UserError(f"{path}: {facts.st_size:,} bytes, more than the {most:,} that such a file can have")
        return path.read_bytes()
    except OSError as error:
        raise from_os_error(error) from error


def read_json(path: str | os.PathLike[str], most: int = 2**26) -> Any:
    """Read a JSON file, `.gz` or not, of at most `most` bytes, unpacked too.

    Raises:
        UserError: see `read_bytes`; or it is no JSON, or gives a key twice.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            key = Counter(key for key, _ in pairs).most_common(1)[0][0]
            raise UserError(f"{path}: gives {key} twice; remove one")
        return found

    content = read_bytes(path, most)
    try:
        if Path(path).suffix == ".gz":
            with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
                content = file.read(most + 1)
            if len(content) > most:
                raise ValueError(f"more than {most:,} bytes unpacked")
        # Given bytes, it detects the encoding, with or without a byte-order mark.
        return json.loads(content, object_pairs_hook=unique)
    except (ValueError, RecursionError, OSError, EOFError, zlib.error) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise UserError(f"{path}: not a JSON file ({reason}); write it again with the command that made it") from error


def read_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a YAML file that holds a mapping; nothing in it is run.

    Raises:
        UserError: see `read_bytes`; or it is no YAML, gives a key twice, or holds no mapping.
    """
    import yaml

    class UniqueKeys(yaml.SafeLoader):
        def compose_mapping_node(self, anchor: Any) -> Any:
            node, seen = super().compose_mapping_node(anchor), set()
            for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
                if (key.tag, key.value) in seen:
                    raise yaml.MarkedYAMLError(problem=f"{key.value} is given twice", problem_mark=key.start_mark)
                seen.add((key.tag, key.value))
            return node

    try:
        body = yaml.load(read_bytes(path, 2**22), UniqueKeys)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        reason = str(error).replace('"<byte string>"', "it")
        raise UserError(f"{path}: not YAML: {reason}") from error
    if not isinstance(body, dict):
        raise UserError(f"{path}: must be a mapping of fields to values")
    return body


def unpack_arrays(content: bytes, most: int = 2**30) -> dict[str, Any]:
    """The arrays of an `.npz` of at most `most` bytes when it is unpacked; nothing in it is run.

    Raises:
        ValueError: it is larger, or damaged.
    """
    import numpy as np

    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > most:
            raise ValueError(f"{size:,} bytes unpacked, more than {most:,}")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays}
        for name, array in found.items():
            if not isinstance(array, np.ndarray):
                raise ValueError(f"{name} is not an array")
            if array.dtype.kind == "U":
                array.tolist()  # refuses what is not a character
        return found
    except Exception as error:  # zipfile, zlib and NumPy raise whatever they meet
        raise ValueError(str(error)) from error


def sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits.

    Raises:
        UserError: the file is absent or unreadable.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise from_os_error(error) from error


def checkpoint_name(epoch: int, step: int | None = None) -> str:
    """`checkpoint_0099.pth.tar`: epochs count from 0 as in the official release; with the `step` of one inside it."""
    return f"checkpoint_{epoch:04d}{'' if step is None else f'_{step:08d}'}.pth.tar"


def _sync_folder(folder: Path) -> None:
    # Not every file system lets a folder be synced (some network ones do not); the rename itself has happened.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
