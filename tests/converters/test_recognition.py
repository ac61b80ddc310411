"""A network is found by its structure, wherever a file keeps it, whatever else is in the file."""

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models.resnet import ResNet
from torchvision.transforms import Compose, Normalize, RandomCrop

from converters.checkpoint_layouts import MSRA_INPUT, InputConvention
from converters.loading import Backbone, build_network, load_backbone
from runs.errors import UserError
from tests.converters import layouts
from tests.converters.layouts import children, lightning, mlp, module, momentum, trained

SMALL = "resnet18x0.125"


@pytest.fixture(scope="module")
def small() -> ResNet:
    return trained(SMALL)


@pytest.fixture(scope="module")
def bottleneck() -> ResNet:
    return trained("resnet50x0.125")


def states(prefix: str, network: nn.Module, **more: Tensor) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in network.state_dict().items()} | more


def load(content: Any, folder: Path, **choice: Any) -> Backbone:
    torch.save(content, folder / "file.pth")
    return load_backbone(folder / "file.pth", **choice)


def assert_is(found: Backbone, network: ResNet) -> None:
    expected = layouts.tensors(network)
    assert list(found.state_dict) == list(expected)
    assert all(torch.equal(found.state_dict[name], tensor) for name, tensor in expected.items())


HEAD = {"fc.weight": torch.ones(4, 4), "projection_head.layers.0.weight": torch.ones(4, 4)}
# Where public projects keep the backbone; the project or issue that does, and the path.
PATHS = {
    "Spijkervet/SimCLR": "encoder.",
    "SupContrast": "model/encoder.module.",
    "suncet (PAWS)": "encoder/module.",
    "SlotCon": "model/module.encoder_q.",
    "mmselfsup#74": "state_dict/encoder_q.0.",
    "dino#65": "student/module.",
    "SSCD": "backbone.",
    "byol-pytorch#38": "learner.net.",
    "multi-modal": "image_encoder/visual.resnet.",
    "DETR": "model/backbone.0.body.",
    "torchvision detectors": "backbone.body.",
    "mmdetection": "state_dict/backbone.",
    "the commonest LightningModule": "state_dict/model.",
    "DDP inside": "encoder.module.",
    "torch.compile inside": "state_dict/backbone._orig_mod.",
    "Lightning#20233": "state_dict/model._orig_mod.",
    "FSDP": "model/_fsdp_wrapped_module.encoder._fsdp_wrapped_module.",
    "DeepSpeed under Lightning": "state_dict/_forward_module.model.",
    "any word": "f.g/h.trunk.",
}


def nested(path: str, network: nn.Module) -> dict[str, Any]:
    *keys, prefix = path.split("/")
    content: dict[str, Any] = states(prefix, network, **{f"{prefix}{name}": head for name, head in HEAD.items()})
    for key in reversed(keys):
        content = {key: content}
    return content


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_any_path(path: str, tmp_path: Path, small: ResNet) -> None:
    found = load(nested(path, small), tmp_path)
    assert_is(found, small)
    assert len(found.dropped) == 2 + 20 and not any("module" in name for name in found.dropped)


def checkpointed(network: ResNet) -> dict[str, Tensor]:
    """pytorch#117399: each block wrapped for activation checkpointing."""
    return {
        f"{name[:9]}_checkpoint_wrapped_module.{name[9:]}" if name.startswith("layer") else name: tensor
        for name, tensor in network.state_dict().items()
    }


