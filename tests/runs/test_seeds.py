"""All generators continue exactly where they were, also through a file that is loaded safely."""

import random
from pathlib import Path

import numpy
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
