"""SimCLR against NumPy: arXiv:2002.05709, equation 1, summed as google-research/simclr@383d414 objective.py does."""

import copy

import numpy
import pytest
import torch
from torch import nn

from pretrain.method.config import SimCLRConfig
from pretrain.method.simclr import SimCLR, nt_xent
from tests.pretrain import tiny


def equation_1(z: numpy.ndarray, t: float) -> float:
    """The mean over all 2N ordered pairs, term by term; z holds the N first views, then the N second ones."""
    unit = z / numpy.linalg.norm(z, axis=1, keepdims=True)
    count = len(z)
    losses = []
    for i in range(count):
        s = unit @ unit[i] / t
        j = (i + count // 2) % count
        losses.append(-s[j] + numpy.log(sum(numpy.exp(s[k]) for k in range(count) if k != i)))
    return float(numpy.mean(losses))


def objective(z: numpy.ndarray, t: float) -> float:
    """The released form: the mean over the first views plus that over the second ones, a large number masking."""
    a, b = numpy.split(z / numpy.linalg.norm(z, axis=1, keepdims=True), 2)
    total = 0.0
    for own, other in ((a, b), (b, a)):
        logits = numpy.concatenate([own @ other.T / t, own @ own.T / t - 1e9 * numpy.eye(len(a))], axis=1)
        total += (numpy.log(numpy.exp(logits).sum(axis=1)) - logits[range(len(a)), range(len(a))]).mean()
    return float(total)


@pytest.mark.parametrize("t", [0.1, 0.5])
def test_nt_xent_equals_both_forms(t: float) -> None:
    z = numpy.random.default_rng(0).normal(size=(12, 5))
    ours = nt_xent(torch.from_numpy(z), t).item()
    assert ours == pytest.approx(equation_1(z, t), rel=1e-10)
    assert 2 * ours == pytest.approx(objective(z, t), rel=1e-10)


def test_a_view_is_no_negative_of_itself() -> None:
    """With itself among the negatives the loss could not come near 0, however well the views agree."""
    z = torch.eye(6, dtype=torch.float64).repeat(2, 1)
    assert nt_xent(z, 0.02).item() < 1e-10


@pytest.mark.parametrize(("reduction", "factor"), [("sum", 2), ("mean", 1)])
def test_the_method_sums_or_averages_the_directions(reduction: str, factor: int) -> None:
    method = tiny.build(SimCLRConfig(dim=32, reduction=reduction))
    batch = tiny.batch(method, tiny.images(), 0)
    # Both views in one pass: the release concatenates them before the network, and batch norm sees them together.
    z = copy.deepcopy(method).encoder(torch.cat(batch.views)).detach().numpy()
    assert method(batch)["loss"].item() == pytest.approx(factor * equation_1(z, 0.1), rel=1e-9)


@pytest.mark.parametrize("layers", [2, 3])
def test_the_projector_is_the_released_one(layers: int) -> None:
    method = tiny.build(SimCLRConfig(dim=32, layers=layers))
    assert isinstance(method, SimCLR)
    fc = method.encoder.fc
    assert isinstance(fc, nn.Sequential)
    linear = [m for m in fc if isinstance(m, nn.Linear)]
    norms = [m for m in fc if isinstance(m, nn.BatchNorm1d)]
    assert len(linear) == len(norms) == layers
    assert all(m.bias is None for m in linear)
    tiny.train(method, tiny.images(), 2)
    # The last norm has a scale and no offset.
    assert not norms[-1].bias.any()
    assert norms[0].bias.any()
    assert (norms[-1].weight != 1).any()
