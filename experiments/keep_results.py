"""`python -m experiments.keep_results FOLDER DIR`: what the tables of a run rest on, small enough for this repository.

That is the plan, every run's record and how long its command took, what the curves of pre-training and the gate need,
and the tables; no checkpoints, detections or pictures. `python -m benchmarks report DIR` writes the report again.
"""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.report.page import write_tables
from benchmarks.results.read_results import read_plan_results
from benchmarks.workflow.plan import PLAN, Plan, read_plan
from benchmarks.workflow.run_status import ATTEMPTS, last_attempts, status_of
from runs.app import Parser, cli
from runs.errors import UserError
from runs.files import atomic_write, read_bytes, read_json, write_json
from runs.folder import RECORD
from runs.metrics_log import METRICS_LOG, read_log

# Written into the folder: only what has it is ever replaced.
MARK = ".kept"
MATCHES = "matches.npz"
# What the report draws of a pre-training (benchmarks/report/charts.py), and how many points it draws at most.
CURVES = ("step", "epoch", "loss", "std", "std_healthy", "knn_top1")
POINTS = 200
# What a repository can bear: all rows of both tables at mini scale, 140 runs, come to 4.4 MB.
MAX_BYTES = 8_000_000
# A path of one machine: from the root or a drive, at the start of a value, a word or a setting.
ABSOLUTE = re.compile(r"(?:^|[\s=\[,'\"])((?:/|~/|[A-Za-z]:\\)[^\s/\\]+[/\\][^\s,\]'\"]*)")


def keep_results(plan: Plan, target: Path) -> dict[Path, int]:
    """Copy what the tables of a run rest on to `target`; what an earlier call has left there goes.

    Args:
        plan: the plan, read from the folder.
        target: a new or empty folder, or one that this function has written.

    Returns:
        The files with their sizes.

    Raises:
        UserError: a record is refused, there is none, something names a path of this machine, it is too much, or
            `target` holds something else, or what was kept of other runs.
    """
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise UserError(f"{target}: is not a folder; choose another")
    if target.exists() and any(target.iterdir()) and not (target / MARK).is_file():
        raise UserError(f"{target}: was not written by this command, and its files would go; choose another folder")
    if (target / PLAN).is_file():
        there = read_plan(target)
        if there.scale != plan.scale:
            raise UserError(
                f"{target}: has the records of the {there.scale} scale, not of {plan.scale}; choose another folder"
            )
        if lost := there.runs.keys() - plan.runs.keys():
            raise UserError(
                f"{target}: has {len(lost)} runs that {plan.output} has not, e.g. {min(lost)}; choose another folder"
            )
    source, copy = Path(plan.output).resolve(), target.resolve()
    if source.is_relative_to(copy) or copy.is_relative_to(source):
        raise UserError(f"{target}: holds the run itself or lies in it; choose another folder")
    results = read_plan_results(plan, status_of(plan))
    records = results.records
    if results.refused or not records:
        raise UserError(
            results.refused[0] if results.refused else f"{plan.output}: no run is done; there is nothing to copy"
        )
    texts: dict[str, Any] = {PLAN: read_json(Path(plan.output) / PLAN)}
    texts |= {f"{run}/{RECORD}": read_json(plan.target(run)) for run in records}
    for name, body in texts.items():
        for value in _strings(body):
            if found := ABSOLUTE.search(value):
                raise UserError(
                    f"{plan.output}/{name}: names {found[1]}, a path of this machine; run in the project's folder "
                    "with a relative --output"
                )
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for name, body in texts.items():
            write_json(partial / name, body)
        _write(partial / ATTEMPTS, (asdict(attempt) for attempt in last_attempts(plan).values()))
        for run in records:
            log, matches = plan.folder(run) / METRICS_LOG, plan.folder(run) / MATCHES
            if plan.runs[run].kind == "pretrain" and log.exists():
                _write(partial / run / METRICS_LOG, _thinned(list(read_log(log))))
            if matches.exists():
                with atomic_write(partial / run / MATCHES) as file:
                    file.write(read_bytes(matches, MAX_BYTES))
        write_tables(results.tables, partial)
        (partial / MARK).touch()
        written = {path.relative_to(partial): path.stat().st_size for path in partial.rglob("*") if path.is_file()}
        if sum(written.values()) > MAX_BYTES:
            raise UserError(
                f"{plan.output}: {sum(written.values()):,} bytes, more than {MAX_BYTES:,}; give one of fewer tables"
            )
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return written


def _write(path: Path, rows: Iterator[dict[str, Any]] | list[dict[str, Any]]) -> None:
    with atomic_write(path, "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def _strings(body: Any) -> Iterator[str]:
    """All texts inside a JSON value, keys too."""
    if isinstance(body, dict):
        for key, value in body.items():
            yield key
            yield from _strings(value)
    elif isinstance(body, list):
        for value in body:
            yield from _strings(value)
    elif isinstance(body, str):
        yield body


def _thinned(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines with a kNN accuracy, and of the others as many as the report draws."""
    rest = [i for i, row in enumerate(rows) if "knn_top1" not in row]
    kept = set(rest[:: max(1, len(rest) // POINTS)]) | set(range(len(rows))) - set(rest)
    return [{key: row[key] for key in CURVES if key in row} for i, row in enumerate(rows) if i in kept]


@cli
def main(argv: list[str] | None = None) -> int:
    """Copy, and say how much."""
    parser = Parser(prog="python -m experiments.keep_results", description="copy records and curves, below 8 MB")
    parser.add_argument("folder", metavar="FOLDER", help="output folder of `python -m benchmarks run`")
    parser.add_argument("target", type=Path, metavar="DIR", help="e.g. results/mini; an earlier copy there is replaced")
    given = parser.parse_args(argv)
    written = keep_results(read_plan(given.folder), given.target)
    print(f"{given.target}: {len(written)} files, {sum(written.values()) / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    main()
