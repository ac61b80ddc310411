"""Pillow's approximation of a Gaussian by three box filters, as weights."""

import math

import numpy
from numpy.typing import NDArray


def extended_box(sigma: float) -> NDArray[numpy.float32]:
    """Weights of one of the three filters: 2l + 1 equal ones between two smaller ones, for a length that is no integer.

    Gwosdek et al., Theoretical Foundations of Gaussian Convolution by Extended Box Filtering, SSVM 2011, equations 7,
    11 and 14, as Pillow has them (src/libImaging/BoxBlur.c).

    Args:
        sigma: standard deviation in pixels, of all three together.

    Returns:
        (2l + 3,) float32, sum 1.
    """
    variance = sigma * sigma / 3
    length = math.sqrt(12 * variance + 1)
    whole = math.floor((length - 1) / 2)  # l
    rest = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
    inside = 1 / (2 * (whole + rest) + 1)
    edge = (1 - (2 * whole + 1) * inside) / 2
    return numpy.array([edge, *[inside] * (2 * whole + 1), edge], numpy.float32)
