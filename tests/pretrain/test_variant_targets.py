"""What views are compared with, and what remembers: against SimSiam itself, plain loops and NumPy."""

import copy
import math
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from pretrain.config import OptimizerConfig
from pretrain.method.base import Method
from pretrain.method.config import SiameseConfig, SimSiamConfig
from pretrain.method.siamese.targets import MovingAverage, PeriodicCopy
from pretrain.optim import build_optimizer
from tests.pretrain import tiny, variants
from tests.pretrain.variants import Data, build, small, train


def states(method: Method) -> dict[str, Tensor]:
    """All that training changed, without what only an alternation keeps."""
    return {k: v for k, v in method.state_dict().items() if not k.startswith("target.")}


def assert_same(one: Method, other: Method) -> None:
    left, right = states(one), states(other)
    assert list(left) == list(right)
    for name, value in left.items():
        assert torch.equal(value, right[name]), name


@pytest.mark.parametrize("name", ["simsiam", "alternate_1"])
def test_bit_for_bit_simsiam(name: str) -> None:
    """Weights, running statistics and losses of 8 steps, float32, as a run computes them."""
    simsiam = build(SimSiamConfig(dim=32, hidden=8)).float()
    ours = build(small(name)).float()
    assert_same(ours, simsiam)
    data = Data(2)
    data.pictures = data.pictures.float()
    assert train(ours, 8, data=data) == train(simsiam, 8, data=data)
    assert_same(ours, simsiam)


def test_targets_that_count_views_twice_are_found_out() -> None:
    class Careless(PeriodicCopy):
        def after_step(self, f: Any, step: int) -> None:
            self.f = f  # the network itself: its running statistics see every view again

    simsiam, ours = build(SimSiamConfig(dim=32, hidden=8)), build(small("alternate_1"))
    ours.target = Careless(ours.f, 1)  # type: ignore[assignment]
    train(simsiam, 2)
    train(ours, 2)
    with pytest.raises(AssertionError):
        assert_same(ours, simsiam)


@pytest.mark.parametrize(("name", "k"), [("alternate_10", 4), ("alternate_epoch", 3)])
def test_multi_step_alternation_is_a_plain_double_loop(name: str, k: int) -> None:
    """The first paper, section 5.2: an outer loop that solves for eta, an inner one of k SGD steps. An epoch has 3."""
    steps, data = 7, Data(2)
    ours = build(small(name, **({"alternate": k} if name == "alternate_10" else {})))
    losses = train(ours, steps, data=data)
    plain: Any = build(SimSiamConfig(dim=32, hidden=8))
    optimizer = build_optimizer(plain.param_groups(), OptimizerConfig(lr=0.05, weight_decay=1e-4), 0.05)
    want = []
    for start in range(0, steps, k):
        frozen = copy.deepcopy(plain.encoder)  # theta^t
        inner = range(start, min(start + k, steps))
        with torch.no_grad():
            eta = {s: [frozen(x) for x in data.batch(s).views] for s in inner}  # n-by-d a view
        for s in inner:
            x1, x2 = data.batch(s).views
            p1, p2 = plain.predictor(plain.encoder(x1)), plain.predictor(plain.encoder(x2))
            loss = plain.D(p1, eta[s][1]) / 2 + plain.D(p2, eta[s][0]) / 2
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            want.append(loss.item())
    assert losses == pytest.approx(want, abs=1e-12)
    assert losses != pytest.approx(train(build(small("simsiam")), steps, data=data), abs=1e-4)
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[key], value, rtol=0, atol=1e-10)


def test_moving_average_is_a_plain_loop() -> None:
    images, d, n, m = 10, 3, 4, 0.8
    target = MovingAverage(images, d, m)
    chance = numpy.random.default_rng(0)
    memory = numpy.zeros((images, d), dtype=numpy.float32)
    for step in range(12):
        indices = chance.permutation(images)[:n]
        z = [chance.normal(size=(n, d)).astype(numpy.float32) for _ in range(2)]
        batch = variants.Batch([], torch.empty(0), step, torch.from_numpy(indices))
        got = target([torch.from_numpy(v) for v in z], batch)
        want = [numpy.empty((n, d), dtype=numpy.float32) for _ in range(2)]
        for row, image in enumerate(indices):
            views = [v[row] / numpy.linalg.norm(v[row]) for v in z]
            seen = memory[image].any()
            for view, out in zip([*views, (views[0] + views[1]) / 2], [*want, None], strict=True):
                eta = m * memory[image] + (1 - m) * view if seen else view
                eta = eta / numpy.linalg.norm(eta)
                if out is None:
                    memory[image] = eta
                else:
                    out[row] = eta
        for ours, theirs in zip(got, want, strict=True):
            numpy.testing.assert_allclose(ours.numpy(), theirs, atol=1e-6)
            assert not ours.requires_grad
    numpy.testing.assert_allclose(target.memory.numpy(), memory, atol=1e-6)
    assert {"_extra_state"} == set(target.state_dict())


