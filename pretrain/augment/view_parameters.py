"""What is random in a view, drawn as torchvision's transforms draw it: by the same generators, in the same order."""

import random
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms

from pretrain.config import AugmentConfig

JITTER = ("brightness", "contrast", "saturation", "hue")
# torchvision's default, which no recipe changes (transforms.RandomResizedCrop).
RATIO = [3 / 4, 4 / 3]


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

    def to_vector_without_box(self) -> Tensor:
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
