"""Comparisons as sentences, as a Markdown table for a pull request and as JUnit XML for a CI server."""

import xml.etree.ElementTree as ET

from benchmarks.formatted_table import Cell, FormattedTable, Line, to_cells
from benchmarks.gate.comparison import Comparison
from benchmarks.report import table_formats


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
            *to_cells([line.metric, f"{line.before:.2f}", f"{line.now:.2f}",
                    f"{line.difference:+.2f} ± {1.96 * line.error:.2f}", f"{line.smallest:.1f}"]),
            Cell("" if line.verdict == "shown" else line.verdict, bold=line.verdict == "fail"),
        ))
        for line in lines
    ]  # fmt: skip
    heads = ("metric", "baseline", "now", "difference (95 %)", "smallest drop seen", "verdict")
    notes = tuple(dict.fromkeys(f"error of {line.key}: {line.how}" for line in lines))
    title = f"Regression gate: {head}"
    table = FormattedTable(tuple(("", h) for h in heads), tuple(rows), title, notes=notes, corner="run")
    return table_formats.markdown(table).encode()


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
