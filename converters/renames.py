"""Name rules: from a project's names for the parts of a ResNet to torchvision's.

Every rule takes a name without its prefix and returns torchvision's name, or None if the tensor is no part of the
backbone. Rules on whole sets of names (TensorFlow counts its layers) are in `by_position`.
"""

import re
from collections.abc import Callable, Iterable

from runs.errors import UserError

Rename = Callable[[str], str | None]

_TORCHVISION = re.compile(r"(conv1|bn1|layer[1-4]\.\d+)\.")
# The order of torchvision's children: conv1, bn1, relu, maxpool, layer1..layer4, avgpool.
_CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}


def torchvision(name: str) -> str | None:
    """`conv1.weight`, `layer1.0.bn2.bias`: as they are. Also a stem of several convolutions, refused later by name."""
    return name if _TORCHVISION.match(name) else None


def shortcut(name: str) -> str | None:
    """`layer2.0.shortcut.0.weight` -> `layer2.0.downsample.0.weight`; PatrickHua's cifar_resnet_2.py@75a7c513."""
    return torchvision(name.replace(".shortcut.", ".downsample."))


def sequential(name: str) -> str | None:
    """`4.0.conv1.weight` -> `layer1.0.conv1.weight`: names after `nn.Sequential(*list(resnet.children())[:-1])`."""
    child, _, rest = name.partition(".")
    return f"{_CHILDREN[child]}.{rest}" if child in _CHILDREN else None


def detectron2(name: str) -> str | None:
    """`res2.0.conv1.norm.weight` -> `layer1.0.bn1.weight`; detectron2/modeling/backbone/resnet.py@a59f0563."""
    name = re.sub(r"^(backbone\.bottom_up\.|backbone\.|roi_heads\.(?=res5\.\d))", "", name)
    if not re.match(r"stem\.conv1\.|res[2-5]\.\d+\.", name):
        return None
    name = name.removeprefix("stem.")
    name = re.sub(r"^res(\d)\.", lambda match: f"layer{int(match[1]) - 1}.", name)
    name = name.replace("shortcut.norm.", "downsample.1.").replace("shortcut.weight", "downsample.0.weight")
    return torchvision(re.sub(r"\bconv(\d)\.norm\.", r"bn\1.", name))


def caffe2(name: str) -> str | None:
    """`res2_0_branch2a_bn_s` -> `layer1.0.bn1.weight`; detectron2/checkpoint/c2_model_loading.py@a59f0563."""
    if name == "conv1_w":
        return "conv1.weight"
    if match := re.fullmatch(r"res_conv1_bn_([sb])", name):
        return f"bn1.{_AFFINE[match[1]]}"
    match = re.fullmatch(r"res([2-5])_(\d+)_branch(1|2[abc])_(w|bn_[sb])", name)
    if match is None:
        return None
    block = f"layer{int(match[1]) - 1}.{match[2]}"
    kind = "weight" if match[4] == "w" else _AFFINE[match[4][-1]]
    if match[3] == "1":
        return f"{block}.downsample.{0 if match[4] == 'w' else 1}.{kind}"
    return f"{block}.{'conv' if match[4] == 'w' else 'bn'}{'abc'.index(match[3][1]) + 1}.{kind}"


_AFFINE = {"s": "weight", "b": "bias"}


def huggingface(name: str) -> str | None:
    """`encoder.stages.0.layers.1.layer.2.convolution.weight` -> `layer1.1.conv3.weight`.

    transformers src/transformers/models/resnet/modeling_resnet.py@00cbbe53.
    """
    name = name.removeprefix("resnet.")
    if match := re.fullmatch(r"embedder\.embedder\.(convolution|normalization)\.(\w+)", name):
        return f"{'conv1' if match[1] == 'convolution' else 'bn1'}.{match[2]}"
    match = re.fullmatch(
        r"encoder\.stages\.(\d)\.layers\.(\d+)\.(shortcut|layer\.(?:layer_)?(\d))\.(convolution|normalization)\.(\w+)",
        name,
    )
    if match is None:
        return None
    convolution = match[5] == "convolution"
    if match[3] == "shortcut":
        unit = f"downsample.{0 if convolution else 1}"
    else:
        unit = f"{'conv' if convolution else 'bn'}{int(match[4]) + 1}"
    return f"layer{int(match[1]) + 1}.{match[2]}.{unit}.{match[6]}"


