"""`python -m benchmarks gate`: results against a stored baseline, for a terminal, a pull request and a CI server."""

import argparse
import math
import statistics
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

from benchmarks.evaluate import evaluate
from benchmarks.gate import baseline
from benchmarks.gate.comparison import DETECT, Comparison, compare_runs
from benchmarks.gate.measured import Measured, measure
from benchmarks.report import table_formats
from benchmarks.report.table_formats import Cell, Grid, plain_cells
from runs.errors import UserError
from runs.files import atomic_write

MARKS = {"pass": "pass", "fail": "FAIL", "not enough data": "????", "shown": "    "}


def gate(arguments: argparse.Namespace) -> int:
    """The command.

    Returns:
        0 within the noise or the tolerance; 1 for a real drop; 3 where `--detect` was given and the data are too few
        to see such a drop. Bad input raises `UserError` (2).
    """
    for name in ("tasks", "scale", "data", "output"):
        if getattr(arguments, name) and not arguments.checkpoint:
            raise UserError(f"--{name}: is for --checkpoint FILE; give one, or leave it out")
    if arguments.update_baseline and not arguments.baseline:
        raise UserError("--update-baseline: is for --baseline FILE; --write-baseline stores all of the results")
    for name in ("tolerance", "detect", "noise"):
        value = getattr(arguments, name)
        if value is not None and not 0 <= value < math.inf:
            raise UserError(f"--{name} {value}: must be at least 0")
    for name, others in (("summary", (arguments.junit, arguments.baseline)), ("junit", (arguments.baseline,))):
        written = getattr(arguments, name)
        if written and (Path(written).suffix in (".json", ".npz") or written in others):
            raise UserError(f"--{name} {written}: would overwrite a record, a baseline or the other file; name another")
    # First of all: a baseline that cannot be read should not be found out after an evaluation.
    before = baseline.read(Path(arguments.baseline)) if arguments.baseline else {}
    results = [*arguments.results, *(_evaluate_checkpoint(arguments) if arguments.checkpoint else [])]
    if not results:
        raise UserError("gate: give RESULTS (result.json files or folders of them) or --checkpoint FILE")
    measured = measure(results, arguments.noise)
    if arguments.write_baseline:
        _write(Path(arguments.write_baseline), {}, measured)
        return 0
    if arguments.noise is not None:
        for old in before.values():
            old.assume_noise(arguments.noise)
    # Of a baseline of several methods and tasks, one checkpoint's evaluation answers its own lines.
    compared = before if arguments.results else _asked(before, measured, arguments.update_baseline)
    detect = DETECT if arguments.detect is None else arguments.detect
    lines = compare_runs(compared, measured, arguments.tolerance or 0.0, detect) if compared else []
    for line in lines:
        print(f"{MARKS[line.verdict]} {sentence(line)}")
    if arguments.summary:
        with atomic_write(arguments.summary, "w") as file:
            file.write(table_formats.markdown(summary_grid(lines)))
    if arguments.junit:
        with atomic_write(arguments.junit) as file:
            file.write(junit(lines))
    if arguments.update_baseline:
        _write(Path(arguments.baseline), before, measured)
        return 0
    if any(line.verdict == "fail" for line in lines):
        print("the gate fails: a real drop", file=sys.stderr)
        return 1
    if arguments.detect is not None and any(line.verdict == "not enough data" for line in lines):
        print(f"the gate cannot decide: a drop of {arguments.detect:g} points could go undetected", file=sys.stderr)
        return 3
    return 0


def _evaluate_checkpoint(arguments: argparse.Namespace) -> list[str]:
    """Evaluate the checkpoint; returns the records of it, and not of others that the folder may hold."""
    output = arguments.output or "outputs/gate"
    tasks, scale = arguments.tasks or ["knn", "linear"], arguments.scale or "mini"
    found = evaluate(arguments.checkpoint, tasks, scale, dict(arguments.data), output)
    if faults := [*found.refused, *(f"{run} failed; its log is below {output}" for run in found.failed)]:
        raise UserError(f"gate: {faults[0]}")
    return [str(found.plan.target(run)) for cell in found.plan.cells for run in cell.runs]


