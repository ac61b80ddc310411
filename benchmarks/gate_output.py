"""The gate's verdict for a terminal, a pull request and a CI server."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.gate_baseline import Measured
from runs.files import atomic_write

if TYPE_CHECKING:
    from benchmarks.gate import Line

MARKS = {"pass": "pass", "fail": "FAIL", "not enough data": "????", "shown": "    "}


def sentence(line: Line) -> str:
    """One comparison in words."""
    text = (
        f"{line.key}: {line.metric} {line.now:.2f}, baseline {line.before:.2f}, "
        f"difference {line.difference:+.2f} ± {1.96 * line.error:.2f}"
    )
    if line.pooled:
        text += f"; classes ranked together {line.pooled.value:+.2f} ± {1.96 * line.pooled.error:.2f}"
    if line.verdict == "not enough data" and line.low:
        text += "; not enough data: the baseline is smaller than the drop that should be seen; train it longer"
    elif line.verdict == "not enough data":
        text += f"; not enough data: a drop below {line.smallest:.1f} points may go unseen"
    return text


def terminal(lines: list[Line]) -> None:
    """Print all comparisons."""
    for line in lines:
        print(f"{MARKS[line.verdict]} {sentence(line)}")


def markdown(lines: list[Line], path: Path) -> None:
    """A summary for a pull request."""
    failed = [line for line in lines if line.verdict == "fail"]
    unsure = [line for line in lines if line.verdict == "not enough data"]
    head = "a real drop" if failed else "not enough data to see a small drop" if unsure else "no drop"
    text = [
        f"### Regression gate: {head}",
        "",
        "| run | metric | baseline | now | difference (95 %) | smallest drop seen | verdict |",
    ]
    text.append("| --- | --- | --- | --- | --- | --- | --- |")
    for line in lines:
        text.append(
            f"| {line.key} | {line.metric} | {line.before:.2f} | {line.now:.2f} | {line.difference:+.2f} ± "
            f"{1.96 * line.error:.2f} | {line.smallest:.1f} | {'' if line.verdict == 'shown' else line.verdict} |"
        )
    text += ["", "Errors: " + "; ".join(dict.fromkeys(f"{line.key}: {line.how}" for line in lines)) + "."]
    with atomic_write(path, "w") as file:
        file.write("\n".join(text) + "\n")


def junit(lines: list[Line], path: Path) -> None:
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
    with atomic_write(path) as file:
        file.write(ET.tostring(suite, encoding="utf-8", xml_declaration=True))


def changes(before: dict[str, Measured], now: dict[str, Measured]) -> None:
    """Say what a new baseline changes."""
    for key, measured in now.items():
        for metric, values in measured.values.items():
            old = before[key].values.get(metric) if key in before else None
            mean = sum(values) / len(values)
            was = f"{sum(old) / len(old):.2f}" if old else "absent"
            print(f"baseline: {key} {metric}: {was} -> {mean:.2f} (n = {len(values)})")
