"""Which devices of this machine a run gets, where several run side by side."""

import contextlib
import fcntl
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from runs.errors import UserError


def visible() -> list[str]:
    """The CUDA devices of this machine as CUDA_VISIBLE_DEVICES names them; none where nothing tells of them.

    Asked of the driver: this package does not import PyTorch.
    """
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip()]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=False).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return re.findall(r"^GPU (\d+):", listed, re.MULTILINE)


@contextlib.contextmanager
def claimed(folder: Path, count: int) -> Iterator[dict[str, str]]:
    """Hold `count` devices that no other run of this folder holds, waiting until there are as many.

    Every command computes on the first devices that it sees, so without this all runs would share them.

    Args:
        folder: where the locks lie; they end with the process that holds them.
        count: devices wanted.

    Yields:
        The environment variable that shows a command its devices alone; empty where none are wanted or known.

    Raises:
        UserError: the machine has fewer.
    """
    there = visible() if count else []
    if not there:
        yield {}
        return
    if len(there) < count:
        raise UserError(f"--gpus: a run takes {count} devices, this machine shows {len(there)}; give fewer")
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        with contextlib.ExitStack() as held:
            taken: list[str] = []
            for name in there:
                lock = held.enter_context(open(folder / f"device-{re.sub('[^A-Za-z0-9-]', '_', name)}.lock", "w"))
                if len(taken) < count and _lock(lock):
                    taken.append(name)
            if len(taken) == count:
                yield {"CUDA_VISIBLE_DEVICES": ",".join(taken)}
                return
        time.sleep(1.0)


def _lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
