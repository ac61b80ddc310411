"""The view recipes, as data: each YAML file in this folder is one, and becomes torchvision transforms here.

The path through PIL is the reference: the same transforms in the same order as the official releases, so that one seed
gives the same bits. The fast path draws the same parameters (`draws`) and computes the same pixels up to rounding, on
the CPU (`pixels`) or on batches on any device (`batched`).
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from runs.errors import UserError

OPERATIONS = ("crop", "jitter", "gray", "blur", "solarize", "flip")
PIPELINES = ("reference", "fast")
INTERPOLATIONS = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}
Transform = Callable[[Image.Image], Tensor]


@dataclass
class AugmentConfig:
    """One view recipe. A probability of 0 leaves an operation out."""

    name: str = MISSING
    """The recipe's name, that of its file."""
    pipeline: str = "reference"
    """`reference` (torchvision on PIL images, the releases' bits) or `fast` (the same views up to rounding)."""
    size: int = 224
    """Side of the square view in pixels."""
    order: list[str] = field(default_factory=lambda: ["crop", "jitter", "gray", "blur", "solarize", "flip"])
    """Order of the operations; they differ between releases, and bits depend on it."""
    crop_scale: list[float] = field(default_factory=lambda: [0.2, 1.0])
    """Area of the random crop as a fraction of the image; an empty list means the resized centre crop instead."""
    interpolation: str = "bilinear"
    """`bilinear` or `bicubic`, of the random crop."""
    jitter: list[float] = field(default_factory=lambda: [0.4, 0.4, 0.4, 0.1])
    """Strength of brightness, contrast, saturation and hue."""
    jitter_p: float = 0.8
    gray_p: float = 0.2
    blur_p: float = 0.5
    blur_sigma: list[float] = field(default_factory=lambda: [0.1, 2.0])
    """Range of the Gaussian's standard deviation in pixels."""
    blur_kernel: float = 0.0
    """Kernel side as a fraction of the view (SimCLR: 0.1); 0 means PIL's own Gaussian, as SimSiam and MoCo use."""
    solarize_p: float = 0.0
    flip_p: float = 0.5
    second: dict[str, Any] = field(default_factory=dict)
    """What differs in the second view: any of the fields above (BYOL)."""
    mean: list[float] = field(default_factory=lambda: [0.485, 0.456, 0.406])
    """Mean of images in [0, 1], R G B; torchvision's, SimSiam's and MoCo's on ImageNet."""
    std: list[float] = field(default_factory=lambda: [0.229, 0.224, 0.225])
    """Standard deviation of images in [0, 1], R G B."""
    eval_resize: int = 0
    """Shorter side before the centre crop in evaluation; 0 means size * 256 / 224."""

    def __post_init__(self) -> None:
        if self.pipeline not in PIPELINES:
            raise UserError(f"augment.pipeline={self.pipeline}: choose reference or fast")
        if self.size < 8:
            raise UserError(f"augment.size={self.size}: must be at least 8 pixels")
        if self.eval_resize and self.eval_resize < self.size:
            raise UserError(f"augment.eval_resize={self.eval_resize}: must be at least augment.size={self.size}, or 0")
        if sorted(self.order) != sorted(OPERATIONS):
            raise UserError(f"augment.order={self.order}: must name each of {', '.join(OPERATIONS)} once")
        if self.interpolation not in INTERPOLATIONS:
            raise UserError(f"augment.interpolation={self.interpolation}: choose bilinear or bicubic")
        if self.crop_scale and not (len(self.crop_scale) == 2 and 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1):
            raise UserError(
                f"augment.crop_scale={self.crop_scale}: must be two rising fractions, e.g. [0.2,1.0], or []"
            )
        if len(self.jitter) != 4:
            raise UserError(f"augment.jitter={self.jitter}: must be brightness, contrast, saturation, hue")
        for name in ("jitter_p", "gray_p", "blur_p", "solarize_p", "flip_p"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"augment.{name}={getattr(self, name)}: must be a probability, 0 to 1")
        for name in ("mean", "std"):
            if len(getattr(self, name)) != 3:
                raise UserError(f"augment.{name}={getattr(self, name)}: must be three numbers, for R, G and B")
        if min(self.std) <= 0:
            raise UserError(f"augment.std={self.std}: must be positive")
        if len(self.blur_sigma) != 2 or not 0 <= self.blur_sigma[0] <= self.blur_sigma[1]:
            raise UserError(f"augment.blur_sigma={self.blur_sigma}: must be two rising numbers, e.g. [0.1,2.0]")
        unknown = set(self.second) - {f.name for f in fields(self)} - {"second"}
        if unknown:
            raise UserError(f"augment.second: unknown key {sorted(unknown)[0]!r}; it takes the keys of augment")
        if self.second:
            recipes(self, 2)

    @property
    def kernel_side(self) -> int:
        """Side of the blur's kernel in pixels, odd; 0 for PIL's own Gaussian."""
        return int(self.blur_kernel * self.size) // 2 * 2 + 1 if self.blur_kernel else 0