def test_the_moving_averages_loss_compares_each_view_with_the_others_average() -> None:
    method: Any = build(small("moving_average"))
    data = Data(2)
    train(method, 3, data=data)
    before = method.target.memory.clone()
    batch = data.batch(3)
    z = [method.project(x) for x in batch.views]
    eta = [normalize(0.8 * before[batch.indices] + 0.2 * normalize(v.detach(), dim=1), dim=1) for v in z]
    want = -(cosine_similarity(z[0], eta[1]).mean() + cosine_similarity(z[1], eta[0]).mean()) / 2
    assert method(batch)["loss"].item() == pytest.approx(want.item(), abs=1e-6)


def test_a_bias_converges_to_the_center() -> None:
    """Equation 12: b = (1 - m) / m o_z; the second paper measures a cosine of 0.99 (table 6)."""
    generator = torch.Generator().manual_seed(0)
    residual = torch.randn(256, 16, generator=generator, dtype=torch.float64)
    center = torch.linspace(-0.5, 1, 16, dtype=torch.float64)
    method: Any = build(small("one_bias", dim=16))
    optimizer = torch.optim.SGD(method.predictor.parameters(), lr=0.2)
    for _ in range(200):
        noise = torch.randn(2, 256, 16, generator=generator, dtype=torch.float64)
        Z_a, Z_b = (normalize(center + residual + view, dim=1) for view in noise)
        optimizer.zero_grad()
        method.D(method.predictor(Z_a), Z_b).backward()
        optimizer.step()
    o_z = torch.cat([Z_a, Z_b]).mean(dim=0)
    bias = method.predictor.bias.detach()
    assert cosine_similarity(bias, o_z, dim=0) > 0.98
    # The length that equation 12 gives, with m averaged over the images.
    p = Z_a + bias
    m = ((p * Z_b).sum(dim=1) / p.norm(dim=1).square()).mean()
    assert bias.norm() == pytest.approx(float((1 - m) / m * o_z.norm()), rel=0.3)


def test_in_training_the_bias_follows_the_center() -> None:
    """Without the output's batch norm, which would leave hardly any center to follow."""
    method: Any = build(small("one_bias", projector_bn="hidden"))
    data = Data(2)
    train(method, 20, data=data)
    with torch.no_grad():
        Z = torch.cat([method.project(x) for step in range(3) for x in data.batch(step).views])
    assert cosine_similarity(method.predictor.bias.detach(), Z.mean(dim=0), dim=0) > 0.95


def test_the_tanh_bounds_the_single_layer_after_every_step() -> None:
    method: Any = build(small("one_fc_tanh"))
    with torch.no_grad():
        method.predictor.weight.mul_(30)
    before = method.predictor.weight.clone()
    method.after_step(0)
    assert before.abs().max() > 1
    torch.testing.assert_close(method.predictor.weight, before.tanh(), rtol=0, atol=0)


def test_a_fixed_predictor_stays_and_the_others_move() -> None:
    for name, moves in (("fixed_predictor", False), ("simsiam", True)):
        method: Any = build(small(name))
        before = [w.clone() for w in method.predictor.parameters()]
        train(method, 2)
        same = [torch.equal(w, b) for w, b in zip(method.predictor.parameters(), before, strict=True)]
        assert not any(same) if moves else all(same)


@pytest.mark.parametrize(
    ("name", "projector", "predictor"),
    [
        ("bn_none", [], []), ("bn_hidden", [1, 4], [1]), ("bn_default", [1, 4, 7], [1]), ("bn_all", [1, 4, 7], [1, 4]),
    ],
)  # fmt: skip
def test_table_3_has_its_norms(name: str, projector: list[int], predictor: list[int]) -> None:
    method: Any = build(small(name))
    for head, places in ((method.encoder.fc, projector), (method.predictor, predictor)):
        norms = [i for i, m in enumerate(head) if isinstance(m, torch.nn.BatchNorm1d)]
        assert norms == places
        # A layer without a norm needs a bias of its own.
        linear = [(i, m) for i, m in enumerate(head) if isinstance(m, torch.nn.Linear)]
        for i, layer in linear[:-1]:
            assert (layer.bias is None) == (i + 1 in places)
    output = method.encoder.fc[-1]
    assert name not in ("bn_default", "bn_all") or output.affine


