"""Gradients by parts against autograd and against NumPy, in float64.

Equations are those of Zhang et al., ICLR 2022.
"""

from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from pretrain.method.siamese import gradient_components, losses
from pretrain.method.siamese.gradient_components import GradientComponents, component_loss
from pretrain.method.siamese.losses import covariance_loss, inverse_predictor_losses
from pretrain.output_measures import negative_decorrelation_gradient
from tests.pretrain import variants

EXACT = {"rtol": 0, "atol": 1e-10}
N, D = 12, 7


def rows(seed: int, offset: float = 0.5) -> Tensor:
    """(12, 7) random rows with a center."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(N, D, generator=generator, dtype=torch.float64) + offset


def unit(z: numpy.ndarray) -> numpy.ndarray:
    return z / numpy.linalg.norm(z, axis=1, keepdims=True)


def negative_gradient(loss: Callable[[Tensor], Tensor], X: Tensor) -> Tensor:
    """-dL/dX for one row's own loss: the losses here are means over N rows."""
    X = X.detach().clone().requires_grad_()
    loss(X).backward()
    assert X.grad is not None
    return -N * X.grad


def tangential(g: Tensor, X: Tensor) -> Tensor:
    """What of a gradient on X = x / |x| reaches x: the part across X. The paper calls the rest a dummy term."""
    return g - (g * X).sum(dim=1, keepdim=True) * X


def test_equation_3_squared_distance_and_cosine() -> None:
    Z_a, Z_b = (normalize(rows(seed), dim=1) for seed in (0, 1))
    got = negative_gradient(lambda Z: (Z - Z_b).square().sum(dim=1).mean() / 2, Z_a)
    torch.testing.assert_close(got, Z_b - Z_a, **EXACT)
    parts = GradientComponents(Z_b, torch.zeros(1, D), torch.zeros(N, D))
    raw = rows(0)
    for loss in (lambda z: losses.negative_cosine(z, Z_b), lambda z: component_loss(z, parts)):
        want = tangential(Z_b, Z_a) / raw.norm(dim=1, keepdim=True)
        torch.testing.assert_close(negative_gradient(loss, raw), want, **EXACT)


def test_the_dummy_term_has_no_gradient_and_its_parts_cancel() -> None:
    z = rows(0)
    parts = gradient_components.self_components(z)
    zero = negative_gradient(lambda x: component_loss(x, parts), z)
    assert zero.abs().max() < 1e-12
    center = negative_gradient(lambda x: component_loss(x, parts, ["r_e"]), z)
    residual = negative_gradient(lambda x: component_loss(x, parts, ["o_e"]), z)
    Z = normalize(z, dim=1)
    want = tangential(Z.mean(dim=0).expand_as(Z), Z) / z.norm(dim=1, keepdim=True)  # figure 4: -Z_a . sg(o_z)
    torch.testing.assert_close(center, want, **EXACT)
    torch.testing.assert_close(residual, -want, **EXACT)
    assert center.abs().max() > 1e-3


def test_equation_4_simsiam_is_basic_plus_center_plus_residual() -> None:
    p_a, p_b, z_b = rows(0), rows(1), rows(2, offset=-0.3)
    parts = gradient_components.simsiam_components(p_b, z_b)
    Z_b, P_b = unit(z_b.numpy()), unit(p_b.numpy())
    o_e = Z_b.mean(0) - P_b.mean(0)
    want = {"basic": P_b, "o_e": o_e[None], "r_e": Z_b - P_b - o_e}
    for name, value in want.items():
        torch.testing.assert_close(getattr(parts, name), torch.from_numpy(value), **EXACT)
    whole = negative_gradient(lambda p: losses.negative_cosine(p, z_b), p_a)
    torch.testing.assert_close(negative_gradient(lambda p: component_loss(p, parts), p_a), whole, **EXACT)
    # The mean of the residuals is 0: it moves no center.
    assert parts.r_e.mean(dim=0).abs().max() < 1e-12


