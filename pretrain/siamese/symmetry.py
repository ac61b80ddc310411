"""Which views of an image are compared (the first paper, section 4.6)."""

Pairs = tuple[tuple[int, int], ...]

PAIRS: dict[str, Pairs] = {
    "symmetric": ((0, 1), (1, 0)),  # equation 4
    "asymmetric": ((0, 1),),  # equation 3
    "asymmetric_2x": ((0, 1), (2, 3)),  # "sampling two pairs for each image"
}
"""Ordered pairs of views: the first learns, the second is its target."""