def test_the_phases_of_figure_5_b() -> None:
    method: Any = build(small("decorrelate", collapse_from=1, decorrelate_from=2))
    data = Data(2)
    names = [method.objective_name(step) for step in range(9)]
    assert names == ["train"] * 3 + ["collapse"] * 3 + ["decorrelate"] * 3
    train(method, 4, data=data)
    # Phase 2: the two outputs themselves, without h and without a constant.
    a, b = (method.project(x) for x in data.batch(4).views)
    loss = method(data.batch(4))["loss"]
    assert loss.item() == pytest.approx(-cosine_similarity(a, b, dim=1).mean().item(), rel=1e-9)
    assert not any(g.any() for g in torch.autograd.grad(loss, list(method.predictor.parameters())))
    train(method, 5, data=data, first=4)
    z = [method.project(x) for x in data.batch(9).views]
    want = 0.0
    for v in z:
        cov = torch.cov(v.T)
        want += float((cov.square().sum() - cov.diagonal().square().sum()) / v.shape[1]) / 2
    assert float(method(data.batch(9))["loss"]) == pytest.approx(want, rel=1e-9)
    # Never the monitor's first epoch by mistake: 0 means never.
    assert build(SiameseConfig(dim=32, hidden=8)).objective_name(10**6) == "train"  # type: ignore[operator]


@pytest.mark.parametrize("name", ["no_predictor", "inverse_predictor", "asymmetric"])
def test_the_phases_are_for_every_composition(name: str) -> None:
    method: Any = build(small(name, collapse_from=1, decorrelate_from=2))
    data = Data(2)
    assert all(math.isfinite(loss) for loss in train(method, 9, data=data))
    for step in (3, 6):
        method.zero_grad(set_to_none=True)
        output = method(data.batch(step))
        assert output["z2"].requires_grad, "no view is a constant"
        output["loss"].backward()
        # As DDP asks for it.
        assert all(p.grad is not None for p in method.parameters() if p.requires_grad)


def test_batch_norm_behind_the_l2_norm_leaves_no_center() -> None:
    method: Any = build(small("bn_after_norm"))
    with torch.no_grad():
        z = method.project(variants.Data(2).batch(0).views[0])
    assert z.mean(dim=0).abs().max() < 1e-12
    assert z.var(dim=0, unbiased=False).mean().item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("name", ["moving_average", "alternate_10", "decorrelate", "triplet", "one_fc_tanh"])
def test_the_state_dict_and_the_generator_are_all_that_a_variant_remembers(name: str) -> None:
    """Stopped inside an epoch and an alternation, taken up by an object that was made anew."""
    config = small(name, **({"alternate": 4} if name == "alternate_10" else {}))

    def optimize(method: Method) -> torch.optim.Optimizer:
        return build_optimizer(method.param_groups(), OptimizerConfig(lr=0.05, weight_decay=1e-4), 0.05)

    whole, data = build(config), Data(2)
    optimizer = optimize(whole)
    torch.manual_seed(5)
    for number in range(8):
        if number == 5:
            saved = copy.deepcopy((whole.state_dict(), optimizer.state_dict(), torch.get_rng_state()))
        tiny.step(whole, optimizer, data.batch(number))
    other = build(config, seed=1)
    optimizer = optimize(other)
    other.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    torch.set_rng_state(saved[2])
    for number in range(5, 8):
        tiny.step(other, optimizer, data.batch(number))
    for key, value in whole.state_dict().items():
        assert torch.equal(other.state_dict()[key], value), key


@pytest.mark.parametrize(("name", "grows"), [("center_only", True), ("residual_only", False)])
def test_figure_4_the_center_feeds_itself_and_the_residual_starves_it(name: str, grows: bool) -> None:
    method: Any = build(small(name, projector_bn="hidden"))
    data = Data(2)

    def m_o() -> float:
        with torch.no_grad():
            return float(normalize(method.project(data.batch(0).views[0]), dim=1).mean(dim=0).norm())

    before = m_o()
    train(method, 12, lr=0.02, data=data)
    assert m_o() > before + 0.05 if grows else m_o() < before - 0.05
