"""From the loader's batches in host memory to the views that a step computes with, beside the step before."""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from pretrain.loader import Views


class Upload:
    """Copies and finishes batches on the computing device.

    On a GPU both happen in a stream of their own. The processor is ahead of the device by about a step, so the copy
    (pinned memory) and the colour of the fast pipeline run while the device computes the step before.

    Args:
        views: whose batches come.
        device: where they go.
        channels_last: the memory layout of the result.
    """

    def __init__(self, views: Views, device: torch.device, channels_last: bool) -> None:
        self.views, self.device = views, device
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, tensors: list[Tensor], labels: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return (N, 3, H, W) float views and labels (N,) on the device, ready for its current stream."""
        side: Any = torch.cuda.stream(self.stream) if self.stream else nullcontext()
        # What `Method.prepare` asks for under mixed precision are the views of training: a bf16 blur would be another.
        with torch.autocast(self.device.type, enabled=False), side:
            views = [v.contiguous(memory_format=self.layout) for v in self.views.finish(tensors, self.device)]
            labels = labels.to(self.device, non_blocking=True)
        if self.stream:
            current = torch.cuda.current_stream(self.device)
            current.wait_stream(self.stream)
            for tensor in (*views, labels):
                # The memory belongs to the other stream, which must not reuse it before this one has done with it.
                tensor.record_stream(current)
        return views, labels
