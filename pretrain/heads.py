"""A pre-training of ours taken up again with its heads: the output z that was trained, not only the features."""

from pathlib import Path
from typing import Any, cast

import torch
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf
from torch import Tensor, nn

from pretrain.augment import AugmentConfig, build_views
from pretrain.checkpoint import Checkpoints
from pretrain.data import Images
from pretrain.features import settings_beside
from pretrain.loader import Views, collate
from pretrain.method import Method, MethodConfig, Plan, build_method
from runs.errors import UserError


class Heads:
    """A method in evaluation mode with the weights of a checkpoint.

    Args:
        method: with its weights.
        augment: the views that it was trained on.
    """

    def __init__(self, method: Method, augment: AugmentConfig) -> None:
        self.method, self.augment = method.eval(), augment

    def z(self, x: Tensor) -> Tensor:
        """Outputs (n, d) of views (n, 3, H, W)."""
        # What follows the projector, where there is such a thing: `method=siamese`.
        f = getattr(self.method, "f", self.method.backbone())
        return cast(Tensor, f(x)).float()

    def p(self, z: Tensor) -> Tensor | None:
        """Predictions (n, d) from outputs (n, d); None without a predictor on them."""
        predictor = getattr(self.method, "predictor", None)
        # SwAV's stands on the prototypes' scores, which are no z.
        first = next((m for m in predictor.modules() if isinstance(m, nn.Linear)), None) if predictor else None
        if predictor is None or isinstance(predictor, nn.Identity) or (first and first.in_features != z.shape[1]):
            return None
        return cast(Tensor, predictor(z)).float()

    @torch.no_grad()
    def outputs(
        self,
        images: Images,
        indices: list[int],
        batch_size: int,
        seed: int,
        device: torch.device,
        skip_broken: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Outputs of two views of images.

        Args:
            images: the split.
            indices: which of its images.
            batch_size: images at a time.
            seed: of the views.
            device: where it computes.
            skip_broken: take the next whole image for a broken one.

        Returns:
            z (n, d) of the first view, of the second, and the predictions (n, d) from the first.

        Raises:
            BrokenImage: an image cannot be decoded and `skip_broken` is off.
        """
        views = Views(images, build_views(self.augment, 2), seed, skip_broken)
        first, second, predicted = [], [], []
        for start in range(0, len(indices), batch_size):
            batch = collate(views.__getitems__([(0, i) for i in indices[start : start + batch_size]]))
            if isinstance(batch, UserError):
                raise batch
            z1, z2 = (self.z(x.to(device)) for x in batch[0])  # n-by-d
            first.append(z1)
            second.append(z2)
            predicted.append(self.p(z1))
        p = None if predicted[0] is None else torch.cat(cast(list[Tensor], predicted))
        return torch.cat(first), torch.cat(second), p


def load_heads(checkpoint: Path, train: Images, device: torch.device) -> Heads | None:
    """Load a checkpoint that `python -m pretrain` wrote, with its heads.

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
    config = _method(settings["method"])
    plan = Plan(
        arch=settings["arch"],
        zero_init_residual=settings["zero_init_residual"],
        epochs=settings["epochs"],
        steps_per_epoch=max(len(train) // settings["batch_size"], 1),
        batch_size=settings["batch_size"],
        classes=len(train.classes),
        images=len(train),
    )
    method = build_method(config, plan)
    state = Checkpoints(checkpoint.parent, 1, 0).load(checkpoint)["state_dict"]
    try:
        method.load_state_dict({name.removeprefix("module."): tensor for name, tensor in state.items()})
    except RuntimeError as error:
        raise UserError(
            f"{checkpoint}: its weights do not fit {train.name} ({str(error).splitlines()[-1].strip()}); give the data "
            "that it was trained on, or heads=false"
        ) from error
    return Heads(method.to(device), AugmentConfig(**settings["augment"]))


def _method(settings: dict[str, Any]) -> MethodConfig:
    schema = ConfigStore.instance().load(f"method/schema_{settings['name']}.yaml").node
    return cast(MethodConfig, OmegaConf.to_object(OmegaConf.merge(schema, settings)))