_FLAX = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def huggingface_flax(name: str) -> str | None:
    """`params/encoder/stages/0/…/kernel` -> `layer1.…weight`; modeling_flax_resnet.py@0006bb80."""
    path, _, kind = re.sub(r"^(params|batch_stats)/", "", name).rpartition("/")
    return huggingface(f"{path.replace('/', '.')}.{_FLAX[kind]}") if kind in _FLAX else None


_HAIKU = {"w": "weight", "scale": "weight", "offset": "bias"}


def haiku(name: str) -> str | None:
    """`online_params/res_net50/~/block_group_0/~/block_1/~/conv_2/w` -> `layer1.1.conv3.weight`.

    deepmind-research byol/utils/networks.py@500ffd89, and dm-haiku haiku/_src/nets/resnet.py for the blocks. The
    statistics are `online_state/…/batchnorm_0/~/mean_ema/average`.
    """
    path, _, kind = name.removeprefix("online_params/").removeprefix("online_state/").rpartition("/")
    if match := re.fullmatch(r"(.*)/~/(mean|var)_ema", path):
        path, kind = match[1], f"running_{match[2]}" if kind == "average" else ""
    kind = _HAIKU.get(kind, kind if kind.startswith("running_") else "")
    if not kind:
        return None
    if match := re.fullmatch(r"res_net\d+/~/initial_(conv|batchnorm)", path):
        return f"{'conv1' if match[1] == 'conv' else 'bn1'}.{kind}"
    pattern = r"res_net\d+/~/block_group_(\d)/~/block_(\d+)/~/(shortcut_)?(conv|batchnorm)(?:_(\d))?"
    match = re.fullmatch(pattern, path)
    if match is None:
        return None
    convolution = match[4] == "conv"
    unit = (
        f"downsample.{0 if convolution else 1}" if match[3] else f"{'conv' if convolution else 'bn'}{int(match[5]) + 1}"
    )
    return f"layer{int(match[1]) + 1}.{match[2]}.{unit}.{kind}"


_TENSORFLOW = {
    "kernel": "weight",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def by_position(names: Iterable[str]) -> dict[str, str]:
    """SimCLR's variables, numbered in the order of their creation, to torchvision's names.

    google-research/simclr resnet.py@383d4143: the stem, then each block with its projection first. Names are
    `base_model/conv2d_7/kernel` and `base_model/batch_normalization_7/gamma`; the first has no number.
    """
    found: dict[tuple[str, int], list[tuple[str, str]]] = {}
    for name in names:
        match = re.fullmatch(r"base_model/(conv2d|batch_normalization)(?:_(\d+))?/(\w+)", name)
        if match and match[3] in _TENSORFLOW:
            found.setdefault((match[1], int(match[2] or 0)), []).append((name, _TENSORFLOW[match[3]]))
    convolutions = sorted(number for kind, number in found if kind == "conv2d")
    units = _units_in_order(len(convolutions))
    if convolutions and not units:
        raise UserError(
            f"base_model/conv2d: {len(convolutions)} convolutions are no plain ResNet of SimCLR; "
            "its selective-kernel networks (sk1) are another architecture, use an sk0 checkpoint"
        )
    result: dict[str, str] = {}
    for kind, part in (("conv2d", 0), ("batch_normalization", 1)):
        numbers = sorted(number for found_kind, number in found if found_kind == kind)
        for number, unit in zip(numbers, units, strict=False):
            result |= {name: f"{unit[part]}.{tensor}" for name, tensor in found[kind, number]}
    return result


def _units_in_order(count: int) -> list[tuple[str, str]]:
    """(convolution, batch norm) in SimCLR's order of creation, for the depth that has `count` convolutions."""
    from converters.architecture import BASIC_DEPTHS, BLOCKS

    for depth, blocks in BLOCKS.items():
        basic = depth in BASIC_DEPTHS
        units = [("conv1", "bn1")]
        for stage, number in enumerate(blocks, start=1):
            for block in range(number):
                name = f"layer{stage}.{block}"
                if block == 0:
                    units.append((f"{name}.downsample.0", f"{name}.downsample.1"))
                units += [(f"{name}.conv{i}", f"{name}.bn{i}") for i in ((1, 2) if basic else (1, 2, 3))]
        # WHY: ResNet-34 and -50 have the same blocks, but not the same number of convolutions.
        if len(units) == count:
            return units
    return []
