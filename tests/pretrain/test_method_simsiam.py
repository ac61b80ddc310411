"""SimSiam against facebookresearch/simsiam@a7bc177, whose figures `parity/record_simsiam.py` has recorded."""

import hashlib
import json
import random
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models import resnet18

from pretrain.augment import build_view_transforms
from pretrain.config import OptimizerConfig, PretrainConfig
from pretrain.method.base import Batch, Method, TrainingPlan, build_method
from pretrain.method.config import SimSiamConfig
from pretrain.optim import Schedule, build_optimizer
from tests.pretrain import tiny
from tests.pretrain.parity import case
from tests.pretrain.variants import settings


def figures(name: str) -> Any:
    return json.loads((Path(__file__).parent / "parity" / f"{name}.json").read_text())


def official(**optimizer: float) -> PretrainConfig:
    """The settings of `python -m pretrain method=simsiam official=true`."""
    words = [f"optimizer.{name}={value}" for name, value in optimizer.items()]
    return settings("method=simsiam", "official=true", *words)


def ours(stop_gradient: bool = True) -> Method:
    torch.manual_seed(case.SEED)
    plan = TrainingPlan("resnet18", True, case.STEPS, 1, case.BATCH, 10)
    return build_method(SimSiamConfig(dim=case.DIM, hidden=case.HIDDEN, stop_gradient=stop_gradient), plan)


def train(method: Method) -> dict[str, Any]:
    """Ten steps with our optimizer and schedule, an epoch each."""
    method.double()
    config = official(lr=case.LR, momentum=case.MOMENTUM, weight_decay=case.DECAY).optimizer
    optimizer = build_optimizer(method.param_groups(), config, case.LR)
    schedule = Schedule(config, 256, 1, case.STEPS)
    result: dict[str, Any] = {"losses": []}
    for step in range(case.STEPS):
        for group in optimizer.param_groups:
            group["lr"] = case.LR if group["fix_lr"] else schedule(step)
        output = tiny.step(method, optimizer, Batch(list(case.images(step)), torch.empty(0), step))
        result["losses"].append(output["loss"].item())
        if step == 0:
            result["z1"] = output["z"][0, :6].tolist()
            result["gradients"] = case.sums(method, gradients=True)
    return result


def test_one_seed_gives_the_official_initial_weights() -> None:
    # Single precision, as drawn: the same numbers, not nearly the same.
    case.assert_equal(case.sums(ours()), figures("simsiam")["initial"], relative=1e-6)


def test_forward_loss_gradients_and_ten_steps_equal_the_official_ones() -> None:
    theirs, method = figures("simsiam"), ours()
    mine = train(method)
    assert mine["z1"] == pytest.approx(theirs["first"]["z1"], rel=1e-6)
    assert mine["losses"] == pytest.approx(theirs["losses"], rel=1e-6)
    case.assert_equal(mine["gradients"], theirs["first"]["gradients"])
    case.assert_equal(case.sums(method), theirs["final"])
    # The release saves no activations of its own: running statistics stand for every layer's.
    mine_statistics = case.statistics(method)
    assert mine_statistics.keys() == theirs["statistics"].keys()
    for name, values in theirs["statistics"].items():
        assert mine_statistics[name] == pytest.approx(values, rel=1e-6, abs=1e-9), name


def test_without_stop_gradient_the_gradients_differ() -> None:
    """The comparison above can fail: the broken variant has the same losses at first and other gradients."""
    theirs = figures("simsiam")
    mine = train(ours(stop_gradient=False))
    assert mine["losses"][0] == pytest.approx(theirs["losses"][0], rel=1e-6)
    with pytest.raises(AssertionError):
        case.assert_equal(mine["gradients"], theirs["first"]["gradients"], relative=1e-3)


def test_both_parameter_groups_follow_the_official_schedule() -> None:
    for epochs, rates in figures("simsiam_schedule")["rates"].items():
        lr = case.SCHEDULES[epochs]
        schedule = Schedule(OptimizerConfig(lr=lr), 256, 5, int(epochs))
        for epoch, (encoder, predictor) in enumerate(rates):
            # The rate is set once an epoch: every step of it has the same.
            for step in (5 * epoch, 5 * epoch + 4):
                assert schedule(step) == pytest.approx(encoder, rel=1e-12)
            assert predictor == lr


def test_parameter_names_are_the_official_ones() -> None:
    assert list(ours().state_dict()) == figures("simsiam")["keys"]


def test_the_official_linear_script_takes_our_checkpoint() -> None:
    """The key check of main_lincls.py, for the names that the trainer writes."""
    saved = {f"module.{name}": value for name, value in ours().state_dict().items()}
    inside = "module.encoder."
    backbone = {
        key[len(inside) :]: value
        for key, value in saved.items()
        if key.startswith(inside) and not key.startswith(inside + "fc")
    }
    message = resnet18().load_state_dict(backbone, strict=False)
    assert set(message.missing_keys) == {"fc.weight", "fc.bias"}
    assert not message.unexpected_keys


def test_the_augmentation_is_the_official_one_bit_for_bit() -> None:
    recorded = figures("simsiam_views")
    for package in ("torch", "torchvision", "pillow"):
        if version(package).split("+")[0] != recorded["packages"][package]:
            # Pixels of a resize belong to the library's version.
            pytest.skip(f"recorded with {package} {recorded['packages'][package]}")
    config = official().augment
    assert config.pipeline == "reference"
    views = build_view_transforms(config.for_views(2))
    for seed, hashes in enumerate(recorded["sha256"]):
        random.seed(seed)
        torch.manual_seed(seed)
        mine = [hashlib.sha256(view(case.picture()).numpy().tobytes()).hexdigest() for view in views]
        assert mine == hashes, f"seed {seed}"


def test_the_names_and_shapes_of_the_released_checkpoint_load() -> None:
    """`module.` and the names of the 100-epoch ResNet-50, as the official script saves it."""
    shapes = figures("simsiam_release")["shapes"]
    with torch.device("meta"):
        method = build_method(SimSiamConfig(), TrainingPlan("resnet50", True, 100, 1, 256, 1000))
        saved = {name.removeprefix("module."): torch.empty(shape) for name, shape in shapes.items()}
        method.load_state_dict(saved)
        with pytest.raises(RuntimeError, match="predictor"):
            method.load_state_dict({name: value for name, value in saved.items() if "predictor" not in name})
