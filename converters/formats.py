"""The public checkpoint layouts, one entry each: where the backbone is, what its tensors are called, what else is in.

Recognition needs no hint. A format matches a file if its container is there, the container holds a stem under the
format's prefix, every other tensor is one that the format knows, and what the format requires is present. The table in
docs/formats.md is generated from these entries (`python -m converters.documentation`).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from converters import renames

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # torchvision's normalisation of images in [0, 1], RGB
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class InputConvention:
    """What a network expects at its input.

    Attributes:
        channels: "RGB" or "BGR".
        mean, std: of images in [0, 1], in the order of `channels`.
        stride_in_1x1: a bottleneck's stride lies in its first 1x1 convolution (MSRA), not in the 3x3 (torchvision).
    """

    channels: str = "RGB"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    stride_in_1x1: bool = False

    def detectron2(self) -> dict[str, Any]:
        """The same in Detectron2's terms: INPUT.FORMAT, PIXEL_MEAN and PIXEL_STD in 0..255, RESNETS.STRIDE_IN_1X1."""
        return {
            "format": self.channels,
            "pixel_mean": [round(255 * value, 6) for value in self.mean],
            "pixel_std": [round(255 * value, 6) for value in self.std],
            "stride_in_1x1": self.stride_in_1x1,
        }

    @classmethod
    def from_detectron2(cls, values: dict[str, Any]) -> "InputConvention":
        """Read what `detectron2()` wrote; raises KeyError, TypeError or ValueError for anything else."""
        mean, std = (tuple(float(value) / 255 for value in values[key]) for key in ("pixel_mean", "pixel_std"))
        if len(mean) != 3 or len(std) != 3 or values["format"] not in ("RGB", "BGR"):
            raise ValueError("input convention")
        return cls(values["format"], mean, std, bool(values["stride_in_1x1"]))


