"""A table in every form: for a terminal, Markdown, LaTeX (booktabs), a notebook and, by the page's template, HTML."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from runs.notebook_table import html_table

ABSENT = "–"
# LaTeX's own signs, and those that its fonts lack.
TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "−": "$-$"}
TEX |= {ABSENT: "--"} | {sign: f"\\{sign}" for sign in "&%_#${}"}
ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=jinja2.select_autoescape(["html.j2"]),
    trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined,
)  # fmt: skip
ENVIRONMENT.filters["tex"] = lambda text: text.translate(str.maketrans(TEX))


@dataclass(frozen=True)
class Cell:
    """One entry."""

    text: str  # what is shown
    bold: bool = False
    flag: str = ""  # a warning behind it, in few words
    value: float | None = None  # what it is sorted by; None for what is no number
    title: str = ""  # shown when pointed at


@dataclass(frozen=True)
class Line:
    """A line of a table, and the paper's values, which stand below its cells in small type."""

    label: str
    cells: tuple[Cell, ...]
    below: tuple[Cell, ...] = ()


@dataclass(frozen=True)
class Grid:
    """A table to be shown."""

    heads: tuple[tuple[str, str], ...]  # (group, label) of each column; neighbours of one group share its name
    lines: tuple[Line, ...]
    title: str = ""  # above it
    about: str = ""  # below the title: the quantity, the scale
    notes: tuple[str, ...] = ()  # below the table
    corner: str = ""  # above the labels of the lines
    facts: int = 0  # so many of the first columns describe a line rather than measure it

    @property
    def groups(self) -> list[tuple[str, int]]:
        """The names above the columns, each with how many it spans."""
        return [(group, len(list(same))) for group, same in itertools.groupby(group for group, _ in self.heads)]

    @property
    def labels(self) -> list[str]:
        """The columns' names, each with its group's before it."""
        return [f"{group} {label}".strip() for group, label in self.heads]

    def _repr_html_(self) -> str:
        rows = [[line.label, *(cell.text for cell in line.cells)] for line in self.lines]
        return html_table(self.title, [self.corner, *self.labels], rows, (self.about, *self.notes))


def plain_cells(texts: Sequence[object]) -> tuple[Cell, ...]:
    """Cells of plain words: a tick for True, nothing for False, a dash for what is not there."""
    words = {True: "✓", False: "", None: ABSENT}
    return tuple(Cell(words[text] if text is None or isinstance(text, bool) else str(text)) for text in texts)


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
