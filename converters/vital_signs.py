"""Whether a network's batch-norm statistics are its own: they were measured on its activations when it was trained.

Pictures with the statistics of natural ones run through the network, every batch norm using the batch's own statistics,
so that each layer is tested by itself: its input has the scale that its neighbours' trained scales and biases give it.
What is measured before a norm is then compared, channel by channel, with the running statistics in the file, and this
distance with that to the statistics of other channels of the same layer. In a network as it was trained the own
channel's are far nearer; where a convolution, a norm or the input is another's, they are no nearer than any.

Where a wrong network fits as well, an alternative that fits better tells: a stride in the other convolution, or two
blocks exchanged.

The proof cannot see this: it fills both networks from the same file.
"""

import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from converters.checkpoint_layouts import IMAGENET_MEAN, MSRA_INPUT, UNIT_INPUT, InputConvention
from converters.checks import Check
from runs.errors import UserError

# From where on a figure is doubted, and refused; calibrated in docs/converters.md on networks trained here.
# The share of chance is the distance to the own channel's statistics over that to any channel's: 0 for a perfect fit, 1
# for a stranger's layer. Behind a 1x1 convolution it matters little how a picture is laid out.
SHARE, POINTWISE_SHARE = (0.6, 0.85), (0.4, 0.65)
# The distance itself, where all channels are alike: 4 is a scale of 7 or a mean of two standard deviations.
DISTANCE = (1.5, 4.0)
# How much nearer an alternative is, in logarithms of distances.
STRIDE_GAIN = (0.18, 0.25)
# Neighbouring blocks of a deep network trained for long may be nearly exchangeable: doubtful at most.
BLOCK_GAIN = (0.18, math.inf)
# A running statistic forgets nine tenths in 22 batches, and early in a training the weights change as fast. Six
# networks of 12 steps came to 0.71 to 0.90 of chance.
FEW_BATCHES = 100
# Nothing in the file tells at which size a network was trained, and padding makes the last layers depend on it: the
# size that fits best counts. Size -> pictures.
SIZES = {32: 32, 64: 16, 128: 8}
_EPS = 1e-5
_CONVENTIONS = {
    "ImageNet's mean and std": InputConvention(),
    "mean 0 and std 1": UNIT_INPUT,
    "mean 0.5 and std 0.5": InputConvention("RGB", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "BGR in 0..255 with the mean subtracted": MSRA_INPUT,
    "RGB in 0..255": InputConvention("RGB", (0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)),
}


@dataclass(frozen=True)
class _NormFit:
    """How well one batch norm's statistics are those of its input: see the module's docstring."""

    norm: str
    distance: float
    share: float
    pointwise: bool


class _Sign(NamedTuple):
    text: str
    value: float
    limits: tuple[float, float]

    def is_beyond(self, limit: int) -> bool:
        return not self.value <= self.limits[limit]  # NaN is

    def __str__(self) -> str:
        doubted, refused = self.limits
        return f"{self.text} ({f'limit {refused:g}' if refused < math.inf else f'doubtful above {doubted:g}'})"


@functools.cache
def pictures(count: int = 16, size: int = 128) -> Tensor:
    """Pictures of RGB values in [0, 1], (count, 3, size, size) float32, the same ones every time.

    Half have the 1/f amplitudes of natural images (Field 1987), half are dead leaves, occluding discs with sizes of a
    power law (Lee, Mumford and Huang 2001). Colours vary along ImageNet's principal components (Krizhevsky et al. 2012,
    section 4.1).
    """
    generator = torch.Generator().manual_seed(0)
    axes = torch.tensor([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
    axes = axes * torch.tensor([0.2175, 0.0188, 0.0045]).sqrt()
    axes = 0.25 * axes / axes.square().sum(1).sqrt().mean()  # the standard deviation of one colour
    down, right = torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)[None]
    frequency = (down.square() + right.square()).sqrt()
    frequency[0, 0] = 3 / size
    spectrum = torch.fft.rfft2(torch.randn(count // 2, 3, size, size, generator=generator)) / frequency
    clouds = torch.fft.irfft2(spectrum, s=(size, size))
    clouds = torch.einsum("ck,nkhw->nchw", axes, clouds / clouds.std())
    leaves = torch.zeros(count - count // 2, 3, size, size)
    place = torch.arange(size)
    for leaf in range(len(leaves) * 150):
        where = torch.rand(3, generator=generator)
        radius = 1 / math.sqrt((1 - where[0]) / 9 + where[0] * (2 / size) ** 2)  # from 3 pixels to half of the picture
        inside = (place[:, None] - where[1] * size) ** 2 + (place[None] - where[2] * size) ** 2 < radius**2
        colour = axes @ torch.randn(3, generator=generator)
        texture = 0.06 * torch.rand((), generator=generator) * torch.randn(size, size, generator=generator)
        leaves[leaf % len(leaves)] = torch.where(inside, colour[:, None, None] + texture, leaves[leaf % len(leaves)])
    return (torch.cat([clouds, leaves]) + torch.tensor(IMAGENET_MEAN)[:, None, None]).clamp(0, 1)


def normalised(images: Tensor, convention: InputConvention) -> Tensor:
    """RGB images in [0, 1] as a network of this convention takes them."""
    mean, std = torch.tensor(convention.mean), torch.tensor(convention.std)
    images = images.flip(1) if convention.channels == "BGR" else images
    return (images - mean[:, None, None]) / std[:, None, None]


def _compare_statistics(network: nn.Module, inputs: Tensor) -> tuple[list[_NormFit], Tensor]:
    """Compare what is measured before every batch norm with its running statistics; the network stays as it was.

    Returns:
        A comparison for each norm, in the order of their use, and the network's output.
    """
    found: list[_NormFit] = []
    norms: dict[nn.BatchNorm2d, tuple[str, bool]] = {}
    pointwise = False
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            pointwise = module.kernel_size == (1, 1)
        elif isinstance(module, nn.BatchNorm2d):
            norms[module] = name, pointwise  # a norm follows its convolution
    generator = torch.Generator().manual_seed(0)

    def compare(norm: nn.BatchNorm2d, inputs: tuple[Tensor], _: Tensor) -> Tensor:
        variance, mean = torch.var_mean(inputs[0], (0, 2, 3), correction=0)
        own = _distance(mean, variance, norm.running_mean, norm.running_var)
        order = [torch.randperm(len(mean), generator=generator) for _ in range(8)]
        any_ = torch.stack([_distance(mean[o], variance[o], norm.running_mean, norm.running_var) for o in order])
        share = (own.mean() / any_.mean().clamp_min(0.05)).item()
        name, pointwise = norms[norm]
        found.append(_NormFit(name, own.median().item(), share, pointwise))
        # In place of its output by the running statistics.
        return nn.functional.batch_norm(inputs[0], None, None, norm.weight, norm.bias, training=True, eps=norm.eps)

    handles = [norm.register_forward_hook(compare) for norm in norms]
    try:
        with torch.inference_mode():
            return found, network(inputs)
    finally:
        for handle in handles:
            handle.remove()


def _compare_alternatives(network: Any, inputs: Tensor) -> list[_Sign]:
    """How much nearer the statistics are to those of each alternative, in logarithms; the network stays as it was."""
    found = []
    strides: list[float] = []
    _, inputs = _compare_statistics(nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool), inputs)
    for stage in ("layer1", "layer2", "layer3", "layer4"):
        blocks = list(getattr(network, stage))
        entering, own = [], []
        for block in blocks:
            entering.append(inputs)
            measured, inputs = _compare_statistics(block, inputs)
            own.append(measured)
        first = blocks[0]
        if stage != "layer1" and hasattr(first, "conv3"):
            before = first.conv1.stride, first.conv2.stride
            try:
                first.conv2.stride, first.conv1.stride = before
                strides += _ratios(own[0], _compare_statistics(first, entering[0])[0])
            finally:
                first.conv1.stride, first.conv2.stride = before
        for number in range(1, len(blocks) - 1):
            others, _ = _compare_statistics(nn.Sequential(blocks[number + 1], blocks[number]), entering[number])
            half = len(others) // 2
            ratios = _ratios(own[number] + own[number + 1], others[half:] + others[:half])
            found.append(_gain_sign(f"{stage}.{number} and {stage}.{number + 1} exchanged", ratios, BLOCK_GAIN))
    if strides:
        found.append(_gain_sign("the stride in the other convolution", strides, STRIDE_GAIN))
    return found


def _gain_sign(alternative: str, ratios: list[float], limits: tuple[float, float]) -> _Sign:
    gain = sum(ratios) / len(ratios)
    return _Sign(f"{alternative} fits better by {gain:.2f}", gain, limits)


def _ratios(own: list[_NormFit], others: list[_NormFit]) -> list[float]:
    return [math.log((a.distance + 1e-4) / (b.distance + 1e-4)) for a, b in zip(own, others, strict=True)]


def _distance(mean: Tensor, variance: Tensor, running_mean: Tensor | None, running_var: Tensor | None) -> Tensor:
    """Squared distance of two normal distributions per channel, in logarithms of variances and standard deviations."""
    assert running_mean is not None and running_var is not None
    variance, running_var = variance + _EPS, running_var + _EPS
    return (variance.log() - running_var.log()).square() + (mean - running_mean).square() / (variance + running_var)


def vital_signs_check(
    network: Any, convention: InputConvention, images: Tensor | None = None, trained_batches: int = 0
) -> Check:
    """Check a network in eval mode.

    Args:
        network: torchvision's modules with the strides and padding of the source.
        convention: what it is said to expect.
        images: RGB in [0, 1], (n, 3, H, W); None makes some.
        trained_batches: that made the statistics; below `FEW_BATCHES` nothing is refused. 0 where that is not known.

    Returns:
        The check with its worst layer, refused beyond what any trained network reaches, doubtful before.
    """
    means = [buffer for name, buffer in network.named_buffers() if name.endswith("running_mean")]
    if not any(mean.any() for mean in means):
        return Check("vital signs", True, "not available, the statistics are folded into scale and bias")
    sets = [images] if images is not None else [pictures(count, size) for size, count in SIZES.items()]
    measured = [_compare_statistics(network, normalised(each, convention))[0] for each in sets]
    best = min(range(len(sets)), key=lambda n: sum(math.log(fit.distance + 1e-6) for fit in measured[n]))
    inputs = normalised(sets[best], convention)
    shares = [
        _Sign(f"{fit.norm} at {fit.share:.2f} of chance", fit.share, POINTWISE_SHARE if fit.pointwise else SHARE)
        for fit in measured[best]
    ]
    distances = [_Sign(f"{f.norm} at distance {f.distance:.2f}", f.distance, DISTANCE) for f in measured[best]]
    others = _compare_alternatives(network, inputs)
    worst = [max(each, key=lambda sign: sign.value / sign.limits[1]) for each in (shares, distances)]
    failed, doubtful = (any(sign.is_beyond(limit) for sign in (*shares, *distances, *others)) for limit in (1, 0))
    shown = ", ".join(map(str, [*worst, *(sign for sign in others if sign.is_beyond(0))]))
    figure = f"worst {shown}, {inputs.shape[-1]} pixels"
    remedy = "its statistics were measured on another network or input; get the file anew, or use --unchecked"
    if doubtful and any(sign.text.startswith("bn1 ") for sign in worst):
        figure += _input_hint(network, convention, sets[best])
    if failed and 0 < trained_batches < FEW_BATCHES:
        return Check(
            "vital signs", True, f"{figure}; {trained_batches} batches are too few to tell", remedy, doubtful=True
        )
    return Check("vital signs", not failed, figure, remedy, doubtful)


def _input_hint(network: Any, convention: InputConvention, images: Tensor) -> str:
    """Which usual input convention fits the stem, if it is not the one that is said."""
    stem = nn.Sequential(network.conv1, network.bn1)

    def distance(of: InputConvention) -> float:
        return _compare_statistics(stem, normalised(images, of))[0][0].distance

    best = min(_CONVENTIONS, key=lambda name: distance(_CONVENTIONS[name]))
    return f"; its input seems to be {best}" if distance(_CONVENTIONS[best]) < distance(convention) / 2 else ""


def read_images(folder: Path, count: int = 32, size: int = 128) -> Tensor:
    """The first pictures of a folder, their middle squares at `size` pixels: (n, 3, size, size) float32 in [0, 1].

    Raises:
        UserError: there are none, or one cannot be read.
    """
    from PIL import Image, ImageOps

    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))[:count]
    if not paths:
        raise UserError(f"--images {folder}: no .jpg or .png in it; give a folder of pictures")
    loaded = []
    for path in paths:
        try:
            with Image.open(path, formats=("JPEG", "PNG")) as image:
                loaded.append(np.asarray(ImageOps.fit(image.convert("RGB"), (size, size))))
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise UserError(f"{path}: no readable picture ({error}); remove it") from error
    return torch.from_numpy(np.stack(loaded)).permute(0, 3, 1, 2).float() / 255
