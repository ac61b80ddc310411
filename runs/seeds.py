"""Every random generator of a process: seeded, saved and restored together."""

import random
from typing import Any


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and PyTorch (all devices)."""
    import numpy
    import torch

    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def generator_states() -> dict[str, Any]:
    """Return the state of every generator as tensors and plain values, loadable with `weights_only=True`."""
    import numpy
    import torch

    array: Any = numpy.random.get_state(legacy=False)
    array["state"]["key"] = array["state"]["key"].tolist()
    return {
        "python": random.getstate(),
        "numpy": array,
        "torch": torch.get_rng_state(),
        # Of this process's own device: a run may go on where that has another number.
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def set_generator_states(states: dict[str, Any]) -> None:
    """Restore what `generator_states` returned."""
    import numpy
    import torch

    random.setstate(states["python"])
    numpy.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"].cpu())
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"].cpu())
