"""A table in every form: for a terminal, Markdown, LaTeX (booktabs), a notebook and, by the page's template, HTML."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from benchmarks.formatted_table import ABSENT, Cell, FormattedTable

# LaTeX's own signs, and those that its fonts lack.
TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "−": "$-$"}
TEX |= {ABSENT: "--"} | {sign: f"\\{sign}" for sign in "&%_#${}"}
ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=jinja2.select_autoescape(["html.j2"]),
    trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined,
)  # fmt: skip
ENVIRONMENT.filters["tex"] = lambda text: text.translate(str.maketrans(TEX))


def render_template(template: str, **values: Any) -> str:
    """Fill one of the templates beside this file."""
    return ENVIRONMENT.get_template(template).render(values)


def markdown(table: FormattedTable) -> str:
    """GitHub's Markdown."""
    return render_template("table.md.j2", table=table)


def print_table(table: FormattedTable, console: Console | None = None) -> None:
    """Print a table; one too wide for the terminal comes in parts, divided between groups of columns."""
    console = console or Console()
    for text, style in ((table.title, "bold"), (table.about, "dim")):
        if text:
            console.print(Text(text, style=style), highlight=False)
    parts: list[list[int]] = []
    places = iter(range(len(table.heads)))
    for _, span in table.column_groups:
        columns = list(itertools.islice(places, span))
        if not parts or _width(_part(table, parts[-1] + columns), console) > console.width:
            parts.append([])
        parts[-1] += columns
    for part in parts:
        shown = _part(table, part)
        # Never narrower than its numbers, whatever the terminal.
        console.print(shown, width=_width(shown, console), highlight=False, crop=False)
    flags = sorted({cell.flag for line in table.lines for cell in line.cells if cell.flag})
    for note in (*(f"* {flag}" for flag in flags), *(f"- {note}" for note in table.notes)):
        console.print(Text(note), highlight=False)
    if flags or table.notes:
        console.print()


def _part(table: FormattedTable, columns: Sequence[int]) -> RichTable:
    """Some columns of a table; a group's name stands over its first one."""
    shown = RichTable(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    grouped = any(table.heads[i][0] for i in columns)
    shown.add_column(Text("\n" * grouped + table.corner), no_wrap=True)
    for place, i in enumerate(columns):
        group, label = table.heads[i]
        begins = place == 0 or table.heads[columns[place - 1]][0] != group
        shown.add_column(
            Text((f"{group if begins else ''}\n" if grouped else "") + label), justify="right", no_wrap=True
        )
    for line in table.lines:
        shown.add_row(Text(line.label), *(_text(line.cells[i]) for i in columns))
        if line.below:
            shown.add_row(Text("  paper"), *(_text(line.below[i]) for i in columns), style="dim")
    return shown


def _width(table: RichTable, console: Console) -> int:
    return Measurement.get(console, console.options.update(width=1000), table).maximum


def _text(cell: Cell) -> Text:
    return Text(cell.text + ("*" if cell.flag else ""), style="bold" if cell.bold else "")
