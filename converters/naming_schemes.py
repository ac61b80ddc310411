"""The naming schemes of a ResNet's parts: where a network begins in a file, and its tensors' names in torchvision's.

All rules read dotted paths: dictionary keys and module names joined by dots, wrappers left out (`plain_path`).
"""

import itertools
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from converters.architecture import BLOCKS, Architecture, norm_of
from runs.errors import UserError

# What wrappers put into the path of every tensor inside them: DistributedDataParallel and AveragedModel, torch.compile,
# FSDP, Lightning's strategies, activation checkpointing.
_WRAPPER = re.compile(
    r"(?<![^.])(module|_orig_mod|_fsdp_wrapped_module|_forward_module|_checkpoint_wrapped_module|_fpw_module)\."
)
# JAX keeps weights and statistics in two trees of the same names.
_TREES = ((re.compile(r"(?<![^.])(params|batch_stats)\."), ""), (re.compile(r"_(params|state)\.(?=res_net)"), "."))


def plain_path(path: str) -> str:
    """`state_dict/module.encoder._orig_mod.conv1.weight` -> `state_dict.encoder.conv1.weight`."""
    path = _WRAPPER.sub("", path.replace("/", "."))
    for pattern, replacement in _TREES:
        path = pattern.sub(replacement, path)
    return path


def path_by_plain_path(paths: Iterable[str]) -> dict[str, str]:
    """Plain path -> path; where two would be one, each stays as it is."""
    found: dict[str, list[str]] = {}
    for path in paths:
        found.setdefault(plain_path(path), []).append(path)
    return {name if len(same) == 1 else path.replace("/", "."): path for name, same in found.items() for path in same}


@dataclass(frozen=True)
class Scheme:
    """How one family of code names the parts of a ResNet.

    Attributes:
        name: of the family.
        anchor: matches a tensor of the first block; its group `root` is the path before the network's own names.
        rename: the names behind the root -> {name: torchvision's name} for those that are the network's.
        kernels: "OIHW" as torch, or "HWIO" as TensorFlow and JAX.
        folded: whether batch norms may lack statistics (they are folded into scale and bias).
    """

    name: str
    anchor: str
    rename: Callable[[Iterable[str]], dict[str, str]]
    kernels: str = "OIHW"
    folded: bool = False

    def networks(self, names: Iterable[str]) -> dict[str, dict[str, str]]:
        """Root -> {plain path: torchvision's name}, for every place where a network of this scheme may be."""
        names = list(names)
        roots = dict.fromkeys(match["root"] for name in names if (match := re.match(self.anchor, name)))
        if len(roots) > MAX_NETWORKS:
            raise UserError(f"more than {MAX_NETWORKS} networks, which no checkpoint has; give one of them")
        found = {}
        for root in roots:
            inside = {name[len(root) :]: name for name in names if name.startswith(root)}
            found[root] = {inside[name]: renamed for name, renamed in self.rename(inside).items()}
        return found


# Every network is looked at in full.
MAX_NETWORKS = 64


def _each(rename: Callable[[str], str | None]) -> Callable[[Iterable[str]], dict[str, str]]:
    return lambda names: {name: renamed for name in names if (renamed := rename(name)) is not None}


# Also a stem of several convolutions and norms of other kinds, which `architecture.recognise_arch` refuses by name.
_PARTS = re.compile(r"(conv\d+|stem|bn1|gn1|norm1|layer[1-4]\.\d+)\.")


def from_torchvision(name: str) -> str | None:
    """`conv1.weight`, `layer1.0.bn2.bias`: as they are.

    `shortcut` (kuangliu's and SupContrast's) is `downsample`, `bn1._mean` (Paddle's) is `bn1.running_mean`.
    """
    if not _PARTS.match(name):
        return None
    name = name.replace("._mean", ".running_mean").replace("._variance", ".running_var")
    return name.replace(".shortcut.", ".downsample.")


