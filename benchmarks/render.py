"""Filled tables as text: for a terminal, Markdown, LaTeX (booktabs) and CSV."""

import csv
import io

from rich.console import Console
from rich.text import Text

from benchmarks.fill import Entry, Filled, full_label

ABSENT = "–"


def number(entry: Entry, trials: bool = True) -> str:
    """Ours: `41.2 ± 0.3 (n = 3)`, or why there is none.

    Args:
        entry: the entry.
        trials: say how many; a table whose entries all have the same number says it once.
    """
    if entry.ours is None:
        return entry.remark or ABSENT
    spread = f" ± {entry.ours.std:.{entry.digits}f}" if entry.ours.std is not None else ""
    incomplete = f" of {entry.wanted}" if entry.ours.n < entry.wanted else ""
    count = f" (n = {entry.ours.n}{incomplete})" if trials or incomplete else ""
    return f"{entry.ours.mean:.{entry.digits}f}{spread}{count}"


def published(entry: Entry) -> str:
    """The paper's: `68.1`, a word, or a dash."""
    if entry.paper is None:
        return ABSENT
    return entry.paper if isinstance(entry.paper, str) else f"{entry.paper:.{entry.digits}f}"


def signed(entry: Entry) -> str:
    """The difference with its sign and a true minus, and whether it lies inside (≈) or outside (≠) the noise."""
    if entry.difference is None:
        return ABSENT
    mark = "" if entry.differs is None else " ≠" if entry.differs else " ≈"
    return f"{entry.difference:+.{entry.digits}f}{mark}".replace("-", "−")


def terminal(filled: Filled, console: Console | None = None) -> None:
    """Print a table, ours above the paper's in each row; one too wide for the terminal comes in parts."""
    console = console or Console()
    table = filled.table
    console.print(f"{table.label}: {table.title}", style="bold", highlight=False)
    trials = f", n = {filled.trials}" if filled.trials else ""
    console.print(f"{table.quantity}, {filled.scale} scale; mean ± std{trials}", style="dim", highlight=False)
    lines: list[tuple[str, list[Text], str]] = []
    heads = [(c.group, c.label) for c in table.columns]
    heads = [("", "collapsed"), *heads] if filled.verdicts else heads
    for i, (row, entries) in enumerate(zip(table.rows, filled.entries, strict=True)):
        verdict = filled.verdicts[i] if filled.verdicts else None
        first = [Text(str(verdict or ABSENT))] if filled.verdicts else []
        lines.append((row.label, [*first, *(_cell(e, filled.trials is None) for e in entries)], ""))
        if any(e.paper is not None for e in entries):
            first = [Text(row.properties.get("collapse", ABSENT))] if filled.verdicts else []
            lines.append(("  paper", [*first, *(Text(published(e)) for e in entries)], "dim"))
    print_grid(console, heads, lines)
    if any(e.below_scratch for line in filled.entries for e in line):
        console.print("* not above the untrained network", highlight=False)
    for remark in filled.remarks:
        console.print(f"- {remark}", highlight=False)
    console.print()


def print_grid(console: Console, heads: list[tuple[str, str]], lines: list[tuple[str, list[Text], str]]) -> None:
    """Print a table whose columns stand in groups; one too wide for the terminal is divided between groups.

    Args:
        console: where to.
        heads: group and label of each column.
        lines: label, cells and style of each line.
    """
    first = max([len("pre-train"), *(len(label) for label, _, _ in lines)])
    groups: list[list[int]] = []
    for i, (name, _) in enumerate(heads):
        if groups and heads[groups[-1][-1]][0] == name:
            groups[-1].append(i)
        else:
            groups.append([i])
    widths: dict[int, int] = {}
    for group in groups:
        for i in group:
            widths[i] = 2 + max([5, len(heads[i][1]), *(len(cells[i]) for _, cells, _ in lines)])
        # Room for the group's name over all of its columns.
        widths[group[0]] += max(0, len(heads[group[0]][0]) + 2 - sum(widths[i] for i in group))

    def line(label: str, cells: list[Text], columns: list[int], style: str = "") -> Text:
        text = Text(label.ljust(first), style=style)
        for i in columns:
            text.append(" " * (widths[i] - len(cells[i]))).append_text(cells[i])
        return text

    for part in _parts(groups, widths, console.width - first):
        columns = [i for group in part for i in group]
        above = "".join("  " + heads[g[0]][0].center(sum(widths[i] for i in g) - 2) for g in part)
        printed = [Text(" " * first + above)] if above.strip() else []
        printed.append(line("pre-train", [Text(label) for _, label in heads], columns, "bold"))
        printed.append(Text("─" * (first + sum(widths[i] for i in columns)), style="dim"))
        printed += [line(label, cells, columns, style) for label, cells, style in lines]
        for text in printed:
            console.print(text, highlight=False, no_wrap=True, crop=False)
        console.print()


def _parts(groups: list[list[int]], widths: dict[int, int], room: int) -> list[list[list[int]]]:
    parts: list[list[list[int]]] = []
    left = 0
    for group in groups:
        needed = sum(widths[i] for i in group)
        if not parts or needed > left:
            parts.append([])
            left = room
        parts[-1].append(group)
        left -= needed
    return parts


def _cell(entry: Entry, trials: bool) -> Text:
    text = Text(number(entry, trials) if entry.ours or "fail" in entry.remark else ABSENT)
    if entry.below_scratch:
        text.append("*")
    if entry.bold:
        text.stylize("bold")
    return text


def markdown(filled: Filled) -> str:
    """GitHub's Markdown: three columns (ours, paper, difference) folded into one an entry, then the remarks."""
    table = filled.table
    properties = [f"{p}<br>paper" if p == "collapse" and filled.verdicts else p for p in table.properties]
    properties += ["collapsed<br>ours"] if filled.verdicts else []
    heads = ["", *properties, *(f"{full_label(c)}<br>ours · paper · difference" for c in table.columns)]
    lines = [f"### {table.label}: {table.title}", "", f"{table.quantity}, {filled.scale} scale", ""]
    lines += ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for i, (row, entries) in enumerate(zip(table.rows, filled.entries, strict=True)):
        facts = [_fact(row.properties.get(p)) for p in table.properties]
        facts += [str(filled.verdicts[i] or ABSENT)] if filled.verdicts else []
        lines.append("| " + " | ".join([row.label, *facts, *(_folded(e) for e in entries)]) + " |")
    lines += ["", *(f"- {r}" for r in filled.remarks), *(f"- {n}" for n in table.notes), ""]
    return "\n".join(lines)


def _folded(entry: Entry) -> str:
    ours = f"**{number(entry)}**" if entry.bold and entry.ours else number(entry)
    paper = f"**{published(entry)}**" if entry.paper_bold else published(entry)
    if entry.paper is None:
        return ours
    return f"{ours} · {paper} · {signed(entry)}"


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
    mean = f"{entry.ours.mean:.{entry.digits}f}"
    mean = rf"\textbf{{{mean}}}" if entry.bold else mean
    spread = rf" $\pm$ {entry.ours.std:.{entry.digits}f}" if entry.ours.std is not None else ""
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
