"""A file of tensors that is damaged is one line."""

from pathlib import Path

import pytest
import torch

from runs.errors import UserError
from runs.tensor_files import load_torch_file, restore_errors


def test_what_no_state_can_be_made_of_is_said_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "state.pt"
    for content in ({}, {"steps": "six"}, [1], None):
        torch.save(content, file)
        said = r"state\.pt: another version's or damaged \(\w+Error .*\); delete it"
        with pytest.raises(UserError, match=said), restore_errors(file, "delete it"):
            range(load_torch_file(file)["steps"])
    file.write_bytes(b"junk")
    with pytest.raises(UserError, match=r"state\.pt is damaged .*; delete it"), restore_errors(file, "delete it"):
        load_torch_file(file)
    torch.save({}, file)
    damaged = bytearray(file.read_bytes())
    damaged[damaged.rindex(b"PK\x06\x06") + 51] ^= 1  # the directory's place: zipfile seeks before the beginning
    file.write_bytes(damaged)
    with pytest.raises(UserError, match=r"state\.pt is damaged"):
        load_torch_file(file)
    with pytest.raises(torch.OutOfMemoryError), restore_errors(file, "delete it"):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
