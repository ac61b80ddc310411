"""Limit the memory while an untrusted file is read, so that a small hostile file cannot fill the machine."""

import contextlib
import re
import resource
from collections.abc import Iterator
from pathlib import Path

# A conversion holds the tensors, their float32 copy, the output and the features: measured at 3.2 times a float32 file.
FACTOR = 6
# Libraries' own allocations (measured: 0.4 GB for torch, torchvision and Detectron2) and the proof's activations.
OVERHEAD = 1_400_000_000


@contextlib.contextmanager
def limited_memory(path: Path) -> Iterator[None]:
    """Limit the process's private memory to what a file of this size can need, where the system can.

    NOTE: RLIMIT_DATA counts private memory (Linux 4.7 and later); RLIMIT_AS would count torch's mapped libraries, 6 GB.
    """
    try:
        status = Path("/proc/self/status").read_text()
        used = int(re.search(r"VmData:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]
        size = path.stat().st_size
    except (OSError, TypeError):
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = used + OVERHEAD + FACTOR * size
    if soft != resource.RLIM_INFINITY:
        limit = min(limit, soft)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
