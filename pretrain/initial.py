"""The weights that a pre-training starts from, where they are given (`init=FILE`)."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from converters import load_backbone
from converters.architecture import parse
from converters.formats import InputConvention
from pretrain.config import PretrainConfig
from runs.errors import UserError


@dataclass(frozen=True)
class InitialWeights:
    """A backbone out of a file.

    Attributes:
        state_dict: torchvision's names -> float32, all but `fc`; for RGB.
        words: where it comes from, for the record: the file's `sha256`, `format`, `mean`, `std`.
        warning: a sentence, where the run's images are normalized otherwise.
    """

    state_dict: dict[str, Tensor]
    words: dict[str, Any]
    warning: str


def load_initial_weights(config: PretrainConfig) -> InitialWeights | None:
    """Load what `init` names; None where it names nothing.

    Raises:
        UserError: the file is no complete ResNet, another one than `arch`, or one that computes otherwise.
    """
    if not config.init:
        return None
    backbone = load_backbone(config.init)
    plain = InputConvention()
    if backbone.arch != parse(config.arch).name:
        raise UserError(f"init={config.init}: is a {backbone.arch}; give arch={backbone.arch}, or another file")
    if backbone.input.stride_in_1x1 or backbone.input.stem_padding != plain.stem_padding:
        raise UserError(f"init={config.init}: has its strides or its stem's padding elsewhere; give another file")
    state_dict, mean, std = dict(backbone.state_dict), list(backbone.input.mean), list(backbone.input.std)
    if backbone.input.channels == "BGR":
        state_dict["conv1.weight"] = state_dict["conv1.weight"].flip(1)
        mean, std = mean[::-1], std[::-1]
    warning = ""
    if any(abs(a - b) > 1e-4 for a, b in zip(mean + std, config.augment.mean + config.augment.std, strict=True)):
        warning = f"init={config.init}: expects augment.mean={mean} augment.std={std} ({backbone.assumed})"
    words = {"sha256": backbone.source_sha256, "format": backbone.format, "mean": mean, "std": std}
    return InitialWeights(state_dict, words, warning)