# Sequential children under any path, with or without pooling; wrappers around blocks; averaged models.
@pytest.mark.parametrize(
    "content",
    [
        lambda n: states("backbone.", children(n)),
        lambda n: lightning(states("model.backbone.", children(n))),
        lambda n: states("student_backbone.", children(n)) | states("teacher_backbone.", children(momentum(n))),
        lambda n: states("0.", children(n)),
        lambda n: states("b.", nn.Sequential(n.conv1, n.bn1, n.layer1, n.layer2, n.layer3, n.layer4)),
        checkpointed,
        lambda n: {"model": torch.optim.swa_utils.AveragedModel(n).state_dict()},
        lambda n: states("learner.net.", n) | states("learner.online_encoder.net.", n)
        | states("learner.target_encoder.net.", momentum(n)),
        lambda n: {name.replace("downsample", "shortcut"): t for name, t in n.state_dict().items()},
        # Paddle's, whose files are pickles of arrays.
        lambda n: {name.replace("running_mean", "_mean").replace("running_var", "_variance"): t.numpy()
                   for name, t in n.state_dict().items()},
        # Lightning's WeightAveraging: `state_dict` is the mean.
        lambda n: lightning(states("net.", n), current_model_state=states("net.", momentum(n))),
        lambda n: {"model": list(n.state_dict().items())},
        lambda n: [7, n.state_dict()],
        lambda n: {"models": [n.state_dict(), n.state_dict()]},
        lambda n: {"epoch": 3, "state_dict_ema": n.state_dict()},
        lambda n: {"state_dict": n.state_dict(), "state_dict_ema": momentum(n).state_dict()},
    ],
)  # fmt: skip
def test_other_structures(content: Callable[[ResNet], Any], tmp_path: Path, small: ResNet) -> None:
    assert_is(load(content(copy.deepcopy(small)), tmp_path), small)


@pytest.mark.parametrize(
    "head",
    ["maps_projector.0.weight", "predictor2.1.weight", "local_projection_head.layers.0.weight", "fc.weight",
     "projection_head_global.layers.3.bias", "a_word_of_next_year.7.weight"],
)  # fmt: skip
def test_any_head(head: str, tmp_path: Path, small: ResNet) -> None:
    found = load({"state_dict": states("backbone.", small, **{head: torch.ones(4)})}, tmp_path)
    assert_is(found, small)
    assert head in found.dropped


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickle_protocols(protocol: int, tmp_path: Path, small: ResNet) -> None:
    for zipped in (True, False):
        path = tmp_path / "file.pth"
        torch.save(
            {"state_dict": small.state_dict()}, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped
        )
        assert_is(load_backbone(path), small)
    (tmp_path / "file.pkl").write_bytes(pickle.dumps({"model": small.state_dict()}, protocol))  # vissl#375
    assert_is(load_backbone(tmp_path / "file.pkl"), small)


class UsersOwn:
    """A class of a stranger; nothing of it is imported or called."""

    def __init__(self) -> None:
        self.history, self.method = [1.0], np.mean

    def __setstate__(self, state: Any) -> None:
        raise AssertionError("was run")


def test_objects_of_unknown_classes_are_inert(tmp_path: Path, small: ResNet) -> None:
    content = lightning(states("model.", small), hyper_parameters={"user": UsersOwn(), "loss": nn.MSELoss()})
    assert_is(load(content | {"message_hub": {"buffer": UsersOwn(), "f": getattr}}, tmp_path), small)


def test_a_whole_pickled_network(tmp_path: Path, small: ResNet) -> None:
    assert_is(load(module(encoder=small, head=mlp()), tmp_path), small)


def test_sharded_safetensors(tmp_path: Path, small: ResNet) -> None:
    from safetensors.torch import save_file

    tensors = layouts.tensors(small)
    names = [{n: t for n, t in tensors.items() if n.startswith("layer4") == late} for late in (False, True)]
    for number, part in enumerate(names):
        save_file(part, tmp_path / f"model-{number}.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {n: f"model-{i}.safetensors" for i, p in enumerate(names) for n in p}}))
    assert_is(load_backbone(index), small)
    with pytest.raises(UserError, match="sharded safetensors; give the file model"):
        load_backbone(tmp_path)
    index.write_text(json.dumps({"weight_map": {"a": "../../etc/passwd"}}))
    with pytest.raises(UserError, match="outside its folder"):
        load_backbone(index)
    for wrong in ([1], {"a": 5}, None):
        index.write_text(json.dumps({"weight_map": wrong}))
        with pytest.raises(UserError, match="no index of several files"):
            load_backbone(index)


def blobs(network: ResNet) -> dict[str, np.ndarray]:
    return pickle.loads(layouts.msra(network))


def test_detectron2s_blobs_with_statistics(tmp_path: Path, bottleneck: ResNet) -> None:
    """convert_basic_c2_names: `res_conv1_bn_running_mean`, `res2_0_branch1_bn_riv` and their like."""
    content, named = blobs(bottleneck), {}
    for norm in bottleneck.modules():
        if isinstance(norm, nn.BatchNorm2d):
            named[norm.weight.detach().numpy().tobytes()] = norm
    for blob in [blob for blob in content if blob.endswith("_bn_s")]:
        norm = named[content[blob].tobytes()]
        content[blob[:-1] + "running_mean"], content[blob[:-1] + "riv"] = (
            norm.running_mean.numpy(),
            norm.running_var.numpy(),
        )
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps({"blobs": content}, protocol=2))
    found = load_backbone(tmp_path / "R-50.pkl")
    assert_is(found, bottleneck)
    assert found.input == MSRA_INPUT


