"""Processes find a device each, or are told in one line that there is none."""

import pytest
import torch

from runs import distributed
from runs.distributed import (
    TorchrunEnv,
    choose_and_set_device,
    process_group,
    set_precision,
    torchrun_env_or_single_process,
    world_size,
)
from runs.errors import UserError


def test_too_few_devices_for_the_processes_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    described = {"WORLD_SIZE": "8", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "22742"}
    for name, value in {**described, "LOCAL_WORLD_SIZE": "8"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="8 processes for 2 CUDA devices"):
        choose_and_set_device("auto")
    assert choose_and_set_device("cpu").type == "cpu"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert choose_and_set_device("auto").type == "cuda"


SEVERAL = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "22742"}


@pytest.mark.parametrize("left", ["RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"])
def test_a_left_over_variable_does_not_make_several_processes(
    left: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in SEVERAL:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(left, {**SEVERAL, "WORLD_SIZE": "1"}[left])
    with process_group("cpu") as device:
        assert device.type == "cpu" and torchrun_env_or_single_process() == TorchrunEnv() and world_size() == 1
    said = capsys.readouterr().err
    assert ("running alone" in said) == left.endswith("RANK")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"RANK": None}, "WORLD_SIZE=2, but RANK not set: start with torchrun --nproc_per_node=2"),
        ({"MASTER_ADDR": None, "MASTER_PORT": ""}, "MASTER_ADDR and MASTER_PORT not set"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE=two: must be a number"), ({"RANK": "-1"}, "RANK=-1: must be a number"),
        ({"LOCAL_RANK": "x"}, "LOCAL_RANK=x: must be"), ({"MASTER_PORT": "tcp://1"}, "MASTER_PORT=tcp://1: must be"),
        ({"RANK": "2"}, "RANK=2: must be below WORLD_SIZE=2"), ({"MASTER_PORT": "99999"}, "MASTER_PORT=99999: must be"),
    ],
)  # fmt: skip
def test_variables_that_describe_no_process_are_named(
    wrong: dict[str, str | None], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**SEVERAL, **wrong}.items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=said), process_group("cpu"):
        pass


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
