"""The outcome as lines for the terminal and as one HTML page."""

from pathlib import Path
from typing import Any

from jinja2 import Environment


def number(value: float) -> str:
    """`0.000123` -> `1.2e-04`, `1234.5` -> `1234`."""
    if value == 0 or 0.01 <= abs(value) < 1e6:
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
    return f"{value:.1e}"


def section_lines(section: dict[str, Any]) -> list[str]:
    """A section's verdict, and a line a figure."""
    found = [f"{section['verdict']:8}{section['title']} ({section['seconds']:.0f} s)"]
    for figure in section["figures"]:
        sign = "at least" if figure["least"] else "at most"
        limit = f"  [{sign} {number(figure['limit'])}]" if figure["limit"] is not None else ""
        note = f"  {figure['note']}" if figure["note"] else ""
        mark = " " if figure["holds"] else "!"
        found.append(f"      {mark} {figure['name']}: {number(figure['value'])} {figure['unit']}{limit}{note}".rstrip())
    if section["error"]:
        found.append(f"        error: {section['error']}")
    return found


PAGE = Path(__file__).with_name("page.html.j2")


def html_page(document: dict[str, Any]) -> str:
    """One page, complete in itself."""
    return Environment(autoescape=True).from_string(PAGE.read_text()).render(number=number, **({"plan": {}} | document))