@pytest.mark.parametrize("remove", [[], ["o_e"], ["r_e"], ["o_e", "r_e"]], ids=lambda r: "-".join(r) or "none")
def test_simsiams_whole_gradient_is_the_sum_of_its_parts(remove: list[str]) -> None:
    """On the weights of f and h: SimSiam's gradient minus what each removed part contributes."""
    method: Any = variants.build(variants.small("simsiam"))
    batch = variants.Data(2).batch(0)
    weights = [w for w in method.parameters() if w.requires_grad]
    z = [method.project(x) for x in batch.views]
    p = [method.predictor(v) for v in z]

    def grads(loss: Tensor) -> list[Tensor]:
        found = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
        return [torch.zeros_like(w) if g is None else g for g, w in zip(found, weights, strict=True)]

    want = grads(losses.negative_cosine(p[0], z[1].detach()) / 2 + losses.negative_cosine(p[1], z[0].detach()) / 2)
    for a, b in ((0, 1), (1, 0)):
        P_b, Z_b = normalize(p[b].detach(), dim=1), normalize(z[b].detach(), dim=1)
        center = (Z_b - P_b).mean(dim=0)
        for part, value in (("o_e", center.expand_as(Z_b)), ("r_e", Z_b - P_b - center)):
            if part in remove:
                share = grads(-(normalize(p[a], dim=1) * value).sum(dim=1).mean() / 2)
                want = [w - s for w, s in zip(want, share, strict=True)]
    name = {"": "simsiam", "o_e": "without_o_e", "r_e": "without_r_e", "o_e-r_e": "without_both"}["-".join(remove)]
    ours: Any = variants.build(variants.small(name))
    ours.load_state_dict(method.state_dict())
    ours(batch)["loss"].backward()
    for g, w in zip([w.grad for w in ours.parameters() if w.requires_grad], want, strict=True):
        torch.testing.assert_close(g, w, **EXACT)


def test_equation_6_infonce() -> None:
    z_a, z_b, tau = rows(0), rows(1), 0.2
    parts = gradient_components.infonce_components(z_a, z_b, tau)
    # Equation 5 as it stands, differentiated by autograd with the targets held constant.
    A, B = normalize(z_a, dim=1), normalize(z_b, dim=1)

    def equation_5(Z: Tensor) -> Tensor:
        scores = torch.exp(Z @ B.T / tau)
        return -torch.log(scores.diagonal() / scores.sum(dim=1)).mean()

    torch.testing.assert_close(losses.infonce(z_a, z_b, tau), equation_5(A), **EXACT)
    torch.testing.assert_close(sum(parts, torch.zeros(1)), negative_gradient(equation_5, A), **EXACT)
    a, b = unit(z_a.numpy()), unit(z_b.numpy())
    weights = numpy.exp(a @ b.T / tau)
    weights /= weights.sum(1, keepdims=True)
    o_z = b.mean(0)
    torch.testing.assert_close(parts.o_e, torch.from_numpy(-o_z[None] / tau), **EXACT)
    torch.testing.assert_close(parts.r_e, torch.from_numpy(-weights @ (b - o_z) / tau), **EXACT)
    without = negative_gradient(lambda Z: component_loss(Z, parts, ["r_e"]), A)
    torch.testing.assert_close(without, tangential((B - B.mean(dim=0)) / tau, A), **EXACT)


def test_triplet() -> None:
    z_a, z_b, z_n = rows(0), rows(1), rows(2)
    a, b, n = (unit(z.numpy()) for z in (z_a, z_b, z_n))
    parts = gradient_components.triplet_components(z_b, z_n)
    o = b.mean(0)
    A = normalize(z_a, dim=1)
    for remove, want in (([], b - n), (["r_e"], b - o), (["o_e"], b - (n - o)), (["o_e", "r_e"], b)):
        got = negative_gradient(lambda Z, remove=remove: component_loss(Z, parts, remove), A)  # type: ignore[misc]
        torch.testing.assert_close(got, tangential(torch.from_numpy(want), A), **EXACT)
        assert float(component_loss(z_a, parts, remove)) == pytest.approx(-(a * want).sum(1).mean(), abs=1e-12)


