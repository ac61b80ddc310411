"""The naming schemes of a ResNet's parts: where a network begins in a file, and its tensors' names in torchvision's.

All rules read dotted paths: dictionary keys and module names joined by dots, wrappers left out (`fold`).
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from converters.architecture import BASIC_DEPTHS, BLOCKS
from runs.errors import UserError

# What wrappers put into the path of every tensor inside them: DistributedDataParallel and AveragedModel, torch.compile,
# FSDP, Lightning's strategies, activation checkpointing.
WRAPPERS = (
    "module", "_orig_mod", "_fsdp_wrapped_module", "_forward_module", "_checkpoint_wrapped_module", "_fpw_module",
)  # fmt: skip
_WRAPPER = re.compile(rf"(?<![^.])({'|'.join(WRAPPERS)})\.")
# JAX keeps weights and statistics in two trees of the same names.
_TREES = ((re.compile(r"(?<![^.])(params|batch_stats)\."), ""), (re.compile(r"_(params|state)\.(?=res_net)"), "."))


def fold(path: str) -> str:
    """`state_dict/module.encoder._orig_mod.conv1.weight` -> `state_dict.encoder.conv1.weight`."""
    path = _WRAPPER.sub("", path.replace("/", "."))
    for pattern, replacement in _TREES:
        path = pattern.sub(replacement, path)
    return path


def folded(paths: Iterable[str]) -> dict[str, str]:
    """Folded path -> path; where two would be one, each stays as it is."""
    found: dict[str, list[str]] = {}
    for path in paths:
        found.setdefault(fold(path), []).append(path)
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
        """Root -> {folded path: torchvision's name}, for every place where a network of this scheme may be."""
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


# Also a stem of several convolutions and norms of other kinds, which `architecture.recognise` refuses by name.
_PARTS = re.compile(r"(conv\d+|stem|bn1|gn1|norm1|layer[1-4]\.\d+)\.")


def torchvision(name: str) -> str | None:
    """`conv1.weight`, `layer1.0.bn2.bias`: as they are; `shortcut` (kuangliu's and SupContrast's) is `downsample`."""
    return name.replace(".shortcut.", ".downsample.") if _PARTS.match(name) else None


def sequential(names: Iterable[str]) -> dict[str, str]:
    """`4.0.conv1.weight` -> `layer1.0.conv1.weight`: the numbers of `nn.Sequential(*resnet.children())`.

    Which numbers the four stages have depends on what stands between stem and stages (activation, pooling).
    """
    names = list(names)
    stages = sorted({int(m[1]) for name in names if (m := re.match(r"(\d+)\.\d+\.conv1\.", name))})
    children = {str(number): f"layer{stage}" for stage, number in enumerate(stages, start=1)} | {
        "0": "conv1",
        "1": "bn1",
    }
    split = {name: name.partition(".") for name in names}
    return {name: f"{children[child]}.{rest}" for name, (child, _, rest) in split.items() if child in children}


def detectron2(name: str) -> str | None:
    """`res2.0.conv1.norm.weight` -> `layer1.0.bn1.weight`; detectron2/modeling/backbone/resnet.py@a59f0563."""
    name = re.sub(r"^(backbone\.bottom_up\.|backbone\.|roi_heads\.(?=res5\.\d))", "", name)
    if not re.match(r"stem\.conv\d\.|res[2-5]\.\d+\.", name):
        return None
    name = re.sub(r"^res(\d)\.", lambda match: f"layer{int(match[1]) - 1}.", name.removeprefix("stem."))
    name = name.replace("shortcut.norm.", "downsample.1.").replace("shortcut.weight", "downsample.0.weight")
    return torchvision(re.sub(r"\bconv(\d)\.norm\.", r"bn\1.", name))


_BLOB = re.compile(r"(?:(conv1|res_conv1)|res([2-5])_(\d+)_branch(1|2[abc]))_(w|b|bn_\w+)")
# detectron2/checkpoint/c2_model_loading.py@a59f0563, `convert_basic_c2_names`.
_AFFINE = {
    "s": "weight", "gamma": "weight", "b": "bias", "beta": "bias", "rm": "running_mean", "running_mean": "running_mean",
    "riv": "running_var", "running_var": "running_var",
}  # fmt: skip


def caffe2(name: str) -> str | None:
    """`res2_0_branch2a_bn_s` -> `layer1.0.bn1.weight`; detectron2/checkpoint/c2_model_loading.py@a59f0563."""
    match = _BLOB.fullmatch(name)
    if match is None:
        return None
    norm = match[5].startswith("bn_")
    kind = _AFFINE.get(match[5][3:]) if norm else {"w": "weight", "b": "bias"}[match[5]]
    if kind is None:
        return None
    if match[1]:
        return f"{'bn1' if norm else 'conv1'}.{kind}"
    block = f"layer{int(match[2]) - 1}.{match[3]}"
    if match[4] == "1":
        return f"{block}.downsample.{int(norm)}.{kind}"
    return f"{block}.{'bn' if norm else 'conv'}{'abc'.index(match[4][1]) + 1}.{kind}"


def _unit(norm: bool, shortcut: bool, number: int) -> str:
    return f"downsample.{int(norm)}" if shortcut else f"{'bn' if norm else 'conv'}{number + 1}"


def huggingface(name: str) -> str | None:
    """`encoder.stages.0.layers.1.layer.2.convolution.weight` -> `layer1.1.conv3.weight`.

    transformers src/transformers/models/resnet/modeling_resnet.py@00cbbe53; Flax has `kernel`, `scale`, `mean`, `var`.
    """
    path, _, kind = name.rpartition(".")
    kind = _FLAX.get(kind, kind)
    if match := re.fullmatch(r"embedder\.embedder\.(convolution|normalization)", path):
        return f"{'conv1' if match[1] == 'convolution' else 'bn1'}.{kind}"
    match = re.fullmatch(
        r"encoder\.stages\.(\d)\.layers\.(\d+)\.(shortcut|layer\.(?:layer_)?(\d))\.(convolution|normalization)", path
    )
    if match is None:
        return None
    unit = _unit(match[5] == "normalization", match[3] == "shortcut", int(match[4] or 0))
    return f"layer{int(match[1]) + 1}.{match[2]}.{unit}.{kind}"


_FLAX = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
_HAIKU = {"w": "weight", "scale": "weight", "offset": "bias", "mean": "running_mean", "var": "running_var"}


def haiku(name: str) -> str | None:
    """`res_net50.~.block_group_0.~.block_1.~.conv_2.w` -> `layer1.1.conv3.weight`.

    deepmind-research byol/utils/networks.py@500ffd89, and dm-haiku haiku/_src/nets/resnet.py for the blocks. The
    statistics are `….batchnorm_0.~.mean_ema.average`.
    """
    name = re.sub(r"\.~\.(mean|var)_ema\.average$", r".\1", name)
    block = r"block_group_(\d)\.~\.block_(\d+)\.~\.(shortcut_)?"
    pattern = rf"res_net\d+\.~\.(?:{block}|initial_)(conv|batchnorm)(?:_(\d))?\.(\w+)"
    match = re.fullmatch(pattern, name)
    if match is None or match[6] not in _HAIKU:
        return None
    unit = _unit(match[4] == "batchnorm", bool(match[3]), int(match[5] or 0))
    block = f"layer{int(match[1]) + 1}.{match[2]}." if match[1] else ""
    return f"{block}{unit}.{_HAIKU[match[6]]}"


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
    `conv2d_7.kernel` and `batch_normalization_7.gamma`; the first has no number.
    """
    found: dict[tuple[str, int], list[tuple[str, str]]] = {}
    for name in names:
        match = re.fullmatch(r"(conv2d|batch_normalization)(?:_(\d{1,6}))?\.(\w+)", name)
        if match and match[3] in _TENSORFLOW:
            found.setdefault((match[1], int(match[2] or 0)), []).append((name, _TENSORFLOW[match[3]]))
    convolutions = [number for kind, number in found if kind == "conv2d"]
    units = _units_in_order(len(convolutions))
    if not units:
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
    for depth, blocks in BLOCKS.items():
        units = [("conv1", "bn1")]
        for stage, number in enumerate(blocks, start=1):
            for block in range(number):
                name = f"layer{stage}.{block}"
                if block == 0:
                    units.append((f"{name}.downsample.0", f"{name}.downsample.1"))
                units += [
                    (f"{name}.conv{i}", f"{name}.bn{i}") for i in ((1, 2) if depth in BASIC_DEPTHS else (1, 2, 3))
                ]
        # WHY: ResNet-34 and -50 have the same blocks, but not the same number of convolutions.
        if len(units) == count:
            return units
    return []


_ROOT = r"(?P<root>(?:.*?\.)?)"
SCHEMES = (
    Scheme("torchvision", rf"{_ROOT}layer1\.0\.conv1\.", _each(torchvision)),
    Scheme("sequential", rf"{_ROOT}\d+\.0\.conv1\.", sequential),
    Scheme("huggingface", rf"{_ROOT}encoder\.stages\.0\.layers\.0\.layer\.0\.convolution\.weight", _each(huggingface)),
    Scheme(
        "flax",
        rf"{_ROOT}encoder\.stages\.0\.layers\.0\.layer\.(?:layer_)?0\.convolution\.kernel$",
        _each(huggingface),
        "HWIO",
    ),
    Scheme("haiku", rf"{_ROOT}res_net\d+\.~\.block_group_0\.~\.block_0\.~\.conv_0\.w$", _each(haiku), "HWIO"),
    Scheme("tensorflow", rf"{_ROOT}conv2d\.kernel$", by_position, "HWIO"),
    Scheme("detectron2", rf"{_ROOT}(?:backbone\.(?:bottom_up\.)?)?res2\.0\.conv1\.", _each(detectron2)),
    Scheme("caffe2", rf"{_ROOT}res2_0_branch2a_w$", _each(caffe2), folded=True),
)
