"""What a run sets up on its machine, and what it costs there."""

import os
import shutil
import sys

import torch

from runs.environment import peak_memory_mb
from runs.errors import UserError


def set_up_arithmetic(threads: int, precision: str) -> None:
    """Set the number of CPU threads (0 leaves it), and how a GPU computes.

    NOTE: `fp32` is float32 throughout, as on the GPUs of the papers; PyTorch's own default, which the releases leave,
    lets convolutions use TF32 where a GPU has it.

    Args:
        threads: PyTorch's on the CPU.
        precision: one of `CommandConfig.precision`; all but `fp32` let products and convolutions use TF32.
    """
    if threads:
        torch.set_num_threads(threads)
    # As main_simsiam.py: batches have one size, so cuDNN looks for the fastest convolution once.
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = precision != "fp32"
    torch.backends.cudnn.allow_tf32 = precision != "fp32"


def check_compiler() -> None:
    """Check that torch.compile finds the C++ compiler that it looks for (torch/_inductor/config.py, `cpp.cxx`).

    Raises:
        UserError: there is none.
    """
    name = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(name) is None:
        raise UserError(
            f"compile=true: needs the C++ compiler {name}; install it, name another in CXX, or leave it out"
        )


def peak_memory(device: torch.device) -> float:
    """The process's highest memory so far on the device that computes, in MB (10^6 bytes)."""
    return torch.cuda.max_memory_allocated(device) / 1e6 if device.type == "cuda" else peak_memory_mb()
