"""One flipped bit in a checkpoint is seen before training goes on from it."""

from pathlib import Path

import torch

from pretrain.checkpoint import Checkpoints


def test_a_flipped_bit_makes_the_one_before_the_newest(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=3, keep_every=0)
    momentum = torch.randn(1000)
    state = {
        "epoch": 1,
        "arch": "resnet18",
        "state_dict": {"w": torch.randn(9)},
        "optimizer": {"m": momentum},
        "resume": 0,
    }
    whole, newest = checkpoints.save(state, 0, None), checkpoints.save(state, 1, None)
    assert checkpoints.newest()[0] == newest  # type: ignore[index]
    data = bytearray(newest.read_bytes())
    data[data.index(momentum.numpy().tobytes()) + 100] ^= 1
    newest.write_bytes(data)
    assert torch.load(newest, weights_only=True), "torch.load does not look"
    assert checkpoints.newest()[0] == whole  # type: ignore[index]
