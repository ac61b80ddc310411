"""`init=FILE`: the weights of any checkpoint that the converters read, to start a pre-training from."""

import sys

from converters import Backbone, load_backbone
from converters.architecture import parse_arch
from converters.checkpoint_layouts import InputConvention
from pretrain.config import PretrainConfig
from runs.distributed import rank
from runs.errors import UserError
from runs.printable import without_credentials


def load_initial_weights(config: PretrainConfig) -> Backbone | None:
    """Load the backbone, for RGB images, that `init` names; None where it names nothing.

    A line on stderr says where the run normalizes its images otherwise than the file expects.

    Raises:
        UserError: the file is no complete ResNet, another one than `arch`, or one that computes otherwise.
    """
    if not config.init:
        return None
    backbone, plain = load_backbone(config.init).rgb(), InputConvention()
    if backbone.arch != parse_arch(config.arch).name:
        raise UserError(f"init={config.init}: is a {backbone.arch}; give arch={backbone.arch}, or another file")
    if backbone.input.stride_in_1x1 or backbone.input.stem_padding != plain.stem_padding:
        raise UserError(f"init={config.init}: has its strides or its stem's padding elsewhere; give another file")
    mean, std = list(backbone.input.mean), list(backbone.input.std)
    differs = any(abs(a - b) > 1e-4 for a, b in zip(mean + std, config.augment.mean + config.augment.std, strict=True))
    if differs and rank() == 0:
        file = without_credentials(config.init)
        print(f"init={file}: expects augment.mean={mean} augment.std={std} ({backbone.assumed})", file=sys.stderr)
    return backbone
