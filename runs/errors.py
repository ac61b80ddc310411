"""The one exception that means: the user can put this right."""

import errno
import importlib.util
import re
from collections.abc import Iterable, Iterator
from typing import Any

from runs.printable import printable, without_credentials

EVERYTHING = "pip install 'siamese-transfer[all]'"
DETECTRON2 = 'pip install "$(siamese-transfer detectron2)"'


class UserError(Exception):
    """A mistake outside the program: a wrong value, a missing file, a full disk.

    The message is one line that names the field or the file and the remedy. Commands print it and exit with status 2
    (see `runs.app`); a traceback is for defects of the program only.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(without_credentials(" ".join(message.split()))))


class BrokenImage(UserError):
    """An image file `name` that does not decode, or whose values mean nothing certain; `reason` has the remedy."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name, self.reason = name, reason

    def __reduce__(self) -> tuple[type["BrokenImage"], tuple[str, str]]:
        # A loading process returns it pickled; rebuilt from its message alone, it would name the file twice.
        return type(self), (self.name, self.reason)


NO_SHARED_MEMORY = UserError(
    "/dev/shm is too small for the batches of the loading processes; enlarge it (docker run --shm-size 8g), or give "
    "fewer data.workers (0 needs none of it) or a smaller batch_size"
)
LOST_WORKER = UserError(
    "a loading process was killed, as the kernel does when memory is short (dmesg says so); give fewer data.workers, a "
    "smaller batch_size or data.cache=false, and run the same command again"
)


def raise_or_yield(items: Iterable[Any]) -> Iterator[Any]:
    """Yield what a loader yields; an error among it is raised.

    Loading processes hand errors over as values, since an exception that leaves a process comes out as many lines.
    """
    for item in items:
        if isinstance(item, UserError):
            raise item
        yield item


_REFUSED = {
    **dict.fromkeys(
        (errno.ENOSPC, errno.EDQUOT), "no space left on the device; free some and run the same command again"
    ),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS), "permission denied; choose another place or change its permissions"
    ),
    errno.EFBIG: "larger than a file may become here; raise the limit (ulimit -f) and run it again",
    errno.ENOENT: "no such file or folder; check the path",
    errno.ENOTDIR: "not a directory; check the path",
    errno.EISDIR: "is a directory; check the path",
}


def from_os_error(error: OSError) -> UserError:
    """What the operating system refused, in one line with the file and the remedy; to be raised `from error`."""
    name = error.filename if error.filename is not None else "the file"
    return UserError(f"{name}: {_REFUSED.get(error.errno or 0, error.strerror or error)}")


def user_message(error: BaseException) -> str | None:
    """Say in one line what the user can put right; None for a defect of the program."""
    if isinstance(error, OSError) and (error.filename is not None or error.errno == errno.ENOSPC):
        error = from_os_error(error)
    if _is_out_of_memory(error):
        asked = re.search(r"tried to allocate ([\d.]+ \w+)", str(error), re.IGNORECASE)
        error = UserError(
            f"out of memory{f' for {asked[1]} more' if asked else ''}: take a smaller batch or smaller images, "
            "precision=bf16, or a device with more"
        )
    if isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker"):
        # By SIGBUS where shared memory ran out.
        error = NO_SHARED_MEMORY if "Bus error" in str(error) else LOST_WORKER
    if isinstance(error, ModuleNotFoundError) and error.name:
        missing = error.name.partition(".")[0]
        if not importlib.util.find_spec(missing):
            error = UserError(f"{missing} is not installed; {DETECTRON2 if missing == 'detectron2' else EVERYTHING}")
    return str(error) if isinstance(error, UserError) else None


def _is_out_of_memory(error: BaseException) -> bool:
    # PyTorch's exceptions are known by name and text, since this package does without PyTorch.
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error))
    )
