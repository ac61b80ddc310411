"""`python -m benchmarks gate`: has a number really dropped? Run records against a stored baseline.

VOC runs are compared on the same test images, resampled in pairs; other runs by the spread of their trials or, with a
single one, by the noise of their test set. A drop fails if it is larger than the tolerance and than what chance does
three times in two hundred comparisons; docs/benchmarks.md has the measured rates.
"""

import argparse
import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import gate_baseline, gate_output
from benchmarks.bootstrap import POOLED, Interval, compare
from benchmarks.gate_baseline import Measured
from runs.errors import UserError

# One-sided. A gate that watches k numbers shares it out among them (Bonferroni): no more false alarms than with one.
ALPHA = 0.015
POWER = 0.8
# The smallest drop, in points, that a gate should be able to see; below it the verdict says that the data are too few.
DETECT = 2.0
# What decides; the other metrics of a run are shown. AP averages ten thresholds and is the least noisy.
DECISIVE = ("bbox/AP", "segm/AP", "top1")


@dataclass(frozen=True)
class Line:
    """One comparison in points.

    Attributes:
        key: what was measured.
        metric: which number of it.
        before: the baseline's mean.
        now: ours.
        error: standard error of their difference, by all that is known.
        smallest: the smallest drop that would be caught with a probability of 80 %.
        verdict: `pass`, `fail`, `not enough data`, or `shown` for a metric that does not decide.
        how: where the error comes from.
        pooled: the difference of the AP of all classes' detections ranked together, where the detections are there.
        low: whether the baseline itself is no larger than the drop that should be seen.
    """

    key: str
    metric: str
    before: float
    now: float
    error: float
    smallest: float
    verdict: str
    how: str
    pooled: Interval | None = None
    low: bool = False

    @property
    def difference(self) -> float:
        """Ours minus the baseline's."""
        return self.now - self.before


def gate(arguments: argparse.Namespace) -> int:
    """The command.

    Returns:
        0 within the noise or the tolerance; 1 for a real drop; 3 where `--detect` was given and the data are too few
        to see such a drop. Bad input raises `UserError` (2).
    """
    for name in ("tolerance", "detect", "noise"):
        value = getattr(arguments, name)
        if value is not None and not 0 <= value < math.inf:
            raise UserError(f"--{name} {value}: must be at least 0")
    # First of all: a baseline that cannot be read should not be found out after an evaluation.
    before = gate_baseline.read(Path(arguments.baseline)) if arguments.baseline else {}
    results = list(arguments.results)
    if arguments.checkpoint:
        from benchmarks.evaluate import for_gate

        results += for_gate(arguments)
    if not results:
        raise UserError("gate: give RESULTS (result.json files or folders of them) or --checkpoint FILE")
    measured = gate_baseline.measure(results, arguments.noise)
    if arguments.write_baseline:
        gate_baseline.write(Path(arguments.write_baseline), measured)
        path = Path(arguments.write_baseline)
        beside = f" and {path.with_suffix('.npz')} (keep both)" if any(m.matches for m in measured.values()) else ""
        print(f"baseline written: {path}{beside}")
        for key, kind in measured.items():
            means = ", ".join(f"{metric} {_mean(v):.2f}" for metric, v in kind.values.items())
            print(f"  {key}: {means} (n = {len(next(iter(kind.values.values())))}, {kind.images} test images)")
        return 0
    if arguments.noise is not None:
        for old in before.values():
            gate_baseline.assume(old, arguments.noise)
    # Of a baseline of several methods and tasks, one checkpoint's evaluation answers its own lines.
    judged = before if arguments.results else _asked(before, measured, arguments.update_baseline)
    detect = DETECT if arguments.detect is None else arguments.detect
    lines = judge(judged, measured, arguments.tolerance or 0.0, detect) if judged else []
    gate_output.terminal(lines)
    if arguments.summary:
        gate_output.markdown(lines, Path(arguments.summary))
    if arguments.junit:
        gate_output.junit(lines, Path(arguments.junit))
    if arguments.update_baseline:
        gate_output.changes(before, measured)
        gate_baseline.write(Path(arguments.baseline), {**before, **measured})
        return 0
    if any(line.verdict == "fail" for line in lines):
        print("the gate fails: a real drop", file=sys.stderr)
        return 1
    if arguments.detect is not None and any(line.verdict == "not enough data" for line in lines):
        print(f"the gate cannot decide: a drop of {arguments.detect:g} points would not be seen", file=sys.stderr)
        return 3
    return 0