def test_a_negative_is_another_image_and_every_other_one_in_turn() -> None:
    torch.manual_seed(0)
    z = torch.arange(6.0)[:, None]
    drawn = torch.cat([gradient_components.random_negatives(z) for _ in range(200)], dim=1)  # 6-by-200
    assert (drawn != z).all()
    assert all(set(row.tolist()) == set(range(6)) - {i} for i, row in enumerate(drawn))


def of_bias(b: Tensor, Z_a: Tensor, Z_b: Tensor) -> Tensor:
    return losses.negative_cosine(Z_a + b, Z_b)


def test_equations_10_and_13_one_bias() -> None:
    """NOTE: by equation 8 the paper's cossim(Z_a, Z_b) is that of the loss's own arguments, P_a and Z_b."""
    Z_a, Z_b = (normalize(rows(seed), dim=1) for seed in (0, 1))
    b = torch.linspace(-0.5, 0.7, D, dtype=torch.float64)
    p = Z_a + b
    length = p.norm(dim=1, keepdim=True)
    cos = (p * Z_b).sum(dim=1, keepdim=True) / length
    m = cos / length
    o = (Z_a.mean(dim=0) + Z_b.mean(dim=0)) / 2
    r_a, r_b = Z_a - o, Z_b - o
    on_b = ((1 - m) * o - m * b + r_b - m * r_a) / length  # equation 10, row by row
    got = negative_gradient(lambda x: of_bias(x, Z_a, Z_b), b) / N
    torch.testing.assert_close(got, on_b.mean(dim=0), **EXACT)
    on_Z = Z_b / length - cos / length**2 * Z_a - cos / length**2 * b  # equation 13
    torch.testing.assert_close(negative_gradient(lambda Z: of_bias(b, Z, Z_b), Z_a), on_Z, **EXACT)
    wrong = (Z_a * Z_b).sum(dim=1, keepdim=True)
    assert (Z_b / length - wrong / length**2 * p - on_Z).abs().max() > 0.01


def test_equation_14_the_bias_pushes_the_center_away() -> None:
    """With the bias of equation 12 the gradient on Z_a, but for the dummy term, is Z_b and a negative center."""
    Z_a, Z_b = (normalize(rows(seed), dim=1)[:1] for seed in (0, 1))
    # Shorter than the part of Z_b along it, or no bias solves equation 12.
    o_z = 0.5 * normalize(Z_a + Z_b + 0.3 * rows(2)[:1], dim=1)[0]

    def state(c: float) -> tuple[float, float]:
        p = Z_a + c * o_z
        return float(p.norm()), float((p * Z_b).sum() / p.norm())

    # b = (|p| / cos - 1) o_z stands on both sides: bisection.
    low, high = 0.0, 50.0
    for _ in range(200):
        c = (low + high) / 2
        length, cos = state(c)
        low, high = (c, high) if length / cos - 1 > c else (low, c)
    length, cos = state(c)
    assert c > 0.1 and length / cos - 1 == pytest.approx(c, abs=1e-12)
    Z = Z_a.clone().requires_grad_()
    of_bias(c * o_z, Z, Z_b).backward()
    assert Z.grad is not None
    dummy = cos / length**2 * Z_a
    want = (Z_b - (1 - cos / length) * o_z) / length  # equation 14
    torch.testing.assert_close(-Z.grad + dummy, want, **EXACT)


