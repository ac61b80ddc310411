"""All generators continue exactly where they were, also through a file that is loaded safely."""

import random
from pathlib import Path

import numpy
import pytest
import torch

from runs.seeds import generator_states, seed_everything, set_generator_states


def draw() -> list[float]:
    # An odd number of normals: NumPy and Python keep the second of each pair in their state.
    return [random.random(), random.gauss(0, 1), numpy.random.randn(), float(torch.randn(())), float(torch.rand(()))]


def test_restored_generators_draw_the_same_numbers(tmp_path: Path) -> None:
    seed_everything(3)
    draw()
    torch.save(generator_states(), tmp_path / "states.pt")
    expected = [draw() for _ in range(3)]
    seed_everything(4)
    assert draw() not in expected
    set_generator_states(torch.load(tmp_path / "states.pt", weights_only=True))
    assert [draw() for _ in range(3)] == expected


def test_another_seed_draws_other_numbers() -> None:
    seed_everything(0)
    first = draw()
    seed_everything(0)
    assert draw() == first
    seed_everything(1)
    assert all(a != b for a, b in zip(draw(), first, strict=True))


def test_a_devices_generator_goes_on_where_the_device_has_another_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two devices the second is this process's; later there is but one."""
    devices, current = [torch.Generator().manual_seed(seed) for seed in (1, 2)], 1
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda: devices[current].get_state())
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state: devices[current].set_state(state))
    states = generator_states()
    expected = torch.rand(3, generator=devices[1])
    devices, current = [torch.Generator().manual_seed(3)], 0
    set_generator_states(states)
    assert torch.equal(torch.rand(3, generator=devices[0]), expected)
