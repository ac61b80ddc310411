"""The colour of a view on whole batches of tensors, on any device: the arithmetic of `opencv_operations` in float32.

Values stay 0 to 255 and are cut or rounded after every operation as Pillow does it. The groups of images that an
operation meets are formed on the CPU from what was drawn, so a GPU is never waited for.
"""

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from pretrain.augment.opencv_operations import extended_box_kernel, hue_steps
from pretrain.config import AugmentConfig

# Pillow's fixed-point ITU-R 601 luminance (src/libImaging/Convert.c, L24); whole numbers below 2^24, exact in float32.
LUMA = (19595.0, 38470.0, 7471.0)
# Columns of ViewParameters.to_vector_without_box().
PLACES, FACTORS, GRAY, SIGMA, SOLARIZE, FLIP = slice(0, 4), slice(4, 8), 8, 9, 10, 11


def luminance(levels: Tensor) -> Tensor:
    """Luminance (n, 1, H, W) of (n, 3, H, W). Pillow's, exactly."""
    weights = _channels(LUMA, levels.device)
    return ((levels * weights).sum(dim=1, keepdim=True) + 32768).div_(65536).floor_()


def _blend(levels: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    """Pillow's Image.blend away from `other` (broadcast against levels) by `factor` (n, 1, 1, 1)."""
    return torch.addcmul(other, levels - other, factor).clamp_(0, 255).trunc_()


def adjust_brightness(levels: Tensor, factor: Tensor) -> Tensor:
    """See `opencv_operations`."""
    return (levels * factor).clamp_(0, 255).trunc_()


def adjust_contrast(levels: Tensor, factor: Tensor) -> Tensor:
    """See `opencv_operations`."""
    return _blend(levels, (luminance(levels).mean(dim=(2, 3), keepdim=True) + 0.5).floor_(), factor)


def adjust_saturation(levels: Tensor, factor: Tensor) -> Tensor:
    """See `opencv_operations`."""
    return _blend(levels, luminance(levels), factor)


def adjust_hue(levels: Tensor, steps: Tensor) -> Tensor:
    """See `opencv_operations`; `steps` (n, 1, 1, 1) are 255ths of the circle, its `hue_steps` of the factor."""
    r, g, b = levels.unbind(dim=1)  # each n-by-H-by-W
    value, low = levels.amax(dim=1), levels.amin(dim=1)
    chroma = value - low
    # Where all channels are equal, hue and saturation are 0 and the divisor does not matter.
    inverse = 1 / chroma.clamp(min=1)
    sector = torch.where(
        r == value, (g - b) * inverse, torch.where(g == value, (b - r) * inverse + 2, (r - g) * inverse + 4)
    )
    hue = (((sector / 6 + 1) % 1) * 255).floor_()
    saturation = (chroma / value.clamp(min=1) * 255).floor_() / 255
    turned = ((hue + steps[:, 0]) % 256) * (6 / 255)
    # Red, green and blue as one formula: the usual six cases are its pieces.
    offset = _channels((5.0, 3.0, 1.0), levels.device)
    k = (turned[:, None] + offset) % 6  # n-by-3-by-H-by-W
    share = torch.minimum(k, 4 - k).clamp_(0, 1)
    return (value[:, None] * (1 - saturation[:, None] * share) + 0.5).floor_()


def solarize(levels: Tensor) -> Tensor:
    """See `opencv_operations`."""
    return torch.where(levels < 128, levels, 255 - levels)


def blur(levels: Tensor, matrices: Tensor) -> Tensor:
    """Filter rows and columns of (n, 3, S, S) by (n, S, S) matrices, one an image, and round."""
    return (matrices[:, None] @ levels @ matrices[:, None].transpose(2, 3)).add_(0.5).floor_().clamp_(0, 255)


def blur_matrices(sigmas: Tensor, size: int, kernel: int, device: torch.device) -> Tensor:
    """The blur of `opencv_operations` as (n, size, size) matrices, borders included, on `device`.

    From sigmas (n,) on the CPU; `kernel` is the side of the Gaussian's kernel, 0 for Pillow's three boxes.
    """
    if kernel:
        offsets = torch.arange(kernel) - kernel // 2
        weights = torch.exp(-0.5 * (offsets / sigmas[:, None]).square())
        weights = weights / weights.sum(dim=1, keepdim=True)  # n-by-kernel
        return _band(weights, size, True, device)
    boxes = [torch.from_numpy(extended_box_kernel(sigma)) for sigma in sigmas.tolist()]
    side = max(len(box) for box in boxes)
    padded = [torch.nn.functional.pad(box, [(side - len(box)) // 2] * 2) for box in boxes]
    once = _band(torch.stack(padded), size, False, device)
    return once @ once @ once


def _band(weights: Tensor, size: int, mirror: bool, device: torch.device) -> Tensor:
    """Matrices (n, size, size) that filter a line by weights (n, k); borders are mirrored or repeated."""
    taps = _taps(weights.shape[1], size, mirror, device)
    return (weights.to(device, non_blocking=True) @ taps).view(-1, size, size)


# Constants are kept: each copy to a GPU from memory that is not pinned makes the processor wait.
@lru_cache(maxsize=8)
def _taps(k: int, size: int, mirror: bool, device: torch.device) -> Tensor:
    """Each of k taps alone as a matrix of zeros and ones, (k, size * size)."""
    columns = torch.arange(size)[:, None] + torch.arange(k) - k // 2  # size-by-k
    if mirror:
        columns = columns.abs()
        columns = torch.where(columns < size, columns, 2 * (size - 1) - columns)
    taps = torch.zeros(k, size, size)
    taps.scatter_(2, columns.clamp(0, size - 1).T[:, :, None], 1.0)
    return taps.view(k, -1).to(device)


@lru_cache(maxsize=16)
def _channels(values: tuple[float, ...], device: torch.device) -> Tensor:
    """(3, 1, 1) float32."""
    return torch.tensor(values, device=device).view(3, 1, 1)


def _normalize(pixels: Tensor, config: AugmentConfig) -> Tensor:
    """Pixels (N, 3, S, S) of 0 to 255, uint8 or float32, to a normalized view, float32."""
    mean = _channels(tuple(255 * value for value in config.mean), pixels.device)
    scale = _channels(tuple(1 / (255 * value) for value in config.std), pixels.device)
    if pixels.device.type != "cpu":
        return (pixels - mean) * scale
    # One image at a time stays in the processor's cache.
    view = torch.empty(pixels.shape)
    for source, target in zip(pixels, view, strict=True):
        torch.sub(source, mean, out=target).mul_(scale)
    return view


def colour_and_normalize(crops: Tensor, drawn: Tensor | None, config: AugmentConfig) -> Tensor:
    """Return normalized views (N, 3, S, S) float32 of crops (N, 3, S, S) uint8, on the device of those.

    `drawn` are (N, 12) on the CPU, by `ViewParameters.to_vector_without_box`; None for crops that have their colour.
    """
    if drawn is None:
        return _normalize(crops, config)
    x = crops.to(torch.float32)
    for name in config.order:
        if name == "jitter":
            _jitter(x, drawn)
        elif name == "gray":
            _apply(x, drawn[:, GRAY] > 0, lambda part: luminance(part).expand_as(part))
        elif name == "blur" and (chosen := drawn[:, SIGMA] > 0).any():
            matrices = blur_matrices(drawn[chosen, SIGMA], x.shape[-1], config.kernel_side, x.device)
            _apply(x, chosen, lambda part, m=matrices: blur(part, m))  # type: ignore[misc]
        elif name == "solarize":
            _apply(x, drawn[:, SOLARIZE] > 0, solarize)
        elif name == "flip":
            _apply(x, drawn[:, FLIP] > 0, lambda part: part.flip(-1))
    return _normalize(x, config)


def _jitter(x: Tensor, drawn: Tensor) -> None:
    functions = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
    places, factors = drawn[:, PLACES], drawn[:, FACTORS].clone()
    factors[:, 3] = torch.tensor([float(hue_steps(f)) for f in factors[:, 3].tolist()])
    # Everyone's first operation, everyone's second, …: those with the same one go together.
    for place in range(len(functions)):
        for number, function in enumerate(functions):
            chosen = places[:, number] == place
            factor = factors[chosen, number].view(-1, 1, 1, 1).to(x.device, non_blocking=True)
            _apply(x, chosen, lambda part, f=function, v=factor: f(part, v))  # type: ignore[misc]


def _apply(x: Tensor, chosen: Tensor, operation: Callable[[Tensor], Tensor]) -> None:
    """Replace the chosen images (N,) bool of x, in place."""
    rows = chosen.nonzero()[:, 0]
    if len(rows):
        rows = rows.to(x.device, non_blocking=True)
        x[rows] = operation(x[rows])
