"""Text from strangers (names in files, paths, servers' answers), made safe to print."""

import unicodedata

# Control characters, marks that change the order of a line (Unicode Standard Annex 9), surrogates, line separators.
_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def printable(text: object) -> str:
    r"""`text` on one line: escape codes, marks of direction and unpaired surrogates appear as `\x1b`, `\u202e`."""
    return "".join(
        ascii(character)[1:-1] if unicodedata.category(character) in _HIDDEN else character for character in str(text)
    )
