"""States of a run in files of tensors: written whole or not at all, read safely, and errors of restoring them."""

import contextlib
import errno
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runs.errors import UserError, user_message
from runs.files import atomic_write
from runs.folder import check_run_folder


def save_torch_file(path: Path, state: dict[str, Any]) -> None:
    """Write what `torch.load(weights_only=True)` reads, whole or not at all.

    Raises:
        UserError: the operating system refuses, or the folder is no longer a run's: deleted, renamed or emptied.
    """
    import torch

    check_run_folder(path.parent)
    with atomic_write(path) as file:
        torch.save(state, file)


def load_torch_file(path: Path) -> Any:
    """Read what `save_torch_file` wrote, to the CPU.

    Raises:
        UserError: it is damaged.
        OSError: not the file's fault: no permission, a file system that is away.
    """
    import torch

    try:
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise UserError(f"{damaged} differs from its CRC-32")
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever the damage provokes
        # EINVAL: the archive's damaged directory names a place before the file's beginning.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        raise UserError(f"{path} is damaged ({(str(error) or type(error).__name__).splitlines()[0]})") from error


@contextlib.contextmanager
def restore_errors(path: Path, remedy: str) -> Iterator[None]:
    """Say in one line what a block raises that restores a state from a file: it is damaged or another version's.

    Raises:
        UserError: the block raised something. Out of memory is raised as it is.
    """
    try:
        yield
    except UserError as error:
        named = "" if str(path) in str(error) else f"{path}: "
        raise UserError(f"{named}{error}; {remedy}") from error
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if user_message(error) is not None:  # out of memory: not the file's fault
            raise
        what = " ".join(f"{type(error).__name__} {error}".split())[:100]
        raise UserError(f"{path}: another version's or damaged ({what}); {remedy}") from error
