"""Drawing of the generated data set: patterns of the classes, patchworks of them, and scenes with exact masks.

Only the pattern tells the class: what is repeated, as scales tell a fish from a bird. A thing is a patchwork of its
class's pattern, and each patch has colours, a scale, a turn and a phase of its own, so that two crops of a thing share
the pattern and little else. Outline, place, size, light and ground are drawn independently of the class.

Coordinates are continuous pixels, as in COCO: pixel (row 0, column 0) covers [0, 1) x [0, 1). Masks are computed on a
grid `FINE` times finer than the image, so that edges are smooth and areas are exact to a fraction of a pixel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Rng = np.random.Generator
Image = NDArray[np.floating[Any]]  # (height, width, 3), RGB in [0, 1]
Mask = NDArray[np.bool_]
Plane = NDArray[np.floating[Any]]  # (height, width)

FINE = 4


def _off(x: Plane) -> Plane:
    """Distance to the nearest whole number."""
    return np.abs(x - np.round(x))


# Signed distance to the edge of a pattern's figures in periods, positive inside, at (u, v) periods. In alphabetical
# order, which is the order that torchvision's ImageFolder gives to class folders.
PATTERNS: dict[str, Callable[[Plane, Plane], Plane]] = {
    "bricks": lambda u, v: np.minimum(1 - 2 * _off(u / 2 + np.round(v) % 2 / 2), 0.5 - _off(v)) - 0.155,
    "checks": lambda u, v: np.sin(2 * np.pi * u) * np.sin(2 * np.pi * v) / 8,
    "crosses": lambda u, v: np.maximum(
        np.minimum(0.13 - _off(u), 0.45 - _off(v)), np.minimum(0.45 - _off(u), 0.13 - _off(v))
    ),
    "dots": lambda u, v: 0.36 - np.hypot(_off(u), _off(v)),
    "rings": lambda u, v: 0.1 - np.abs(np.hypot(_off(u), _off(v)) - 0.32),
    "stripes": lambda u, v: 0.2 - _off(u),
    "triangles": lambda u, v: (
        0.28 + np.minimum(v - np.round(v) + 0.13, -(v - np.round(v) + 0.13) / 2 - 0.866 * _off(u))
    ),
    "zigzags": lambda u, v: 0.75 * (0.2 - _off(u + _off(v))),
}
CLASSES: tuple[str, ...] = tuple(PATTERNS)

PERIOD = (10.0, 16.0)
"""Pixels from one figure of a pattern to the next."""
PATCH = 24.0
"""Mean side of a patch in pixels: the smallest crop of SimSiam, 29 of 64 pixels, sees more than one."""
TURN = 0.5
"""Greatest turn of a pattern, radians."""
DARK, BRIGHT, GROUND = (0.05, 0.2), (0.7, 0.9), (0.08, 0.25)
"""Luminance of what lies between a pattern's figures, of the figures, and of the blots of a ground, whose other colour
is dark. With either free to be the brighter one the sign of every edge is a coin toss: a network of this size does not
learn that in minutes, not even with labels."""
LIGHT, TINT, SLOPE, GRAIN = (0.6, 1.0), 0.1, 0.2, 0.03
"""Of a whole image: range of brightness, greatest colour cast (log), greatest gradient, standard deviation of noise."""
SATURATION = (0.0, 0.4)
"""Of all colours. Stronger ones tell two crops of an image from those of another, and SimSiam learns them first."""
_LUMINANCE = np.array([0.3, 0.59, 0.11])


def _colours(rng: Rng, count: int, luminance: tuple[float, float]) -> NDArray[np.float64]:
    """Colours of any hue, (count, 3) in [0, 1]."""
    hue, saturation = rng.random((count, 1)), rng.uniform(*SATURATION, (count, 1))
    k = (np.array([5.0, 3.0, 1.0]) + hue * 6) % 6
    full = 1 - saturation * np.clip(np.minimum(k, 4 - k), 0, 1)
    return np.clip(full * (rng.uniform(*luminance, count) / (full @ _LUMINANCE))[:, None], 0, 1)


def _patchwork(rng: Rng, size: int, class_name: str | None) -> Image:
    """A patchwork of the pattern of a class, each patch with its own colours, period, turn and phase.

    None as class gives blots without a pattern, of the same colours and about the same size. (size, size, 3) in [0, 1].
    """
    y, x = np.mgrid[:size, :size].astype(np.float32) + 0.5
    count = max(2, round((size / PATCH) ** 2))
    centres = rng.uniform(0, size, (count, 2)).astype(np.float32)
    patch = ((x[..., None] - centres[:, 0]) ** 2 + (y[..., None] - centres[:, 1]) ** 2).argmin(axis=2)
    period, turn = np.exp(rng.uniform(math.log(PERIOD[0]), math.log(PERIOD[1]), count)), rng.uniform(-TURN, TURN, count)
    phase, dark, bright = rng.random((2, count)), _colours(rng, count, DARK), _colours(rng, count, BRIGHT)
    if class_name is None:
        bright = _colours(rng, count, GROUND)
        cells = math.ceil(size / PERIOD[0])
        inside = 0.6 * cv2.resize(rng.uniform(-0.5, 0.5, (cells, cells)), (size, size), interpolation=cv2.INTER_CUBIC)
    else:
        c, s = (np.cos(turn) / period)[patch], (np.sin(turn) / period)[patch]
        inside = PATTERNS[class_name](c * x + s * y + phase[0][patch], c * y - s * x + phase[1][patch])
    share = np.clip(0.5 + inside * period[patch], 0, 1)
    return dark[patch] + (bright - dark)[patch] * share[..., None]


def _apply_lighting(rng: Rng, image: Image) -> NDArray[np.uint8]:
    """An image, (size, size, 3) in [0, 1], under some lamp and with the grain of a film, in 8 bits."""
    size = len(image)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    lamp = np.exp(rng.uniform(math.log(LIGHT[0]), math.log(LIGHT[1])) + rng.uniform(-TINT, TINT, 3))
    slope = rng.uniform(-SLOPE, SLOPE, 2)
    image = image * lamp * (1 + slope[0] * x + slope[1] * y)[..., None] + rng.normal(0, GRAIN, (size, size, 1))
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


@dataclass
class Thing:
    """One annotated object of a scene (a crowd is one thing drawn from many outlines)."""

    name: str  # class, one of `CLASSES`
    mask: Mask  # (size, size) bool, the pixels of which at least half show the thing
    polygons: list[NDArray[np.float64]]  # outlines of the visible part, continuous pixels, each (n, 2), n >= 3
    area: float  # visible, in square pixels
    visible: float  # visible area over the area of the whole outline, in (0, 1]
    cut: float  # share of the outline that lies outside the image, in [0, 1)
    crowd: bool  # a group annotated as one region

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(x0, y0, x1, y1) of the mask, x1 and y1 exclusive."""
        rows, columns = np.flatnonzero(self.mask.any(axis=1)), np.flatnonzero(self.mask.any(axis=0))
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