def _from_sequential(names: Iterable[str]) -> dict[str, str]:
    """`4.0.conv1.weight` -> `layer1.0.conv1.weight`: the numbers of `nn.Sequential(*resnet.children())`.

    The numbers of the four stages depend on the modules between stem and stages (activation, pooling).
    """
    names = list(names)
    stages = sorted({int(m[1]) for name in names if (m := re.match(r"(\d+)\.\d+\.conv1\.", name))})
    children = {str(n): f"layer{stage}" for stage, n in enumerate(stages, start=1)} | {"0": "conv1", "1": "bn1"}
    split = {name: name.partition(".") for name in names}
    return {name: f"{children[child]}.{rest}" for name, (child, _, rest) in split.items() if child in children}


# What other libraries call a convolution's and a norm's tensors.
_TENSORS = {
    "w": "weight", "kernel": "weight", "scale": "weight", "gamma": "weight", "s": "weight",
    "b": "bias", "offset": "bias", "beta": "bias",
    "mean": "running_mean", "moving_mean": "running_mean", "rm": "running_mean",
    "var": "running_var", "moving_variance": "running_var", "riv": "running_var",
}  # fmt: skip


def _renamer(pattern: str, first_stage: int, units: str) -> Callable[[Iterable[str]], dict[str, str]]:
    """Rename what matches `pattern`; the first stage has the number `first_stage`, a block's convolutions have `units`.

    The pattern's groups are `stage` and `block` (not in the stem), `unit` or `shortcut`, `norm` and `tensor`.
    """
    compiled = re.compile(pattern)

    def rename(name: str) -> str | None:
        match = compiled.fullmatch(name)
        if match is None:
            return None
        stage, norm, number = match["stage"], bool(match["norm"]), units.index(match["unit"] or units[0]) + 1
        unit = f"downsample.{int(norm)}" if match["shortcut"] else f"{'bn' if norm else 'conv'}{number}"
        block = f"layer{int(stage) - first_stage + 1}.{match['block']}." if stage else ""
        return f"{block}{unit}.{_TENSORS.get(match['tensor'], match['tensor'])}"

    return _each(rename)


# transformers src/transformers/models/resnet/modeling_resnet.py@00cbbe53, modeling_flax_resnet.py@0006bb80:
# `encoder.stages.0.layers.1.layer.2.convolution.weight` is `layer1.1.conv3.weight`.
_from_huggingface = _renamer(
    r"(?:embedder\.embedder|encoder\.stages\.(?P<stage>\d)\.layers\.(?P<block>\d+)\."
    r"(?:(?P<shortcut>shortcut)|layer\.(?:layer_)?(?P<unit>\d)))\.(?:convolution|(?P<norm>normalization))\."
    r"(?P<tensor>\w+)",
    first_stage=0,
    units="0123456789",
)
# deepmind-research byol/utils/networks.py@500ffd89, and dm-haiku haiku/_src/nets/resnet.py for the blocks:
# `res_net50.~.block_group_0.~.block_1.~.conv_2.w` is `layer1.1.conv3.weight`.
_from_haiku = _renamer(
    r"res_net\d+\.~\.(?:block_group_(?P<stage>\d)\.~\.block_(?P<block>\d+)\.~\.(?P<shortcut>shortcut_)?|initial_)"
    r"(?:conv|(?P<norm>batchnorm))(?:_(?P<unit>\d))?\.(?:~\.)?(?P<tensor>w|scale|offset|mean|var)(?:_ema\.average)?",
    first_stage=0,
    units="0123456789",
)
# detectron2/checkpoint/c2_model_loading.py@a59f0563, `convert_basic_c2_names`: `res2_0_branch2a_bn_s` is
# `layer1.0.bn1.weight`.
from_caffe2 = _renamer(
    r"(?:(?:res_)?conv1|res(?P<stage>[2-5])_(?P<block>\d+)_(?:(?P<shortcut>branch1)|branch2(?P<unit>[abc])))_"
    r"(?P<norm>bn_)?(?P<tensor>w|b|s|gamma|beta|rm|running_mean|riv|running_var)",
    first_stage=2,
    units="abc",
)


