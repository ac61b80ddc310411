"""What a section finds: figures with limits, and what it was asked for.

A section is a module with a generator `measure(options)`: it yields figures, and for the plan pairs (task, seconds).
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

OFFICIAL = "facebookresearch/simsiam@a7bc177"
# ImageNet's training images, of which the paper scale's plan has an epoch.
IMAGENET = 1_281_167


@dataclass(frozen=True)
class Options:
    """What a section measures with.

    Attributes:
        device: `cpu` or `cuda`.
        small: sizes for two processor cores and a minute, instead of the papers'.
        folder: for what the section writes.
        images: a folder of photographs for the loader; None for generated ones.
        official: a clone of facebookresearch/simsiam, to be timed beside; None for its loop around our layers.
    """

    device: str
    small: bool
    folder: Path
    images: Path | None = None
    official: Path | None = None


@dataclass(frozen=True)
class Figure:
    """One measured number.

    Attributes:
        name: what was measured.
        value: the number.
        unit: of the number.
        limit: the value that it must not exceed, or with `least`, not fall below; None where nothing is required.
        least: the limit is a lower one.
        note: what a reader has to know beside it.
    """

    name: str
    value: float
    unit: str = ""
    limit: float | None = None
    least: bool = False
    note: str = ""

    @property
    def holds(self) -> bool:
        """Whether the value keeps its limit; NaN never does."""
        if self.limit is None:
            return True
        return self.value >= self.limit if self.least else self.value <= self.limit


@dataclass
class Section:
    """A section's outcome, as it is in the JSON.

    Attributes:
        name: of the section.
        title: what it asks.
        figures: what it found.
        error: why it ended early; empty if it did not.
        seconds: of wall clock.
        plan: seconds of a task on one device, for `benchmarks plan --measured`.
    """

    name: str
    title: str
    figures: list[Figure] = field(default_factory=list)
    error: str = ""
    seconds: float = 0.0
    plan: dict[str, float] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """`passed` or `FAILED`."""
        return "FAILED" if self.error or any(not figure.holds for figure in self.figures) else "passed"

    def as_dict(self) -> dict[str, Any]:
        """For the JSON."""
        figures = [asdict(figure) | {"holds": figure.holds} for figure in self.figures]
        return asdict(self) | {"figures": figures, "verdict": self.verdict}