def _write(path: Path, before: dict[str, Measured], now: dict[str, Measured]) -> None:
    """Store a baseline, and say what it changes."""
    baseline.write(path, {**before, **now})
    beside = f" and {path.with_suffix('.npz')} (keep both)" if any(m.matches for m in (before | now).values()) else ""
    print(f"baseline written: {path}{beside}")
    for key, measured in now.items():
        known = before[key].values if key in before else {}
        old = {metric: f"{statistics.fmean(v):.2f} -> " for metric, v in known.items()}
        means = ", ".join(f"{m} {old.get(m, '')}{statistics.fmean(v):.2f}" for m, v in measured.values.items())
        print(f"  {key}: {means} (n = {len(next(iter(measured.values.values())))}, {measured.images} test images)")


def _asked(before: dict[str, Measured], measured: dict[str, Measured], extend: bool) -> dict[str, Measured]:
    """The baseline's part that was measured; what it does not hold may be missing only where it is to be extended."""
    for key in measured:
        if key not in before and not extend:
            raise UserError(f"baseline: no number of {key}; write it with that run, or choose other --tasks or "
                            f"checkpoint (there are: {'; '.join(before)})")  # fmt: skip
    return {key: before[key] for key in measured if key in before}


def sentence(line: Comparison) -> str:
    """One comparison in words."""
    text = (
        f"{line.key}: {line.metric} {line.now:.2f}, baseline {line.before:.2f}, "
        f"difference {line.difference:+.2f} ± {1.96 * line.error:.2f}"
    )
    if line.pooled:
        text += f"; pooled AP {line.pooled.value:+.2f} ± {1.96 * line.pooled.error:.2f}"
    if line.verdict == "fail":
        text += f"; error from {line.how}"
    elif line.verdict == "not enough data" and line.low:
        text += "; not enough data: the baseline is smaller than the drop to be detected; train it longer"
    elif line.verdict == "not enough data":
        text += f"; not enough data: a drop below {line.smallest:.1f} points may go undetected"
    return text


def summary_grid(lines: list[Comparison]) -> Grid:
    """All comparisons as a table for a pull request."""
    failed, unsure = (any(line.verdict == v for line in lines) for v in ("fail", "not enough data"))
    head = "a real drop" if failed else "not enough data to see a small drop" if unsure else "no drop"
    rows = [
        table_formats.Line(line.key, (
            *plain_cells([line.metric, f"{line.before:.2f}", f"{line.now:.2f}",
                    f"{line.difference:+.2f} ± {1.96 * line.error:.2f}", f"{line.smallest:.1f}"]),
            Cell("" if line.verdict == "shown" else line.verdict, bold=line.verdict == "fail"),
        ))
        for line in lines
    ]  # fmt: skip
    heads = ("metric", "baseline", "now", "difference (95 %)", "smallest drop seen", "verdict")
    notes = tuple(dict.fromkeys(f"error of {line.key}: {line.how}" for line in lines))
    return Grid(tuple(("", h) for h in heads), tuple(rows), f"Regression gate: {head}", notes=notes, corner="run")


def junit(lines: list[Comparison]) -> bytes:
    """JUnit XML, a test case a deciding number; what cannot be decided counts as skipped."""
    cases = [line for line in lines if line.verdict != "shown"]
    suite = ET.Element(
        "testsuite", name="benchmarks gate", tests=str(len(cases)),
        failures=str(sum(line.verdict == "fail" for line in cases)),
        skipped=str(sum(line.verdict == "not enough data" for line in cases)), errors="0",
    )  # fmt: skip
    for line in cases:
        case = ET.SubElement(suite, "testcase", classname=line.key, name=line.metric)
        if line.verdict != "pass":
            ET.SubElement(case, "failure" if line.verdict == "fail" else "skipped", message=sentence(line))
    text: bytes = ET.tostring(suite, encoding="utf-8", xml_declaration=True)
    return text
