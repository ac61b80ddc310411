"""MkDocs hook: the README is the site's first page, and links to files outside docs/ lead to the repository."""

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Return a page's text as the site shows it (called by MkDocs for each page)."""
    if page.file.src_uri == "index.md":
        # Written from the root: what is not in docs/ is one folder up from there.
        text = (ROOT / "README.md").read_text(encoding="utf-8")
        markdown = re.sub(r"\]\((?!https?:|#|docs/)", "](../", text).replace("](docs/", "](")
    return re.sub(r"\]\(\.\./", f"]({config.repo_url}/blob/main/", markdown)
