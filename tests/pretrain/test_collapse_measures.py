"""The measures of an output: their numbers against NumPy, finite differences and cases whose answer is known."""

import math

import numpy
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from pretrain import output_measures as measures
from pretrain.method.base import Method
from pretrain.output_measures import (
    find_predictor_bias,
    infonce_decorrelation_cosines,
    measure_outputs,
    negative_decorrelation_gradient,
    spectrum,
)


def outputs(n: int, d: int, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    return torch.randn(n, d, dtype=torch.float64) @ torch.randn(d, d, dtype=torch.float64) + torch.randn(d)


@pytest.mark.parametrize("shape", [(40, 8), (8, 40)])
def test_the_spectrum_equals_numpys_and_sums_to_the_variances(shape: tuple[int, int]) -> None:
    z = outputs(*shape).numpy()
    Z = z / numpy.linalg.norm(z, axis=1, keepdims=True)
    expected = numpy.linalg.svd(Z - Z.mean(axis=0), compute_uv=False) / math.sqrt(len(z) - 1)
    ours = spectrum(torch.tensor(z))
    # The root of an eigenvalue that is zero but for rounding is only good to half of the digits.
    assert ours.numpy() == pytest.approx(expected, abs=1e-7)
    assert ours.square().sum().item() == pytest.approx(Z.var(axis=0, ddof=1).sum())


def test_outputs_on_a_line_have_one_direction() -> None:
    torch.manual_seed(0)
    z = torch.randn(50, 1) * torch.randn(1, 16)
    assert measure_outputs(z).metrics["top_share"] == pytest.approx(1.0)
    assert spectrum(z)[1] < 1e-6


def test_the_amount_of_the_center_is_what_was_put_in() -> None:
    u = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    # Zero-mean rows around centers that are known: o_z = 0.6 u, o_p = 0.3 u + 0.1 v, made of unit rows.
    z = torch.tensor([[0.6, 0.8, 0.0, 0.0], [0.6, -0.8, 0.0, 0.0]])
    rest = math.sqrt(1 - 0.3**2 - 0.1**2)
    p = torch.tensor([[0.3, 0.1, rest, 0.0], [0.3, 0.1, -rest, 0.0]])
    found = measure_outputs(z, p=p, bias=torch.tensor([2.0, 0.0, 2.0, 0.0])).metrics
    # (o_z - o_p) = (0.3, -0.1): its part along o_p = (0.3, 0.1) is (0.09 - 0.01) / 0.1.
    assert found["eta_p"] == pytest.approx(0.8)
    # (o_p - o_z) along o_z = (0.6, 0): -0.18 / 0.36.
    assert found["eta_z"] == pytest.approx(-0.5)
    assert found["o_e"] == pytest.approx(math.sqrt(0.1) / 0.6)
    assert found["bias_center_cosine"] == pytest.approx(math.sqrt(0.5))
    assert measure_outputs(u.repeat(3, 1)).metrics["top_share"] == 0.0


def test_what_remains_without_the_amount_is_orthogonal() -> None:
    z, p = outputs(30, 6), outputs(30, 6, seed=1)
    o_z, o_p = normalize(z, dim=1).mean(0), normalize(p, dim=1).mean(0)
    found = measure_outputs(z, p=p).metrics
    for eta, o_e, o in ((found["eta_p"], o_z - o_p, o_p), (found["eta_z"], o_p - o_z, o_z)):
        assert abs(torch.cosine_similarity(o_e - eta * o, o, dim=0)) < 1e-12


def decorrelation_loss(Z: Tensor) -> Tensor:
    """Algorithm 5, as printed."""
    N, D = Z.shape
    Z = Z - Z.mean(dim=0)
    cov = Z.T @ Z / (N - 1)
    diag = torch.eye(D)
    return cov[~diag.bool()].pow(2).sum() / D


@pytest.mark.parametrize("shape", [(20, 5), (5, 20)])
def test_the_decorrelation_gradient_is_that_of_algorithm_5(shape: tuple[int, int]) -> None:
    z = outputs(*shape)
    Z = normalize(z, dim=1).requires_grad_()
    decorrelation_loss(Z).backward()
    assert Z.grad is not None
    assert (negative_decorrelation_gradient(z) + Z.grad).abs().max() < 1e-10


def test_the_cosines_equal_a_loop_over_images() -> None:
    z_a, z_b = outputs(12, 6), outputs(12, 6, seed=1)
    a, b = (z.numpy() / numpy.linalg.norm(z.numpy(), axis=1, keepdims=True) for z in (z_a, z_b))
    target = negative_decorrelation_gradient(z_a).numpy()
    center = numpy.concatenate([a, b]).mean(axis=0)
    for tau, (of_r, of_o) in infonce_decorrelation_cosines(z_a, z_b, (0.1, 1.0)).items():
        residual, centers = [], []
        for i in range(12):
            others = numpy.concatenate([b, numpy.delete(a, i, axis=0)])
            weights = numpy.exp(others @ a[i] / tau)
            weights /= weights.sum()
            r_e, t = -(weights[:, None] * (others - center)).sum(axis=0), target[i]
            residual.append(r_e @ t / numpy.linalg.norm(r_e) / numpy.linalg.norm(t))
            centers.append(-center @ t / numpy.linalg.norm(center) / numpy.linalg.norm(t))
        assert of_r == pytest.approx(numpy.mean(residual), abs=1e-9)
        assert of_o == pytest.approx(numpy.mean(centers), abs=1e-9)


def test_the_last_bias_is_found_where_there_is_one() -> None:
    method = nn.Module()
    assert find_predictor_bias(method, 4) is None
    method.predictor = nn.Sequential(nn.Linear(4, 2, bias=False), nn.Linear(2, 4))
    assert find_predictor_bias(method, 4) is not None and find_predictor_bias(method, 2) is None
    method.predictor = nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 4, bias=False))
    assert find_predictor_bias(method, 4) is None
    method.predictor = nn.Sequential(nn.Linear(4, 2), nn.ReLU())
    assert find_predictor_bias(method, 4) is None


def test_a_methods_predictor_predicts_where_it_is_a_network() -> None:
    method = Method()
    assert method.predict(torch.ones(2, 4)) is None
    for other in (None, 32):
        method.predictor = other  # type: ignore[assignment]
        assert method.predict(torch.ones(2, 4)) is None and find_predictor_bias(method, 4) is None
    del method.predictor
    method.predictor = nn.Identity()
    assert method.predict(torch.ones(2, 4)) is not None


def test_the_measures_of_a_batch_decompose_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(z: Tensor) -> Tensor:
        calls.append(len(z))
        return spectrum(z)

    monkeypatch.setattr(measures, "spectrum", counted)
    z = outputs(12, 6)
    found = measure_outputs(z, outputs(12, 6, seed=1)).metrics
    assert calls == [12]
    assert found["top_share"] == pytest.approx(measure_outputs(z).metrics["top_share"], abs=1e-12)


def test_the_measures_of_a_batch_are_finite_even_for_a_constant_output() -> None:
    found, singular, _ = measure_outputs(torch.ones(8, 4), torch.ones(8, 4), torch.ones(8, 4))
    assert all(math.isfinite(v) for v in found.values())
    assert singular.tolist() == pytest.approx([0.0] * 4, abs=1e-6)
