"""The collapse monitor: its numbers against NumPy, its verdict on runs that do and do not collapse."""

import numpy
import pytest
import torch

from pretrain.monitor import CollapseMonitor, OutputMonitor
from pretrain.monitor_config import MonitorConfig
from pretrain.output_measures import Health, measure_health


def by_numpy(z: numpy.ndarray) -> dict[str, float]:
    z = z / numpy.linalg.norm(z, axis=1, keepdims=True)
    d = z.shape[1]
    o = z.mean(axis=0)
    covariance = numpy.cov((z * numpy.sqrt(d)).T)
    singular = numpy.linalg.svd(z - o, compute_uv=False)
    share = singular[singular > 1e-9] / singular.sum()
    return {
        "std": z.std(axis=0, ddof=1).mean(),
        "std_healthy": 1 / numpy.sqrt(d),
        "m_o": float(numpy.linalg.norm(o)),
        "m_r": numpy.linalg.norm(z - o, axis=1).mean(),
        "covariance": (covariance[~numpy.eye(d, dtype=bool)] ** 2).mean(),
        "effective_rank": numpy.exp(-(share * numpy.log(share)).sum()),
    }


@pytest.mark.parametrize("shape", [(40, 8), (8, 40)])
def test_every_number_equals_numpys(shape: tuple[int, int]) -> None:
    chance = numpy.random.default_rng(0)
    z = chance.normal(size=shape) @ chance.normal(size=(shape[1], shape[1])) + chance.normal(size=shape[1])
    health = measure_health(torch.tensor(z))
    for name, value in by_numpy(z).items():
        assert getattr(health, name) == pytest.approx(value, rel=1e-6), name


def test_an_even_spread_is_healthy_in_every_number() -> None:
    torch.manual_seed(0)
    health = measure_health(torch.randn(4000, 16))
    assert health.std == pytest.approx(health.std_healthy, rel=0.02)
    assert health.m_o < 0.05 and health.m_r > 0.99
    assert health.covariance < 0.01 and health.effective_rank > 15.9


def test_a_constant_output_is_collapsed_in_every_number() -> None:
    torch.manual_seed(0)
    health = measure_health(torch.randn(1, 16) + 1e-5 * torch.randn(100, 16))
    assert health.std < 1e-4 and health.m_o > 0.9999 and health.m_r < 1e-3


def test_an_output_on_a_line_has_rank_1() -> None:
    torch.manual_seed(0)
    health = measure_health(torch.randn(100, 1) * torch.randn(1, 16))
    assert health.effective_rank == pytest.approx(1, abs=1e-3) and health.covariance > 0.5


def watch(deviations: list[float]) -> OutputMonitor:
    monitor = OutputMonitor(MonitorConfig(every=10, patience=3))
    for i, std in enumerate(deviations):
        monitor.update(10 * (i + 1), Health(std, 0.25, 0.0, 1.0, 0.0, 10.0, 1.0))
    return monitor


def test_the_verdict_names_the_first_bad_step() -> None:
    assert watch([0.25, 0.2, 0.2]).verdict == "healthy"
    assert watch([0.25, 0.01, 0.01, 0.01]).verdict == "collapsed at step 20"
    assert watch([]).verdict == "not watched"


def test_one_bad_measurement_is_no_collapse_and_a_recovered_network_is_healthy() -> None:
    assert watch([0.25, 0.01, 0.25, 0.01, 0.25]).verdict == "healthy"
    assert watch([0.25, 0.01, 0.01, 0.01, 0.25, 0.25, 0.25]).verdict == "healthy"
    # Not by a single good measurement: a collapsed output flutters.
    assert watch([0.25, 0.01, 0.01, 0.01, 0.25, 0.25, 0.01]).verdict == "collapsed at step 20"


def test_a_verdict_travels_in_its_state() -> None:
    before = watch([0.25, 0.01, 0.01])
    after = OutputMonitor(before.config)
    after.load_state_dict(before.state_dict())
    after.update(40, Health(0.01, 0.25, 0.0, 1.0, 0.0, 10.0, 1.0))
    assert after.verdict == "collapsed at step 20"


def test_outputs_that_start_close_together_are_no_collapse_until_they_fall() -> None:
    # MoCo's head has no batch norm: 0.37 of 1 / sqrt(d) at the start.
    assert watch([0.09, 0.08, 0.09, 0.08]).verdict == "healthy"
    assert watch([0.09, 0.12, 0.02, 0.02, 0.02]).verdict == "collapsed at step 30"


def test_outputs_that_are_equal_from_the_start_are_a_collapse() -> None:
    assert watch([0.001, 0.001, 0.001]).verdict == "collapsed at step 10"


def test_a_constant_prediction_of_a_healthy_output_is_a_collapse_too() -> None:
    def health(std: float) -> Health:
        return Health(std, 0.25, 0.0, 1.0, 0.0, 10.0, 1.0)

    monitor = CollapseMonitor(every=10, patience=3)
    came = [monitor.detect_collapse(10 * (i + 1), health(0.25), health(0.25 if i < 2 else 0.001)) for i in range(8)]
    assert came == [False] * 4 + [True] + [False] * 3
    assert monitor.verdict == "collapsed at step 30 in the prediction" and monitor.collapsed_at == 30
    again = CollapseMonitor()
    again.load_state_dict(monitor.state_dict())
    assert again.verdict == monitor.verdict
    # The output's own collapse says more.
    for i in range(8, 11):
        assert not monitor.detect_collapse(10 * (i + 1), health(0.001), health(0.001))
    assert monitor.verdict == "collapsed at step 90"
    # A method without a predictor.
    alone = CollapseMonitor()
    assert not alone.detect_collapse(10, health(0.25), None) and alone.verdict == "healthy"


def test_nothing_is_bad_before_the_method_has_settled() -> None:
    """MoCo's queue of random vectors pushes all outputs to one side, from where they part again."""
    fallen, even = Health(0.01, 0.25, 0.0, 1.0, 0.0, 10.0, 1.0), Health(0.25, 0.25, 0.0, 1.0, 0.0, 10.0, 1.0)
    recovers, stays = (OutputMonitor(MonitorConfig(every=10, patience=3), warmup_steps=40) for _ in range(2))
    for step in range(10, 90, 10):
        recovers.update(step, fallen if step <= 40 else even)
        stays.update(step, fallen)
        assert recovers.verdict == "healthy"
        assert stays.verdict == ("healthy" if step < 70 else "collapsed at step 50")


def test_a_loss_that_stays_where_a_constant_output_has_it() -> None:
    monitor = CollapseMonitor(every=10, constant_loss=2.0, steps_per_epoch=60)
    even = Health(0.25, 0.25, 0.0, 1.0, 0.0, 10.0, 1.0)
    assert [monitor.detect_stuck_loss(loss) for loss in (2.0, 2.1, 1.9, *[2.0] * 9, 2.01)] == [False] * 13
    monitor.detect_collapse(130, even, None)
    assert monitor.verdict == "healthy", "ten updates are not two epochs"
    again = CollapseMonitor(every=10, constant_loss=2.0, steps_per_epoch=60)
    again.load_state_dict(monitor.state_dict())
    assert [again.detect_stuck_loss(loss) for loss in (1.99, 2.0, 2.0)] == [False, True, False]
    assert again.verdict == "does not learn: the loss stays at 2.00, that of a constant output"
    assert not again.detect_stuck_loss(1.5) and again.verdict == "healthy"
    # Methods whose constant output is a collapse, or no trap, have no such level.
    other = CollapseMonitor()
    assert not any(other.detect_stuck_loss(9.0) for _ in range(20)) and other.verdict == "not watched"