def test_decorrelation_is_algorithm_5() -> None:
    z = rows(0)
    R = z.numpy() - z.numpy().mean(0)
    cov = R.T @ R / (N - 1)
    want = sum(cov[i, j] ** 2 for i in range(D) for j in range(D) if i != j) / D
    assert float(covariance_loss(z)) == pytest.approx(want, abs=1e-12)
    assert float(covariance_loss(z, rows(1))) == pytest.approx((want + float(covariance_loss(rows(1)))) / 2)
    unit_rows = normalize(z, dim=1)
    # The closed form of the measures, on Z.
    got = negative_gradient(covariance_loss, unit_rows) / N
    torch.testing.assert_close(got, negative_decorrelation_gradient(z), **EXACT)


def test_behind_a_batch_norm_a_collapsed_output_is_the_most_correlated() -> None:
    """On unit rows a constant has no correlation, so figure 5 (b) needs the norm that the output has."""
    norm = torch.nn.BatchNorm1d(D, affine=False).double()
    near = rows(0)[:1] + 0.03 * rows(1, offset=0)[:, :1]  # all on a line, close together
    assert float(covariance_loss(normalize(near, dim=1))) < 1e-6 < float(covariance_loss(normalize(rows(0), dim=1)))
    # Every pair of channels fully correlated: d (d - 1) (n / (n - 1))^2 / d.
    assert float(covariance_loss(norm(near))) == pytest.approx((D - 1) * (N / (N - 1)) ** 2, rel=0.05)
    assert float(covariance_loss(norm(rows(0)))) < (D - 1) / 2


def test_cross_entropy_and_squared_distance() -> None:
    p, z = rows(0).numpy(), rows(1).numpy()
    q = numpy.exp(z) / numpy.exp(z).sum(1, keepdims=True)
    log_p = p - numpy.log(numpy.exp(p).sum(1, keepdims=True))
    got = losses.soft_cross_entropy(torch.from_numpy(p), torch.from_numpy(z))
    assert float(got) == pytest.approx(-(q * log_p).sum(1).mean(), abs=1e-12)
    got = losses.half_mse(torch.from_numpy(p), torch.from_numpy(z))
    assert float(got) == pytest.approx(((p - z) ** 2).sum(1).mean() / 2 / D, abs=1e-12)


# The papers' pseudo-code once more, as they print it: f, h and h_inv in, the loss out.


def algorithm_1(f: Any, h: Any, x: list[Tensor]) -> Tensor:  # SimSiam
    z, p = [f(v) for v in x], [h(f(v)) for v in x]
    return cos(p[0], z[1].detach()) / 2 + cos(p[1], z[0].detach()) / 2


def algorithm_2(f: Any, h: Any, x: list[Tensor]) -> Tensor:  # Mirror SimSiam
    z_a, z_b = f(x[0]), f(x[1])
    return cos(z_a, h(z_b.detach())) / 2 + cos(z_b, h(z_a.detach())) / 2


def algorithm_3(f: Any, h: Any, x: list[Tensor]) -> Tensor:  # symmetric predictor
    p_a, p_b = h(f(x[0])), h(f(x[1]))
    return cos(p_a, p_b.detach()) / 2 + cos(p_b, p_a.detach()) / 2


def equation_1(f: Any, h: Any, x: list[Tensor]) -> Tensor:  # naive Siamese
    return cos(f(x[0]), f(x[1]))


def no_predictor(f: Any, h: Any, x: list[Tensor]) -> Tensor:
    return cos(f(x[0]), f(x[1]).detach()) / 2 + cos(f(x[1]), f(x[0]).detach()) / 2


def no_stop(f: Any, h: Any, x: list[Tensor]) -> Tensor:
    return cos(h(f(x[0])), f(x[1])) / 2 + cos(h(f(x[1])), f(x[0])) / 2


def one_way(f: Any, h: Any, x: list[Tensor]) -> Tensor:
    return cos(h(f(x[0])), f(x[1]).detach())


def two_pairs(f: Any, h: Any, x: list[Tensor]) -> Tensor:
    return (cos(h(f(x[0])), f(x[1]).detach()) + cos(h(f(x[2])), f(x[3]).detach())) / 2


