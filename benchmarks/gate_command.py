"""`python -m benchmarks gate`: results against a stored baseline, for a terminal, a pull request and a CI server."""

import argparse
import os
import sys
from pathlib import Path

from benchmarks.evaluate import evaluate
from benchmarks.gate.baseline import before_and_now_lines, read_baseline, write_baseline
from benchmarks.gate.comparison import DETECT, compare_runs
from benchmarks.gate.comparison_formats import junit_xml, sentence, summary_markdown
from benchmarks.gate.trials import group_trials
from benchmarks.results.records import find_records
from runs.errors import UserError
from runs.files import atomic_write

MARKS = {"pass": "pass", "fail": "FAIL", "not enough data": "????", "shown": "    "}


def gate(arguments: argparse.Namespace) -> int:
    """Compare records with a baseline, print the comparison and write the files that the options name.

    With `--checkpoint` that one is evaluated first. The records that come of it answer a part of the baseline only, and
    nothing that it lacks: of several methods and tasks, their own lines.

    Returns:
        0 within the noise or the tolerance; 1 for a real drop; 3 where `--detect` is given and the data are too few to
        see such a drop.

    Raises:
        UserError: bad input.
    """
    _check_options(arguments)
    # Before anything is evaluated.
    before = read_baseline(Path(arguments.baseline)) if arguments.baseline else {}
    results = [*arguments.results]
    if arguments.checkpoint:
        tasks, scale, output = arguments.tasks or ["knn", "linear"], arguments.scale or "mini", arguments.output
        evaluated = evaluate(arguments.checkpoint, tasks, scale, dict(arguments.data), output or "outputs/gate")
        if reason := next(iter(evaluated.faults), ""):
            raise UserError(f"gate: {reason}")
        results += evaluated.record_files
    records = find_records(results)
    now = group_trials(records)
    if arguments.noise is not None:
        for measured in (*before.values(), *now.values()):
            measured.set_deviation(arguments.noise)
    compared = before
    if before and not arguments.results:
        if (lacking := next((key for key in now if key not in before), "")) and not arguments.update_baseline:
            raise UserError(f"baseline: no number of {lacking}; write it with that run, or choose other --tasks or "
                            f"checkpoint (there are: {'; '.join(before)})")  # fmt: skip
        compared = {key: before[key] for key in now if key in before}
    detect = DETECT if arguments.detect is None else arguments.detect
    lines = compare_runs(compared, now, arguments.tolerance, detect) if compared else []
    for line in lines:
        print(f"{MARKS[line.verdict]} {sentence(line)}")
    for file, formatted in ((arguments.summary, summary_markdown), (arguments.junit, junit_xml)):
        if file and before:
            with atomic_write(file) as handle:
                handle.write(formatted(lines))
    if arguments.write_baseline or arguments.update_baseline:
        means = before_and_now_lines(before, now)
        files = write_baseline(Path(arguments.write_baseline or arguments.baseline), before | now)
        print(f"baseline written: {' and '.join(map(str, files))}{' (keep both)' if len(files) > 1 else ''}")
        print(*(f"  {line}" for line in means), sep="\n")
        return 0
    if any(line.verdict == "fail" for line in lines):
        print("the gate fails: a real drop", file=sys.stderr)
        return 1
    if arguments.detect is not None and any(line.verdict == "not enough data" for line in lines):
        print(f"the gate cannot decide: a drop of {arguments.detect:g} points could go undetected", file=sys.stderr)
        return 3
    return 0


def _check_options(arguments: argparse.Namespace) -> None:
    """Raise a `UserError` where an option does not go with another, before anything is evaluated."""
    for name in ("tasks", "scale", "data", "output"):
        if getattr(arguments, name) and not arguments.checkpoint:
            raise UserError(f"--{name}: is for --checkpoint FILE; give one, or leave it out")
    if not arguments.results and not arguments.checkpoint:
        raise UserError("gate: give RESULTS (result.json files or folders of them) or --checkpoint FILE")
    if arguments.update_baseline and not arguments.baseline:
        raise UserError("--update-baseline: is for --baseline FILE; --write-baseline stores all of the results")
    for name, others in (("summary", (arguments.junit, arguments.baseline)), ("junit", (arguments.baseline,))):
        written = getattr(arguments, name)
        taken = {os.path.realpath(other) for other in others if other}
        if written and (Path(written).suffix in (".json", ".npz") or os.path.realpath(written) in taken):
            raise UserError(f"--{name} {written}: would overwrite a record, a baseline or the other file; name another")
