"""Processes find a device each, or are told in one line that there is none."""

import pytest
import torch

from runs import distributed
from runs.distributed import choose_device, set_precision
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


@pytest.mark.parametrize(("found", "warnings"), [(False, 1), (True, 0), (None, 0)])
def test_a_cpu_without_bf16_is_named_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], found: bool | None, warnings: int
) -> None:
    monkeypatch.setattr(distributed, "cpu_has_bf16", lambda: found)
    set_precision("fp32", torch.device("cpu"))
    set_precision("bf16", torch.device("cuda"))
    assert capsys.readouterr().err == ""
    set_precision("bf16", torch.device("cpu"))
    said = capsys.readouterr().err.splitlines()
    assert len(said) == warnings and all("precision=bf16" in line and "use fp32" in line for line in said)
