"""A picture of the training views."""

from pathlib import Path

import torch
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize, ToTensor
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import make_grid

from pretrain.augment import denormalize
from pretrain.augment.views import Views
from pretrain.config import AugmentConfig
from runs.errors import UserError
from runs.files import atomic_write


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
            finished = views.finish_batch([tensor[None] for tensor in sample[0]], torch.device("cpu"))
            samples.append((views.images.open(i), [view[0] for view in finished]))
    if not samples:
        return
    tile = Compose([Resize(side, InterpolationMode.BICUBIC), CenterCrop(side), ToTensor()])
    tiles = [tile(image) for image, _ in samples]
    for number in range(len(samples[0][1])):
        tiles += [tile(to_pil_image(denormalize(drawn[number], config))) for _, drawn in samples]
    grid = make_grid(tiles, nrow=len(samples), padding=4, pad_value=1.0)
    with atomic_write(path) as file:
        to_pil_image(grid).save(file, "PNG")
