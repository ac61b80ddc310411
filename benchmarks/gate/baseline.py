"""A baseline file: the trials of each kind of run, stored.

It is a JSON file; where it holds VOC runs, a file of the same name with `.npz` beside it keeps which of their
detections are right, and the JSON file names its SHA-256.
"""

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gate.trials import Trials
from runs.detection_matches import from_arrays, read_arrays, to_arrays, write_arrays
from runs.errors import UserError
from runs.files import read_json, write_json
from runs.typed import build

SCHEMA = 5
# Trials whose detections a baseline keeps: as many as the papers average.
TRIALS = 5


@dataclass
class Baseline:
    """The JSON file; `matches_sha256` is of the file beside it, if there is one."""

    schema: int
    kind: str
    runs: dict[str, Trials]
    matches_sha256: str | None = None

    def __post_init__(self) -> None:
        if not self.runs:
            raise ValueError("it holds no run")


def write_baseline(path: Path, measured: dict[str, Trials]) -> list[Path]:
    """Store a baseline; returns the files, of which the first is `path`.

    Raises:
        UserError: the name is that of the file of matches beside it, or the disk refuses.
    """
    if path.suffix == ".npz":
        raise UserError(f"{path}: is the name of the file of matches beside a baseline; give FILE.json")
    if path.exists():
        found = read_json(path)
        if not isinstance(found, dict) or found.get("kind") != "baseline":
            raise UserError(f"{path}: is there already and no baseline; choose another name")
    arrays: dict[str, Any] = {}
    for number, m in enumerate(measured.values()):
        for trial, matches in enumerate(m.matches[:TRIALS]):
            arrays |= to_arrays(matches, f"{number}.{trial}.")
    beside = path.with_suffix(".npz")
    digest = write_arrays(beside, arrays) if arrays else None
    runs = {key: {k: v for k, v in vars(m).items() if k != "matches"} for key, m in measured.items()}
    write_json(path, vars(Baseline(SCHEMA, "baseline", measured, digest)) | {"runs": runs})
    return [path, beside] if arrays else [path]


def read_baseline(path: Path) -> dict[str, Trials]:
    """Read a baseline, and the matches beside it.

    Raises:
        UserError: absent, damaged, empty, of another version, or not a baseline.
    """
    body = read_json(path)
    if not isinstance(body, dict) or body.get("kind") != "baseline":
        raise UserError(f"{path}: not a baseline; write one with gate --write-baseline FILE.json RESULTS")
    if body.get("schema") != SCHEMA:
        raise UserError(f"{path}: baseline version {body.get('schema')}, this program reads {SCHEMA}; write it again")
    stored = build(Baseline, body, f"{path}: damaged, write it again with gate --write-baseline")
    beside = path.with_suffix(".npz")
    if stored.matches_sha256:
        remedy = "keep both files of a baseline, or write it again"
        try:
            arrays = read_arrays(beside, stored.matches_sha256, remedy)
            for number, m in enumerate(stored.runs.values()):
                prefixes = [f"{number}.{trial}." for trial in range(TRIALS) if f"{number}.{trial}.image" in arrays]
                m.matches += [from_arrays(arrays, prefix, prefix) for prefix in prefixes]
        except (KeyError, ValueError) as error:
            raise UserError(f"{beside}: damaged ({error}); {remedy}") from error
    return stored.runs


def before_and_now_lines(before: dict[str, Trials], now: dict[str, Trials]) -> list[str]:
    """A line for every run measured now: its means, with those that they replace."""
    lines = []
    for key, measured in now.items():
        known = before[key].values if key in before else {}
        old = {metric: f"{statistics.fmean(v):.2f} -> " for metric, v in known.items()}
        means = ", ".join(f"{m} {old.get(m, '')}{statistics.fmean(v):.2f}" for m, v in measured.values.items())
        trials = len(next(iter(measured.values.values())))
        lines.append(f"{key}: {means} (n = {trials}, {measured.images} test images)")
    return lines
