"""A conversion's report: a table for people, JSON for machines (schema in docs/converters.md)."""

import re
import shutil
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.checks import Check
from converters.loading import Backbone
from runs.printable import printable

SCHEMA = 2


@dataclass
class Report:
    """What a file is, what was verified, and what was written.

    `obstacles` says for each target why it cannot hold the network, empty where it can.
    """

    backbone: Backbone
    checks: list[Check]
    obstacles: dict[str, str]
    output: Path | None = None


def as_dict(report: Report) -> dict[str, Any]:
    """The report as plain values; the schema is documented in docs/converters.md and tested."""
    backbone = report.backbone
    return {
        **backbone.facts(),
        "schema": SCHEMA,
        "file": str(backbone.path),
        "bytes": backbone.path.stat().st_size,
        "reader": backbone.reader,
        "others": list(backbone.others),
        "container": backbone.container,
        "tensors": len(backbone.state_dict),
        "parameters": sum(t.numel() for name, t in backbone.state_dict.items() if "running_" not in name),
        "renamed": dict(backbone.renamed),
        "entries": [entry for entry in backbone.entries if entry not in backbone.dropped][:50],
        "checks": [
            {"name": check.name, "passed": check.passed, "doubtful": check.doubtful, "figure": check.figure}
            for check in report.checks
        ],
        "targets": {name: {"possible": not reason, "reason": reason} for name, reason in report.obstacles.items()},
        "output": None if report.output is None else str(report.output),
    }


def print_table(report: Report) -> None:
    """Print the report on standard output, as wide as the terminal, or for 140 columns."""
    backbone = report.backbone
    mean, std = (", ".join(f"{value:.3g}" for value in values) for values in (backbone.input.mean, backbone.input.std))
    stride = "1x1" if backbone.input.stride_in_1x1 else "3x3"
    convention = f"{backbone.input.channels}, mean {mean}, std {std}, stride in the {stride} convolution"
    dropped = f": {', '.join(_groups(backbone.dropped))}" if backbone.dropped else ""
    rows = {
        "file": f"{backbone.path} ({backbone.path.stat().st_size / 1e6:.1f} MB, {backbone.reader})",
        "sha256": backbone.source_sha256,
        "format": f"{backbone.format}, under {backbone.prefix or 'the top level'}",
        "network": f"{backbone.arch}, {sum(t.numel() for t in backbone.state_dict.values()) / 1e6:.2f} million values",
        "input": f"{convention} ({backbone.assumed})",
        "kept": f"{len(backbone.state_dict)} tensors, {_example(backbone.renamed)}",
        "dropped": f"{len(backbone.dropped)} tensors{dropped}",
        "also in it": f"{', '.join(backbone.others[:6])}; --prefix PATH takes one" if backbone.others else "",
        "caveat": backbone.caveat,
        **{f"to {name}": reason or "possible" for name, reason in report.obstacles.items()},
        "written": str(report.output or ""),
    }
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 140
    for name, text in rows.items():
        if text:
            print(
                textwrap.fill(f"{name:16}{printable(text)}", width, subsequent_indent=" " * 16, break_on_hyphens=False)
            )
    print()
    for check in report.checks:
        result = "DOUBTFUL" if check.doubtful else "passed"
        line = f"{check.name:18}{result:10}{printable(check.figure)}"
        print(textwrap.fill(line, width, subsequent_indent=" " * 28, break_on_hyphens=False))


def _example(renamed: dict[str, str]) -> str:
    changed = [(old, new) for new, old in renamed.items() if old != new]
    return f"renamed {changed[0][0]} -> {changed[0][1]}, …" if changed else "their names are torchvision's already"


def _groups(names: list[str]) -> list[str]:
    """Names by their first parts, with counts: `encoder.fc (9)`."""
    counts: dict[str, int] = {}
    for name in names:
        key = "num_batches_tracked" if name.endswith("num_batches_tracked") else ".".join(re.split(r"[./]", name)[:2])
        counts[key] = counts.get(key, 0) + 1
    return [f"{key} ({count})" for key, count in counts.items()][:12]
