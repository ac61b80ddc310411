"""The public checkpoint layouts that were tested, one entry each, and what their tensors cannot say.

A network is recognised by its tensors (`recognition.py`); an entry gives it its project's name, the input
convention and what a conversion cannot carry. The table in docs/formats.md is generated from these entries
(`python -m converters.documentation`).
"""

from dataclasses import dataclass, field
from typing import Any

from runs import plugins

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # torchvision's normalisation of images in [0, 1], RGB
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class InputConvention:
    """What a network expects at its input.

    Attributes:
        channels: "RGB" or "BGR".
        mean, std: of images in [0, 1], in the order of `channels`.
        stride_in_1x1: a bottleneck's stride lies in its first 1x1 convolution (MSRA), not in the 3x3 (torchvision).
        stem_padding: of a 3x3 stem, in pixels; solo-learn's pads by 2.
    """

    channels: str = "RGB"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    stride_in_1x1: bool = False
    stem_padding: int = 1

    def detectron2(self) -> dict[str, Any]:
        """The same in Detectron2's terms: INPUT.FORMAT, PIXEL_MEAN and PIXEL_STD in 0..255, RESNETS.STRIDE_IN_1X1."""
        return {
            "format": self.channels,
            "pixel_mean": [round(255 * value, 6) for value in self.mean],
            "pixel_std": [round(255 * value, 6) for value in self.std],
            "stride_in_1x1": self.stride_in_1x1,
            **({"stem_padding": self.stem_padding} if self.stem_padding != 1 else {}),
        }

    @classmethod
    def from_detectron2(cls, values: dict[str, Any]) -> "InputConvention":
        """Read what `detectron2()` wrote; raises KeyError, TypeError or ValueError for anything else."""
        mean, std = (tuple(float(value) / 255 for value in values[key]) for key in ("pixel_mean", "pixel_std"))
        if len(mean) != 3 or len(std) != 3 or values["format"] not in ("RGB", "BGR"):
            raise ValueError("input convention")
        return cls(values["format"], mean, std, bool(values["stride_in_1x1"]), int(values.get("stem_padding", 1)))


