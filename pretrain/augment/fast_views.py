"""The fast pipeline: the reference's views up to rounding, from one decoded image, coloured where that is cheapest."""

from collections.abc import Sequence
from typing import Any

import numpy
import torch
from PIL import Image
from torch import Tensor

from pretrain.augment import batched, build_transforms
from pretrain.augment.pixels import Pixels, colour, planes, resize
from pretrain.augment.view_parameters import ParameterSampler, ViewParameters
from pretrain.config import AugmentConfig
from pretrain.data import Images
from pretrain.data.decoding import Source
from pretrain.loader import Key, Views

PILLOW = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
# How many times larger than the view the smallest crop must still be when it is decoded at a reduced scale. At 1, the
# scaled decoding is the only low-pass filter and views differ more.
MARGIN = 2.0


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
        source = self.images.source(place)
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
        pixels = [tensor.to(device, non_blocking=True) for tensor in tensors[:count]]
        drawn = tensors[count:] if self.batched else [None] * count
        return [batched.colour(*views) for views in zip(pixels, drawn, self.recipes, strict=True)]

    def _crops(self, source: Source, parameters: Sequence[ViewParameters]) -> list[Pixels]:
        spare = min(min(drawn.box[2:]) / recipe.size for drawn, recipe in zip(parameters, self.recipes, strict=True))
        scale = source.reduction(spare / MARGIN)
        if scale > 1:
            return self._scaled_crops(source, parameters, scale)
        image = source.pixels()
        crops = []
        for drawn, recipe in zip(parameters, self.recipes, strict=True):
            top, left, height, width = drawn.box
            crop = image[top : top + height, left : left + width]
            crops.append(resize(crop, recipe.size, recipe.interpolation))
        return crops

    def _scaled_crops(self, source: Source, parameters: Sequence[ViewParameters], scale: int) -> list[Pixels]:
        image = source.reduced(scale)
        crops = []
        for drawn, recipe in zip(parameters, self.recipes, strict=True):
            top, left, height, width = (value / scale for value in drawn.box)
            # Pillow takes a box between pixels, as a crop of the whole image becomes one in the reduced image.
            box = (left, top, left + width, top + height)
            crop = image.resize((recipe.size, recipe.size), PILLOW[recipe.interpolation], box)
            crops.append(numpy.array(crop))
        return crops


def build_views(
    images: Images, config: AugmentConfig, views: int, seed: int, skip_broken: bool, device: Any = "cpu"
) -> Views:
    """Build the training views that a recipe asks for; on a GPU the fast pipeline leaves the colour to it."""
    # Without a random crop there is nothing to draw, and the reference's centre crop serves.
    if config.pipeline == "reference" or not config.crop_scale:
        return Views(images, build_transforms(config, views), seed, skip_broken)
    return FastViews(images, config, views, seed, skip_broken, torch.device(device).type != "cpu")
