"""Every number of the settings is one that can be computed with."""

import dataclasses
import math
from typing import Any

import pytest

from runs.errors import UserError
from runs.settings import check_values


@dataclasses.dataclass
class Inner:
    lr: float = 0.1


@dataclasses.dataclass
class Settings:
    seed: int = 0
    rates: list[float] = dataclasses.field(default_factory=lambda: [0.1])
    inner: Inner = dataclasses.field(default_factory=Inner)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (Settings(inner=Inner(math.nan)), r"inner\.lr=nan: must be finite"),
        (Settings(inner=Inner(math.inf)), r"inner\.lr=inf: must be finite"),
        (Settings(rates=[0.1, math.nan]), r"rates=\[0\.1, nan\]: must be finite"),
        (Settings(seed=2**63), r"seed=9223372036854775808: must be below 2\^63"),
    ],
)
def test_a_number_that_is_none_is_refused(settings: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        check_values(settings)


def test_the_largest_seed_is_taken() -> None:
    check_values(Settings(seed=2**63 - 1))
