"""Drawing of the generated data set: outlines of the classes, textures, and scenes with exact masks.

Only the outline tells the class. Colour, texture, size, rotation, position and background are drawn independently of
it.

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

FINE = 4


def _polar(radii: Sequence[float], turn: float = -math.pi / 2) -> NDArray[np.float64]:
    angles = turn + 2 * math.pi * np.arange(len(radii)) / len(radii)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.asarray(radii)[:, None]


def _heart() -> NDArray[np.float64]:
    t = np.linspace(0, 2 * math.pi, 64, endpoint=False)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([16 * np.sin(t) ** 3, -y], axis=1)


def _crescent() -> NDArray[np.float64]:
    """A disc of radius 1 without a disc of radius 0.82 whose centre lies 0.5 to the right."""
    cut, shift = 0.82, 0.5
    x = (1 - cut**2 + shift**2) / (2 * shift)
    outer, inner = math.acos(x), math.acos((x - shift) / cut)
    a = np.linspace(outer, 2 * math.pi - outer, 48)
    b = np.linspace(2 * math.pi - inner, inner, 32)[1:-1]
    return np.concatenate(
        [np.stack([np.cos(a), np.sin(a)], axis=1), np.stack([shift + cut * np.cos(b), cut * np.sin(b)], axis=1)]
    )


def _unit(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centred in its box and scaled so that the longer side of the box is 1."""
    low, high = points.min(axis=0), points.max(axis=0)
    return (points - (low + high) / 2) / (high - low).max()


_PLUS = [(-1, -3), (1, -3), (1, -1), (3, -1), (3, 1), (1, 1), (1, 3), (-1, 3), (-1, 1), (-3, 1), (-3, -1), (-1, -1)]
_ARROW = [(-3, -1), (0.2, -1), (0.2, -2.6), (3.4, 0), (0.2, 2.6), (0.2, 1), (-3, 1)]

# In alphabetical order, which is the order that torchvision's ImageFolder gives to class folders.
OUTLINES: dict[str, NDArray[np.float64]] = {
    name: _unit(np.asarray(points, dtype=np.float64))
    for name, points in {
        "arrow": _ARROW,
        "crescent": _crescent(),
        "cross": _PLUS,
        "disc": _polar([1.0] * 64),
        "heart": _heart(),
        "square": [(-1, -1), (1, -1), (1, 1), (-1, 1)],
        "star": _polar([1.0, 0.42] * 5),
        "triangle": _polar([1.0] * 3),
    }.items()
}
CLASSES: tuple[str, ...] = tuple(OUTLINES)


def _colour(hue: float, saturation: float, value: float) -> NDArray[np.float32]:
    k = (np.array([5.0, 3.0, 1.0]) + hue * 6) % 6
    return (value - value * saturation * np.clip(np.minimum(k, 4 - k), 0, 1)).astype(np.float32)


@dataclass(frozen=True)
class Colours:
    """Ranges from which a surface's two colours are drawn; hue on a circle of length 1, all others in [0, 1]."""

    hue: tuple[float, float]
    saturation: tuple[float, float]
    value: tuple[float, float]


# Things are warm and light, grounds cool and dark, in every class alike: colour finds a thing and never names it.
# Within a range everything that SimSiam's colour jitter (0.4, 0.4, 0.4, 0.1) can undo varies from image to image.
THINGS = Colours((0.02, 0.14), (0.3, 0.8), (0.65, 1.0))
GROUNDS = Colours((0.52, 0.64), (0.2, 0.6), (0.2, 0.55))
# How far a texture's second colour lies from its first, in value; a network of a minute's training must see past it.
CONTRAST = (0.02, 0.08)


def palette(rng: Rng, colours: Colours) -> NDArray[np.float32]:
    """Two related colours, (2, 3): the second differs a little in hue and in lightness."""
    hue, saturation, value = rng.uniform(*colours.hue), rng.uniform(*colours.saturation), rng.uniform(*colours.value)
    other = float(np.clip(value + rng.choice([-1, 1]) * rng.uniform(*CONTRAST), 0.1, 1.0))
    second = _colour((hue + rng.uniform(-0.04, 0.04)) % 1, saturation, other)
    return np.stack([_colour(hue % 1, saturation, value), second])


def _stripes(rng: Rng, u: Image, v: Image) -> Image:
    return 0.5 + 0.5 * np.clip(2.5 * np.sin(u), -1, 1)


