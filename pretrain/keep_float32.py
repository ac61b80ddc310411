"""Products and sums that keep their precision under `precision=bf16`."""

import torch
from torch import Tensor
from torch.nn.functional import normalize


def at_least_float32(x: Tensor) -> Tensor:
    """Return `x` in float32 if it is in a shorter format, else as it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def l2_normalize(x: Tensor) -> Tensor:
    """Scale the rows of (n, d) to unit length, in at least float32."""
    return normalize(at_least_float32(x), dim=1)


def autocast_off(x: Tensor) -> torch.autocast:
    """Return a context on `x`'s device whose matrix products keep their operands' precision under `precision=bf16`.

    Similarities that are divided by a temperature need it: a bf16 cosine over 0.05 is wrong by a tenth.
    """
    return torch.autocast(x.device.type, enabled=False)