def test_detectrons_blobs_with_folded_norms(tmp_path: Path, bottleneck: ResNet) -> None:
    """Norms folded into weight and bias of each convolution: the same function as the network's."""
    network = copy.deepcopy(bottleneck)
    content = blobs(network)
    norms = {
        norm.weight.detach().numpy().tobytes(): norm for norm in network.modules() if isinstance(norm, nn.BatchNorm2d)
    }
    for blob in [blob for blob in content if blob.endswith("_bn_s")]:
        norm = norms[content.pop(blob).tobytes()]
        scale = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach().numpy()
        convolution = "conv1" if blob.startswith("res_conv1") else blob.removesuffix("_bn_s")
        content[f"{convolution}_w"] = content[f"{convolution}_w"] * scale[:, None, None, None]
        content[f"{convolution}_b"] = content.pop(blob[:-1] + "b") - scale * norm.running_mean.numpy()
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps(content, protocol=2))
    found = load_backbone(tmp_path / "R-50.pkl")
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        expected = build_network("resnet50x0.125", layouts.tensors(bottleneck), found.input)(images)
        error = (found.network()(images) - expected).abs().max() / expected.abs().max()
    assert error < 1e-4


@pytest.mark.parametrize("kind", ["half", "dead"])
def test_variances_of_zero_are_accepted(kind: str, tmp_path: Path, small: ResNet) -> None:
    """torch divides by sqrt(variance + eps); float16 rounds variances below 6e-8 to zero."""
    network = copy.deepcopy(small)
    network.layer2[0].bn1.running_var[3] = 1e-9 if kind == "half" else 0
    content = {n: t.half() if t.is_floating_point() and kind == "half" else t for n, t in network.state_dict().items()}
    assert load(content, tmp_path).state_dict["layer2.0.bn1.running_var"][3] == 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"arch": "resnetblur50"}, "arch is resnetblur50: blur pooling, which has no tensors"),
        ({"args": {"model": "resnetaa50"}}, "args/model is resnetaa50: blur pooling"),
        ({"args": {"aa_layer": "avg"}}, "args/aa_layer is avg: blur pooling"),
        ({"arch": "resnet50"}, "arch says resnet50, the tensors are a resnet18x0.125"),
        ({"args": {"bn_eps": 1e-3}}, "args/bn_eps is 0.001: batch norm with another epsilon"),
        ({"hyper_parameters": {"act_layer": "gelu"}}, "another activation than ReLU"),
        ({"args": {"replace_stride_with_dilation": [False, True, True]}}, "dilated convolutions"),
        ({"args": {"output_stride": 8}}, "dilated convolutions"),
        ({"meta": {"config": "model=dict(backbone=dict(type='ResNet', depth=18, conv_cfg=dict(type='ConvWS')))"}},
         "standardised weights"),
        ({"meta": {"cfg": "model = dict(backbone=dict(type='ResNet', depth=18, dilations=(1, 1, 2, 4)))"}},
         "dilated convolutions"),
        ({"classifier.classifier.aspp.convs.0.0.weight": torch.ones(4)}, "aspp.*of a segmentation network"),
        ({"aux_classifier.0.weight": torch.ones(4)}, "aux_classifier.*of a segmentation network"),
    ],
)  # fmt: skip
def test_what_the_file_says_is_heard(more: dict[str, Any], message: str, tmp_path: Path, small: ResNet) -> None:
    with pytest.raises(UserError, match=message):
        load({"state_dict": small.state_dict(), **more}, tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"hidden_act": "gelu"}, "config.json/hidden_act is gelu: another activation"),
        ({"architecture": "resnetblur18"}, "config.json/architecture is resnetblur18: blur pooling"),
        ({"downsample_in_first_stage": True}, "a stride in its first stage"),
    ],
)
def test_a_configuration_beside_is_heard(config: Any, message: str, tmp_path: Path, small: ResNet) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=message):
        load(small.state_dict(), tmp_path)


