"""`python -m benchmarks gate`: results against a stored baseline, for a terminal, a pull request and a CI server."""

import argparse
import math
import statistics
import sys
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gate.baseline import read_baseline, write_baseline
from benchmarks.gate.comparison import DETECT, Comparison, compare_runs
from benchmarks.gate.measured import Measured, measure
from benchmarks.grid import Cell, Grid, Line, cells_of
from benchmarks.report import table_formats
from runs.errors import UserError
from runs.files import atomic_write

MARKS = {"pass": "pass", "fail": "FAIL", "not enough data": "????", "shown": "    "}


def checked_baseline(arguments: argparse.Namespace) -> dict[str, Measured] | None:
    """Check the options and read the baseline before anything is evaluated; None for `--write-baseline`.

    Raises:
        UserError: an option is wrong or does not go with another, or the baseline cannot be read.
    """
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
    return read_baseline(Path(arguments.baseline), arguments.noise) if arguments.baseline else None


def gate(results: Sequence[str | Path], before: dict[str, Measured] | None, arguments: argparse.Namespace) -> int:
    """Compare records with a baseline, print the comparison and write the files that the options name.

    Args:
        results: `result.json` files, or folders of them.
        before: the baseline; None where these results are to become one.
        arguments: the command's. Without its `results`, these answer a part of the baseline only, and nothing that it
            lacks: of several methods and tasks, one checkpoint's evaluation answers its own lines.

    Returns:
        0 within the noise or the tolerance; 1 for a real drop; 3 where `--detect` is given and the data are too few to
        see such a drop.

    Raises:
        UserError: bad input.
    """
    now = measure(results, arguments.noise)
    if before is None:
        _store(Path(arguments.write_baseline), {}, now)
        return 0
    compared = before
    if not arguments.results:
        if (lacking := next((key for key in now if key not in before), "")) and not arguments.update_baseline:
            raise UserError(f"baseline: no number of {lacking}; write it with that run, or choose other --tasks or "
                            f"checkpoint (there are: {'; '.join(before)})")  # fmt: skip
        compared = {key: before[key] for key in now if key in before}
    detect = DETECT if arguments.detect is None else arguments.detect
    lines = compare_runs(compared, now, arguments.tolerance, detect) if compared else []
    for line in lines:
        print(f"{MARKS[line.verdict]} {sentence(line)}")
    for file, content in ((arguments.summary, summary_markdown(lines)), (arguments.junit, junit_xml(lines))):
        if file:
            with atomic_write(file) as handle:
                handle.write(content)
    if arguments.update_baseline:
        _store(Path(arguments.baseline), before, now)
        return 0
    if any(line.verdict == "fail" for line in lines):
        print("the gate fails: a real drop", file=sys.stderr)
        return 1
    if arguments.detect is not None and any(line.verdict == "not enough data" for line in lines):
        print(f"the gate cannot decide: a drop of {arguments.detect:g} points could go undetected", file=sys.stderr)
        return 3
    return 0


def _store(path: Path, before: dict[str, Measured], now: dict[str, Measured]) -> None:
    """Store a baseline, and say what it changes."""
    write_baseline(path, {**before, **now})
    beside = f" and {path.with_suffix('.npz')} (keep both)" if any(m.matches for m in (before | now).values()) else ""
    print(f"baseline written: {path}{beside}")
    for key, measured in now.items():
        known = before[key].values if key in before else {}
        old = {metric: f"{statistics.fmean(v):.2f} -> " for metric, v in known.items()}
        means = ", ".join(f"{m} {old.get(m, '')}{statistics.fmean(v):.2f}" for m, v in measured.values.items())
        print(f"  {key}: {means} (n = {len(next(iter(measured.values.values())))}, {measured.images} test images)")


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


def summary_markdown(lines: list[Comparison]) -> bytes:
    """All comparisons as a Markdown table for a pull request, UTF-8."""
    failed, unsure = (any(line.verdict == v for line in lines) for v in ("fail", "not enough data"))
    head = "a real drop" if failed else "not enough data to see a small drop" if unsure else "no drop"
    rows = [
        Line(line.key, (
            *cells_of([line.metric, f"{line.before:.2f}", f"{line.now:.2f}",
                    f"{line.difference:+.2f} ± {1.96 * line.error:.2f}", f"{line.smallest:.1f}"]),
            Cell("" if line.verdict == "shown" else line.verdict, bold=line.verdict == "fail"),
        ))
        for line in lines
    ]  # fmt: skip
    heads = ("metric", "baseline", "now", "difference (95 %)", "smallest drop seen", "verdict")
    notes = tuple(dict.fromkeys(f"error of {line.key}: {line.how}" for line in lines))
    title = f"Regression gate: {head}"
    grid = Grid(tuple(("", h) for h in heads), tuple(rows), title, notes=notes, corner="run")
    return table_formats.markdown(grid).encode()


def junit_xml(lines: list[Comparison]) -> bytes:
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
