"""Several trials of one number: how many, their mean, their standard deviation, and what that leaves open."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

# The 97.5 % quantile of the normal distribution, for deviations that are known rather than estimated.
NORMAL = 1.96


@dataclass(frozen=True)
class Summary:
    """Trials of one quantity."""

    values: tuple[float, ...]
    n: int
    mean: float
    std: float | None = None  # with n - 1; None for n = 1
    half: float | None = None  # of the mean's 95 % interval; None for n = 1


def summarize(values: Sequence[float]) -> Summary:
    """Mean, standard deviation and Student's 95 % interval of independent trials.

    Raises:
        ValueError: there is none, or one is not finite.
    """
    if not values or not all(math.isfinite(v) for v in values):
        raise ValueError(f"trials must be finite numbers and at least one: {list(values)}")
    n, mean = len(values), math.fsum(values) / len(values)
    if n == 1:
        return Summary(tuple(values), n, mean)
    from scipy.stats import t

    std = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
    return Summary(tuple(values), n, mean, std, float(t.ppf(0.975, n - 1)) * std / math.sqrt(n))


def is_outside_noise(
    summary: Summary, published: float, trial_std: float | None, published_trials: int = 1
) -> bool | None:
    """Whether our mean differs from a published number by more than both noises together, at 95 %.

    Args:
        summary: our trials.
        published: the paper's number.
        trial_std: standard deviation of a single trial as published, used for ours too where n = 1; None if unknown.
        published_trials: how many the published number averages.

    Returns:
        None where our noise is not known.
    """
    if summary.half is None and trial_std is None:
        return None
    paper = NORMAL * (trial_std or 0.0) / math.sqrt(published_trials)
    ours = summary.half if summary.half is not None else NORMAL * (trial_std or 0.0)
    return abs(summary.mean - published) > math.hypot(ours, paper)


def is_above_by_stds(summary: Summary, other: Summary) -> bool | None:
    """Whether one mean lies above another by more than both standard deviations; None for a single trial of either."""
    if summary.std is None or other.std is None:
        return None
    return summary.mean - other.mean > summary.std + other.std