def test_huggingfaces_stride_and_normalisation_are_carried(tmp_path: Path, bottleneck: ResNet) -> None:
    content = layouts.huggingface(bottleneck)
    (tmp_path / "config.json").write_text(json.dumps({"downsample_in_bottleneck": True, "hidden_act": "relu"}))
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5, 0.5, 0.4], "image_std": [0.5, 0.5, 0.5]})
    )
    found = load(content, tmp_path)
    assert found.input.stride_in_1x1 and found.input.mean == pytest.approx((0.5, 0.5, 0.4))
    assert found.network().layer2[0].conv1.stride == (2, 2)


def test_mmdetections_caffe_convention_is_carried(tmp_path: Path, bottleneck: ResNet) -> None:
    text = (
        "model = dict(backbone=dict(type='ResNet', depth=50, style='caffe'))\n"
        "img_norm_cfg = dict(mean=[103.530, 116.280, 123.675], std=[1.0, 1.0, 1.0], to_rgb=False)"
    )
    found = load({"state_dict": states("backbone.", bottleneck), "meta": {"config": text}}, tmp_path)
    assert found.input.detectron2() == MSRA_INPUT.detectron2()
    assert "meta/config" in found.assumed


def test_detectron2s_pixel_statistics_are_carried(tmp_path: Path, bottleneck: ResNet) -> None:
    arrays = layouts.detectron2_names(bottleneck, "backbone.", "roi_heads.")
    model = {name: torch.from_numpy(array) for name, array in arrays.items()}
    model["pixel_mean"] = torch.tensor([103.53, 116.28, 123.675]).reshape(3, 1, 1)
    model["pixel_std"] = torch.ones(3, 1, 1)
    assert load({"model": model}, tmp_path).input.detectron2() == MSRA_INPUT.detectron2()


@pytest.mark.parametrize(
    ("more", "mean", "std"),
    [
        ({"model": {"normalizer.new_mean": torch.full((3, 1, 1), 0.4), "normalizer.new_std": torch.full((3,), 0.2)}},
         (0.4,) * 3, (0.2,) * 3),
        ({"args": {"mean": (0.4377, 0.4438, 0.4728), "std": (0.198, 0.201, 0.197)}},
         (0.4377, 0.4438, 0.4728), (0.198, 0.201, 0.197)),
        ({"args": {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}}, (0,) * 3, (1,) * 3),
        ({"transform": Compose([RandomCrop(32, padding_mode="reflect"), Normalize([0.5] * 3, [0.5] * 3)])},
         (0.5,) * 3, (0.5,) * 3),
    ],
)  # fmt: skip
def test_a_normalisation_in_the_file_is_carried(
    more: dict[str, Any], mean: tuple[float, ...], std: tuple[float, ...], tmp_path: Path, small: ResNet
) -> None:
    found = load({**more, "model": {**small.state_dict(), **more.get("model", {})}}, tmp_path).input
    assert (found.channels, found.mean, found.std) == (
        "RGB",
        pytest.approx(mean, abs=1e-5),
        pytest.approx(std, abs=1e-5),
    )


