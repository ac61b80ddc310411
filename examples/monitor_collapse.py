"""Is it learning or collapsing? The monitor in a plain loop: SimSiam's loss with and without the stop-gradient."""

import torch
from torch import nn

from pretrain.monitor import CollapseMonitor

for stop_gradient in (True, False):
    torch.manual_seed(0)
    f = nn.Sequential(nn.Linear(32, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 32), nn.BatchNorm1d(32))
    h = nn.Sequential(nn.Linear(32, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 32))
    optimizer = torch.optim.SGD([*f.parameters(), *h.parameters()], lr=0.4, momentum=0.9)
    monitor = CollapseMonitor(every=10)
    for _ in range(400):
        x = torch.randn(128, 32)
        z1, z2 = f(x + 0.3 * torch.randn_like(x)), f(x + 0.3 * torch.randn_like(x))
        p1, p2 = h(z1), h(z2)
        z1, z2 = (z1.detach(), z2.detach()) if stop_gradient else (z1, z2)
        loss = -(nn.functional.cosine_similarity(p1, z2) + nn.functional.cosine_similarity(p2, z1)).mean() / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        verdict = monitor.update(z1, p1)
    print(f"stop_gradient={stop_gradient}: {verdict}, loss {loss:.2f}, spread {monitor.health.spread:.2f}")
