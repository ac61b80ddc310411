"""The fast pipeline: the reference's views up to rounding, from one decoded image, coloured where that is cheapest.

What is random is drawn as the reference draws it: by the same generators, in the same order.
"""

import random
from dataclasses import dataclass
from typing import Any

import cv2
import numpy
import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms

from pretrain.augment import batched_colour, build_transforms, pixels
from pretrain.augment.pixels import Pixels, planes, resize
from pretrain.config import AugmentConfig
from pretrain.data import Images
from pretrain.data.decoding import LazyImage
from pretrain.loader import Key, Views

JITTER = ("brightness", "contrast", "saturation", "hue")
# torchvision's default, which no recipe changes (transforms.RandomResizedCrop).
RATIO = [3 / 4, 4 / 3]
PILLOW = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
# How many times larger than the view the smallest crop must still be when it is decoded at a reduced scale. At 1, the
# scaled decoding is the only low-pass filter and views differ more.
MARGIN = 2.0


@dataclass(frozen=True)
class ViewParameters:
    """One view's parameters."""

    box: tuple[int, int, int, int]
    """Top, left, height, width of the crop, in pixels of the image."""
    jitter: tuple[tuple[str, float], ...] = ()
    """Colour operations in their drawn order with their factors; hue as a fraction of the circle."""
    gray: bool = False
    sigma: float | None = None
    """Standard deviation of the blur in pixels; None for no blur."""
    solarize: bool = False
    flip: bool = False

    def vector(self) -> Tensor:
        """All but the box as (12,) float32, which travels with the pixels to the device that colours them.

        Place of each of `JITTER` in the drawn order or -1 (4), its factor (4), gray, sigma or 0, solarize, flip.
        """
        names = [name for name, _ in self.jitter]
        factors = dict(self.jitter)
        places = [float(names.index(name)) if name in factors else -1.0 for name in JITTER]
        strengths = [factors.get(name, 0.0) for name in JITTER]
        return torch.tensor(
            [*places, *strengths, float(self.gray), self.sigma or 0.0, float(self.solarize), float(self.flip)]
        )


class ParameterSampler:
    """Draws views of one recipe, with a `crop_scale`, from torch's default generator and Python's."""

    def __init__(self, config: AugmentConfig) -> None:
        self.config = config
        # It turns strengths into ranges, None for those that are 0.
        jitter = transforms.ColorJitter(*config.jitter)
        self.ranges = (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)

    def __call__(self, image: Image.Image) -> ViewParameters:
        """Draw one view of an image, of which only the size is looked at."""
        c = self.config
        drawn: dict[str, object] = {}
        for name in c.order:
            # Both comparisons as in torchvision: RandomApply leaves an operation out where p < u, the others do it
            # where u < p. An operation that never happens draws nothing, as in the reference.
            if name == "crop":
                box = transforms.RandomResizedCrop.get_params(image, c.crop_scale, RATIO)
            elif name == "jitter" and c.jitter_p > 0:
                drawn["jitter"] = () if c.jitter_p < torch.rand(1) else self._jitter()
            elif name == "blur" and c.blur_p > 0:
                drawn["sigma"] = None if c.blur_p < torch.rand(1) else self._sigma()
            elif name in ("gray", "solarize", "flip") and getattr(c, f"{name}_p") > 0:
                drawn[name] = bool(torch.rand(1) < getattr(c, f"{name}_p"))
        return ViewParameters(box, **drawn)  # type: ignore[arg-type]

    def _jitter(self) -> tuple[tuple[str, float], ...]:
        order, *factors = transforms.ColorJitter.get_params(*self.ranges)
        return tuple((JITTER[i], factors[i]) for i in order.tolist() if factors[i] is not None)

    def _sigma(self) -> float:
        low, high = self.config.blur_sigma
        if self.config.blur_kernel:
            return transforms.GaussianBlur.get_params(low, high)
        return random.uniform(low, high)