def _waves(rng: Rng, u: Image, v: Image) -> Image:
    return 0.5 + 0.5 * np.clip(2.5 * np.sin(u + 1.2 * np.sin(0.7 * v)), -1, 1)


def _checks(rng: Rng, u: Image, v: Image) -> Image:
    return 0.5 + 0.5 * np.clip(4 * np.sin(u) * np.sin(v), -1, 1)


def _dots(rng: Rng, u: Image, v: Image) -> Image:
    return np.clip(3 * (np.cos(u) + np.cos(v)) - 1.5, 0, 1)


def _clouds(rng: Rng, u: Image, v: Image) -> Image:
    size = u.shape[0]
    total = np.zeros_like(u)
    for cells, weight in ((3, 0.6), (6, 0.4), (12, 0.25)):
        noise = rng.random((cells, cells), dtype=np.float32) - 0.5
        total += weight * cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)
    return np.clip(0.5 + 1.4 * total, 0, 1)


def _plain(rng: Rng, u: Image, v: Image) -> Image:
    return np.full_like(u, 0.5)


_PATTERNS: tuple[Callable[[Rng, Image, Image], Image], ...] = (_stripes, _waves, _checks, _dots, _clouds, _plain)


def texture(rng: Rng, size: int, colours: NDArray[np.float32], pixels: tuple[float, float] = (5.0, 14.0)) -> Image:
    """A square texture in two colours with a gradient of light and fine grain.

    Args:
        rng: source of all randomness.
        size: height and width of the texture.
        colours: (2, 3) RGB in [0, 1].
        pixels: range of the period of the pattern, in pixels.

    Returns:
        (size, size, 3) float32 in [0, 1].
    """
    y, x = np.mgrid[:size, :size].astype(np.float32)
    angle, k = rng.uniform(0, math.pi), 2 * math.pi / rng.uniform(*pixels)
    u = k * (x * math.cos(angle) + y * math.sin(angle)) + rng.uniform(0, 2 * math.pi)
    v = k * (y * math.cos(angle) - x * math.sin(angle)) + rng.uniform(0, 2 * math.pi)
    pattern = _PATTERNS[rng.integers(len(_PATTERNS))](rng, u.astype(np.float32), v.astype(np.float32))
    light = rng.uniform(-0.1, 0.1, 2)
    shade = 1 + light[0] * (2 * x / size - 1) + light[1] * (2 * y / size - 1)
    grain = rng.normal(0, 0.02, (size, size)).astype(np.float32)
    image = colours[0] + (colours[1] - colours[0]) * pattern[..., None]
    return np.clip(image * shade[..., None] + grain[..., None], 0, 1).astype(np.float32)


@dataclass
class Thing:
    """One annotated object of a scene (a crowd is one thing drawn from many outlines).

    Attributes:
        name: class, one of `CLASSES`.
        mask: (size, size) bool, the pixels of which at least half show the thing.
        polygons: outlines of the visible part in continuous pixels, each (n, 2) float64, n >= 3.
        area: visible area in square pixels.
        visible: visible area over the area of the whole outline, in (0, 1].
        cut: share of the outline that lies outside the image, in [0, 1).
        crowd: a group annotated as one region.
    """

    name: str
    mask: Mask
    polygons: list[NDArray[np.float64]]
    area: float
    visible: float
    cut: float
    crowd: bool = False

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


def place(name: str, side: float, centre: tuple[float, float], angle: float) -> NDArray[np.float64]:
    """The outline of a class in an image: (n, 2) points, `side` long, turned by `angle` radians about its centre."""
    c, s = math.cos(angle), math.sin(angle)
    return OUTLINES[name] @ np.array([[c, s], [-s, c]]) * side + np.asarray(centre)


def fine_mask(outlines: Sequence[NDArray[np.float64]], size: int) -> Mask:
    """The union of outlines on the fine grid, (FINE * size, FINE * size) bool."""
    canvas = np.zeros((FINE * size, FINE * size), dtype=np.uint8)
    for points in outlines:
        # OpenCV's integer coordinates are pixel centres, hence the half; 4 fractional bits.
        cv2.fillPoly(canvas, [np.round((points * FINE - 0.5) * 16).astype(np.int32)], 1, shift=4)
    return canvas.astype(bool)


def coverage(fine: Mask) -> NDArray[np.float32]:
    """The share of each pixel that a fine mask covers, (size, size) float32 in [0, 1]."""
    size = fine.shape[0] // FINE
    shares = cv2.resize(fine.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA)
    return shares.astype(np.float32, copy=False)


