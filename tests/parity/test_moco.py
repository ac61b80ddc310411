"""Ours equals facebookresearch/moco@7397dfe; `record_moco.py` made the figures by running that code."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain.method.base import Batch, Method, TrainingPlan, build_method
from pretrain.method.config import MoCoConfig
from pretrain.optim import build_optimizer
from tests.parity import case
from tests.parity.test_simsiam import assert_equal, official

THEIRS: Any = json.loads((Path(__file__).parent / "moco.json").read_text())


def ours(**settings: Any) -> Method:
    torch.manual_seed(case.SEED)
    config = MoCoConfig(
        dim=case.DIM, queue=case.QUEUE, momentum=case.MOCO_M, temperature=case.MOCO_T, symmetrized=False, **settings
    )
    return build_method(config, TrainingPlan("resnet18", False, case.STEPS, 1, case.BATCH, 10))


def train(method: Method, steps: int = case.STEPS) -> dict[str, Any]:
    config = official("moco", lr=case.LR, weight_decay=case.DECAY).optimizer
    optimizer = build_optimizer(method.groups(), config, case.LR)
    result: dict[str, Any] = {"losses": [], "queues": []}
    for step in range(steps):
        output = method(Batch(list(case.images(step)), torch.zeros(case.BATCH, dtype=torch.long), step))
        optimizer.zero_grad()
        output["loss"].backward()
        if step == 0:
            result["gradients"] = case.sums(method, gradients=True)
        optimizer.step()
        result["losses"].append(output["loss"].item())
        ramp = torch.linspace(-1, 1, case.QUEUE)
        result["queues"].append([int(method.queue_ptr), *(method.queue * ramp).sum(1)[:4].tolist()])
    return result


def test_one_seed_gives_the_official_initial_weights_and_queue() -> None:
    method = ours()
    assert_equal(case.sums(method), THEIRS["initial"])
    queue = [method.queue.sum().item(), method.queue.abs().sum().item()]
    assert queue == pytest.approx(THEIRS["initial_queue"], rel=1e-5)
    assert list(method.state_dict()) == THEIRS["keys"]


def test_ten_steps_equal_the_official_ones() -> None:
    """Losses, gradients, the queue after each step, both encoders and their statistics after the last."""
    method = ours().double()
    mine = train(method)
    assert mine["losses"] == pytest.approx(THEIRS["losses"], rel=1e-6)
    assert_equal(mine["gradients"], THEIRS["gradients"])
    for got, expected in zip(mine["queues"], THEIRS["queues"], strict=True):
        assert got == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert_equal(case.sums(method), THEIRS["final"])
    statistics = case.statistics(method)
    for name, values in THEIRS["statistics"].items():
        assert statistics[name] == pytest.approx(values, rel=1e-6, abs=1e-6 * values[1]), name


def test_another_momentum_is_caught() -> None:
    """The comparison can fail: it does at the second step, whose keys are the first that a moved encoder makes."""
    broken = ours().double()
    broken.config.momentum = 0.5
    losses = train(broken, 2)["losses"]
    assert losses[0] == pytest.approx(THEIRS["losses"][0], rel=1e-6)
    assert losses[1] != pytest.approx(THEIRS["losses"][1], rel=1e-5)
