"""How much an AP depends on the choice of the test images: bootstrap intervals of one detector and of a difference."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runs.average_precision import mean_and_pooled_average_precision, mean_average_precision
from runs.detection_matches import Matches
from runs.errors import UserError

NAMES = ("AP", "AP50", "AP75")
POOLED = "pooled AP"


def resample_counts(num_images: int, num_resamples: int, seed: int = 0) -> NDArray[np.float32]:
    """How often each image is drawn, (num_images, num_resamples); one seed draws the same for all detectors."""
    random = np.random.default_rng(seed)
    counts = random.multinomial(num_images, np.full(num_images, 1 / num_images), size=num_resamples).T
    # Counts of detections stay exact to 2^24, and an error in the seventh digit is nothing beside what is estimated.
    return np.ascontiguousarray(counts, np.float32)


@dataclass(frozen=True)
class Interval:
    """A number in percent points with the 95 % interval and standard error that the choice of images leaves it."""

    value: float
    low: float
    high: float
    error: float


def compare(before: Sequence[Matches], now: Sequence[Matches], resamples: int = 1000) -> dict[str, Interval]:
    """Mean of the trials now minus mean of the trials before, on the same images drawn for all.

    By `NAMES`, and under `POOLED` the difference of `class_pooled_average_precision`.

    Raises:
        UserError: they were not all measured on the same images and classes.
    """
    first = before[0]
    for other in (*before, *now):
        if other.classes != first.classes or sorted(other.image_ids) != sorted(first.image_ids):
            raise UserError("the runs were measured on different images or classes; a paired comparison needs the same")
    weights = resample_counts(len(first.image_ids), resamples)
    value, samples = np.zeros(4), np.zeros((resamples, 4))
    for trials, sign in ((now, 1.0), (before, -1.0)):
        for trial in trials:
            place = {name: i for i, name in enumerate(trial.image_ids)}
            aligned = trial.select_images([place[name] for name in first.image_ids])
            value += sign / len(trials) * mean_and_pooled_average_precision(aligned)[0]
            samples += sign / len(trials) * mean_and_pooled_average_precision(aligned, weights)
    return _intervals(value, samples)


def intervals(matches: Matches, resamples: int = 1000) -> dict[str, Interval]:
    """AP, AP50 and AP75 of one detector, by `NAMES`."""
    weights = resample_counts(len(matches.image_ids), resamples)
    return _intervals(mean_average_precision(matches)[0], mean_average_precision(matches, weights))


def _intervals(value: NDArray[Any], samples: NDArray[Any]) -> dict[str, Interval]:
    low, high = np.percentile(samples, [2.5, 97.5], axis=0)
    error = samples.std(axis=0, ddof=1)
    return {
        name: Interval(float(value[i]), float(low[i]), float(high[i]), float(error[i]))
        for i, name in enumerate((*NAMES, POOLED)[: len(value)])
    }
