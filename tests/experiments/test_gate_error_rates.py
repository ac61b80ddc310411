"""The simulation by which the gate's error rates are measured."""

import pytest

from experiments.gate_error_rates import CLASSES, Case, ap_and_slope, draw_power, gate_fails, trial_std


def test_the_power_is_drawn_a_curve_a_question() -> None:
    shares = {
        Case(images, trials, drop, classes): drop / 3
        for images in (500, 1000) for trials in (1, 2) for drop in (1.0, 2.0) for classes in (CLASSES, 3)
    }  # fmt: skip
    assert draw_power(shares).startswith(b"\x89PNG") and draw_power(shares) != draw_power(
        {**shares, Case(500, 1, 2.0, 3): 0.1}
    )


@pytest.mark.slow
def test_rates_on_simulated_detectors() -> None:
    """A small version of `python -m experiments.gate_error_rates`, whose figures are in docs/benchmarks.md."""
    _, points = ap_and_slope()
    assert 0.12 < trial_std(8) < 0.32  # the published standard deviation of a trial is 0.2 AP
    alarms, caught, in_few = (
        sum(gate_fails(case, pair, points) for pair in range(12))
        for case in (Case(300, 1, 0.0), Case(300, 1, 6.0), Case(300, 1, 6.0, classes=8))
    )
    assert alarms <= 1 and caught >= 10 and in_few >= 8
