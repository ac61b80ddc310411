"""Every number of the settings is one that can be computed with."""

import dataclasses
import math
from typing import Any

import pytest

from runs.errors import UserError
from runs.settings import check_values, number


@dataclasses.dataclass
class Inner:
    lr: float = number(0.1, least=0)


@dataclasses.dataclass
class Settings:
    seed: int = 0
    rates: list[float] = dataclasses.field(default_factory=lambda: [0.1])
    inner: Inner = dataclasses.field(default_factory=Inner)
    shares: list[float] = number(list, above=0, most=1)

    def check_consistency(self) -> None:
        if self.seed == 13:
            raise UserError("seed=13: brings bad luck")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (Settings(inner=Inner(math.nan)), r"inner\.lr=nan: must be finite"),
        (Settings(inner=Inner(math.inf)), r"inner\.lr=inf: must be finite"),
        (Settings(rates=[0.1, math.nan]), r"rates=\[0\.1, nan\]: must be finite"),
        (Settings(seed=2**63), r"seed=9223372036854775808: must be below 2\^63"),
        (Settings(shares=[0.5, 0.0]), r"shares=\[0\.5, 0\.0\]: must be above 0"),
        (Settings(shares=[1.5]), r"shares=\[1\.5\]: must be at most 1"),
        (Settings(inner=Inner(-1.0)), r"inner\.lr=-1\.0: must be at least 0"),
        (Settings(seed=13), "seed=13: brings bad luck"),
    ],
)
def test_a_number_that_is_none_is_refused(settings: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        check_values(settings)


def test_the_ends_of_a_range_are_taken() -> None:
    check_values(Settings(seed=2**63 - 1, shares=[1.0], inner=Inner(0.0)))
