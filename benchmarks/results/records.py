"""Run records: found, checked, and never mixed up."""

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from benchmarks.workflow.plan import TARGETS, Plan, Run
from runs.errors import UserError
from runs.folder import RECORD
from runs.record import Record, read_record
from runs.settings import flatten

# Settings that name a file or a folder, which may have been moved, or what a record does not hold.
PLACES = ("data.root", "checkpoint", "weights", "file", "output")


class FoundRecords(NamedTuple):
    """What there is in some folders, by the file."""

    records: dict[Path, Record]
    refused: dict[Path, str]  # why a file is no record that counts


def find_records(paths: Iterable[str | os.PathLike[str]]) -> FoundRecords:
    """Read every `result.json` in or below the given files and folders.

    Raises:
        UserError: a path does not exist.
    """
    files: dict[Path, None] = {}
    # Links to folders are followed, each folder once.
    seen: set[str] = set()
    for place in map(Path, paths):
        if place.is_file():
            files[place] = None
        elif place.is_dir():
            for folder, below, names in os.walk(place, followlinks=True):
                new = (real := os.path.realpath(folder)) not in seen
                seen.add(real)
                below[:] = sorted(b for b in below if new and not b.startswith("."))
                if new and RECORD in names:
                    files[Path(folder) / RECORD] = None
        else:
            raise UserError(f"{place}: no such file or folder; give a result.json or a folder of runs")
    return _read(files, lambda path, record: "")


def _read(files: Iterable[Path], fault_of: Callable[[Path, Record], str]) -> FoundRecords:
    """Read records; refuse those that are half-written, of another schema version, changed by hand, copies or faulty.

    `fault_of` says what else speaks against one; empty for nothing.
    """
    records: dict[Path, Record] = {}
    refused: dict[Path, str] = {}
    known: dict[str, Path] = {}
    for path in files:
        try:
            record = read_record(path)
            if fault := fault_of(path, record):
                raise UserError(f"{path}: {fault}; delete it and run the same command again")
            twin = known.setdefault(json.dumps(asdict(record), sort_keys=True), path)
            if twin != path:
                raise UserError(f"{path}: the same record as {twin}; a run counts once, remove one of them")
        except UserError as error:
            refused[path] = str(error)
        else:
            records[path] = record
    return FoundRecords(records, refused)


def read_plan_records(plan: Plan) -> tuple[dict[str, Record], list[str]]:
    """The records of a plan's finished runs.

    A record counts if it is what this run writes: its settings are the plan's, its network is that which the plan gives
    it, all runs of a task saw the same test data, and it is no copy of another one.

    Returns:
        (the records by run id, one line for each that was refused)
    """
    runs = {plan.target(name): plan.runs[name] for name in plan.order}
    files = [path for path, run in runs.items() if run.kind not in TARGETS and path.exists()]
    good: dict[str, Record] = {}
    fingerprints: dict[str, str] = {}

    def fault_of(path: Path, record: Record) -> str:
        run = runs[path]
        data = f"{run.task} {run.settings.get('data')} {run.settings.get('data.root')}"
        fingerprint = record.dataset.fingerprint if record.dataset else ""
        if fault := _misfit(plan, run, record, good):
            return fault
        if fingerprints.setdefault(data, fingerprint) != fingerprint:
            return "was measured on other data than the other runs of its task"
        good[run.id] = record
        return ""

    records, refused = _read(files, fault_of)
    return {runs[path].id: record for path, record in records.items()}, list(refused.values())


def _misfit(plan: Plan, run: Run, record: Record, records: dict[str, Record]) -> str:
    """Why a record is not this run's; empty if it is."""
    if record.kind != run.kind:
        return f"is a record of {record.kind}, not of {run.kind}"
    config = flatten(record.config) | {"seed": record.seed}
    for key, wanted in run.settings.items():
        given = config.get(key, config.get(f"{key}.name", wanted))
        if key not in PLACES and given != wanted:
            return f"has {key}={given}, where the plan has {wanted}"
    if run.kind == "pretrain":
        return ""
    sha256 = record.subject.checkpoint_sha256
    sources = [name for name in plan.with_needs_by_run[run.id] if plan.runs[name].kind == "pretrain"]
    expected, whose = sha256, ""
    if sources and sources[0] in records:
        expected = records[sources[0]].subject.checkpoint_sha256
        whose = f"not of {str(expected)[:12]} that {sources[0]} wrote"
    elif plan.checkpoint:
        expected, whose = plan.checkpoint.sha256, f"not of {plan.checkpoint.name}"
    elif not sources:
        expected, whose = None, "where the plan has an untrained network"
    return "" if sha256 == expected else f"is of checkpoint {str(sha256)[:12]}, {whose}"
