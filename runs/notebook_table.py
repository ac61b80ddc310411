"""A table as a notebook shows it."""

import html
from collections.abc import Sequence


def html_table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str] = ()) -> str:
    """HTML; the first cell of a row names it."""
    head = "".join(f"<th>{html.escape(text)}</th>" for text in heads)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(text)}</td>" for text in row) + "</tr>" for row in rows)
    below = "".join(f"<div><small>{html.escape(note)}</small></div>" for note in notes)
    return f"<table><caption>{html.escape(title)}</caption><tr>{head}</tr>{body}</table>{below}"