def _from_detectron2(name: str) -> str | None:
    """`res2.0.conv1.norm.weight` -> `layer1.0.bn1.weight`; detectron2/modeling/backbone/resnet.py@a59f0563."""
    name = re.sub(r"^(backbone\.bottom_up\.|backbone\.|roi_heads\.(?=res5\.\d))", "", name)
    if not re.match(r"stem\.conv\d\.|res[2-5]\.\d+\.", name):
        return None
    name = re.sub(r"^res(\d)\.", lambda match: f"layer{int(match[1]) - 1}.", name.removeprefix("stem."))
    name = name.replace("shortcut.norm.", "downsample.1.").replace("shortcut.weight", "downsample.0.weight")
    return from_torchvision(re.sub(r"\bconv(\d)\.norm\.", r"bn\1.", name))


def to_detectron2(name: str) -> str:
    """The reverse: `layer2.0.bn1.weight` -> `res3.0.conv1.norm.weight`."""
    name = re.sub(r"^(conv1|bn1)\.", r"stem.\1.", name)
    name = re.sub(r"^layer(\d)", lambda match: f"res{int(match[1]) + 1}", name)
    name = re.sub(r"\bbn(\d)\.", r"conv\1.norm.", name)
    return name.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")


def _from_creation_order(names: Iterable[str]) -> dict[str, str]:
    """SimCLR's variables, numbered in the order of their creation, to torchvision's names.

    google-research/simclr resnet.py@383d4143: the stem, then each block with its projection first. Names are
    `conv2d_7.kernel` and `batch_normalization_7.gamma`; the first has no number.
    """
    found: dict[str, dict[int, dict[str, str]]] = {"conv2d": {}, "batch_normalization": {}}
    for name in names:
        match = re.fullmatch(r"(conv2d|batch_normalization)(?:_(\d{1,6}))?\.(\w+)", name)
        if match and match[3] in _TENSORS:
            found[match[1]].setdefault(int(match[2] or 0), {})[name] = _TENSORS[match[3]]
    units = _in_order_of_creation(len(found["conv2d"]))
    result: dict[str, str] = {}
    for kind, variables in found.items():
        for unit, (_, tensors) in zip(units, sorted(variables.items()), strict=False):
            part = unit if kind == "conv2d" else norm_of(unit)
            result |= {name: f"{part}.{tensor}" for name, tensor in tensors.items()}
    return result


def _in_order_of_creation(count: int) -> list[str]:
    """The convolutions of the depth that has `count`, each block's projection first."""
    for depth in BLOCKS:
        shapes = Architecture(depth).shapes
        convolutions = [name.removesuffix(".weight") for name, shape in shapes.items() if len(shape) == 4]
        # ResNet-34 and -50 have the same blocks, but not the same number of convolutions.
        if len(convolutions) == count:
            blocks = itertools.groupby(convolutions, key=lambda name: name.split(".")[:2])
            return [name for _, block in blocks for name in sorted(block, key=lambda name: "downsample" not in name)]
    raise UserError(
        f"base_model/conv2d: {count} convolutions are no plain ResNet of SimCLR; "
        "its selective-kernel networks (sk1) are another architecture, use an sk0 checkpoint"
    )


_ROOT = r"(?P<root>(?:.*?\.)?)"
_HUGGINGFACE = rf"{_ROOT}encoder\.stages\.0\.layers\.0\.layer\.(?:layer_)?0\.convolution\."
SCHEMES = (
    Scheme("torchvision", rf"{_ROOT}layer1\.0\.conv1\.", _each(from_torchvision)),
    Scheme("sequential", rf"{_ROOT}\d+\.0\.conv1\.", _from_sequential),
    Scheme("huggingface", rf"{_HUGGINGFACE}weight", _from_huggingface),
    Scheme("flax", rf"{_HUGGINGFACE}kernel$", _from_huggingface, "HWIO"),
    Scheme("haiku", rf"{_ROOT}res_net\d+\.~\.block_group_0\.~\.block_0\.~\.conv_0\.w$", _from_haiku, "HWIO"),
    Scheme("tensorflow", rf"{_ROOT}conv2d\.kernel$", _from_creation_order, "HWIO"),
    Scheme("detectron2", rf"{_ROOT}(?:backbone\.(?:bottom_up\.)?)?res2\.0\.conv1\.", _each(_from_detectron2)),
    Scheme("caffe2", rf"{_ROOT}res2_0_branch2a_w$", from_caffe2, folded=True),
)
