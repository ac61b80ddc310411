"""What a record says of the machine: as PyTorch and the driver report it, and never an error."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from runs import environment


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch as it looks on a machine with two GPUs."""
    properties = SimpleNamespace(name="NVIDIA H100 80GB HBM3", total_memory=85_017_624_576)
    torch = SimpleNamespace(
        __version__="2.11.0+cu128",
        version=SimpleNamespace(cuda="12.8"),
        cuda=SimpleNamespace(
            is_available=lambda: True, device_count=lambda: 2, get_device_properties=lambda _: properties
        ),
        backends=SimpleNamespace(
            cpu=SimpleNamespace(get_cpu_capability=lambda: "AVX2"), cudnn=SimpleNamespace(version=lambda: 91002)
        ),
    )
    monkeypatch.setitem(sys.modules, "torch", torch)
    environment._driver.cache_clear()


@pytest.mark.parametrize(("script", "driver"), [("echo 570.133.20", "570.133.20"), ("exit 9", None), ("", None)])
def test_gpus_are_described(
    gpus: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, driver: str | None
) -> None:
    tool = tmp_path / "nvidia-smi"
    if script:
        tool.write_text(f"#!/bin/sh\n{script}\n{script}\n")
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin" if script else str(tmp_path))
    found = environment.describe_environment()
    assert found["device"] == "2 x NVIDIA H100 80GB HBM3"
    assert found["gpus"] == [{"name": "NVIDIA H100 80GB HBM3", "memory_gb": 85.0}] * 2
    assert (found["cuda"], found["cudnn"], found["driver"]) == ("12.8", 91002, driver)
    assert found["packages"]["torch"] == "2.11.0+cu128" and found["cpu_capability"] == "AVX2"


@pytest.mark.parametrize(
    ("cpuinfo", "bf16"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16\n", True),
        ("flags\t\t: fpu avx2\n", False),
        ("Features\t: asimd bf16 i8mm\n", True),
        ("", None),
    ],
)
def test_whether_the_cpu_has_bf16(monkeypatch: pytest.MonkeyPatch, cpuinfo: str, bf16: bool | None) -> None:
    monkeypatch.setattr(environment, "Path", lambda _: SimpleNamespace(read_text=lambda: cpuinfo))
    assert environment.cpu_has_bf16() is bf16


def test_without_pytorch_and_the_files_of_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_: str) -> str:
        raise FileNotFoundError

    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(environment, "_commit", lambda: None)
    monkeypatch.setattr(environment, "Path", lambda name: SimpleNamespace(read_text=lambda: absent(name)))
    found = environment.describe_environment()
    assert found["device"] == "cpu" and found["bf16"] is None and found["processor"]
