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

from benchmarks.grid import ABSENT, Cell, Grid

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


def markdown(grid: Grid) -> str:
    """GitHub's Markdown."""
    return render_template("table.md.j2", grid=grid)


def print_grid(grid: Grid, console: Console | None = None) -> None:
    """Print a table; one too wide for the terminal comes in parts, divided between groups of columns."""
    console = console or Console()
    for text, style in ((grid.title, "bold"), (grid.about, "dim")):
        if text:
            console.print(Text(text, style=style), highlight=False)
    parts: list[list[int]] = []
    places = iter(range(len(grid.heads)))
    for _, span in grid.groups:
        columns = list(itertools.islice(places, span))
        if not parts or _width(_part(grid, parts[-1] + columns), console) > console.width:
            parts.append([])
        parts[-1] += columns
    for part in parts:
        table = _part(grid, part)
        # Never narrower than its numbers, whatever the terminal.
        console.print(table, width=_width(table, console), highlight=False, crop=False)
    flags = sorted({cell.flag for line in grid.lines for cell in line.cells if cell.flag})
    for note in (*(f"* {flag}" for flag in flags), *(f"- {note}" for note in grid.notes)):
        console.print(Text(note), highlight=False)
    if flags or grid.notes:
        console.print()


def _part(grid: Grid, columns: Sequence[int]) -> RichTable:
    """Some columns of a table; a group's name stands over its first one."""
    table = RichTable(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    grouped = any(grid.heads[i][0] for i in columns)
    table.add_column(Text("\n" * grouped + grid.corner), no_wrap=True)
    for place, i in enumerate(columns):
        group, label = grid.heads[i]
        begins = place == 0 or grid.heads[columns[place - 1]][0] != group
        table.add_column(
            Text((f"{group if begins else ''}\n" if grouped else "") + label), justify="right", no_wrap=True
        )
    for line in grid.lines:
        table.add_row(Text(line.label), *(_text(line.cells[i]) for i in columns))
        if line.below:
            table.add_row(Text("  paper"), *(_text(line.below[i]) for i in columns), style="dim")
    return table


def _width(table: RichTable, console: Console) -> int:
    return Measurement.get(console, console.options.update(width=1000), table).maximum


def _text(cell: Cell) -> Text:
    return Text(cell.text + ("*" if cell.flag else ""), style="bold" if cell.bold else "")