def mean_of_nine(f: Any, h: Any, x: list[Tensor]) -> Tensor:  # appendix A.3
    return cos(f(x[0]), sum(f(v) for v in x[1:]).detach() / 9)


def cos(p: Tensor, z: Tensor) -> Tensor:
    return -((p * z).sum(1) / (p.norm(dim=1) * z.norm(dim=1))).mean()


PSEUDO = {
    "simsiam": algorithm_1, "mirror": algorithm_2, "symmetric_predictor": algorithm_3, "naive": equation_1,
    "no_predictor": no_predictor, "no_stop_gradient": no_stop, "asymmetric": one_way, "asymmetric_2x": two_pairs,
    "expectation_10": mean_of_nine,
}  # fmt: skip


def pseudo_gradients(name: str, code: Callable[..., Tensor]) -> tuple[list[Any], list[Any]]:
    """Gradients of all weights by the method and by a paper's pseudo-code."""
    method: Any = variants.build(variants.small(name))
    batch = variants.Data(method.views).batch(0)
    method(batch)["loss"].backward()
    ours = [w.grad for w in method.parameters()]
    method.zero_grad(set_to_none=True)
    code(method.project, method.predictor, batch.views).backward()
    return ours, [w.grad for w in method.parameters()]


@pytest.mark.parametrize("name", PSEUDO)
def test_a_variant_is_its_pseudo_code(name: str) -> None:
    for got, want in zip(*pseudo_gradients(name, PSEUDO[name]), strict=True):
        torch.testing.assert_close(got, want, **EXACT)


@pytest.mark.parametrize("name", ["simsiam", "mirror", "symmetric_predictor", "asymmetric"])
def test_no_variant_passes_for_another(name: str) -> None:
    for other, code in PSEUDO.items():
        if other not in (name, "asymmetric_2x", "expectation_10"):
            got, want = pseudo_gradients(name, code)
            same = [
                g is w is None or (g is not None and w is not None and torch.allclose(g, w))
                for g, w in zip(got, want, strict=True)
            ]
            assert not all(same), other


def test_without_a_predictor_stop_gradient_halves_the_gradient() -> None:
    """The first paper, section 4.2: with the symmetric loss it is the gradient without stop-gradient, scaled by 1/2."""
    ours, whole = pseudo_gradients("no_predictor", equation_1)
    for got, want in zip(ours, whole, strict=True):
        if got is not None:
            torch.testing.assert_close(got, want / 2, **EXACT)


def test_inverse_predictor_is_algorithm_4() -> None:
    method: Any = variants.build(variants.small("inverse_predictor"))
    batch = variants.Data(2).batch(0)
    output = method(batch)
    output["loss"].backward()
    ours = [w.grad for w in method.parameters()]
    method.zero_grad(set_to_none=True)
    f, h, h_inv = method.project, method.predictor, method.inverse

    def D(p: Tensor, z: Tensor) -> Tensor:
        return cos(p, z.detach())

    z_a, z_b = f(batch.views[0]), f(batch.views[1])
    p_a, p_b = h(z_a), h(z_b)
    loss = D(h(z_a.detach()), z_b) / 2 + D(h(z_b.detach()), z_a) / 2
    loss = loss + D(h_inv(p_a.detach()), z_a) / 2 + D(h_inv(p_b.detach()), z_b) / 2
    loss = loss + D(p_a, h_inv(p_b)) / 2 + D(p_b, h_inv(p_a)) / 2
    loss.backward()
    assert output["loss"].item() == pytest.approx(loss.item(), abs=1e-12)
    for got, w in zip(ours, method.parameters(), strict=True):
        torch.testing.assert_close(got, w.grad, **EXACT)
    parts = inverse_predictor_losses(h, h_inv, [z_a, z_b], [p_a, p_b], losses.negative_cosine)
    assert parts["loss"].item() == pytest.approx(sum(parts[k].item() for k in ("predict", "invert", "encode")))