ConfigStore.instance().store(group="augment", name="schema_augment", node=AugmentConfig)


class GaussianBlur:
    """Blur by PIL with a standard deviation drawn by Python's generator.

    Source of both choices: facebookresearch/simsiam@a7bc177 simsiam/loader.py.

    Args:
        sigma: the range, in pixels.
    """

    def __init__(self, sigma: tuple[float, float]) -> None:
        self.sigma = sigma

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return the blurred image."""
        return image.filter(ImageFilter.GaussianBlur(radius=random.uniform(*self.sigma)))


def build_views(config: AugmentConfig, views: int) -> list[Transform]:
    """Build the transforms of a training step.

    Args:
        config: the recipe.
        views: how many.

    Returns:
        One transform a view, from a PIL RGB image to a (3, size, size) float tensor, normalized.
    """
    return [_view(recipe) for recipe in recipes(config, views)]


def recipes(config: AugmentConfig, views: int) -> list[AugmentConfig]:
    """Return one recipe a view, with `second` worked in at every other one."""
    pair = config, replace(config, **{**config.second, "second": {}})
    return [pair[number % 2] for number in range(views)]


def evaluation_view(config: AugmentConfig) -> Transform:
    """Build the test transform: resize, centre crop, normalize (torchvision's references, `presets.py`).

    Returns:
        A transform from a PIL RGB image to a (3, size, size) float tensor.
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
        return evaluation_view(c)
    # PIL's blur is what SimSiam and MoCo release; a kernel of a given size is SimCLR's (appendix A).
    blur = (
        transforms.GaussianBlur(c.kernel_side, tuple(c.blur_sigma))
        if c.kernel_side
        else GaussianBlur((c.blur_sigma[0], c.blur_sigma[1]))
    )
    interpolation = INTERPOLATIONS[c.interpolation]
    operations = {
        "crop": transforms.RandomResizedCrop(c.size, scale=tuple(c.crop_scale), interpolation=interpolation),
        "jitter": transforms.RandomApply([transforms.ColorJitter(*c.jitter)], p=c.jitter_p),
        "gray": transforms.RandomGrayscale(p=c.gray_p),
        "blur": transforms.RandomApply([blur], p=c.blur_p),
        "solarize": transforms.RandomSolarize(threshold=128, p=c.solarize_p),
        "flip": transforms.RandomHorizontalFlip(p=c.flip_p),
    }  # fmt: skip
    # An operation that never happens is left out: it would still draw from the generator, which the releases do not.
    on = {
        "crop": 1.0,
        "jitter": c.jitter_p,
        "gray": c.gray_p,
        "blur": c.blur_p,
        "solarize": c.solarize_p,
        "flip": c.flip_p,
    }
    return transforms.Compose([*(operations[name] for name in c.order if on[name] > 0), *_to_tensor(c)])
