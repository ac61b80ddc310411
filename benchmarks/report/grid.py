"""One table, four ways to write it: for a terminal, Markdown, LaTeX (booktabs) and, by the page's template, HTML."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from runs.text import html_table

ABSENT = "–"


@dataclass(frozen=True)
class Cell:
    """One entry.

    Attributes:
        text: what is shown.
        bold: set off from the others.
        flag: a warning behind it, in few words.
        value: what it is sorted by; None for what is no number.
        title: shown when pointed at.
    """

    text: str
    bold: bool = False
    flag: str = ""
    value: float | None = None
    title: str = ""


@dataclass(frozen=True)
class Line:
    """A line of a table, and the paper's values, which stand below its cells in small type."""

    label: str
    cells: tuple[Cell, ...]
    below: tuple[Cell, ...] = ()


@dataclass(frozen=True)
class Grid:
    """A table to be shown.

    Attributes:
        heads: (group, label) of each column; neighbours of one group share its name.
        lines: the lines.
        title: above it.
        about: below the title: the quantity, the scale.
        notes: below the table.
        corner: above the labels of the lines.
        facts: so many of the first columns describe a line rather than measure it.
    """

    heads: tuple[tuple[str, str], ...]
    lines: tuple[Line, ...]
    title: str = ""
    about: str = ""
    notes: tuple[str, ...] = ()
    corner: str = ""
    facts: int = 0

    @property
    def groups(self) -> list[tuple[str, int]]:
        """The names above the columns, each with how many it spans."""
        spans: list[tuple[str, int]] = []
        for group, _ in self.heads:
            if spans and spans[-1][0] == group:
                spans[-1] = (group, spans[-1][1] + 1)
            else:
                spans.append((group, 1))
        return spans


def plain(texts: Sequence[object]) -> tuple[Cell, ...]:
    """Cells of plain words: a tick for True, nothing for False, a dash for what is not there."""
    words = {True: "✓", False: "", None: ABSENT}
    return tuple(Cell(words[text] if text is None or isinstance(text, bool) else str(text)) for text in texts)


def markdown(grid: Grid) -> str:
    """GitHub's Markdown."""
    heads = [grid.corner, *(f"{group} {label}".strip() for group, label in grid.heads)]
    lines = [_row(heads), "|" + " --- |" * (grid.facts + 1) + " ---: |" * (len(grid.heads) - grid.facts)]
    for line in grid.lines:
        lines.append(_row([line.label, *map(_markdown_cell, line.cells)]))
        if line.below:
            lines.append(_row([f"{line.label}, paper", *map(_markdown_cell, line.below)]))
    head = [f"### {grid.title}", ""] if grid.title else []
    about = [grid.about, ""] if grid.about else []
    notes = ["", *(f"- {note}" for note in grid.notes)] if grid.notes else []
    return "\n".join([*head, *about, *lines, *notes, ""])


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _markdown_cell(cell: Cell) -> str:
    text = f"**{cell.text}**" if cell.bold else cell.text
    return f"{text} ({cell.flag})" if cell.flag else text


def notebook(grid: Grid) -> str:
    """HTML without a style, as a notebook shows it."""
    heads = [grid.corner, *(f"{group} {label}".strip() for group, label in grid.heads)]
    rows = [[line.label, *(cell.text for cell in line.cells)] for line in grid.lines]
    return html_table(grid.title, heads, rows, (grid.about, *grid.notes))


def latex(grid: Grid) -> str:
    """A booktabs table: what stands below a cell follows it in parentheses."""
    heads = ["", *(f"{group} {label}".strip() for group, label in grid.heads)]
    lines = [f"% {grid.title}; {grid.about}; in parentheses: paper"]
    lines += [r"\begin{tabular}{l" + "r" * len(grid.heads) + "}", r"\toprule"]
    lines += [" & ".join(map(_tex, heads)) + r" \\", r"\midrule"]
    for line in grid.lines:
        below = line.below or tuple(Cell(ABSENT) for _ in line.cells)
        cells = [_tex_cell(cell, other) for cell, other in zip(line.cells, below, strict=True)]
        lines.append(" & ".join([_tex(line.label), *cells]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _tex_cell(cell: Cell, below: Cell) -> str:
    text = _tex(cell.text)
    text = rf"\textbf{{{text}}}" if cell.bold else text
    return text if below.text == ABSENT else f"{text} ({_tex(below.text)})"


def _tex(text: str) -> str:
    signs = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "{": r"\{",
             "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "−": "$-$",
             ABSENT: "--"}  # fmt: skip
    return "".join(signs.get(letter, letter) for letter in text)


def terminal(grid: Grid, console: Console | None = None) -> None:
    """Print a table; one too wide for the terminal comes in parts, divided between groups of columns."""
    console = console or Console()
    for text, style in ((grid.title, "bold"), (grid.about, "dim")):
        if text:
            console.print(Text(text, style=style), highlight=False)
    parts: list[list[int]] = []
    first = 0
    for _, span in grid.groups:
        columns = list(range(first, first + span))
        if not parts or _width(_part(grid, parts[-1] + columns), console) > console.width:
            parts.append([])
        parts[-1] += columns
        first += span
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
