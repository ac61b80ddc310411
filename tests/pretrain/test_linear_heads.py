"""Stacked classifiers against PyTorch's layer, loss, backward pass and the optimizers of `pretrain.optim`."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pretrain import linear_heads
from pretrain.linear_heads import LinearHeads
from pretrain.optim import OPTIMIZERS, OptimizerConfig, build_optimizer

RATES = [0.1, 2.0, 30.0]


def data(n: int = 40, classes: int = 5, width: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(classes, width, generator=generator) * 0.01
    return start, torch.randn(n, width, generator=generator), torch.randint(classes, (n,), generator=generator)


@pytest.mark.parametrize(
    ("limit", "room", "parts"), [("ROOM", 2**24, 1), ("ROOM", 450, 2), ("ROOM", 1, 3), ("CACHE", 160, 2)]
)
@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_each_is_a_layer_trained_alone(
    optimizer: str, decay: float, limit: str, room: int, parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear_heads, limit, room)
    start, x, y = data()
    heads = LinearHeads(start, len(RATES), 0.9, decay, optimizer, 0.001)
    assert len(heads.parts(len(x))) == parts
    losses = torch.stack([heads.step(x, y, torch.tensor(RATES) / (1 + t)) for t in range(4)])
    for i, rate in enumerate(RATES):
        layer = nn.Linear(16, 5)
        layer.weight.data.copy_(start)
        layer.bias.data.zero_()
        # The decoupled reference: one optimizer a classifier.
        reference = build_optimizer(
            [{"params": list(layer.parameters())}], OptimizerConfig(optimizer, 1.0, 0.9, decay), 1
        )
        for t in range(4):
            reference.param_groups[0]["lr"] = rate / (1 + t)
            loss = cross_entropy(layer(x), y)
            reference.zero_grad()
            loss.backward()
            reference.step()
            assert losses[t, i].item() == pytest.approx(loss.item(), rel=1e-4)
        torch.testing.assert_close(heads.weight[i], layer.weight.data, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(heads.bias[i], layer.bias.data, rtol=1e-4, atol=1e-6)
    assert (heads.weight[0] - heads.weight[2]).abs().max() > 1e-4, "the learning rates make no difference"


def test_judge_counts_hits() -> None:
    start, x, y = data(n=100, classes=8)
    heads = LinearHeads(start, 2, 0.9, 0.0, "sgd", 0.001)
    heads.weight[1] *= -1
    top1, top5 = heads.judge(x, y)
    for i, weight in enumerate((start, -start)):
        best = (x @ weight.T).argsort(dim=1, descending=True)
        assert top1[i] == pytest.approx(100 * (best[:, 0] == y).float().mean().item())
        assert top5[i] == pytest.approx(100 * (best[:, :5] == y[:, None]).any(dim=1).float().mean().item())
    assert top1[0] != top1[1]


def test_bf16_products_keep_weights_and_losses_in_float32() -> None:
    start, x, y = data()
    exact, rounded = (LinearHeads(start, 1, 0.9, 0.0, "sgd", 0.001, bf16) for bf16 in (False, True))
    for _ in range(5):
        a, b = (heads.step(x.to(heads.dtype), y, torch.tensor([0.5])) for heads in (exact, rounded))
    assert b.dtype == rounded.weight.dtype == torch.float32
    # bfloat16 has 8 bits of mantissa, and five steps add the errors up.
    assert 0 < (a - b).abs().item() < 0.1 * a.item()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_step_asks_the_device_for_no_value(optimizer: str) -> None:
    """Tensors without values stand for a device that has not computed them yet: asking for one is an error."""
    meta = torch.device("meta")
    heads = LinearHeads(torch.empty(5, 16, device=meta), 3, 0.9, 0.01, optimizer, 0.001, bf16=True)
    x, y = torch.empty(40, 16, device=meta), torch.empty(40, dtype=torch.long, device=meta)
    losses = heads.step(x, y, torch.tensor(RATES))
    assert losses.shape == (3,) and losses.is_meta