# He et al.'s Caffe models: BGR, 0..255 with the mean subtracted and no division.
MSRA_INPUT = InputConvention("BGR", IMAGENET_MEAN[::-1], (1 / 255, 1 / 255, 1 / 255), stride_in_1x1=True)
# google-research/simclr data_util.py@383d4143, `preprocess_image`: images in [0, 1] and nothing else.
UNIT_INPUT = InputConvention("RGB", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@dataclass(frozen=True)
class Format:
    """One public layout. Patterns are regular expressions on names inside the container, matched from the start.

    Attributes:
        name: what `--format` takes.
        title: the projects that write it.
        source: repository, file and commit where the names come from.
        containers: where in the file the tensors may lie, "" for the top level.
        prefixes: what stands before the backbone's names; one that all tensors share through DistributedDataParallel
            (`module.`) is not part of it.
        drop: tensors that are not the backbone.
        requires: patterns that must each match some tensor; without them, the layout alone does not tell the project.
        entries: names that must be at the top level of the file.
        without: names that must not be there.
        aliases: prefixes under which the project stores the same backbone once more; the values must agree.
        rename: the name behind the prefix -> torchvision's name.
        rename_all: in place of `rename`, for layouts whose names only mean something together.
        kernels: "OIHW" as torch, or "HWIO" as TensorFlow and JAX.
        statistics: whether the batch norms have running statistics; the MSRA weights have them folded in.
        input: what the network expects at its input.
        caveat: what a conversion cannot carry.
    """

    name: str
    title: str
    source: str
    containers: tuple[str, ...]
    prefixes: tuple[str, ...] = ("",)
    drop: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    entries: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    rename: renames.Rename = renames.torchvision
    rename_all: Callable[[Any], dict[str, str]] | None = None
    kernels: str = "OIHW"
    statistics: bool = True
    input: InputConvention = field(default_factory=InputConvention)
    caveat: str = ""

    def mapping(self, names: list[str]) -> dict[str, str]:
        """Name in the container -> torchvision's name, for every backbone tensor among `names`."""
        if self.rename_all is not None:
            return self.rename_all(names)
        found: dict[str, str] = {}
        for name in names:
            prefix = next((prefix for prefix in self.prefixes if name.startswith(prefix)), None)
            renamed = None if prefix is None else self.rename(name[len(prefix) :])
            if renamed is not None:
                found[name] = renamed
        return found

    def unknown(self, names: list[str], mapping: dict[str, str]) -> list[str]:
        """The tensors that are neither backbone nor known to be something else."""
        known = re.compile("|".join([*self.drop, *map(re.escape, self.aliases), "$^"]))
        return [name for name in names if name not in mapping and not known.match(name)]


FORMATS: tuple[Format, ...] = (
    Format(
        name="this-project",
        title="`python -m pretrain`, every method",
        source="pretrain/checkpoint.py",
        containers=("state_dict",),
        prefixes=("encoder.", "encoder_q."),
        # Methods differ in what stands beside the encoder; ours all carry the entry that an exact resume needs.
        drop=(r".*",),
        entries=("epoch", "arch", "resume"),
    ),
    Format(
        name="simsiam",
        title="SimSiam, official",
        source="facebookresearch/simsiam simsiam/builder.py@a7bc1772",
        containers=("state_dict",),
        without=("resume",),
        prefixes=("encoder.",),
        drop=(r"encoder\.fc\.", r"predictor\.\d"),
    ),
    Format(
        name="moco",
        title="MoCo v1 and v2, PCL",
        source="facebookresearch/moco moco/builder.py@4397a04e; salesforce/PCL pcl/builder.py@964da1fb",
        containers=("state_dict",),
        without=("resume",),
        prefixes=("encoder_q.",),
        # A head with batch norm is SimSiam's under MoCo's prefix, not MoCo's.
        drop=(r"encoder_q\.fc\.([02]\.)?(weight|bias)$", r"encoder_k\.", r"queue(_ptr)?$"),
    ),
    Format(
        name="moco-v3",
        title="MoCo v3",
        source="facebookresearch/moco-v3 moco/builder.py@c349e6e2",
        containers=("state_dict",),
        prefixes=("base_encoder.",),
        drop=(r"base_encoder\.fc\.", r"momentum_encoder\.", r"predictor\."),
    ),
    Format(
        name="swav",
        title="SwAV, DeepCluster v2, SeLa v2",
        source="facebookresearch/swav src/resnet50.py@06b1b7cb",
        containers=("", "state_dict"),
        drop=(r"projection_head\.", r"prototypes\."),
        requires=(r"(projection_head|prototypes)\.",),
    ),
    Format(
        name="barlowtwins-vicreg",
        title="Barlow Twins and VICReg, full checkpoints (their bare backbones are `torchvision`)",
        source="facebookresearch/barlowtwins main.py@8e8d284c; facebookresearch/vicreg main_vicreg.py@4e12602f",
        containers=("model",),
        prefixes=("backbone.",),
        drop=(r"backbone\.fc\.", r"projector\.", r"bn\."),
    ),
    Format(
        name="pixpro",
        title="PixPro",
        source="zdaxie/PixPro contrast/models/PixPro.py@e390d6b6",
        containers=("model",),
        prefixes=("encoder.",),
        drop=(
            r"encoder\.(fc\d?|bn2)\.",
            r"encoder_k\.",
            r"projector(_instance)?(_k)?\.",
            r"predictor\.",
            r"value_transform\.",
        ),
        requires=(r"encoder_k\.", r"value_transform\.|projector_instance\."),
    ),
    Format(
        name="soco",
        title="SoCo (C4, FPN, FPN*)",
        source="hologerry/SoCo contrast/models/SoCo_C4.py@2be1229a",
        containers=("model", "model_ema"),
        prefixes=("encoder.",),
        drop=(
            r"encoder\.(fc\d?|bn2)\.",
            r"encoder_k\.",
            r"(projector|neck|head)(_k)?\.",
            r"predictor\.",
            r"queue(_ptr)?$",
        ),
        requires=(r"encoder_k\.", r"predictor\.", r"queue|neck\."),
    ),
    Format(
        name="pycontrast",
        title="PyContrast: InfoMin, InsDis, PIRL, MoCo",
        source="HobbitLong/PyContrast pycontrast/networks/build_backbone.py@84f94eab",
        containers=("model", "model_ema"),
        prefixes=("encoder.",),
        drop=(r"head(_jig)?\.",),
        requires=(r"head(_jig)?\.",),
    ),
    Format(
        name="openmmlab",
        title="DenseCL, OpenSelfSup, MMSelfSup, MMPretrain (extracted backbones are `torchvision`)",
        source=(
            "WXinlong/DenseCL openselfsup/models/densecl.py@b64bbb6e; "
            "open-mmlab/mmselfsup mmselfsup/models/algorithms@db861f30"
        ),
        containers=("state_dict",),
        prefixes=("backbone.",),
        drop=(
            r"(neck|head|encoder_k|target_net|data_preprocessor|memory_bank)\.",
            r"(encoder_q|online_net)\.1\.",
            r"queue2?(_ptr)?$",
        ),
        requires=(r"(neck|head|encoder_q|online_net|data_preprocessor)\.",),
        aliases=("encoder_q.0.", "online_net.0."),
    ),
    Format(
        name="solo-learn",
        title="solo-learn",
        source="vturrisi/solo-learn solo/methods/base.py@9187ea39",
        containers=("state_dict",),
        prefixes=("backbone.", "encoder."),
        drop=(
            r"(backbone|encoder)\.fc\.",
            r"momentum_(backbone|encoder|projector|classifier|prototypes|head)\.",
            r"(projector|predictor|classifier|prototypes|head|whitening|knn|dino_loss_func)\b",
            r"queue\w*$",
        ),
        requires=(r"classifier\.",),
        caveat="its CIFAR stem pads by 2, this project's by 1: features of `_cifar` networks differ at the border",
    ),
    Format(
        name="lightly",
        title="lightly",
        source="lightly-ai/lightly benchmarks/imagenet/resnet50/byol.py@e8d317fc",
        containers=("state_dict",),
        prefixes=("backbone.",),
        drop=(
            r"backbone\.fc\.",
            r"(projection|prediction)(_head|_mlp)(_momentum)?\.",
            r"(teacher|student|key|momentum)_\w+\.",
            r"backbone_momentum\.",
            r"(prototypes|queues?|online_classifier|knn_classifier|criterion)\b",
        ),
        requires=(r"(projection|prediction)(_head|_mlp)\.|online_classifier\.",),
    ),
    Format(
        name="lightly-sequential",
        title="lightly, backbones of `nn.Sequential(*children)` (integer names)",
        source="lightly-ai/lightly examples/pytorch_lightning/simsiam.py@e8d317fc",
        containers=("state_dict",),
        prefixes=("backbone.",),
        drop=(
            r"(projection|prediction)(_head|_mlp)(_momentum)?\.",
            r"(teacher|student|key|momentum)_\w+\.",
            r"backbone_momentum\.",
            r"(prototypes|queues?|online_classifier|knn_classifier|criterion)\b",
        ),
        rename=renames.sequential,
    ),
    Format(
        name="vissl",
        title="VISSL",
        source="facebookresearch/vissl vissl/models/trunks/resnext.py@09270ed2",
        containers=("classy_state_dict/base_model/model/trunk", "model_state_dict", ""),
        prefixes=("_feature_blocks.",),
    ),
    Format(
        name="patrickhua",
        title="PatrickHua/SimSiam",
        source="PatrickHua/SimSiam models/simsiam.py@75a7c513",
        containers=("state_dict",),
        prefixes=("backbone.",),
        drop=(r"projector\.", r"encoder\.1\.", r"predictor\."),
        requires=(r"encoder\.0\.",),
        aliases=("encoder.0.",),
        rename=renames.shortcut,
    ),
    Format(
        name="taoyang1122",
        title="taoyang1122/pytorch-SimSiam",
        source="taoyang1122/pytorch-SimSiam models/simsiam.py@3c335cd5",
        containers=("state_dict",),
        prefixes=("features.",),
        drop=(r"projection\.", r"prediction\."),
        rename=renames.sequential,
    ),
    Format(
        name="lightning-bolts",
        title="Lightning Bolts: SimSiam, BYOL",
        source="Lightning-Universe/lightning-bolts src/pl_bolts/models/self_supervised/byol/models.py@34958a88",
        containers=("state_dict",),
        prefixes=("online_network.encoder.",),
        drop=(
            r"online_network\.(encoder\.fc|projector)\.",
            r"target_network\.",
            r"predictor\.",
            r"non_linear_evaluator\.",
        ),
    ),
    Format(
        name="lightning-bolts-simclr",
        title="Lightning Bolts: SimCLR",
        source=(
            "Lightning-Universe/lightning-bolts src/pl_bolts/models/self_supervised/simclr/simclr_module.py@34958a88"
        ),
        containers=("state_dict",),
        prefixes=("encoder.",),
        drop=(r"encoder\.fc\.", r"projection\.", r"non_linear_evaluator\."),
        requires=(r"projection\.",),
    ),
    Format(
        name="lightning-bolts-swav",
        title="Lightning Bolts: SwAV",
        source="Lightning-Universe/lightning-bolts src/pl_bolts/models/self_supervised/swav/swav_resnet.py@34958a88",
        containers=("state_dict",),
        prefixes=("model.",),
        drop=(r"model\.(projection_head|prototypes)\.", r"non_linear_evaluator\."),
    ),
    Format(
        name="dino",
        title="DINO ResNet-50, full checkpoints: the teacher (its bare backbone is `torchvision`)",
        source="facebookresearch/dino main_dino.py@7c446df5",
        containers=("teacher",),
        prefixes=("backbone.",),
        drop=(r"head\.",),
        entries=("student", "teacher"),
    ),
    Format(
        name="torchvision",
        title="torchvision, timm, PyTorch's ImageNet example, and bare backbones of any project",
        source=(
            "pytorch/vision torchvision/models/resnet.py; "
            "huggingface/pytorch-image-models timm/models/resnet.py@aa4b5850"
        ),
        containers=("", "state_dict", "model"),
        drop=(r"fc\.",),
    ),
    Format(
        name="huggingface",
        title="Hugging Face transformers ResNet",
        source="huggingface/transformers src/transformers/models/resnet/modeling_resnet.py@00cbbe53",
        containers=("",),
        drop=(r"classifier\.1\.",),
        rename=renames.huggingface,
        caveat="a configuration with `downsample_in_bottleneck` or `downsample_in_first_stage` is another network",
    ),
    Format(
        name="huggingface-flax",
        title="Hugging Face transformers ResNet in Flax (msgpack)",
        source="huggingface/transformers src/transformers/models/resnet/modeling_flax_resnet.py@0006bb80",
        containers=("",),
        drop=(r"params/classifier/",),
        requires=(r"params/", r"batch_stats/"),
        rename=renames.huggingface_flax,
        kernels="HWIO",
    ),
    Format(
        name="byol",
        title="BYOL, official (Haiku)",
        source="google-deepmind/deepmind-research byol/utils/networks.py@500ffd89",
        containers=("experiment_state", ""),
        drop=(
            r"target_(params|state)/",
            r"opt_state",
            r"online_(params|state)/(projector|predictor|classifier)/",
            r"online_state/.*/(mean|var)_ema/(hidden|counter)$",
            r"online_params/res_net\d+/~/logits/",
        ),
        rename=renames.haiku,
        kernels="HWIO",
        caveat="TensorFlow's SAME padding is one pixel off from torch's for stride 2, in the original network only",
    ),
    Format(
        name="simclr",
        title="SimCLR v1 and v2, official (TensorFlow variables exported to NumPy)",
        source="google-research/simclr resnet.py@383d4143",
        containers=("",),
        drop=(
            r".*/(Momentum|LARSOptimizer)$",
            r"(base_model/)?head_(contrastive|supervised)/",
            r"ema_model/",
            r"global_step$",
        ),
        requires=(r"base_model/conv2d/kernel$",),
        rename_all=renames.by_position,
        kernels="HWIO",
        input=UNIT_INPUT,
        caveat="its max-pooling pads SAME, one pixel off from torch's; selective-kernel networks (sk1) are refused",
    ),
    Format(
        name="detectron2",
        title="Detectron2 (this project's output, MoCo's and other converters' pkl, trained detectors)",
        source="facebookresearch/detectron2 detectron2/modeling/backbone/resnet.py@a59f0563",
        containers=("model",),
        drop=(
            r"stem\.fc\.",
            r"(linear|fc)\.",
            r"pixel_(mean|std)$",
            r"(proposal_generator|sem_seg_head)\.",
            r"backbone\.(fpn_|top_block)",
            r"roi_heads\.(box|mask|keypoint|res5\.norm)",
        ),
        requires=(r"(backbone\.(bottom_up\.)?)?stem\.conv1\.",),
        rename=renames.detectron2,
        caveat="a pkl without this project's provenance is taken for RGB with the stride in the 3x3 convolution",
    ),
    Format(
        name="msra",
        title="MSRA / Caffe2 R-50.pkl, R-101.pkl",
        source="facebookresearch/detectron2 detectron2/checkpoint/c2_model_loading.py@a59f0563",
        containers=("", "blobs"),
        drop=(r"(fc1000|pred)_[wb]$", r".*_momentum$", r"lr$", r"conv1_b$"),
        rename=renames.caffe2,
        statistics=False,
        input=MSRA_INPUT,
        caveat="batch-norm statistics are folded into scale and bias; the torchvision target cannot hold its stride",
    ),
)


def by_name(name: str) -> Format | None:
    """The entry called `name`, or None."""
    return next((entry for entry in FORMATS if entry.name == name), None)
