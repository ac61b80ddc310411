"""LARC and LARS against cases computed by hand, learning rates against their definitions."""

import copy
import itertools
import math
from typing import Any

import numpy
import pytest
import torch

from pretrain.config import OptimizerConfig
from pretrain.optim import Larc, Lars, Schedule, build_optimizer
from runs.errors import UserError
from runs.settings import check_values


def parameter(values: list[float], gradient: list[float]) -> torch.nn.Parameter:
    p = torch.nn.Parameter(torch.tensor(values, dtype=torch.float64))
    p.grad = torch.tensor(gradient, dtype=torch.float64)
    return p


@pytest.mark.parametrize("name", ["sgd", "lars", "larc"])
def test_the_fused_update_is_the_plain_one(name: str) -> None:
    weights = []
    for fused in (False, True):
        torch.manual_seed(0)
        parameters = [torch.nn.Parameter(torch.randn(n, dtype=torch.float64)) for n in (7, 1000)]
        optimizer = build_optimizer([{"params": parameters}], OptimizerConfig(name, trust=0.1, fused=fused), 0.1)
        for step in range(5):
            for p in parameters:
                p.grad = torch.randn_like(p)
            if step < 2:
                # As SwAV's prototypes, which learn later than the rest.
                parameters[0].grad = None
            optimizer.step()
        weights.append(torch.cat([p.detach() for p in parameters]))
    assert torch.allclose(*weights, rtol=1e-14, atol=1e-15)


def test_larc_is_apexs_rule_on_a_case_by_hand() -> None:
    # |p| = 5, |g| = 13, wd = 0.1, trust = 0.02: ratio = 0.02 * 5 / (13 + 5 * 0.1) = 0.1 / 13.5.
    p = parameter([3.0, 4.0], [5.0, 12.0])
    Larc([p], lr=2.0, momentum=0.9, weight_decay=0.1, trust=0.02).step()
    ratio = 0.1 / 13.5
    # The first step's momentum is the gradient: p - lr * ratio * (g + wd * p).
    assert p.tolist() == pytest.approx([3 - 2 * ratio * 5.3, 4 - 2 * ratio * 12.4], rel=1e-9)


def test_larc_leaves_a_parameter_of_norm_0_to_sgd() -> None:
    # A linear classifier's bias starts at 0: apex applies neither ratio nor decay to it.
    p = parameter([0.0, 0.0], [5.0, 12.0])
    Larc([p], lr=2.0, momentum=0.9, weight_decay=0.1, trust=0.02).step()
    assert p.tolist() == [-10.0, -24.0]


def lars_by_numpy(p: Any, gradients: list[Any], rates: list[float], decay: float, adapt: bool) -> Any:
    """google-research/simclr lars_optimizer.py with classic momentum, in NumPy."""
    v = numpy.zeros_like(p)
    for g, lr in zip(gradients, rates, strict=True):
        g = g + decay * p
        ratio = 0.001 * numpy.linalg.norm(p) / numpy.linalg.norm(g) if adapt else 1.0
        v = 0.9 * v + lr * ratio * g
        p = p - v
    return p


@pytest.mark.parametrize("name", ["lars"])
def test_lars_with_exclusions_over_steps_of_a_changing_rate(name: str) -> None:
    chance = numpy.random.default_rng(0)
    matrix, bias = chance.normal(size=(4, 3)), chance.normal(size=3)
    gradients = [(chance.normal(size=(4, 3)), chance.normal(size=3)) for _ in range(4)]
    rates = [0.1, 0.5, 0.4, 0.2]
    ours = [torch.nn.Parameter(torch.tensor(value)) for value in (matrix, bias)]
    config = OptimizerConfig(name=name, weight_decay=0.3, exclude_norm_and_bias=True)
    optimizer = build_optimizer([{"params": ours, "fix_lr": False}], config, 1.0)
    assert isinstance(optimizer, Lars)
    for (gm, gb), lr in zip(gradients, rates, strict=True):
        ours[0].grad, ours[1].grad = torch.tensor(gm), torch.tensor(gb)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
    expected = lars_by_numpy(matrix, [g for g, _ in gradients], rates, 0.3, adapt=True)
    assert numpy.allclose(ours[0].detach().numpy(), expected, rtol=1e-12)
    # The bias: neither decay nor adaptation.
    expected = lars_by_numpy(bias, [g for _, g in gradients], rates, 0.0, adapt=False)
    assert numpy.allclose(ours[1].detach().numpy(), expected, rtol=1e-12)