@dataclass
class Scene:
    """An image, (size, size, 3) uint8 RGB, and its things from front to back."""

    image: NDArray[np.uint8]
    things: list[Thing] = field(default_factory=list)


def smooth_outline(rng: Rng, side: float, centre: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """A random smooth outline, (48, 2) points, the longer side of its box `side` long and its middle at `centre`."""
    angle = np.linspace(0, 2 * math.pi, 48, endpoint=False)
    waves = [rng.uniform(0, 0.12) * np.cos(n * angle + rng.uniform(0, 2 * math.pi)) for n in (2, 3, 4)]
    points = np.stack([np.cos(angle), np.sin(angle)], axis=1) * (1 + np.sum(waves, axis=0))[:, None]
    low, high = points.min(axis=0), points.max(axis=0)
    return (points - (low + high) / 2) / (high - low).max() * side + np.asarray(centre)


def supersampled_mask(outlines: Sequence[NDArray[np.float64]], image_size: int) -> Mask:
    """The union of outlines on the fine grid, (FINE * image_size, FINE * image_size) bool."""
    canvas = np.zeros((FINE * image_size, FINE * image_size), dtype=np.uint8)
    for points in outlines:
        # OpenCV's integer coordinates are pixel centres, hence the half; 4 fractional bits.
        cv2.fillPoly(canvas, [np.round((points * FINE - 0.5) * 16).astype(np.int32)], 1, shift=4)
    return canvas.astype(bool)


def coverage(fine: Mask) -> NDArray[np.float32]:
    """The share of each pixel that a fine mask covers, (size, size) float32 in [0, 1]."""
    size = fine.shape[0] // FINE
    shares = cv2.resize(fine.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA)
    return shares.astype(np.float32, copy=False)


def mask_polygons(fine: Mask) -> list[NDArray[np.float64]]:
    """Trace a fine mask to polygons without holes, in continuous image pixels.

    COCO's polygons cannot have holes, so a region with one is cut in two through the hole.
    """
    # OpenCV traces pixel centres; grown by one to the right and below, these are the corners of the pixels themselves.
    grown = cv2.dilate(np.pad(fine.astype(np.uint8), ((0, 1), (0, 1))), np.ones((2, 2), np.uint8), anchor=(1, 1))
    contours, tree = cv2.findContours(grown, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    for contour, (_, _, _, parent) in zip(contours, tree[0] if len(contours) else (), strict=True):
        if parent >= 0:
            column = int(contour[:, 0, 0].mean()) + 1
            left, right = fine.copy(), fine.copy()
            left[:, column:] = False
            right[:, :column] = False
            return mask_polygons(left) + mask_polygons(right)
    result = []
    for contour in contours:
        points = cv2.approxPolyDP(contour, 1.0, True)[:, 0].astype(np.float64)
        # Less than a pixel of area is a sliver of tracing, no part that anyone would annotate.
        if len(points) >= 3 and cv2.contourArea(contour) >= FINE**2:
            result.append(points / FINE)
    return result


def _paint(image: Image, surface: Image, alpha: NDArray[np.float32]) -> Image:
    """Lay a surface over an image through `alpha` (size, size), above a soft shadow."""
    size = image.shape[0]
    offset = max(1.0, size / 64)
    move = np.array([[1, 0, offset], [0, 1, 1.5 * offset]], dtype=np.float32)
    soft = cv2.GaussianBlur(cv2.warpAffine(alpha, move, (size, size)), (0, 0), 1.5 * offset)
    image = image * (1 - 0.45 * soft[..., None])
    return image + (surface - image) * alpha[..., None]


def _paint_scene(rng: Rng, size: int, wishes: Sequence[tuple[str, list[NDArray[np.float64]]]], visible: float) -> Scene:
    """Paint the wished things, the first in front, over a ground without a pattern.

    A thing of which less than `visible` (a share of its whole outline) would show is left out.
    """
    image = _patchwork(rng, size, None)
    taken = np.zeros((FINE * size, FINE * size), dtype=bool)
    things, layers = [], []
    for name, outlines in wishes:
        whole = supersampled_mask(outlines, size)
        seen = whole & ~taken
        area = sum(_area(points) for points in outlines) if len(outlines) == 1 else whole.sum() / FINE**2
        share = min(1.0, seen.sum() / FINE**2 / area)
        mask = coverage(seen) >= 0.5
        parts = mask_polygons(seen)
        if share < visible or not mask.any() or not parts:
            continue
        taken |= whole
        cut = max(0.0, 1 - whole.sum() / FINE**2 / area)
        things.append(Thing(name, mask, parts, float(seen.sum() / FINE**2), share, cut, len(outlines) > 1))
        layers.append((coverage(whole), _patchwork(rng, size, name)))
    for alpha, surface in reversed(layers):
        image = _paint(image, surface, alpha)
    return Scene(_apply_lighting(rng, image), things)


def _area(points: NDArray[np.float64]) -> float:
    (x, y), (x2, y2) = points.T, np.roll(points, -1, axis=0).T
    return float(abs((x * y2 - x2 * y).sum()) / 2)


def classification_scene(rng: Rng, size: int, class_name: str) -> Scene:
    """An image for classification: one large thing of a class, near the middle, whole or nearly so."""
    side, centre = size * rng.uniform(0.9, 1.1), size * rng.uniform(0.4, 0.6, 2)
    return _paint_scene(rng, size, [(class_name, [smooth_outline(rng, side, centre)])], visible=0)


def detection_scene(rng: Rng, size: int, count_range: tuple[int, int], crowd_probability: float) -> Scene:
    """A scene for detection of so many things, (least, greatest); the greatest is missed where too little would show.

    `crowd_probability` is that with which a crowd, a group of small things of one class, stands behind the others.
    """
    wishes = []
    for _ in range(rng.integers(count_range[0], count_range[1] + 1)):
        side = size * math.exp(rng.uniform(math.log(0.24), math.log(0.7)))
        name, centre = CLASSES[rng.integers(len(CLASSES))], size * rng.uniform(0.1, 0.9, 2)
        wishes.append((name, [smooth_outline(rng, side, centre)]))
    if rng.uniform() < crowd_probability:
        name, middle = CLASSES[rng.integers(len(CLASSES))], size * rng.uniform(0.25, 0.75, 2)
        spots = middle + size * rng.uniform(-0.2, 0.2, (rng.integers(8, 15), 2))
        wishes.append((name, [smooth_outline(rng, size * 0.12, spot) for spot in spots]))
    return _paint_scene(rng, size, wishes, visible=0.3)