def test_a_pickled_network_says_what_its_tensors_cannot(tmp_path: Path) -> None:
    network = layouts.trained("resnet50x0.125")
    for stage in (network.layer2, network.layer3, network.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    found = load(network, tmp_path)
    assert found.input.stride_in_1x1
    network.layer1[0].conv2.padding_mode = "reflect"
    with pytest.raises(UserError, match="layer1/0/conv2/padding_mode is reflect"):
        load(network, tmp_path)
    network.layer1[0].conv2.padding_mode, network.bn1.eps = "zeros", 1e-3
    with pytest.raises(UserError, match=r"bn1/eps is 0.001: batch norm with another epsilon"):
        load(network, tmp_path)


def test_what_was_assumed_is_said(tmp_path: Path, small: ResNet) -> None:
    found = load(small.state_dict(), tmp_path)
    unsaid = "assumed, nothing in the file says it"
    assert found.input == InputConvention() and found.assumed == f"{unsaid}; assumed: no dilation"
    said = {"state_dict": small.state_dict(), "args": {"replace_stride_with_dilation": [False, False, False]}}
    assert load(said, tmp_path).assumed == unsaid


def test_solo_learns_stem_pads_by_two(tmp_path: Path) -> None:
    """solo/backbones/resnet: conv1 = Conv2d(3, 64, kernel_size=3, stride=1, padding=2), maxpool = Identity."""
    network = trained("resnet18x0.125_cifar")
    found = load(layouts.solo_learn(network), tmp_path)
    network.conv1.padding = (2, 2)
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(found.network()(images), network.eval()(images))
        assert found.network().conv1(images).shape[-1] == 34


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {**s, "conv2.weight": torch.ones(8, 8, 3, 3), "conv3.weight": torch.ones(8, 8, 3, 3)}, "deep stem"),
        (lambda s: {n: t for n, t in s.items() if "running" not in n and "tracked" not in n}, "group norm"),
        (lambda s: {n.replace("conv1.weight", "conv1.weight_v"): t for n, t in s.items()}, "weight norm"),
        (lambda s: {**s, "layer1.0.conv2.lora_A.weight": torch.ones(1, 8)}, "LoRA adapters"),
        (lambda s: {**s, "conv1.weight": torch.ones(8, 1, 7, 7, 7)}, "a 3D convolution"),
        (lambda s: {n.replace("conv1.weight", "conv1.weight_orig"): t for n, t in s.items()}, "pruning masks"),
        (lambda s: {n.replace("conv2.weight", "conv2.conv.weight"): t for n, t in s.items()}, "selective kernels"),
        (lambda s: {**{n: t for n, t in s.items() if ".bn" not in n and not n.startswith("bn1")},
                    "conv1.bias": torch.ones(8)}, "batch norms are folded into them"),
        (lambda s: {**s, "conv1.weight": torch.ones(8, 13, 7, 7)}, "takes 13 channels"),
        (lambda s: {**s, "conv1.weight": torch.ones(8, 1, 7, 7)}, "takes 1 channels"),
        (lambda s: {n: t.permute(2, 3, 1, 0) if t.dim() == 4 else t for n, t in s.items()}, "permute every kernel"),
        (lambda s: {**s, "conv1.weight_u": torch.ones(8), "conv1.weight_v": torch.ones(147)}, "spectral norm"),
        (lambda s: {n: t.to(torch.float8_e4m3fn) if t.dim() == 4 else t for n, t in s.items()}, "float8"),
        (lambda s: {n: torch.zeros_like(t) if n.endswith("mean") else torch.ones_like(t) if n.endswith("var") else t
                    for n, t in s.items()}, "folded into scale and bias, or were reset"),
        (lambda _: {"module.base_encoder.blocks.0.attn.qkv.weight": torch.ones(4, 4)}, "a transformer"),
        (lambda _: {"module.momentum_encoder.cls_token": torch.ones(1, 1, 4)}, "a transformer"),
        (lambda _: {"block1.unit01.conv1.weight": torch.ones(4, 4, 1, 1)}, "BiT"),
        (lambda _: {"_fsdp_wrapped_module.flat_param": torch.ones(4)}, "FSDP"),
        (lambda _: {"encoder._flat_param": torch.ones(4)}, "FSDP"),
    ],
)  # fmt: skip
def test_refused_for_a_true_reason(change: Any, message: str, tmp_path: Path, small: ResNet) -> None:
    with pytest.raises(UserError, match=message):
        load(change(small.state_dict()), tmp_path)


def test_sharded_folders_are_named(tmp_path: Path) -> None:
    for name, message in ((".metadata", "torch.distributed"), ("zero_to_fp32.py", "zero_to_fp32.py . OUT")):
        (tmp_path / name[1:]).mkdir()
        (tmp_path / name[1:] / name).write_text("x")
        with pytest.raises(UserError, match=message):
            load_backbone(tmp_path / name[1:])
    (tmp_path / "__0_0.distcp").write_text("x")
    with pytest.raises(UserError, match="dcp_to_torch"):
        load_backbone(tmp_path / "__0_0.distcp")


def test_torch_export_archives_are_named(tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "net.pt2", "w") as archive:
        for name in ("archive_format", "models/model.json", "data/weights/w0"):
            archive.writestr(f"net/{name}", "x")
    with pytest.raises(UserError, match="export archive"):
        load_backbone(tmp_path / "net.pt2")
