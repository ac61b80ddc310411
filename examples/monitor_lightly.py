"""lightly's own loop (its examples/pytorch/simsiam.py) with two lines for the monitor; then without its `detach`."""

import numpy as np
import torch
from lightly.loss import NegativeCosineSimilarity
from lightly.models.modules import SimSiamPredictionHead, SimSiamProjectionHead
from lightly.transforms import SimSiamTransform
from torch import nn
from torchvision.datasets import FakeData

from pretrain.monitor import CollapseMonitor  # 1


class SimSiam(nn.Module):
    """As in lightly's example, with a backbone for a minute of a CPU."""

    def __init__(self, stop_gradient: bool) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 32, 4, stride=4), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
        )
        self.projection_head = SimSiamProjectionHead(128, 128, 64)
        self.prediction_head = SimSiamPredictionHead(64, 16, 64)
        self.stop_gradient = stop_gradient

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (n, 3, 32, 32) to z and p (n, 64)."""
        z = self.projection_head(self.backbone(x))
        p = self.prediction_head(z)
        return z.detach() if self.stop_gradient else z, p


data = FakeData(128, (3, 32, 32), transform=SimSiamTransform(input_size=32))
for stop_gradient in (True, False):
    torch.manual_seed(0)
    np.random.seed(0)  # lightly draws its blur from it
    loader = torch.utils.data.DataLoader(data, batch_size=64, shuffle=True, drop_last=True)
    model = SimSiam(stop_gradient)
    criterion = NegativeCosineSimilarity()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    monitor = CollapseMonitor(every=2)
    for _ in range(20):
        for (x0, x1), _ in loader:
            z0, p0 = model(x0)
            z1, p1 = model(x1)
            loss = 0.5 * (criterion(z0, p1) + criterion(z1, p0))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            verdict = monitor.update(z0)  # 2
        if monitor.collapsed:
            break
    print(f"stop_gradient={stop_gradient}: {verdict}, loss {loss:.2f}, spread {monitor.health.spread:.2f}")
