"""A table to be shown, of whatever content; `report/table_formats.py` writes it in every form."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from runs.notebook_table import html_table

ABSENT = "–"


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
class FormattedTable:
    """A table to be shown."""

    heads: tuple[tuple[str, str], ...]  # (group, label) of each column; neighbours of one group share its name
    lines: tuple[Line, ...]
    title: str = ""  # above it
    about: str = ""  # below the title: the quantity, the scale
    notes: tuple[str, ...] = ()  # below the table
    corner: str = ""  # above the labels of the lines
    facts: int = 0  # so many of the first columns describe a line rather than measure it

    @property
    def column_groups(self) -> list[tuple[str, int]]:
        """The names above the columns, each with how many it spans."""
        return [(group, len(list(same))) for group, same in itertools.groupby(group for group, _ in self.heads)]

    @property
    def column_labels(self) -> list[str]:
        """The columns' names, each with its group's before it."""
        return [f"{group} {label}".strip() for group, label in self.heads]

    def _repr_html_(self) -> str:
        rows = [[line.label, *(cell.text for cell in line.cells)] for line in self.lines]
        return html_table(self.title, [self.corner, *self.column_labels], rows, (self.about, *self.notes))


def to_cells(values: Sequence[object]) -> tuple[Cell, ...]:
    """Cells of plain words: a tick for True, nothing for False, a dash for what is not there."""
    words = {True: "✓", False: "", None: ABSENT}
    return tuple(Cell(words[v] if v is None or isinstance(v, bool) else str(v)) for v in values)
