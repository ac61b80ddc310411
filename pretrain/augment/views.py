"""Views of images, addressed by (epoch, index), by torchvision on PIL images or by the fast pipeline.

The fast pipeline makes the reference's views up to rounding, from one decoded image, coloured where that is cheapest.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize, ToTensor
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import make_grid

from pretrain.augment import Transform, batched_colour, build_view_transforms, denormalize, opencv_operations
from pretrain.augment.opencv_operations import Pixels, channels_first, resize_antialiased
from pretrain.augment.view_parameters import ParameterSampler, ViewParameters
from pretrain.config import AugmentConfig
from pretrain.data import Images
from pretrain.data.decoding import LazyImage
from runs.errors import BrokenImage, UserError
from runs.files import atomic_write

Key = tuple[int, int]
NO_IMAGE = "data.root: not one image can be read; check the files"
# How many times larger than the view the smallest crop must still be when it is decoded at a reduced scale. At 1, the
# scaled decoding is the only low-pass filter and views differ more.
MARGIN = 2.0


class Views(Dataset[Any]):
    """Augmented views of images, addressed by (epoch, index), by one of `transforms` each.

    With `skip_broken` a broken image is replaced by the next whole one instead of failing.
    """

    def __init__(self, images: Images, transforms: Sequence[Transform], seed: int, skip_broken: bool) -> None:
        self.images, self.transforms, self.seed, self.skip_broken = images, transforms, seed, skip_broken

    def __getitems__(self, keys: list[Key]) -> list[Any]:
        """Return a batch's samples; the process's own random generators are left as they were."""
        python, state = random.getstate(), torch.get_rng_state()
        try:
            return [self[key] for key in keys]
        finally:
            random.setstate(python)
            torch.set_rng_state(state)

    def __getitem__(self, key: Key) -> Any:
        _, index = key
        broken: list[str] = []
        for step in range(len(self.images)):
            place = (index + step) % len(self.images)
            try:
                return self.sample(place, key), self.images.labels[place], broken, index
            except UserError as error:
                if not self.skip_broken or not isinstance(error, BrokenImage):
                    return error
                broken.append(error.name)
        return UserError(NO_IMAGE)

    def sample(self, place: int, key: Key) -> list[Tensor]:
        """Return the views of the image at `place`, drawn for `key`."""
        image = self.images.decode_rgb(place)
        self._seed_generators(key)
        return [transform(image) for transform in self.transforms]

    def _seed_generators(self, key: Key) -> None:
        """Seed torch's and Python's generator: the releases' transforms draw from both."""
        words = numpy.random.SeedSequence((self.seed, *key)).generate_state(2, numpy.uint64).tolist()
        random.seed(words[0])
        torch.default_generator.manual_seed(words[1] % 2**63)

    def to_float_views(self, tensors: list[Tensor], device: torch.device) -> list[Tensor]:
        """Turn a batch of samples into (N, 3, H, W) float views on a device."""
        return [tensor.to(device, non_blocking=True) for tensor in tensors]

    def __len__(self) -> int:
        return len(self.images)


def apply_colour_(image: Pixels, drawn: ViewParameters, config: AugmentConfig) -> Pixels:
    """Do to a resized crop (size, size, 3), in place, what was drawn, in the recipe's order."""
    for name in config.order:
        if name == "jitter":
            for operation, factor in drawn.jitter:
                image = getattr(opencv_operations, f"adjust_{operation}_")(image, factor)
        elif name == "gray" and drawn.gray:
            cv2.cvtColor(opencv_operations.luminance(image), cv2.COLOR_GRAY2RGB, dst=image)
        elif name == "blur" and drawn.sigma is not None:
            if kernel := config.kernel_side:
                image = opencv_operations.torchvision_gaussian_blur_(image, drawn.sigma, kernel)
            else:
                image = opencv_operations.pillow_gaussian_blur_(image, drawn.sigma)
        elif name == "solarize" and drawn.solarize:
            image = opencv_operations.solarize_(image)
        elif name == "flip" and drawn.flip:
            cv2.flip(image, 1, dst=image)
    return image


