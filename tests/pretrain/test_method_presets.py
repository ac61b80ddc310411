"""The recipes that the configuration files give for every length, against the sources' numbers."""

from pathlib import Path

import pytest

from pretrain.augment import build_view_transforms
from pretrain.config import METHODS, PretrainConfig
from pretrain.optim import Schedule
from tests.pretrain.variants import settings

LENGTHS = (100, 200, 400, 800)


def recipe(method: str, *more: str) -> PretrainConfig:
    """The settings of `python -m pretrain method=METHOD …`."""
    return settings(f"method={method}", *more)


def rates(config: PretrainConfig, steps_per_epoch: int = 4) -> list[float]:
    """The learning rate of every step."""
    schedule = Schedule(config.optimizer, config.batch_size, steps_per_epoch, config.epochs)
    return [schedule(step) for step in range(config.epochs * steps_per_epoch)]


# SimSiam paper, footnote 7, and byol/configs/byol.py for its 100, 300 and 1000 epochs.
BYOL = {100: (0.45, 1e-6, 0.99), 200: (0.3, 1e-6, 0.99), 400: (0.3, 1e-6, 0.99), 800: (0.2, 1.5e-6, 0.996)}


@pytest.mark.parametrize("epochs", LENGTHS)
def test_byol_has_a_preset_a_length(epochs: int) -> None:
    config = recipe("byol", f"epochs={epochs}")
    lr, decay, momentum = BYOL[epochs]
    assert (config.optimizer.lr, config.optimizer.weight_decay, config.method.momentum) == (lr, decay, momentum)
    assert config.optimizer.warmup_epochs == 10


# Method -> optimizer, peak lr at the recipe's batch, batch, weight decay, excluded, zero-initialized residuals.
# Sources: the methods' YAML files name them value by value.
RECIPES = {
    "simsiam": ("sgd", 0.05, 256, 1e-4, False, True),
    "simclr": ("lars", 4.8, 4096, 1e-6, True, True),
    "moco": ("sgd", 0.03, 256, 1e-4, False, False),
    "swav": ("larc", 4.8, 4096, 1e-6, False, False),
    "supervised": ("sgd", 0.1, 256, 1e-4, False, False),
}


@pytest.mark.parametrize("method", sorted(RECIPES))
def test_a_recipe_is_its_sources(method: str) -> None:
    config = recipe(method)
    o = config.optimizer
    peak = Schedule(o, config.batch_size, 1, config.epochs).peak
    got = (o.name, peak, config.batch_size, o.weight_decay, o.exclude_norm_and_bias, config.zero_init_residual)
    name, lr, *rest = RECIPES[method]
    assert got == (name, pytest.approx(lr), *rest)
    assert o.momentum == 0.9


@pytest.mark.parametrize("method", METHODS)
def test_the_views_are_those_of_the_methods_paper(method: str) -> None:
    config = recipe(method)
    assert config.augment.name == method
    assert len(build_view_transforms(config.augment.for_views(2))) == 2


def test_simclr_and_byol_warm_up_and_end_as_released() -> None:
    for method, peak in (("simclr", 4.8), ("byol", 7.2)):
        got = rates(recipe(method, "epochs=100"))
        # model_util.py, schedules.py: step / warm-up steps * peak, then the cosine to 0.
        assert got[:41] == pytest.approx([step / 40 * peak for step in range(41)])
        assert got[40 + 180] == pytest.approx(peak / 2)
        assert 0 < got[-1] < 1e-4 * peak


def test_swav_warms_up_from_its_start_and_ends_at_its_final_rate() -> None:
    got = rates(recipe("swav", "epochs=100"))
    assert got[0] == pytest.approx(0.3)
    assert got[20] == pytest.approx((0.3 + 4.8) / 2)
    assert max(got) == got[40] == pytest.approx(4.8)
    assert got[40 + 180] == pytest.approx((4.8 + 0.0048) / 2)
    assert got[-1] == pytest.approx(0.0048, rel=0.1)


def test_supervised_training_divides_by_ten_after_epochs_30_and_60() -> None:
    config = recipe("supervised")
    assert config.epochs == 90
    got = rates(config, steps_per_epoch=2)
    assert got == pytest.approx([0.1] * 60 + [0.01] * 60 + [0.001] * 60)


@pytest.mark.parametrize("method", ["simsiam", "siamese"])
def test_simsiam_warms_up_from_the_rate_of_256_images_for_large_batches(method: str) -> None:
    for batch in (256, 512):
        assert rates(recipe(method, f"batch_size={batch}"))[0] == pytest.approx(0.05 * batch / 256)
    for batch in (1024, 2048, 4096):
        got, peak = rates(recipe(method, f"batch_size={batch}"))[::4], 0.05 * batch / 256
        assert got[0] == pytest.approx(0.05) and got[10] == pytest.approx(peak)
        assert got[5] == pytest.approx((0.05 + peak) / 2)


# What the methods are, by hand from the sources that their YAML files name.
METHODS_BY_HAND = {
    "simsiam": {"dim": 2048, "hidden": 512, "layers": 3, "fix_predictor_lr": True, "stop_gradient": True},
    "siamese": {"dim": 2048, "hidden": 512, "layers": 3, "fix_predictor_lr": True, "stop_gradient": True},
    "simclr": {"dim": 128, "layers": 3, "temperature": 0.1, "reduction": "sum", "predictor": 0},
    "moco": {"dim": 128, "queue": 65536, "momentum": 0.999, "temperature": 0.2, "symmetrized": True, "shuffle": True},
    "byol": {"dim": 256, "hidden": 4096},
    "swav": {
        "dim": 128, "hidden": 2048, "layers": 3, "prototypes": 3000, "temperature": 0.1, "epsilon": 0.05,
        "iterations": 3, "freeze_epochs": 1, "queue": 0, "predictor": 0, "stop_gradient": True,
    },
    "supervised": {},
}  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_a_method_is_its_papers(method: str) -> None:
    settings = vars(recipe(method).method)
    assert {key: settings[key] for key in METHODS_BY_HAND[method]} == METHODS_BY_HAND[method]


@pytest.mark.parametrize("method", ["simclr", "byol", "swav"])
def test_a_short_run_leaves_its_warm_up(method: str) -> None:
    for epochs in (2, 8, 12, 30, 40):
        config = recipe(method, f"epochs={epochs}")
        assert max(rates(config)) == pytest.approx(config.optimizer.lr * config.batch_size / 256)


def test_moco_groups_its_images_as_on_8_gpus() -> None:
    for batch, groups in ((32, 1), (64, 2), (128, 4), (256, 8), (512, 8)):
        assert recipe("moco", f"batch_size={batch}").method.bn_groups == groups


def test_every_value_of_a_recipe_is_written_down(root: Path) -> None:
    """A default that changes in the code must not change a published recipe."""
    for method in METHODS:
        text = (root / "pretrain" / "method" / f"{method}.yaml").read_text()
        for key in ("lr", "momentum", "weight_decay", "exclude_norm_and_bias", "schedule", "batch_size"):
            assert f"{key}:" in text, (method, key)
        for key in vars(recipe(method).method):
            assert f"  {key}:" in text or key == "stop_gradient", (method, key)