def test_without_exclusions_norms_and_biases_are_adapted_too() -> None:
    chance = numpy.random.default_rng(1)
    bias, gradient = chance.normal(size=3), chance.normal(size=3)
    p = torch.nn.Parameter(torch.tensor(bias))
    p.grad = torch.tensor(gradient)
    build_optimizer([{"params": [p]}], OptimizerConfig(name="lars", weight_decay=0.3), 0.2).step()
    expected = lars_by_numpy(bias, [gradient], [0.2], 0.3, adapt=True)
    assert numpy.allclose(p.detach().numpy(), expected, rtol=1e-12)


def test_an_optimizers_state_resumes_it() -> None:
    def start() -> tuple[torch.nn.Parameter, torch.optim.Optimizer]:
        p = parameter([1.0, -2.0], [0.5, 0.25])
        return p, build_optimizer([{"params": [p]}], OptimizerConfig(name="lars", weight_decay=0.01), 0.3)

    (p, one), (q, other) = start(), start()
    one.step()
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    q.data.copy_(p.data)
    for parameter_, optimizer in ((p, one), (q, other)):
        parameter_.grad = torch.tensor([0.1, 0.7], dtype=torch.float64)
        optimizer.step()
    assert torch.equal(p, q)
    assert one.param_groups[0]["lr"] == 0.3 and one.param_groups[0]["weight_decay"] == 0.01


def test_the_rate_is_scaled_by_the_batch() -> None:
    assert Schedule(OptimizerConfig(lr=0.05), 512, 5, 10).peak == pytest.approx(0.1)


def test_warm_up_and_cosine_at_every_step() -> None:
    config = OptimizerConfig(lr=4.0, schedule="step", warmup_epochs=2, warmup_start=0.25, final=0.1)
    rates = [*map(Schedule(config, 256, 5, 10), range(50))]
    assert rates[0] == 1.0 and rates[5] == pytest.approx(2.5) and rates[10] == 4.0
    # Middle of the cosine: 20 of 40 steps behind the warm-up.
    assert rates[30] == pytest.approx((4.0 + 0.4) / 2)
    assert rates[49] == pytest.approx(0.4 + 3.6 * 0.5 * (1 + math.cos(math.pi * 39 / 40)))
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lr": 0.0}, "optimizer.lr"),
        ({"momentum": 1.5}, "optimizer.momentum"),
        ({"weight_decay": -1.0}, "optimizer.weight_decay"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        check_values(OptimizerConfig(**settings), "optimizer.")


@pytest.mark.parametrize("name", ["sgd", "lars", "larc"])
def test_momentum_saved_in_another_memory_layout_belongs_to_the_same_weights(name: str) -> None:
    # A fused step pairs weights and momentum as they lie in memory.
    layouts = torch.contiguous_format, torch.channels_last
    start, gradient = torch.randn(4, 3, 3, 3), torch.randn(4, 3, 3, 3)
    config = OptimizerConfig(name=name, fused=True)
    parameters = [torch.nn.Parameter(start.clone().contiguous(memory_format=layout)) for layout in layouts]
    plain, last = (build_optimizer([{"params": [p]}], config, 0.1) for p in parameters)

    def step(p: torch.nn.Parameter, optimizer: torch.optim.Optimizer) -> None:
        p.grad = torch.empty_like(p).copy_(gradient)  # in the weight's layout, as autograd leaves it
        optimizer.step()

    step(parameters[0], plain)
    with torch.no_grad():
        parameters[1].copy_(parameters[0])
    last.load_state_dict(copy.deepcopy(plain.state_dict()))
    for p, optimizer in zip(parameters, (plain, last), strict=True):
        step(p, optimizer)
    assert torch.allclose(parameters[0], parameters[1], atol=1e-6)