def colour(image: Pixels, drawn: ViewParameters, config: AugmentConfig) -> Pixels:
    """Do to a resized crop (size, size, 3), in place, what was drawn, in the recipe's order."""
    for name in config.order:
        if name == "jitter":
            for operation, factor in drawn.jitter:
                image = getattr(pixels, f"adjust_{operation}")(image, factor)
        elif name == "gray" and drawn.gray:
            cv2.cvtColor(pixels.luminance(image), cv2.COLOR_GRAY2RGB, dst=image)
        elif name == "blur" and drawn.sigma is not None:
            kernel = config.kernel_side
            image = pixels.kernel_blur(image, drawn.sigma, kernel) if kernel else pixels.box_blur(image, drawn.sigma)
        elif name == "solarize" and drawn.solarize:
            image = pixels.solarize(image)
        elif name == "flip" and drawn.flip:
            cv2.flip(image, 1, dst=image)
    return image


class FastViews(Views):
    """Like `Views`, but a sample's views are 8-bit pixels (3, size, size), which `finish` turns into floats in batches.

    `batched` leaves the colour to `finish`, for a device that is better at it than the loading processes: samples are
    then crops, followed by as many vectors of what was drawn.
    """

    def __init__(
        self, images: Images, config: AugmentConfig, views: int, seed: int, skip_broken: bool, batched: bool = False
    ) -> None:
        super().__init__(images, (), seed, skip_broken)
        self.recipes, self.batched = config.for_views(views), batched
        self.samplers = [ParameterSampler(recipe) for recipe in self.recipes]

    def sample(self, place: int, key: Key) -> list[Tensor]:
        """Draw, decode, crop, resize; colour too unless `batched`."""
        source = self.images.open_lazily(place)
        self.seed_generators(key)
        parameters = [sampler(source.image) for sampler in self.samplers]
        crops = self._crops(source, parameters)
        if self.batched:
            return [*map(planes, crops), *(drawn.vector() for drawn in parameters)]
        triples = zip(crops, parameters, self.recipes, strict=True)
        return [planes(colour(crop, drawn, recipe)) for crop, drawn, recipe in triples]

    def finish(self, tensors: list[Tensor], device: torch.device) -> list[Tensor]:
        """Turn a batch of samples into normalized views on a device, (N, 3, size, size) float32 each.

        `tensors` are one (N, 3, size, size) uint8 a view; then, if `batched`, one (N, 12) a view, on the CPU.
        """
        count = len(self.recipes)
        crops = [tensor.to(device, non_blocking=True) for tensor in tensors[:count]]
        drawn = tensors[count:] if self.batched else [None] * count
        return [batched_colour.colour(*views) for views in zip(crops, drawn, self.recipes, strict=True)]

    def _crops(self, source: LazyImage, parameters: list[ViewParameters]) -> list[Pixels]:
        spare = min(min(drawn.box[2:]) / recipe.size for drawn, recipe in zip(parameters, self.recipes, strict=True))
        scale = source.reduction(spare / MARGIN)
        image = source.pixels() if scale == 1 else source.reduced(scale)
        crops = []
        for drawn, recipe in zip(parameters, self.recipes, strict=True):
            if isinstance(image, Image.Image):
                top, left, height, width = (value / scale for value in drawn.box)
                # Pillow takes a box between pixels, as a crop of the whole image becomes one in the reduced image.
                box = (left, top, left + width, top + height)
                crops.append(numpy.array(image.resize((recipe.size, recipe.size), PILLOW[recipe.interpolation], box)))
            else:
                top, left, height, width = drawn.box
                crops.append(resize(image[top : top + height, left : left + width], recipe.size, recipe.interpolation))
        return crops


def build_views(
    images: Images, config: AugmentConfig, views: int, seed: int, skip_broken: bool, device: Any = "cpu"
) -> Views:
    """Build the training views that a recipe asks for; on a GPU the fast pipeline leaves the colour to it."""
    # Without a random crop there is nothing to draw, and the reference's centre crop serves.
    if config.pipeline == "reference" or not config.crop_scale:
        return Views(images, build_transforms(config, views), seed, skip_broken)
    return FastViews(images, config, views, seed, skip_broken, torch.device(device).type != "cpu")
