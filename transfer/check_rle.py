"""COCO's run-length codes of masks: the library that codes them, and a check before its C code reads a stranger's."""

from typing import Any

import numpy as np

try:
    from ultrafast_pycocotools import mask as coder
except ImportError:
    from pycocotools import mask as coder

__all__ = ["checked_rle", "coder"]


def checked_rle(code: Any, height: int, width: int) -> dict[str, Any]:
    """Check a mask's run-length code, `{"size": [height, width], "counts": str, bytes or list of int}`.

    Returns:
        The code in compressed form, as `pycocotools.mask` takes it.

    Raises:
        ValueError: it is none, or of another size than its image.
    """
    counts, size = code.get("counts"), code.get("size")
    if size != [height, width]:
        raise ValueError(f"its mask has size {size!r}, its image [{height}, {width}]")
    if isinstance(counts, list):
        counts = [int(n) if isinstance(n, float) and n.is_integer() else n for n in counts]
        if not all(type(n) is int and 0 <= n <= height * width for n in counts) or sum(counts) != height * width:
            raise ValueError("the run lengths of its mask do not add up to its image; write the mask again")
        return dict(coder.frPyObjects({"size": [height, width], "counts": counts}, height, width))
    if not isinstance(counts, str | bytes):
        raise ValueError("its mask has no run lengths (counts); write what pycocotools.mask.encode returns")
    runs = _run_lengths(counts.encode("latin-1", "replace") if isinstance(counts, str) else counts)
    if runs is None or runs.min() < 0 or runs.sum() != height * width:
        raise ValueError("the run lengths of its mask do not add up to its image; write the mask again")
    return {"size": [height, width], "counts": counts}


def _run_lengths(code: bytes) -> np.ndarray | None:
    """The numbers that a string stands for, as `rleFrString` in maskApi.c reads it; None if it is no such string.

    A number has six bits a character from the lowest on: five of it, and one that says that more follow. From the
    fourth on, it is the difference to the number two before it.
    """
    characters = np.frombuffer(code, np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero((characters & 32) == 0)
    if not len(ends) or ends[-1] != len(characters) - 1 or characters.min() < 0 or characters.max() > 63:
        return None
    begins = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - begins + 1
    if lengths.max() > 6:  # beyond 2^29, no image's
        return None
    shift = 5 * (np.arange(len(characters)) - np.repeat(begins, lengths))
    numbers = np.add.reduceat((characters & 31) << shift, begins)
    numbers -= np.where(characters[ends] & 16, 1 << (5 * lengths), 0)
    numbers[1::2], numbers[2::2] = np.cumsum(numbers[1::2]), np.cumsum(numbers[2::2])
    return numbers
