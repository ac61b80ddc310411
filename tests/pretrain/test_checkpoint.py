"""Damage in a checkpoint is seen before training goes on from it."""

from pathlib import Path

import pytest
import torch

from pretrain.checkpoint import Checkpoints
from runs.errors import UserError
from runs.folder import CONFIG


def test_a_flipped_bit_makes_the_one_before_the_newest(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=3, keep_every=0)
    momentum = torch.randn(1000)
    state = {
        "epoch": 1,
        "arch": "resnet18",
        "state_dict": {"w": torch.randn(9)},
        "optimizer": {"m": momentum},
        "resume": {"generators": []},
    }
    # The folder has been emptied.
    with pytest.raises(UserError, match=f"{tmp_path}: was deleted or renamed while the run was on; run it again"):
        checkpoints.save(state)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / CONFIG).touch()
    whole, newest = checkpoints.save(state), checkpoints.save(state | {"epoch": 2})
    assert checkpoints.load_newest_undamaged()[0] == newest  # type: ignore[index]
    data = bytearray(newest.read_bytes())
    data[data.index(momentum.numpy().tobytes()) + 100] ^= 1
    newest.write_bytes(data)
    assert torch.load(newest, weights_only=True), "torch.load does not look"
    assert checkpoints.load_newest_undamaged()[0] == whole  # type: ignore[index]
