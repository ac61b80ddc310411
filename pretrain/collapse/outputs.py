"""A pre-training of ours taken up again with its heads: the outputs z that were trained, not only the features."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from pretrain.augment import build_views
from pretrain.checkpoint import Checkpoints
from pretrain.collapse.measures import last_bias
from pretrain.config import AugmentConfig
from pretrain.data import Images
from pretrain.evaluation import settings_beside
from pretrain.loader import Views, load_batches
from pretrain.method.base import Method, Plan, build_method
from pretrain.method.config import METHODS
from runs.errors import UserError


class Outputs(NamedTuple):
    """Of two views of n images, by a method in evaluation mode."""

    z: Tensor
    """(n, d), the first view's."""
    z2: Tensor | None = None
    """(n, d), the second's."""
    p: Tensor | None = None
    """(n, d), predictions from z; None without a predictor on it."""
    bias: Tensor | None = None
    """(d,), what the predictor adds last; None where it adds nothing."""


@torch.no_grad()
def compute_outputs(
    method: Method,
    augment: AugmentConfig,
    images: Images,
    indices: list[int],
    batch_size: int,
    seed: int,
    device: torch.device,
    skip_broken: bool = False,
) -> Outputs:
    """Compute the outputs of some images; the method is in evaluation mode afterwards.

    Args:
        method: with its weights.
        augment: the views that it was trained on.
        images: the split.
        indices: which of its images.
        batch_size: images at a time.
        seed: of the views.
        device: where it computes.
        skip_broken: take the next whole image for a broken one.

    Raises:
        BrokenImage: an image cannot be decoded and `skip_broken` is off.
    """
    method.eval()
    views = Views(images, build_views(augment, 2), seed, skip_broken)
    keys = [(0, i) for i in indices]
    batches = [keys[start : start + batch_size] for start in range(0, len(keys), batch_size)]
    first, second, predicted = [], [], []
    for batch in load_batches(views, batches, workers=0):
        z, z2 = (method.embed(x.to(device)).float() for x in batch.views)  # n-by-d
        first.append(z)
        second.append(z2)
        p = method.predict(z)  # n-by-d
        predicted += [] if p is None else [p.float()]
    z, p = torch.cat(first), torch.cat(predicted) if predicted else None
    return Outputs(z, torch.cat(second), p, last_bias(method, z.shape[1]))


def load_method(checkpoint: Path, train: Images, device: torch.device) -> tuple[Method, AugmentConfig] | None:
    """Load a checkpoint that `python -m pretrain` wrote, with its heads, and the views that it was trained on.

    Args:
        checkpoint: the file; its run's `config.yaml` lies beside it.
        train: the training images: a memory of a vector an image depends on their number.
        device: where it goes.

    Returns:
        None for anybody else's file.

    Raises:
        UserError: the file is damaged, or its weights do not fit the images.
    """
    settings = settings_beside(checkpoint)
    if not settings:
        return None
    plan = Plan(
        arch=settings["arch"],
        zero_init_residual=settings["zero_init_residual"],
        epochs=settings["epochs"],
        steps_per_epoch=max(len(train) // settings["batch_size"], 1),
        batch_size=settings["batch_size"],
        classes=len(train.classes),
        images=len(train),
    )
    method = build_method(METHODS[settings["method"]["name"]](**settings["method"]), plan)
    state = Checkpoints(checkpoint.parent, 1, 0).load(checkpoint)["state_dict"]
    try:
        method.load_state_dict({name.removeprefix("module."): tensor for name, tensor in state.items()})
    except RuntimeError as error:
        raise UserError(
            f"{checkpoint}: its weights do not fit {train.name} ({str(error).splitlines()[-1].strip()}); give the data "
            "that it was trained on, or heads=false"
        ) from error
    return method.to(device), AugmentConfig(**settings["augment"])
