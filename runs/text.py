"""Untrusted text (names in files, paths, servers' answers) made safe to print; tables for notebooks."""

import html
import unicodedata
from collections.abc import Sequence

# Control characters, marks that change the order of a line (Unicode Standard Annex 9), surrogates, line separators.
_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def printable(text: object) -> str:
    r"""`text` on one line: escape codes, marks of direction and unpaired surrogates appear as `\x1b`, `\u202e`."""
    return "".join(
        ascii(character)[1:-1] if unicodedata.category(character) in _HIDDEN else character for character in str(text)
    )


def html_table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str] = ()) -> str:
    """A table as a notebook shows it: the first cell of a row names it."""
    head = "".join(f"<th>{html.escape(text)}</th>" for text in heads)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(text)}</td>" for text in row) + "</tr>" for row in rows)
    below = "".join(f"<div><small>{html.escape(note)}</small></div>" for note in notes)
    return f"<table><caption>{html.escape(title)}</caption><tr>{head}</tr>{body}</table>{below}"
