"""The commands `list` and `show`: what the papers say, before anything is run."""

import argparse

from rich.console import Console
from rich.text import Text

from benchmarks import tables
from benchmarks.fill import full_label
from benchmarks.render import print_grid
from benchmarks.tables import Table


def list_tables(arguments: argparse.Namespace) -> int:
    """One line a table."""
    width = max(len(name) for name in tables.names())
    paper = ""
    for name in tables.names():
        table = tables.load(name)
        if table.paper != paper:
            paper = table.paper
            print(f"{tables.paper(paper)['title']} ({tables.paper(paper)['source'].split(';')[0]})")
        missing = needs(table)
        size = f"{len(table.rows)} x {len(table.columns)}"
        print(f"  {name:{width}}  {size:>6}  {table.label}: {table.title}" + (f" [{missing}]" if missing else ""))
    print("Groups")
    for name, members in tables.groups().items():
        print(f"  {name:{width}}  {', '.join(members)}")
    return 0


def needs(table: Table) -> str:
    """What is missing to run a table."""
    if table.needs:
        return f"needs {table.needs}"
    missing = [r for r in table.rows if r.needs]
    return f"{len(missing)} of {len(table.rows)} rows need {missing[0].needs}" if missing else ""


def show_table(arguments: argparse.Namespace) -> int:
    """The paper's table."""
    table = tables.load(arguments.table)
    if arguments.format == "markdown":
        print(paper_markdown(table))
        return 0
    console = Console()
    source = tables.paper(table.paper)
    console.print(f"{table.label}: {table.title}", style="bold", highlight=False)
    console.print(table.quantity, style="dim", highlight=False)
    heads = [("", p) for p in table.properties] + [(c.group, c.label) for c in table.columns]
    lines = []
    for row in table.rows:
        words = [*(_word(row.properties.get(p)) for p in table.properties), *entries(table, row)]
        lines.append((row.label, [Text(word) for word in words], ""))
    print_grid(console, heads, lines)
    for note in (*table.notes, f"{source['title']}, {source['authors']}, {source['source']}"):
        console.print(f"- {note}", highlight=False)
    if needs(table):
        console.print(f"- {needs(table)}", highlight=False)
    return 0


def paper_markdown(table: Table) -> str:
    """The same in Markdown."""
    heads = ["", *table.properties, *(full_label(c) for c in table.columns)]
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for row in table.rows:
        words = [row.label, *(_word(row.properties.get(p)) for p in table.properties), *entries(table, row)]
        lines.append("| " + " | ".join(words) + " |")
    return "\n".join(
        [f"### {table.label}: {table.title}", "", table.quantity, "", *lines, "", *(f"- {n}" for n in table.notes)]
    )


def entries(table: Table, row: tables.Row) -> list[str]:
    """A row's published values with their spread where the paper has it."""
    words = []
    for i, value in enumerate(row.values):
        spread = row.spread[i] if row.spread else None
        words.append(_word(value) + (f" ± {spread}" if spread is not None else ""))
    return words


def _word(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "✓" if value else ""
    return str(value)