def polygons(fine: Mask) -> list[NDArray[np.float64]]:
    """Traces a fine mask to polygons without holes, in continuous image pixels.

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
            return polygons(left) + polygons(right)
    result = []
    for contour in contours:
        points = cv2.approxPolyDP(contour, 1.0, True)[:, 0].astype(np.float64)
        # Less than a pixel of area is a sliver of tracing, no part that anyone would annotate.
        if len(points) >= 3 and cv2.contourArea(contour) >= FINE**2:
            result.append(points / FINE)
    return result


def paint(image: Image, surface: Image, alpha: NDArray[np.float32], shadow: float) -> Image:
    """Lays a surface over an image through `alpha` (size, size), above a soft shadow of strength `shadow`."""
    size = image.shape[0]
    offset = max(1.0, size / 64)
    move = np.array([[1, 0, offset], [0, 1, 1.5 * offset]], dtype=np.float32)
    soft = cv2.GaussianBlur(cv2.warpAffine(alpha, move, (size, size)), (0, 0), 1.5 * offset)
    image = image * (1 - shadow * soft[..., None])
    return image + (surface - image) * alpha[..., None]


def compose(rng: Rng, size: int, wishes: Sequence[tuple[str, list[NDArray[np.float64]]]], visible: float) -> Scene:
    """Paints the wished things, the first in front, over a textured background.

    A thing of which less than `visible` (a share of its whole outline) would show is left out.
    """
    image = texture(rng, size, palette(rng, GROUNDS), (8.0, size / 3))
    taken = np.zeros((FINE * size, FINE * size), dtype=bool)
    things, layers = [], []
    for name, outlines in wishes:
        whole = fine_mask(outlines, size)
        seen = whole & ~taken
        area = sum(_area(points) for points in outlines) if len(outlines) == 1 else whole.sum() / FINE**2
        share = min(1.0, seen.sum() / FINE**2 / area)
        mask = coverage(seen) >= 0.5
        parts = polygons(seen)
        if share < visible or not mask.any() or not parts:
            continue
        taken |= whole
        cut = max(0.0, 1 - whole.sum() / FINE**2 / area)
        things.append(Thing(name, mask, parts, float(seen.sum() / FINE**2), share, cut, len(outlines) > 1))
        layers.append((coverage(whole), texture(rng, size, palette(rng, THINGS))))
    for alpha, surface in reversed(layers):
        image = paint(image, surface, alpha, shadow=0.45)
    return Scene((np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8), things)


def _area(points: NDArray[np.float64]) -> float:
    (x, y), (x2, y2) = points.T, np.roll(points, -1, axis=0).T
    return float(abs((x * y2 - x2 * y).sum()) / 2)


def _turn(rng: Rng) -> float:
    return float(rng.uniform(-math.pi / 12, math.pi / 12))


def portrait(rng: Rng, size: int, name: str) -> Scene:
    """An image for classification: one large thing of class `name`, near the middle, whole or nearly so."""
    side = size * rng.uniform(0.56, 0.84)
    x, y = size * rng.uniform(0.4, 0.6, 2)
    return compose(rng, size, [(name, [place(name, side, (x, y), _turn(rng))])], visible=0)


def view(rng: Rng, size: int, count: tuple[int, int] = (1, 5), crowds: float = 0.0) -> Scene:
    """A scene for detection.

    Args:
        rng: source of all randomness.
        size: height and width in pixels.
        count: least and greatest number of things; the greatest may be missed where too little of one would show.
        crowds: probability that a crowd, a group of small things of one class, stands behind the others.
    """
    wishes = []
    for _ in range(rng.integers(count[0], count[1] + 1)):
        name = CLASSES[rng.integers(len(CLASSES))]
        side = size * math.exp(rng.uniform(math.log(0.18), math.log(0.58)))
        centre = size * rng.uniform(0.08, 0.92, 2)
        wishes.append((name, [place(name, side, (centre[0], centre[1]), _turn(rng))]))
    if rng.uniform() < crowds:
        name, middle = CLASSES[rng.integers(len(CLASSES))], size * rng.uniform(0.25, 0.75, 2)
        spots = middle + size * rng.uniform(-0.2, 0.2, (rng.integers(8, 15), 2))
        wishes.append((name, [place(name, size * 0.09, (x, y), _turn(rng)) for x, y in spots]))
    return compose(rng, size, wishes, visible=0.3)
