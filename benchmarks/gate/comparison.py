"""Has a number really dropped? What was measured now against a baseline.

VOC runs are compared on the same test images, resampled in pairs; other runs by the standard deviation of their trials
or, with a single one, by the sampling error of their test set. A drop fails if it exceeds the tolerance by more than
chance does three times in two hundred comparisons; docs/benchmarks.md has the measured rates.
"""

import math
import statistics
from dataclasses import dataclass, replace

from benchmarks.gate.trials import Trials
from benchmarks.results.table_results import DECISIVE
from runs import bootstrap_intervals
from runs.bootstrap_intervals import POOLED, Interval
from runs.errors import UserError

# One-sided. A gate that watches k numbers shares it out among them (Bonferroni): no more false alarms than with one.
ALPHA = 0.015
POWER = 0.8
# The smallest drop, in points, that a gate should be able to see; below it the verdict says that the data are too few.
DETECT = 2.0
UNKNOWN = "spread over seeds unknown: give several trials or --noise"


@dataclass(frozen=True)
class Comparison:
    """One comparison in points."""

    key: str  # what was measured
    metric: str  # which number of it
    before: float  # the baseline's mean
    now: float  # ours
    error: float  # standard error of their difference, by all that is known
    smallest: float  # the smallest drop that would be caught with a probability of 80 %
    verdict: str  # `pass`, `fail`, `not enough data`, or `shown` for a metric that does not decide
    how: str  # where the error comes from
    pooled: Interval | None  # the difference of the AP of all classes' detections ranked together, where they are there
    low: bool  # whether the baseline itself is no larger than the drop that should be seen

    @property
    def difference(self) -> float:
        """Ours minus the baseline's."""
        return self.now - self.before


def compare_runs(
    before: dict[str, Trials], now: dict[str, Trials], tolerance: float, detect: float, resamples: int = 1000
) -> list[Comparison]:
    """Compare all that the baseline holds; `resamples` of the test images tell the errors of paired differences.

    Raises:
        UserError: something of the baseline is missing among the results: a gate that passes by not looking is none.
    """
    for key in before:
        if key not in now:
            raise UserError(f"baseline: no result for {key}; give that run's record too (given: {'; '.join(now)})")
        prints = {before[key].fingerprint, now[key].fingerprint} - {""}
        if len(prints) > 1:
            raise UserError(
                f"baseline: {key} was measured on other images or annotations than these results; restore the data "
                "set, or write the baseline again with results on it"
            )
    deciding = sum(metric in DECISIVE for m in before.values() for metric in m.values)
    deciding += sum(bool(m.matches and now[key].matches) for key, m in before.items())
    if not deciding:
        raise UserError(f"baseline: none of its numbers decides; it needs one of {', '.join(DECISIVE)}")
    quantile = statistics.NormalDist().inv_cdf
    z = quantile(1 - ALPHA / deciding)
    lines = []
    for key, old in before.items():
        new = now[key]
        absent = next((m for m in old.values if m not in new.values), None)
        if absent:
            raise UserError(f"baseline: the result for {key} has no metric {absent}; run it again")
        errors, pooled, how = _errors(old, new, resamples)
        for metric, trials in old.values.items():
            was, is_ = statistics.fmean(trials), statistics.fmean(new.values[metric])
            # What speaks of a drop, and its error: the number itself, and for an AP that of all classes together.
            found = [(was - is_, errors[metric])]
            ranked = pooled if metric == "bbox/AP" else None
            found += [(-ranked.value, ranked.error)] if ranked else []
            smallest = tolerance + (z + quantile(POWER)) * min(error for _, error in found)
            verdict = "shown"
            if metric in DECISIVE:
                # Whatever the evidence, the number itself has to have dropped.
                real = was - is_ > tolerance and any(drop - tolerance > z * error for drop, error in found)
                seen = smallest <= max(detect, tolerance) and was > detect
                verdict = "fail" if real else "pass" if seen else "not enough data"
            lines.append(
                Comparison(key, metric, was, is_, errors[metric], smallest, verdict, how, ranked, was <= detect)
            )
    return lines


def _errors(old: Trials, new: Trials, resamples: int) -> tuple[dict[str, float], Interval | None, str]:
    """Standard error of each metric's difference, the pooled AP's difference with its error, and their origin."""
    trials = {}
    for metric, values in old.values.items():
        deviation = old.deviation.get(metric, 0.0)
        trials[metric] = math.hypot(deviation / math.sqrt(len(values)), deviation / math.sqrt(len(new.values[metric])))
    seeds = "trials" if old.deviation_measured else "known noise of a trial" if old.deviation else UNKNOWN
    if old.matches and new.matches:
        found = bootstrap_intervals.compare(old.matches, new.matches, resamples)
        images = {f"bbox/{name}": i.error for name, i in found.items()}
        both = {m: _error_with_seeds(images.get(m, 0.0), old, trials[m]) for m in trials}
        pooled = found[POOLED]
        pooled = replace(pooled, error=_error_with_seeds(pooled.error, old, trials.get("bbox/AP", 0.0)))
        return both, pooled, f"paired over test images, {seeds}"
    if old.deviation_measured and len(next(iter(old.values.values()))) > 1:
        return trials, None, seeds
    # A share of N images counted right; the two tests are on the same images, which makes this a cautious figure.
    sampling = {}
    for metric, values in old.values.items():
        share = min(max(statistics.fmean(values) / 100, 1e-3), 0.999)
        sampling[metric] = 100 * math.sqrt(2 * share * (1 - share) / max(old.images, 1))
    return {m: math.hypot(trials[m], sampling[m]) for m in trials}, None, f"number of test images, {seeds}"


def _error_with_seeds(images: float, old: Trials, trials: float) -> float:
    """The error of a paired difference that its test images leave, and what the seeds add to it.

    Another seed changes the detections of every image a little. The bootstrap contains that variance, and so does the
    variance of the trials: only what the latter has beyond it, a seed that is better or worse on all images, adds.
    """
    scatter = images * math.sqrt(old.images / old.deviation_images) if old.deviation_images else 0.0
    return math.hypot(images, math.sqrt(max(trials**2 - scatter**2, 0.0)))
