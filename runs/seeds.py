"""Every random generator of a process: seeded, saved and restored together."""

import random
from typing import Any, cast


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

    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = cast(tuple[Any, ...], numpy.random.get_state(legacy=True))
    return {
        "python": {"version": version, "internal": list(internal), "gauss": gauss},
        "numpy": {"name": str(name), "keys": torch.from_numpy(keys.astype("int64")), "position": int(position),
                  "has_gauss": int(has_gauss), "cached": float(cached)},
        "torch": torch.get_rng_state(),
        # Of this process's own device: a run may go on where that has another number.
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }  # fmt: skip


def set_generator_states(states: dict[str, Any]) -> None:
    """Restore what `generator_states` returned."""
    import numpy
    import torch

    python, array = states["python"], states["numpy"]
    random.setstate((python["version"], tuple(python["internal"]), python["gauss"]))
    numpy.random.set_state(
        (array["name"], array["keys"].numpy().astype("uint32"), array["position"], array["has_gauss"], array["cached"])
    )
    torch.set_rng_state(states["torch"].cpu())
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"].cpu())