# He et al.'s Caffe models: BGR, 0..255 with the mean subtracted and no division.
MSRA_INPUT = InputConvention("BGR", IMAGENET_MEAN[::-1], (1 / 255, 1 / 255, 1 / 255), stride_in_1x1=True)
# google-research/simclr data_util.py@383d4143, `preprocess_image`: images in [0, 1] and nothing else.
UNIT_INPUT = InputConvention("RGB", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@dataclass(frozen=True)
class Format:
    """One public layout. All paths are folded: dictionary keys and module names joined by dots, without wrappers.

    Attributes:
        name: what `--format` takes.
        title: the projects that write it.
        source: repository, file and commit where the names come from.
        paths: where the network is in the file; empty for anywhere.
        beside: parts of paths that must each be in the file, to tell projects apart.
        schemes: how the network's parts may be named, see `converters.renames`.
        preferred: whether this network is meant although its path says that it is a copy.
        input: what the network expects at its input.
        cifar_padding: of the 3x3 stem in this project's networks.
        caveat: what a conversion cannot carry.
    """

    name: str
    title: str
    source: str
    paths: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    schemes: tuple[str, ...] = ("torchvision",)
    preferred: bool = False
    input: InputConvention = field(default_factory=InputConvention)
    cifar_padding: int = 1
    caveat: str = ""


_BOLTS = "Lightning-Universe/lightning-bolts src/pl_bolts/models/self_supervised"

# The first entry that fits gives its name: those with more beside the network come first.
# fmt: off
FORMATS: tuple[Format, ...] = (
    Format(
        "this-project", "`python -m pretrain`, every method", "pretrain/checkpoint.py",
        ("state_dict.encoder", "state_dict.encoder_q"), ("resume.",),
    ),
    Format(
        "patrickhua", "PatrickHua/SimSiam", "PatrickHua/SimSiam models/simsiam.py@75a7c513",
        ("state_dict.backbone",), ("encoder.0.",),
    ),
    Format(
        "pixpro", "PixPro", "zdaxie/PixPro contrast/models/PixPro.py@e390d6b6",
        ("model.encoder",), ("encoder_k.", "projector_instance."),
    ),
    Format(
        "soco", "SoCo (C4, FPN, FPN*)", "hologerry/SoCo contrast/models/SoCo_C4.py@2be1229a",
        ("model.encoder", "model_ema.encoder"), ("encoder_k.", "predictor."),
    ),
    Format(
        "pycontrast", "PyContrast: InfoMin, InsDis, PIRL, MoCo",
        "HobbitLong/PyContrast pycontrast/networks/build_backbone.py@84f94eab",
        ("model.encoder", "model_ema.encoder"), ("model.head",),
    ),
    Format(
        "moco", "MoCo v1 and v2, PCL",
        "facebookresearch/moco moco/builder.py@4397a04e; salesforce/PCL pcl/builder.py@964da1fb",
        ("state_dict.encoder_q",), ("encoder_k.", "queue"),
    ),
    Format(
        "moco-v3", "MoCo v3", "facebookresearch/moco-v3 moco/builder.py@c349e6e2", ("state_dict.base_encoder",),
    ),
    Format(
        "barlowtwins-vicreg", "Barlow Twins, VICReg, VICRegL, full checkpoints (bare backbones are `torchvision`)",
        "facebookresearch/barlowtwins main.py@8e8d284c; facebookresearch/vicreg main_vicreg.py@4e12602f; "
        "facebookresearch/VICRegL main_vicregl.py@803ae4c8",
        ("model.backbone",),
    ),
    Format(
        "swav", "SwAV, DeepCluster v2, SeLa v2", "facebookresearch/swav src/resnet50.py@06b1b7cb",
        ("", "state_dict"), ("prototypes.",),
    ),
    Format(
        "openmmlab", "DenseCL, OpenSelfSup, MMSelfSup, MMPretrain, MMDetection (extracted backbones are `torchvision`)",
        "WXinlong/DenseCL openselfsup/models/densecl.py@b64bbb6e; "
        "open-mmlab/mmselfsup mmselfsup/models/algorithms@db861f30",
        ("state_dict.backbone", "state_dict.encoder_q.0"), ("meta.",),
    ),
    Format(
        "solo-learn", "solo-learn", "vturrisi/solo-learn solo/methods/base.py@9187ea39",
        ("state_dict.backbone", "state_dict.encoder"), ("state_dict.classifier.", "pytorch-lightning_version."),
        cifar_padding=2,
    ),
    Format(
        "lightly", "lightly", "lightly-ai/lightly benchmarks/imagenet/resnet50/byol.py@e8d317fc",
        ("state_dict.backbone",), ("projection_head",), ("torchvision", "sequential"),
    ),
    Format(
        "simsiam", "SimSiam, official", "facebookresearch/simsiam simsiam/builder.py@a7bc1772",
        ("state_dict.encoder",), ("encoder.fc.", "predictor."),
    ),
    Format(
        "vissl", "VISSL", "facebookresearch/vissl vissl/models/trunks/resnext.py@09270ed2",
        ("classy_state_dict.base_model.model.trunk._feature_blocks", "model_state_dict._feature_blocks",
         "_feature_blocks"),
    ),
    Format(
        "taoyang1122", "taoyang1122/pytorch-SimSiam", "taoyang1122/pytorch-SimSiam models/simsiam.py@3c335cd5",
        ("state_dict.features",), schemes=("sequential",),
    ),
    Format(
        "lightning-bolts", "Lightning Bolts: SimSiam, BYOL", f"{_BOLTS}/byol/models.py@34958a88",
        ("state_dict.online_network.encoder",),
    ),
    Format(
        "lightning-bolts-simclr", "Lightning Bolts: SimCLR", f"{_BOLTS}/simclr/simclr_module.py@34958a88",
        ("state_dict.encoder",), ("state_dict.projection.",),
    ),
    Format(
        "lightning-bolts-swav", "Lightning Bolts: SwAV", f"{_BOLTS}/swav/swav_resnet.py@34958a88",
        ("state_dict.model",), ("model.prototypes.",),
    ),
    Format(
        "dino", "DINO ResNet-50, full checkpoints: the teacher (its bare backbone is `torchvision`)",
        "facebookresearch/dino main_dino.py@7c446df5", ("teacher.backbone",), ("student.", "teacher."), preferred=True,
    ),
    Format(
        "torchvision", "torchvision, timm, PyTorch's ImageNet example, and all others with these names, under any path",
        "pytorch/vision torchvision/models/resnet.py; huggingface/pytorch-image-models timm/models/resnet.py@aa4b5850",
    ),
    Format(
        "sequential", "`nn.Sequential(*resnet.children())` under any path: lightly, fastai, RadImageNet",
        "lightly-ai/lightly examples/pytorch_lightning/simsiam.py@e8d317fc", schemes=("sequential",),
    ),
    Format(
        "huggingface", "Hugging Face transformers ResNet",
        "huggingface/transformers src/transformers/models/resnet/modeling_resnet.py@00cbbe53", schemes=("huggingface",),
    ),
    Format(
        "huggingface-flax", "Hugging Face transformers ResNet in Flax (msgpack)",
        "huggingface/transformers src/transformers/models/resnet/modeling_flax_resnet.py@0006bb80", schemes=("flax",),
    ),
    Format(
        "byol", "BYOL, official (Haiku)", "google-deepmind/deepmind-research byol/utils/networks.py@500ffd89",
        schemes=("haiku",),
        caveat="TensorFlow's SAME padding is one pixel off from torch's for stride 2, in the original network only",
    ),
    Format(
        "simclr", "SimCLR v1 and v2, official (TensorFlow variables exported to NumPy)",
        "google-research/simclr resnet.py@383d4143", schemes=("tensorflow",), input=UNIT_INPUT,
        caveat="its max-pooling pads SAME, one pixel off from torch's; selective-kernel networks (sk1) are refused",
    ),
    Format(
        "detectron2", "Detectron2 (this project's output, MoCo's and other converters' pkl, trained detectors)",
        "facebookresearch/detectron2 detectron2/modeling/backbone/resnet.py@a59f0563", schemes=("detectron2",),
        caveat="a pkl without this project's provenance is taken for RGB with the stride in the 3x3 convolution",
    ),
    Format(
        "msra", "MSRA, Detectron and Detectron2: R-50.pkl, R-101.pkl in Caffe2's names",
        "facebookresearch/detectron2 detectron2/checkpoint/c2_model_loading.py@a59f0563",
        schemes=("caffe2",), input=MSRA_INPUT,
        caveat="the torchvision target cannot hold its stride",
    ),
)
# fmt: on

_PLUGINS = [plugins.load(path) for path in plugins.find("formats/*.py")]
FORMATS = (*(entry for module in _PLUGINS for entry in module.FORMATS), *FORMATS)
# Of names that `converters.renames` does not know.
PLUGIN_SCHEMES = tuple(scheme for module in _PLUGINS for scheme in getattr(module, "SCHEMES", ()))


def by_name(name: str) -> Format | None:
    """The entry called `name`, or None."""
    return next((entry for entry in FORMATS if entry.name == name), None)
