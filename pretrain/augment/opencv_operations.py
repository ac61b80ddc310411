"""The operations of a view on one 8-bit image, by OpenCV: torchvision's results on PIL images, several times as fast.

Pillow rounds to 8 bits after every operation, mostly towards zero, and so does this; what differs, and by how many
8-bit levels, is stated at each operation and measured by tests/pretrain/test_augment_fast.py. "0.01 levels" below is a
mean over photographs.

What ends with an underscore changes its image in place, and `adjust_hue_` keeps its intermediate results: fresh memory
of this size comes from the operating system page by page, which takes longer than most of these operations.
"""

import math
from functools import lru_cache

import cv2
import numpy
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

Pixels = NDArray[numpy.uint8]  # H-by-W-by-3, RGB
LEVELS = numpy.arange(256, dtype=numpy.float32)
# float -> int in C cuts off, OpenCV rounds: this much less makes rounding a cut. A little less than a half, since whole
# numbers come with a rounding error of their own.
CUT = -0.498
TO_8_BITS = numpy.diag(numpy.array([255 / 360, 255, 1], numpy.float32))


def resize_antialiased(image: Pixels, side: int, interpolation: str) -> Pixels:
    """Resize to (side, side, 3) with Pillow's antialiased filter, in torch's 8-bit kernel. At most 1 level, 0.03."""
    x = torch.from_numpy(image)[None].permute(0, 3, 1, 2)  # 1-by-3-by-H-by-W
    # Only with channels last is the result laid out as OpenCV wants it.
    x = interpolate(x.contiguous(memory_format=torch.channels_last), (side, side), mode=interpolation, antialias=True)
    return numpy.ascontiguousarray(x[0].permute(1, 2, 0).numpy())


def adjust_brightness_(image: Pixels, factor: float) -> Pixels:
    """Pillow's ImageEnhance.Brightness. Equal."""
    return _look_up(image, numpy.float32(factor) * LEVELS)


def adjust_contrast_(image: Pixels, factor: float) -> Pixels:
    """Pillow's ImageEnhance.Contrast: away from the rounded mean luminance. Equal but where that mean falls on .5."""
    mean = numpy.float32(int(cv2.mean(luminance(image))[0] + 0.5))
    return _look_up(image, mean + numpy.float32(factor) * (LEVELS - mean))


def adjust_saturation_(image: Pixels, factor: float) -> Pixels:
    """Pillow's ImageEnhance.Color: away from each pixel's luminance. At most 1 level, 0.001."""
    gray = cv2.cvtColor(luminance(image), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(image, factor, gray, 1 - factor, CUT, dst=image)  # type: ignore[return-value]


def adjust_hue_(image: Pixels, factor: float) -> Pixels:
    """torchvision's adjust_hue: hue as 8 bits of a circle of 255, saturation as 8 bits, both cut off.

    0.003 levels; at most one step of hue, 6 levels, where the float arithmetic falls on either side of a whole number.
    OpenCV's own 8-bit HSV would be faster, and wrong by up to 10 levels with a shift of 0.1 on average.
    """
    one, two = _scratch(image.shape)
    one[...] = image
    cv2.cvtColor(one, cv2.COLOR_RGB2HSV, dst=two)  # hue 0 to 360, saturation 0 to 1, value 0 to 255
    cv2.transform(two, TO_8_BITS, dst=one)
    numpy.copyto(image, one, casting="unsafe")  # cut off
    turned = ((numpy.arange(256) + hue_steps(factor)) % 256) * (360 / 255)
    table = numpy.stack([turned, LEVELS / 255, LEVELS], axis=1)[:, None].astype(numpy.float32)  # 256-by-1-by-3
    cv2.LUT(image, table, dst=one)
    cv2.cvtColor(one, cv2.COLOR_HSV2RGB, dst=two)
    return cv2.convertScaleAbs(two, dst=image)  # type: ignore[return-value]


def hue_steps(factor: float) -> int:
    """A hue shift as torchvision turns it into 8 bits: towards zero, and a negative one the long way round."""
    return int(factor * 255) % 256


def luminance(image: Pixels) -> Pixels:
    """Luminance (H, W), ITU-R 601. At most 1 level, 0.0004: the last bit of the weights."""
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)  # type: ignore[return-value]


def solarize_(image: Pixels) -> Pixels:
    """Invert what is 128 or more. Equal."""
    return _look_up(image, numpy.where(LEVELS < 128, LEVELS, 255 - LEVELS))


def pillow_gaussian_blur_(image: Pixels, sigma: float) -> Pixels:
    """Pillow's GaussianBlur: three box filters, borders repeated. At most 3 levels, 0.2.

    Pillow rounds after each of six passes and this after three. A true Gaussian differs by up to 22 levels at borders.
    """
    weights = extended_box_kernel(sigma)
    for _ in range(3):
        cv2.sepFilter2D(image, -1, weights, weights, dst=image, borderType=cv2.BORDER_REPLICATE)
    return image


def extended_box_kernel(sigma: float) -> NDArray[numpy.float32]:
    """Weights of one of the three box filters of Pillow's Gaussian: 2l + 1 equal ones between two smaller ones.

    Gwosdek et al., Theoretical Foundations of Gaussian Convolution by Extended Box Filtering, SSVM 2011, equations 7,
    11 and 14, as Pillow has them (src/libImaging/BoxBlur.c). From the standard deviation in pixels, of all three
    together, to (2l + 3,) float32, sum 1.
    """
    variance = sigma * sigma / 3
    length = math.sqrt(12 * variance + 1)
    whole = math.floor((length - 1) / 2)  # l
    rest = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
    inside = 1 / (2 * (whole + rest) + 1)
    edge = (1 - (2 * whole + 1) * inside) / 2
    return numpy.array([edge, *[inside] * (2 * whole + 1), edge], numpy.float32)


def torchvision_gaussian_blur_(image: Pixels, sigma: float, kernel: int) -> Pixels:
    """torchvision's gaussian_blur: a Gaussian cut off at `kernel` pixels, borders mirrored. At most 1 level, 0.002."""
    # What is more than five sigma away weighs less than 1e-6.
    side = min(kernel, 2 * int(5 * sigma + 1) + 1)
    weights = cv2.getGaussianKernel(side, sigma, cv2.CV_32F)
    blurred = cv2.sepFilter2D(image, cv2.CV_32F, weights, weights, borderType=cv2.BORDER_REFLECT_101)
    return cv2.convertScaleAbs(blurred, dst=image)  # type: ignore[return-value]


def channels_first(image: Pixels) -> torch.Tensor:
    """(H, W, 3) to (3, H, W) uint8."""
    out = numpy.empty((3, *image.shape[:2]), numpy.uint8)
    cv2.split(image, list(out))
    return torch.from_numpy(out)


def _look_up(image: Pixels, table: NDArray[numpy.float32]) -> Pixels:
    return cv2.LUT(image, table.clip(0, 255).astype(numpy.uint8), dst=image)  # type: ignore[return-value]


@lru_cache(maxsize=2)
def _scratch(shape: tuple[int, ...]) -> tuple[NDArray[numpy.float32], NDArray[numpy.float32]]:
    return numpy.empty(shape, numpy.float32), numpy.empty(shape, numpy.float32)
