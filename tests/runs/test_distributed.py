"""Processes find a device each, or are told in one line that there is none."""

import pytest
import torch

from runs.distributed import choose_device
from runs.errors import UserError


def test_too_few_devices_for_the_processes_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    with pytest.raises(UserError, match="8 processes for 2 CUDA devices"):
        choose_device("auto")
    assert choose_device("cpu").type == "cpu"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert choose_device("auto").type == "cuda"
