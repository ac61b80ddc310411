"""BYOL against NumPy: arXiv:2006.07733, equation 2 and section 3.3."""

import copy
import math

import numpy
import pytest
import torch

from pretrain.method.byol import BYOL
from pretrain.method.config import BYOLConfig
from tests.pretrain import tiny


def byol(kind: type[BYOL] = BYOL) -> BYOL:
    torch.manual_seed(0)
    method = kind(BYOLConfig(dim=32, hidden=64, momentum=0.9), tiny.plan()).double()
    generator = torch.Generator().manual_seed(5)
    for p in method.target.parameters():  # apart, as after some training
        p.data += 0.05 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return method


def distance(q: torch.Tensor, z: torch.Tensor) -> float:
    """Equation 2: the squared distance of the normalized vectors."""
    a, b = q.detach().numpy(), z.detach().numpy()
    a, b = (v / numpy.linalg.norm(v, axis=1, keepdims=True) for v in (a, b))
    return float(((a - b) ** 2).sum(axis=1).mean())


def test_the_loss_equals_numpys() -> None:
    method = byol()
    other = copy.deepcopy(method)
    batch = tiny.batch(method, tiny.images(), 0)
    v1, v2 = batch.views
    q1, q2 = other.predictor(other.encoder(v1)), other.predictor(other.encoder(v2))
    expected = distance(q1, other.target(v2)) + distance(q2, other.target(v1))
    assert method(batch)["loss"].item() == pytest.approx(expected, rel=1e-9)


def test_the_targets_decay_rate_rises_along_a_cosine() -> None:
    method = byol()  # 40 steps, tau_base 0.9
    rates = [method.tau(step) for step in range(41)]
    expected = [1 - (1 - 0.9) * (math.cos(math.pi * k / 40) + 1) / 2 for k in range(41)]
    assert rates == pytest.approx(expected, rel=1e-12)
    assert rates[0] == pytest.approx(0.9)
    assert rates[40] == pytest.approx(1.0)


def follows(method: BYOL) -> None:
    """One step: the target moves by its decay rate towards the new online weights, and by nothing else."""
    before = [p.detach().numpy().copy() for p in method.target.parameters()]
    tiny.train(method, tiny.images(), 1, first=10)
    tau = method.tau(10)
    for old, theta, xi in zip(before, method.encoder.parameters(), method.target.parameters(), strict=True):
        expected = tau * old + (1 - tau) * theta.detach().numpy()
        numpy.testing.assert_allclose(xi.detach().numpy(), expected, rtol=1e-9, atol=1e-12)


def test_the_target_follows_the_online_network() -> None:
    method = byol()
    follows(method)
    assert all(p.grad is None for p in method.target.parameters())


class Leak(BYOL):
    """Broken: the loss moves the target too."""

    def g_xi(self, v: torch.Tensor) -> torch.Tensor:
        return self.target(v)

    def param_groups(self):
        for p in self.target.parameters():
            p.requires_grad = True
        return super().param_groups()


class Unequal(BYOL):
    """Broken: the target is moved before the optimizer's step."""

    def after_backward(self, step: int) -> None:
        BYOL.after_step(self, step)

    def after_step(self, step: int) -> None:
        pass


@pytest.mark.parametrize("broken", [Leak, Unequal])
def test_the_test_above_catches_a_broken_target(broken: type[BYOL]) -> None:
    with pytest.raises(AssertionError):
        follows(byol(broken))


def test_the_targets_statistics_are_its_own() -> None:
    """The release keeps the target's batch-norm state apart (byol_experiment.py): no moving average runs over it."""
    method = byol()
    statistics = copy.deepcopy(dict(method.target.named_buffers()))
    method.after_step(0)
    for name, value in method.target.named_buffers():
        assert torch.equal(value, statistics[name]), name