def _asked(before: dict[str, Measured], measured: dict[str, Measured], extend: bool) -> dict[str, Measured]:
    """The baseline's part that was measured; what it does not hold may be missing only where it is to be extended."""
    for key in measured:
        if key not in before and not extend:
            raise UserError(f"baseline: no number of {key}; write it with that run, or choose other --tasks or "
                            f"checkpoint (there are: {'; '.join(before)})")  # fmt: skip
    return {key: before[key] for key in measured if key in before}


def judge(
    before: dict[str, Measured], now: dict[str, Measured], tolerance: float, detect: float, resamples: int = 1000
) -> list[Line]:
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
    z = _quantile(1 - ALPHA / deciding)
    lines = []
    for key, old in before.items():
        new = now[key]
        absent = next((m for m in old.values if m not in new.values), None)
        if absent:
            raise UserError(f"baseline: the result for {key} has no metric {absent}; run it again")
        errors, pooled, how = _errors(old, new, resamples)
        for metric, trials in old.values.items():
            was, is_ = _mean(trials), _mean(new.values[metric])
            # What speaks of a drop, and its error: the number itself, and for an AP that of all classes together.
            found = [(was - is_, errors[metric])]
            ranked = pooled if metric == "bbox/AP" else None
            found += [(-ranked.value, ranked.error)] if ranked else []
            smallest = tolerance + (z + _quantile(POWER)) * min(error for _, error in found)
            verdict = "shown"
            if metric in DECISIVE:
                # Whatever the evidence, the number itself has to have dropped.
                real = was - is_ > tolerance and any(drop - tolerance > z * error for drop, error in found)
                seen = smallest <= max(detect, tolerance) and was > detect
                verdict = "fail" if real else "pass" if seen else "not enough data"
            lines.append(Line(key, metric, was, is_, errors[metric], smallest, verdict, how, ranked, was <= detect))
    return lines


def _errors(old: Measured, new: Measured, resamples: int) -> tuple[dict[str, float], Interval | None, str]:
    """Standard error of each metric's difference, the pooled AP's difference with its error, and their origin."""
    trials = {m: math.hypot(_deviation(old, m) / math.sqrt(len(v)), _deviation(old, m) / math.sqrt(len(new.values[m])))
              for m, v in old.values.items()}  # fmt: skip
    seeds = "trials" if old.deviation_measured else "published noise of a trial"
    if old.matches and new.matches:
        found = compare(old.matches, new.matches, resamples)
        images = {f"bbox/{name}": i.error for name, i in found.items()}
        both = {m: _together(images.get(m, 0.0), old, trials[m]) for m in trials}
        pooled = found[POOLED]
        pooled = replace(pooled, error=_together(pooled.error, old, trials["bbox/AP"]))
        return both, pooled, f"paired over test images, {seeds}"
    if old.deviation_measured and len(next(iter(old.values.values()))) > 1:
        return trials, None, seeds
    # A share of N images counted right; the two tests are on the same images, which makes this a cautious figure.
    sampling = {m: math.sqrt(2 * max(p := _mean(v) / 100, 1e-3) * (1 - min(p, 0.999)) / max(old.images, 1)) * 100
                for m, v in old.values.items()}  # fmt: skip
    return {m: math.hypot(trials[m], sampling[m]) for m in trials}, None, f"number of test images, {seeds}"


def _together(images: float, old: Measured, trials: float) -> float:
    """The error of a paired difference that its test images leave, and what the seeds add to it.

    A training changes the outcome on every single image a little. The bootstrap has seen that scatter, and the spread
    of trials contains it as well: only what the spread has beyond it, a seed that is better or worse all over, adds.
    """
    scatter = images * math.sqrt(old.images / old.deviation_images) if old.deviation_images else 0.0
    return math.hypot(images, math.sqrt(max(trials**2 - scatter**2, 0.0)))


def _deviation(measured: Measured, metric: str) -> float:
    return measured.deviation.get(metric, 0.0)


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def _quantile(p: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf(p)
