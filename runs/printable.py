"""Untrusted text (names in files, paths, servers' answers) made safe to print."""

import re
import unicodedata

# Control characters, marks that change the order of a line (Unicode Standard Annex 9), surrogates, line separators.
_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
# Of a longer text the middle is left out: what it is about comes first, the remedy last.
LONGEST = 2000
# scheme://user:password@host/path?query#fragment; punctuation behind it is the sentence's. A `Path` has one slash.
_ADDRESS = re.compile(r"(?i)\b([a-z][a-z0-9+.-]+:/{1,2})(?:[^\s/?#]*@)?([^\s?#]*)(?:[?#]\S*?(?=[:;,.)'\"]*(?:\s|$)))?")


def without_credentials(text: str) -> str:
    """`text` whose addresses lack user, password, query and fragment, any of which may give access."""
    return _ADDRESS.sub(r"\1\2", text)


def printable(text: object) -> str:
    r"""`text` on one line of at most 2,100 characters, for which the middle of a longer one is left out.

    Escape codes, marks of direction and unpaired surrogates appear as `\x1b`, `\u202e`.
    """
    shown = "".join(
        ascii(character)[1:-1] if unicodedata.category(character) in _HIDDEN else character for character in str(text)
    )
    if len(shown) <= LONGEST:
        return shown
    return f"{shown[: LONGEST // 2]} … {len(shown) - LONGEST:,} characters … {shown[-LONGEST // 2 :]}"
