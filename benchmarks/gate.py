"""`python -m benchmarks gate`: has a number dropped? Compares run records with a stored baseline."""

import argparse
import sys
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.records import demand, find
from benchmarks.statistics import Summary, summarize
from runs.errors import UserError
from runs.files import read_json, write_json
from runs.record import Record

SCHEMA = 1
# Points (of 100) that a metric may fall by where neither the user nor the baseline's own trials say more.
TOLERANCE = 1.0


@dataclass(frozen=True)
class Line:
    """One comparison: the baseline's mean, ours, the allowed drop, in points."""

    key: str
    metric: str
    before: float
    now: Summary
    allowed: float

    @property
    def passed(self) -> bool:
        """Whether the drop is within what is allowed."""
        return self.now.mean >= self.before - self.allowed


def gate(arguments: argparse.Namespace) -> int:
    """The command. Exit status 0 within the tolerance, 1 below it; bad input raises `UserError` (2)."""
    if arguments.tolerance is not None and arguments.tolerance < 0:
        raise UserError(f"--tolerance {arguments.tolerance}: must be at least 0")
    records = list(demand(find(arguments.results)).values())
    groups = group(records)
    if not groups:
        raise UserError(
            "no record among the given results holds a metric in percent; give linear, knn or transfer runs"
        )
    if arguments.write_baseline:
        write_json(arguments.write_baseline, baseline(groups, arguments.tolerance))
        print(f"{arguments.write_baseline}: baseline of {len(groups)} quantities written")
        return 0
    lines = compare(read_baseline(arguments.baseline), groups, arguments.tolerance)
    for line in lines:
        mark = "ok  " if line.passed else "DROP"
        print(f"{mark} {line.key} {line.metric}: {line.now.mean:.2f} (n = {line.now.n}), "
              f"baseline {line.before:.2f}, allowed drop {line.allowed:.2f}")  # fmt: skip
    dropped = sum(not line.passed for line in lines)
    if dropped:
        print(f"{dropped} of {len(lines)} numbers lie below the baseline", file=sys.stderr)
    return 1 if dropped else 0


def key_of(record: Record) -> str:
    """What makes two records trials of the same thing: all but the seed and the place."""
    subject, data = record.subject, record.dataset
    parts = [record.config.get("task") or record.kind, subject.method, subject.arch]
    parts += [f"{subject.epochs} epochs"] if subject.epochs is not None else []
    parts += [f"{data.name}/{data.split}"] if data else []
    return " · ".join(parts)


def group(records: list[Record]) -> dict[tuple[str, str], Summary]:
    """Trials by what was measured and metric; pre-training and conversion have no number to guard."""
    trials: dict[tuple[str, str], list[float]] = {}
    for record in records:
        if record.kind in ("linear", "knn", "transfer"):
            for metric, value in record.metrics.items():
                trials.setdefault((key_of(record), metric), []).append(value)
    return {key: summarize(values) for key, values in trials.items()}


def baseline(groups: dict[tuple[str, str], Summary], tolerance: float | None) -> dict[str, Any]:
    """What is stored: for each number its trials and the drop that is allowed."""
    return {
        "schema": SCHEMA,
        "kind": "baseline",
        "numbers": [
            {"key": key, "metric": metric, **asdict(s), "allowed": tolerance if tolerance is not None else _allowed(s)}
            for (key, metric), s in groups.items()
        ],
    }


def _allowed(summary: Summary) -> float:
    """Twice the spread of the trials, if there are any to know it by."""
    return max(TOLERANCE, 2 * summary.std) if summary.std is not None else TOLERANCE


def read_baseline(path: str) -> list[dict[str, Any]]:
    """Read a baseline.

    Raises:
        UserError: absent, of another version, or not a baseline.
    """
    body = read_json(path)
    if not isinstance(body, dict) or body.get("kind") != "baseline":
        raise UserError(f"{path}: not a baseline; write one with gate --write-baseline {path} RESULTS…")
    if body.get("schema") != SCHEMA:
        raise UserError(f"{path}: baseline version {body.get('schema')}, this program reads {SCHEMA}; write it again")
    numbers = body.get("numbers")
    if not isinstance(numbers, list) or not all(
        isinstance(n, dict) and {"key", "metric", "mean", "allowed"} <= set(n) for n in numbers
    ):
        raise UserError(f"{path}: damaged: each number needs key, metric, mean, allowed; write it again")
    return numbers


def compare(
    numbers: list[dict[str, Any]], groups: dict[tuple[str, str], Summary], tolerance: float | None
) -> list[Line]:
    """Put the baseline's numbers beside ours.

    Raises:
        UserError: a number of the baseline is missing among the results: a gate that passes by not looking is none.
    """
    lines = []
    for number in numbers:
        now = groups.get((number["key"], number["metric"]))
        if now is None:
            raise UserError(f"baseline: no result for {number['key']} {number['metric']}; give that run's record too")
        allowed = tolerance if tolerance is not None else float(number["allowed"])
        lines.append(Line(number["key"], number["metric"], float(number["mean"]), now, allowed))
    return lines
