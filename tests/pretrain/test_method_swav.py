"""SwAV against NumPy (arXiv:2006.09882, section 3.1 and the listing in appendix A), its prototypes and its queue."""

import copy
from typing import Any

import numpy
import pytest
import torch
from torch.nn.functional import normalize

from pretrain.method.config import SwAVConfig
from pretrain.method.swav import SwAV, sinkhorn
from runs.errors import UserError
from tests.pretrain import tiny


def swav(kind: type[SwAV] = SwAV, **settings: object) -> SwAV:
    torch.manual_seed(0)
    defaults = {"dim": 32, "hidden": 64, "prototypes": 20, "freeze_epochs": 0}
    return kind(SwAVConfig(**{**defaults, **settings}), tiny.plan()).double()


def listing(scores: numpy.ndarray, eps: float = 0.05, niters: int = 3) -> numpy.ndarray:
    """The paper's listing, scaled to sum 1 step by step."""
    Q = numpy.exp(scores / eps).T
    Q = Q / Q.sum()
    K, B = Q.shape
    r, c = numpy.ones(K) / K, numpy.ones(B) / B
    for _ in range(niters):
        Q = Q * (r / Q.sum(axis=1))[:, None]
        Q = Q * (c / Q.sum(axis=0))[None, :]
    return (Q / Q.sum(axis=0, keepdims=True)).T


def test_sinkhorn_equals_the_papers_listing() -> None:
    scores = numpy.random.default_rng(0).uniform(-1, 1, (24, 7))
    ours = sinkhorn(torch.from_numpy(scores), 0.05, 3).numpy()
    numpy.testing.assert_allclose(ours, listing(scores), rtol=1e-10)
    numpy.testing.assert_allclose(ours.sum(axis=1), 1, rtol=1e-12)
    # Run on, every prototype gets the same share.
    numpy.testing.assert_allclose(sinkhorn(torch.from_numpy(scores), 0.5, 200).sum(dim=0), 24 / 7, rtol=1e-6)


def test_sinkhorn_in_single_precision_stays_finite_for_the_largest_score() -> None:
    codes = sinkhorn(torch.tensor([[1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]]), 0.05, 3)
    assert codes.isfinite().all()


def log_softmax(x: numpy.ndarray) -> numpy.ndarray:
    return x - numpy.log(numpy.exp(x).sum(axis=1, keepdims=True))


def test_the_loss_is_the_swapped_prediction() -> None:
    method = swav()
    batch = tiny.batch(method, tiny.images(), 0)
    z = copy.deepcopy(method).encoder(torch.cat(batch.views)).detach().numpy()
    z = z / numpy.linalg.norm(z, axis=1, keepdims=True)
    scores = z @ method.prototypes.weight.detach().numpy().T
    t, s = scores[: tiny.BATCH], scores[tiny.BATCH :]
    expected = -0.5 * (
        (listing(t) * log_softmax(s / 0.1)).sum(axis=1).mean() + (listing(s) * log_softmax(t / 0.1)).sum(axis=1).mean()
    )
    assert method(batch)["loss"].item() == pytest.approx(expected, rel=1e-9)


def prototypes_have_unit_length(method: SwAV) -> None:
    tiny.train(method, tiny.images(), 5)
    lengths = method.prototypes.weight.norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths), rtol=1e-9, atol=0)


class Unnormalized(SwAV):
    """Broken: the prototypes grow as they like."""

    def after_step(self, step: int) -> None:
        pass


def test_prototypes_keep_unit_length() -> None:
    prototypes_have_unit_length(swav())
    with pytest.raises(AssertionError):
        prototypes_have_unit_length(swav(Unnormalized))


def test_no_gradient_reaches_the_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    """With codes that carry a gradient the loss could be lowered by making them easy to predict."""
    codes: list[torch.Tensor] = []

    def remember(*given: Any) -> torch.Tensor:
        codes.append(sinkhorn(*given))
        return codes[-1]

    monkeypatch.setattr("pretrain.method.swav.sinkhorn", remember)
    for stop in (True, False):
        method = swav(stop_gradient=stop)
        assert method(tiny.batch(method, tiny.images(), 0))["loss"].requires_grad
        assert [q.requires_grad for q in codes[-2:]] == [not stop] * 2


def test_prototypes_are_frozen_in_the_first_epochs() -> None:
    method = swav(freeze_epochs=1)  # 10 steps an epoch
    start, weights = method.prototypes.weight.detach().clone(), method.encoder.conv1.weight.detach().clone()
    tiny.train(method, tiny.images(), 3, first=7)
    torch.testing.assert_close(method.prototypes.weight, start, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(method.encoder.conv1.weight, weights)
    tiny.train(method, tiny.images(), 1, first=10)
    assert not torch.allclose(method.prototypes.weight, start, rtol=1e-4)


def test_the_queue_takes_part_once_it_is_full() -> None:
    method = swav(queue=2 * tiny.BATCH, queue_from_epoch=1)
    x = tiny.images()
    past: list[torch.Tensor] = []
    for step in range(8, 16):  # the second epoch starts at step 10
        batch = tiny.batch(method, x, step)
        z = normalize(copy.deepcopy(method).encoder(torch.cat(batch.views)), dim=1).detach()
        C = method.prototypes.weight.detach()
        scores = (z @ C.T).numpy()
        t, s = scores[: tiny.BATCH], scores[tiny.BATCH :]
        codes = []
        for view, own in enumerate((t, s)):
            seen = [own] if step < 12 else [(p.chunk(2)[view] @ C.T).numpy() for p in past[-2:]] + [own]
            codes.append(listing(numpy.concatenate(seen))[-tiny.BATCH :])
        expected = -0.5 * sum((q * log_softmax(p / 0.1)).sum(axis=1).mean() for q, p in zip(codes, (s, t), strict=True))
        assert method(batch)["loss"].item() == pytest.approx(expected, rel=1e-9), step
        past.append(z)
    assert torch.equal(method.queue[0, : tiny.BATCH], past[-1].chunk(2)[0])


def test_a_queue_that_does_not_fit_the_batch_is_one_line() -> None:
    with pytest.raises(UserError, match=r"method\.queue=40: must be a multiple of batch_size=16, e\.g\. 32"):
        swav(queue=40)
