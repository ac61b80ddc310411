"""The bound on memory holds while a file is read, and is gone afterwards."""

import resource
import sys
from pathlib import Path

import numpy as np
import pytest

from converters.memory_limit import limited_memory


@pytest.mark.skipif(sys.platform != "linux", reason="the bound is Linux's RLIMIT_DATA")
def test_more_than_a_small_file_can_need(tmp_path: Path) -> None:
    path = tmp_path / "small"
    path.write_bytes(b"x")
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with limited_memory(path):
        np.empty(500_000_000, np.uint8)
        with pytest.raises(MemoryError):
            np.empty(3_000_000_000, np.uint8)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    np.empty(3_000_000_000, np.uint8)  # address space only: nothing touches it


def test_a_file_that_is_not_there_is_left_to_the_reader(tmp_path: Path) -> None:
    with limited_memory(tmp_path / "absent"):
        pass
