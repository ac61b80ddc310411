"""What made a number: versions, device, commit."""

import functools
import os
import platform
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from runs.printable import without_credentials

PACKAGES = (
    "torch", "torchvision", "detectron2", "numpy", "pillow", "opencv-python-headless", "opencv-python", "fvcore",
    "hydra-core", "pycocotools",
)  # fmt: skip
# What /proc/cpuinfo calls instructions that multiply bfloat16: of AMD and Intel (AVX-512, AMX), and of ARM.
BF16 = {"avx512_bf16", "amx_bf16", "bf16"}


def describe_environment() -> dict[str, Any]:
    """Return versions, hardware and the project's commit as plain values.

    The devices and the CPU's capability are asked of PyTorch, only where the program has imported it already, so that
    light commands stay light. What cannot be found out is None or left out, never an error.
    """
    return {
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        # Not the kernel's release: it decides no number, and a published record would carry it.
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": _cpu_fact("model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "bf16": cpu_has_bf16(),
        **_asked_of_torch(),
        "commit": _commit(),
    }


def cpu_has_bf16() -> bool | None:
    """Whether the CPU multiplies bfloat16 by instructions of its own; None where the system does not say."""
    flags = _cpu_fact("flags") or _cpu_fact("Features")
    return None if flags is None else bool(BF16 & set(flags.split()))


def command_line() -> str:
    """The command that started this process, as a user would type it, without what gives access to an address."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = ["python", *sys.argv[:1]] if spec is None else ["python", "-m", spec.name.removesuffix(".__main__")]
    return shlex.join([*program, *map(without_credentials, sys.argv[1:])])


def peak_memory_mb() -> float:
    """The highest memory so far, in MB (10^6 bytes): of the GPU where this process uses one, else resident."""
    import resource

    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return float(torch.cuda.max_memory_allocated() / 1e6)
    # Linux counts kilobytes, macOS bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _version(package: str) -> str | None:
    # A build's own string says more: 2.11.0+cu128 of torch, where its package is called 2.11.0.
    module = sys.modules.get(package) if package in ("torch", "torchvision") else None
    try:
        return str(module.__version__) if module else metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_fact(name: str) -> str | None:
    """A line of Linux's description of the first core."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == name:
                return value.strip()
    except OSError:
        pass
    return None


def _asked_of_torch() -> dict[str, Any]:
    """The CPU's capability and the devices with what drives them, as PyTorch sees them."""
    torch = sys.modules.get("torch")
    if torch is None:
        return {"device": "cpu"}
    found = {"cpu_capability": torch.backends.cpu.get_cpu_capability()}
    if not torch.cuda.is_available():
        return {**found, "device": "cpu"}
    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return {
        **found,
        "device": f"{len(gpus)} x {gpus[0].name}",
        "gpus": [{"name": gpu.name, "memory_gb": round(gpu.total_memory / 1e9, 1)} for gpu in gpus],
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "driver": _driver(),
    }


@functools.cache
def _driver() -> str | None:
    return next(iter(command_output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").split()), None)


@functools.cache
def _commit() -> str | None:
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return None
    # No tag has the name of the pattern, so the commit itself is printed.
    return (
        command_output("git", "-C", str(root), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+changes")
        or None
    )


def command_output(*command: str) -> str:
    """What a command prints, without blanks around it; empty where it fails, takes 30 seconds, or does not exist."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
