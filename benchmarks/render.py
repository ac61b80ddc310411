"""Filled tables as text: for a terminal, Markdown, LaTeX (booktabs) and CSV."""

import csv
import io

from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from benchmarks.fill import Entry, Filled, full_label
from benchmarks.tables import Table

ABSENT = "–"


def number(entry: Entry) -> str:
    """Ours: `41.2 ± 0.3 (n = 3)`, or why there is none."""
    if entry.ours is None:
        return entry.remark or ABSENT
    spread = f" ± {entry.ours.std:.1f}" if entry.ours.std is not None else ""
    return f"{entry.ours.mean:.1f}{spread} (n = {entry.ours.n}{_short(entry)})"


def _short(entry: Entry) -> str:
    return f" of {entry.wanted}" if entry.ours and entry.ours.n < entry.wanted else ""


def published(entry: Entry) -> str:
    """The paper's: `68.1`, a word, or a dash."""
    if entry.paper is None:
        return ABSENT
    return entry.paper if isinstance(entry.paper, str) else f"{entry.paper:.1f}"


def signed(value: float | None) -> str:
    """A difference with its sign and a true minus."""
    return ABSENT if value is None else f"{value:+.1f}".replace("-", "−")


def terminal(filled: Filled, console: Console | None = None) -> None:
    """Print a table: ours above the paper's in each entry."""
    console = console or Console()
    table = filled.table
    # Three columns of numbers a line of tables is what 100 characters hold; wide tables are printed group by group.
    for columns in _groups(table, console.width):
        title = f"{table.label}: {table.title} · {table.quantity} · {filled.scale} scale"
        grid = Grid(title=title, title_justify="left", title_style="bold", show_lines=True, pad_edge=False)
        grid.add_column("", style="bold")
        for i in columns:
            grid.add_column(full_label(table.columns[i]) + "\nours / paper", justify="right")
        for row, line in zip(table.rows, filled.entries, strict=True):
            grid.add_row(row.label, *(_cell(line[i]) for i in columns))
        console.print(grid)
    for remark in filled.remarks:
        console.print(f"  {remark}", highlight=False)


def _cell(entry: Entry) -> Text:
    text = Text(number(entry), style="" if entry.ours else "dim")
    if entry.bold:
        text.stylize("bold")
    if entry.below_scratch:
        text.append(" ≤ scratch", style="yellow")
    text.append(f"\n{published(entry)}", style="dim")
    return text


def _groups(table: Table, width: int) -> list[list[int]]:
    fitting = max(2, (width - 26) // 22)
    every = list(range(len(table.columns)))
    if len(every) <= fitting:
        return [every]
    size = max(3 * (fitting // 3), 2) if len(every) % 3 == 0 else fitting
    return [every[i : i + size] for i in range(0, len(every), size)]


def markdown(filled: Filled) -> str:
    """GitHub's Markdown: three columns (ours, paper, difference) folded into one an entry, then the remarks."""
    table = filled.table
    heads = ["", *table.properties, *(f"{full_label(c)}<br>ours · paper · difference" for c in table.columns)]
    lines = [f"### {table.label}: {table.title}", "", f"{table.quantity}, {filled.scale} scale", ""]
    lines += ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for row, entries in zip(table.rows, filled.entries, strict=True):
        facts = [_fact(row.properties.get(p)) for p in table.properties]
        lines.append("| " + " | ".join([row.label, *facts, *(_folded(e) for e in entries)]) + " |")
    lines += ["", *(f"- {r}" for r in filled.remarks), *(f"- {n}" for n in table.notes), ""]
    return "\n".join(lines)


def _folded(entry: Entry) -> str:
    ours = f"**{number(entry)}**" if entry.bold and entry.ours else number(entry)
    paper = f"**{published(entry)}**" if entry.paper_bold else published(entry)
    return f"{ours} · {paper} · {signed(entry.difference)}"


def _fact(value: object) -> str:
    if value is True:
        return "✓"
    return "" if value is None or value is False else str(value)


def latex(filled: Filled) -> str:
    """A booktabs table: ours ± std, the paper's in parentheses."""
    table = filled.table
    lines = [
        f"% {table.label} of {table.paper}, measured at the {filled.scale} scale; the paper's values in parentheses",
        r"\begin{tabular}{l" + "r" * len(table.columns) + "}",
        r"\toprule",
        " & ".join(["", *(_tex(full_label(c)) for c in table.columns)]) + r" \\",
        r"\midrule",
    ]
    for row, entries in zip(table.rows, filled.entries, strict=True):
        lines.append(" & ".join([_tex(row.label), *(_tex_entry(e) for e in entries)]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _tex_entry(entry: Entry) -> str:
    paper = f" ({published(entry)})" if entry.paper is not None else ""
    if entry.ours is None:
        return _tex(f"{ABSENT}{paper}")
    mean = rf"\textbf{{{entry.ours.mean:.1f}}}" if entry.bold else f"{entry.ours.mean:.1f}"
    spread = rf" $\pm$ {entry.ours.std:.1f}" if entry.ours.std is not None else ""
    return mean + spread + _tex(paper)


def _tex(text: str) -> str:
    for plain, escaped in (
        ("\\", r"\textbackslash{}"),
        ("&", r"\&"),
        ("%", r"\%"),
        ("_", r"\_"),
        ("#", r"\#"),
        (ABSENT, "--"),
    ):
        text = text.replace(plain, escaped)
    return text


def comma_separated(filled: Filled) -> str:
    """One line an entry: table, row, column, paper, n, mean, std, half of the 95 % interval, the trials."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(
        [
            "table",
            "scale",
            "row",
            "column",
            "task",
            "metric",
            "paper",
            "n",
            "mean",
            "std",
            "ci95_half",
            "difference",
            "trials",
            "remark",
        ]
    )
    for row, entries in zip(filled.table.rows, filled.entries, strict=True):
        for column, e in zip(filled.table.columns, entries, strict=True):
            ours = [e.ours.n, e.ours.mean, e.ours.std, e.ours.half] if e.ours else [0, None, None, None]
            trials = " ".join(map(repr, e.ours.values)) if e.ours else ""
            writer.writerow(
                [
                    filled.table.name,
                    filled.scale,
                    row.id,
                    column.id,
                    column.task,
                    column.metric,
                    e.paper,
                    *ours,
                    e.difference,
                    trials,
                    e.remark,
                ]
            )
    return out.getvalue()