class FastViews(Views):
    """Like `Views`, but a sample's views are 8-bit pixels (3, size, size), of which `to_float_views` makes floats.

    `batched` leaves the colour to `to_float_views`, for a device that is better at it than the loading processes:
    samples are then crops, followed by as many vectors of what was drawn.
    """

    def __init__(
        self, images: Images, recipes: list[AugmentConfig], seed: int, skip_broken: bool, batched: bool = False
    ) -> None:
        super().__init__(images, (), seed, skip_broken)
        self.recipes, self.batched = recipes, batched
        self.samplers = [ParameterSampler(recipe) for recipe in recipes]

    def sample(self, place: int, key: Key) -> list[Tensor]:
        """Draw, decode, crop, resize; colour too unless `batched`."""
        source = self.images.open_lazily(place)
        self._seed_generators(key)
        parameters = [sampler(source.image) for sampler in self.samplers]
        crops = self._crops(source, parameters)
        if self.batched:
            return [*map(channels_first, crops), *(drawn.to_vector_without_box() for drawn in parameters)]
        triples = zip(crops, parameters, self.recipes, strict=True)
        return [channels_first(apply_colour_(crop, drawn, recipe)) for crop, drawn, recipe in triples]

    def to_float_views(self, tensors: list[Tensor], device: torch.device) -> list[Tensor]:
        """Turn a batch of samples into normalized views on a device, (N, 3, size, size) float32 each.

        `tensors` are one (N, 3, size, size) uint8 a view; then, if `batched`, one (N, 12) a view, on the CPU.
        """
        count = len(self.recipes)
        crops = [tensor.to(device, non_blocking=True) for tensor in tensors[:count]]
        drawn = tensors[count:] if self.batched else [None] * count
        return [batched_colour.colour_and_normalize(*views) for views in zip(crops, drawn, self.recipes, strict=True)]

    def _crops(self, source: LazyImage, parameters: list[ViewParameters]) -> list[Pixels]:
        spare = min(min(drawn.box[2:]) / recipe.size for drawn, recipe in zip(parameters, self.recipes, strict=True))
        scale = source.largest_reduction(spare / MARGIN)
        image = source.to_rgb_array() if scale == 1 else source.to_pil_rgb(scale)
        crops = []
        for drawn, recipe in zip(parameters, self.recipes, strict=True):
            if isinstance(image, Image.Image):
                top, left, height, width = (value / scale for value in drawn.box)
                # Pillow takes a box between pixels, as a crop of the whole image becomes one in the reduced image.
                box = (left, top, left + width, top + height)
                resampling = Image.Resampling[recipe.interpolation.upper()]
                crops.append(numpy.array(image.resize((recipe.size, recipe.size), resampling, box)))
            else:
                top, left, height, width = drawn.box
                crop = image[top : top + height, left : left + width]
                crops.append(resize_antialiased(crop, recipe.size, recipe.interpolation))
        return crops


def build_views(
    images: Images, recipes: list[AugmentConfig], seed: int, skip_broken: bool, device: Any = "cpu"
) -> Views:
    """Build training views, one by each recipe; on a GPU the fast pipeline leaves the colour to it."""
    # Without a random crop there is nothing to draw, and the reference's centre crop serves.
    if recipes[0].pipeline == "fast" and recipes[0].crop_scale:
        return FastViews(images, recipes, seed, skip_broken, torch.device(device).type != "cpu")
    return Views(images, build_view_transforms(recipes), seed, skip_broken)


def save_view_grid(views: Views, config: AugmentConfig, path: Path, images: int = 12, side: int = 112) -> None:
    """Draw the views of some training images to the PNG `path`, unless it is there.

    One column an image, above the image, below its views; tiles have `side` pixels.
    """
    if path.exists():
        return
    # Evenly through the split, which is sorted by class, so that every column shows another class.
    chosen = torch.linspace(0, len(views) - 1, min(images, len(views))).long().tolist()
    samples = []
    for i, sample in zip(chosen, views.__getitems__([(0, i) for i in chosen]), strict=True):
        # A sample that names broken images shows another image in their place.
        if not isinstance(sample, UserError) and not sample[2]:
            finished = views.to_float_views([tensor[None] for tensor in sample[0]], torch.device("cpu"))
            samples.append((views.images.decode_rgb(i), [view[0] for view in finished]))
    if not samples:
        return
    tile = Compose([Resize(side, InterpolationMode.BICUBIC), CenterCrop(side), ToTensor()])
    tiles = [tile(image) for image, _ in samples]
    for number in range(len(samples[0][1])):
        tiles += [tile(to_pil_image(denormalize(drawn[number], config))) for _, drawn in samples]
    grid = make_grid(tiles, nrow=len(samples), padding=4, pad_value=1.0)
    with atomic_write(path) as file:
        to_pil_image(grid).save(file, "PNG")
