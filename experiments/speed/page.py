"""The result of a speed run as Markdown and as one HTML file."""

import statistics
from typing import Any

from experiments.speed.rows import Row
from runs.errors import UserError
from runs.notebook_table import html_table

BEGIN, END = "<!-- speed: begin -->", "<!-- speed: end -->"
HEAD = ("what", "ours", "peer", "peer's", "times better (range, rounds)", "asked", "the hardware's limit", "reached")


def three_digits(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def cells(row: Row) -> tuple[str, ...]:
    """The columns of `HEAD`."""
    limit = "" if row.limit is None else f"{three_digits(row.limit)} {row.unit}, {row.limit_name}"
    return (
        row.title + (f" ({row.note})" if row.note else ""),
        f"{three_digits(statistics.median(row.ours))} {row.unit}",
        row.peer_name,
        f"{three_digits(statistics.median(row.peer))} {row.unit}",
        f"{row.ratio:.2f} ({min(row.ratios):.2f} to {max(row.ratios):.2f}, {len(row.ours)})",
        "" if row.goal is None else f"{three_digits(row.goal)}: {'reached' if row.ratio >= row.goal else 'missed'}",
        limit,
        "" if row.share is None else f"{100 * row.share:.0f} %",
    )


def facts(document: dict[str, Any]) -> list[str]:
    """What the figures hold for."""
    place, packages = document["environment"], document["environment"]["packages"]
    bf16 = " with bf16 instructions" if place["bf16"] else ""
    versions = ", ".join(f"{name} {packages[name]}" for name in ("torch", "torchvision", "numpy", "pillow"))
    lines = [
        f"{place['processor']}, {place['cores']} cores, {place['cpu_capability']}{bf16}, device {place['device']}",
        f"Python {place['python']}, {versions}",
        "Medians over rounds that alternate with the peer's; a range is over rounds.",
    ]
    for name, part in document["parts"].items():
        load = " to ".join(f"{value:.1f}" for value in part["load"])
        date = part["date"][:16].replace("T", " ")
        lines.append(f"{name}: {date} UTC, {part['seconds']:.0f} s, load of the machine {load}:\n  `{part['command']}`")
    return [
        *lines,
        *(["Measured with --quick: the sizes are too small to conclude from."] if document["quick"] else []),
    ]


def markdown_page(document: dict[str, Any]) -> str:
    """The table, what was left out and why, and what it was measured on."""
    rows = [Row(**row) for row in document["rows"]]
    lines = [f"- {fact}" for fact in facts(document)]
    lines += ["", "| " + " | ".join(HEAD) + " |", "| " + " | ".join("---" for _ in HEAD) + " |"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells(row)) + " |" for row in rows]
    if document["skipped"]:
        lines += ["", "Left out:", ""]
        lines += [f"- `{skipped['name']}`: {skipped['reason']}" for skipped in document["skipped"]]
    return "\n".join(lines) + "\n"


def html_page(document: dict[str, Any]) -> str:
    """The same as one file without anything to load."""
    rows = [cells(Row(**row)) for row in document["rows"]]
    left = [f"Left out: {skipped['name']}: {skipped['reason']}" for skipped in document["skipped"]]
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>Speed</title>"
        "<style>body{font:14px/1.5 sans-serif;margin:2rem auto;max-width:90rem;padding:0 1rem}"
        "table{border-collapse:collapse}td,th{padding:.3rem .6rem;border-bottom:1px solid #ccc;text-align:left}</style>"
        f"{html_table('Speed', HEAD, rows, [*facts(document), *left])}</html>\n"
    )


def replace_block(text: str, block: str) -> str:
    """Put a block between the marks of a page.

    Raises:
        UserError: the page has not exactly one pair of marks.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in after:
        raise UserError(f"the page needs one pair of lines {BEGIN} and {END}; add them where the table belongs")
    return f"{before}{BEGIN}\n{block.strip()}\n{END}{after}"
