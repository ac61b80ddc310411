"""The view recipes, as data: each YAML file in this folder is one, and becomes torchvision transforms here.

The path through PIL is the reference: the same transforms in the same order as the official releases, so that one seed
gives the same bits. The fast path draws the same parameters (`view_parameters`) and computes the same pixels up to
rounding, on the CPU (`opencv_operations`) or on batches on any device (`batched_colour`).
"""

import random
from collections.abc import Callable
from typing import Any

from PIL import Image, ImageFilter
from torch import Tensor

from converters.without_dynamo import without_dynamo
from pretrain.config import AugmentConfig

# Before any other module of ours imports torchvision, which takes four seconds more by itself.
with without_dynamo():
    from torchvision import transforms
    from torchvision.transforms import InterpolationMode

Transform = Callable[[Image.Image], Tensor]


def build_view_transforms(recipes: list[AugmentConfig]) -> list[Transform]:
    """Build a transform for each view, from a PIL RGB image to a (3, size, size) float tensor, normalized."""
    return [_view(recipe) for recipe in recipes]


def evaluation_transform(config: AugmentConfig) -> Transform:
    """Build the test transform: resize, centre crop, normalize (torchvision's references, `presets.py`).

    It takes a PIL RGB image and returns a (3, size, size) float tensor.
    """
    resize = config.eval_resize or round(config.size * 256 / 224)
    return transforms.Compose([transforms.Resize(resize), transforms.CenterCrop(config.size), *_to_tensor(config)])


def denormalize(view: Tensor, config: AugmentConfig) -> Tensor:
    """Return a view (…, 3, H, W) as values in [0, 1] again."""
    return (view * view.new_tensor(config.std)[:, None, None] + view.new_tensor(config.mean)[:, None, None]).clamp(0, 1)


def _to_tensor(config: AugmentConfig) -> list[Any]:
    return [transforms.ToTensor(), transforms.Normalize(mean=config.mean, std=config.std)]


def _view(config: AugmentConfig) -> Transform:
    c = config
    if not c.crop_scale:
        return evaluation_transform(c)
    # PIL's blur is what SimSiam and MoCo release (facebookresearch/simsiam@a7bc177 simsiam/loader.py), its deviation in
    # pixels drawn by Python's generator; a kernel of a given size is SimCLR's (appendix A).
    blur = transforms.Lambda(lambda image: image.filter(ImageFilter.GaussianBlur(random.uniform(*c.blur_sigma))))
    if c.kernel_side:
        blur = transforms.GaussianBlur(c.kernel_side, tuple(c.blur_sigma))
    crop = transforms.RandomResizedCrop(
        c.size, scale=tuple(c.crop_scale), interpolation=InterpolationMode(c.interpolation)
    )
    operations = {
        "crop": (1.0, crop),
        "jitter": (c.jitter_p, transforms.RandomApply([transforms.ColorJitter(*c.jitter)], p=c.jitter_p)),
        "gray": (c.gray_p, transforms.RandomGrayscale(p=c.gray_p)),
        "blur": (c.blur_p, transforms.RandomApply([blur], p=c.blur_p)),
        "solarize": (c.solarize_p, transforms.RandomSolarize(threshold=128, p=c.solarize_p)),
        "flip": (c.flip_p, transforms.RandomHorizontalFlip(p=c.flip_p)),
    }
    # An operation that never happens is left out: it would still draw from the generator, which the releases do not.
    chosen = [operation for p, operation in map(operations.__getitem__, c.order) if p > 0]
    return transforms.Compose([*chosen, *_to_tensor(c)])
