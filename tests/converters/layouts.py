"""Checkpoints of every known project, built by that project's own module structure.

The structures are written out from each project's public code (named beside each), with narrow heads: names come from
`state_dict()` of real modules, not from a list. The backbone is one torchvision ResNet, so that what a conversion
returns can be compared with it value by value.
"""

import argparse
import copy
import pickle
import sys
import types
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import numpy as np
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models.resnet import ResNet

from converters.checkpoint_layouts import InputConvention
from converters.resnet_model import build_resnet
from converters.vital_signs import normalised, pictures

ROOT = Path(__file__).resolve().parents[2]
ARCH = "resnet50x0.25"


def trained(arch: str = ARCH, seed: int = 0) -> ResNet:
    """A network whose batch norms' statistics are its own; zero-initialised residuals would hide a wrong last block."""
    generator = torch.Generator().manual_seed(seed)
    network = build_resnet(arch)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan = module.weight[0].numel()
            module.weight.data.normal_(0, (2 / fan) ** 0.5, generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.uniform_(-0.2, 0.2, generator=generator)
            module.momentum = 1.0
    with torch.inference_mode():
        network.train()(normalised(pictures(8, 32 if arch.endswith("_cifar") else 64), InputConvention()))
    return network.eval()


def tensors(network: nn.Module) -> dict[str, Tensor]:
    """The backbone's tensors as a conversion returns them."""
    return {name: t for name, t in network.state_dict().items() if not name.endswith("num_batches_tracked")}


def module(**children: Any) -> nn.Module:
    parent = nn.Module()
    for name, child in children.items():
        if isinstance(child, Tensor):
            parent.register_buffer(name, child)
        else:
            parent.add_module(name, child)
    return parent


def ddp(child: nn.Module) -> nn.Module:
    return module(module=child)


def mlp(*, last: bool = False) -> nn.Sequential:
    layers = [nn.Linear(4, 4, bias=False), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 4)]
    return nn.Sequential(*layers, *([nn.BatchNorm1d(4, affine=False)] if last else []))


def with_fc(backbone: ResNet, fc: nn.Module) -> ResNet:
    backbone = copy.deepcopy(backbone)
    backbone.fc = fc
    return backbone


def momentum(backbone: ResNet) -> ResNet:
    """Another network of the same shape: a conversion that mixes the two is wrong and is found out."""
    other = copy.deepcopy(backbone)
    for tensor in other.state_dict().values():
        if tensor.is_floating_point():
            tensor.mul_(1.01)
    return other


def lightning(state_dict: dict[str, Tensor], **more: Any) -> dict[str, Any]:
    """pytorch_lightning/trainer/connectors/checkpoint_connector.py, `dump_checkpoint`."""
    return {
        "epoch": 1,
        "global_step": 2,
        "pytorch-lightning_version": "2.1.2",
        "state_dict": state_dict,
        "loops": {},
        "callbacks": {},
        "optimizer_states": [],
        "lr_schedulers": [],
        **more,
    }


def simsiam(backbone: ResNet) -> Any:
    # facebookresearch/simsiam simsiam/builder.py@a7bc1772, main_simsiam.py: save_checkpoint.
    projector = nn.Sequential(
        nn.Linear(4, 4, bias=False), nn.BatchNorm1d(4), nn.ReLU(),
        nn.Linear(4, 4, bias=False), nn.BatchNorm1d(4), nn.ReLU(),
        nn.Linear(4, 4), nn.BatchNorm1d(4, affine=False),
    )  # fmt: skip
    model = ddp(module(encoder=with_fc(backbone, projector), predictor=mlp()))
    optimizer = torch.optim.SGD(model.parameters(), 0.1).state_dict()
    arch = "resnet50" if hasattr(backbone.layer1[0], "conv3") else "resnet18"
    return {"epoch": 100, "arch": arch, "state_dict": model.state_dict(), "optimizer": optimizer}


def moco(backbone: ResNet) -> Any:
    # facebookresearch/moco moco/builder.py@4397a04e, with --mlp; salesforce/PCL pcl/builder.py@964da1fb is the same.
    head = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    queue = {"queue": torch.randn(4, 8), "queue_ptr": torch.zeros(1, dtype=torch.long)}
    model = module(encoder_q=with_fc(backbone, head), encoder_k=with_fc(momentum(backbone), head), **queue)
    return {"epoch": 200, "arch": "resnet50", "state_dict": ddp(model).state_dict(), "optimizer": {}}


def moco_v1(backbone: ResNet) -> Any:
    head = nn.Linear(4, 4)
    model = module(
        encoder_q=with_fc(backbone, head), encoder_k=with_fc(momentum(backbone), head), queue=torch.randn(4, 8)
    )
    return {"epoch": 200, "arch": "resnet50", "state_dict": ddp(model).state_dict(), "optimizer": {}}


def moco_v3(backbone: ResNet) -> Any:
    # facebookresearch/moco-v3 moco/builder.py@c349e6e2, MoCo_ResNet.
    encoders = {
        "base_encoder": with_fc(backbone, mlp(last=True)),
        "momentum_encoder": with_fc(momentum(backbone), mlp()),
    }
    return {
        "epoch": 1,
        "arch": "resnet50",
        "state_dict": ddp(module(**encoders, predictor=mlp())).state_dict(),
        "scaler": {},
    }


def swav(backbone: ResNet) -> Any:
    # facebookresearch/swav src/resnet50.py@06b1b7cb; the published files are the flat state dict.
    model = copy.deepcopy(backbone)
    model.projection_head, model.prototypes = mlp(), nn.Linear(4, 6, bias=False)
    return OrderedDict(ddp(model).state_dict())


def deepcluster(backbone: ResNet) -> Any:
    # The same network with MultiPrototypes, as main_deepclusterv2.py@06b1b7cb saves it during training.
    model = copy.deepcopy(backbone)
    model.projection_head, model.prototypes = mlp(), module(prototypes0=nn.Linear(4, 6), prototypes1=nn.Linear(4, 6))
    return {"epoch": 3, "state_dict": ddp(model).state_dict(), "optimizer": {}}


def barlowtwins(backbone: ResNet) -> Any:
    # facebookresearch/barlowtwins main.py@8e8d284c, checkpoint.pth.
    model = ddp(module(backbone=backbone, projector=mlp(), bn=nn.BatchNorm1d(4, affine=False)))
    return {"epoch": 10, "model": model.state_dict(), "optimizer": {}}


def vicreg(backbone: ResNet) -> Any:
    # facebookresearch/vicreg main_vicreg.py@4e12602f, model.pth.
    return {"epoch": 10, "model": ddp(module(backbone=backbone, projector=mlp())).state_dict(), "optimizer": {}}


def pixpro_mlp() -> nn.Module:
    return module(linear1=nn.Conv2d(4, 4, 1), bn1=nn.BatchNorm2d(4), linear2=nn.Conv2d(4, 4, 1))


def pixpro(backbone: ResNet) -> Any:
    # zdaxie/PixPro contrast/models/PixPro.py@e390d6b6, main_pretrain.py: save_checkpoint stores its argparse.Namespace.
    model = module(
        encoder=backbone, projector=pixpro_mlp(), encoder_k=momentum(backbone), projector_k=pixpro_mlp(),
        value_transform=nn.Conv2d(4, 4, 1), projector_instance=pixpro_mlp(), projector_instance_k=pixpro_mlp(),
        predictor=pixpro_mlp(),
    )  # fmt: skip
    options = argparse.Namespace(arch="resnet50", output_dir=Path("out"), lr=1.0)
    return {"opt": options, "model": ddp(model).state_dict(), "optimizer": {}, "scheduler": {}, "epoch": 400}


def soco(backbone: ResNet) -> Any:
    # hologerry/SoCo contrast/models/SoCo_C4.py@2be1229a.
    def head() -> nn.Module:
        return module(linear1=nn.Linear(4, 4), bn1=nn.BatchNorm1d(4), linear2=nn.Linear(4, 4))

    model = module(
        encoder=backbone, projector=head(), predictor=head(), encoder_k=momentum(backbone), projector_k=head(),
        queue=torch.randn(4, 8), queue_ptr=torch.zeros(1, dtype=torch.long),
    )  # fmt: skip
    return {"opt": argparse.Namespace(model="SoCo_C4"), "model": ddp(model).state_dict(), "epoch": 400}


def soco_fpn(backbone: ResNet) -> Any:
    # hologerry/SoCo contrast/models/SoCo_FPN.py@2be1229a.
    neck, head = (
        module(lateral_convs=nn.ModuleList([nn.Conv2d(4, 4, 1)])),
        module(shared_fcs=nn.ModuleList([nn.Linear(4, 4)])),
    )
    model = module(
        encoder=backbone, neck=neck, head=head, projector=mlp(), predictor=mlp(),
        encoder_k=momentum(backbone), neck_k=neck, head_k=head, projector_k=mlp(),
    )  # fmt: skip
    return {"opt": argparse.Namespace(model="SoCo_FPN"), "model": ddp(model).state_dict(), "epoch": 400}


def pycontrast(backbone: ResNet) -> Any:
    # HobbitLong/PyContrast pycontrast/networks/build_backbone.py@84f94eab, RGBMultiHeads (PIRL, InfoMin).
    jigsaw = module(fc1=nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)), fc2=nn.Linear(36, 4))
    encoder = copy.deepcopy(backbone)
    model = module(encoder=encoder, head=nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)), head_jig=jigsaw)
    ema = module(encoder=momentum(backbone), head=nn.Sequential(nn.Linear(4, 4)))
    return {
        "model": ddp(model).state_dict(),
        "contrast": {},
        "optimizer": {},
        "epoch": 800,
        "model_ema": ema.state_dict(),
    }


def densecl(backbone: ResNet) -> Any:
    # WXinlong/DenseCL openselfsup/models/densecl.py@b64bbb6e: the backbone is registered twice.
    neck = module(mlp=mlp(), mlp2=nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1)))
    queues = {name: torch.randn(4, 8) for name in ("queue", "queue2")}
    pointers = {f"{name}_ptr": torch.zeros(1, dtype=torch.long) for name in queues}
    encoder_q = nn.Sequential(backbone, neck)
    encoder_k = nn.Sequential(momentum(backbone), copy.deepcopy(neck))
    model = module(
        encoder_q=encoder_q, encoder_k=encoder_k, backbone=backbone, head=nn.Identity(), **queues, **pointers
    )
    return {"meta": {"epoch": 200, "mmcv_version": "0.2.16"}, "state_dict": model.state_dict(), "optimizer": {}}


def mmselfsup(backbone: ResNet) -> Any:
    # open-mmlab/mmselfsup mmselfsup/models/algorithms/simsiam.py@db861f30.
    neck = module(fc0=nn.Linear(4, 4), bn0=nn.BatchNorm1d(4), fc1=nn.Linear(4, 4))
    model = module(data_preprocessor=nn.Identity(), backbone=backbone, neck=neck, head=module(predictor=neck))
    return {"meta": {"epoch": 100}, "state_dict": model.state_dict(), "message_hub": {}, "optimizer": {}}


def mmselfsup_moco(backbone: ResNet) -> Any:
    # …/moco.py@db861f30: ExponentialMovingAverage has `module` and `steps`.
    ema = module(module=nn.Sequential(momentum(backbone), mlp()), steps=torch.tensor(3))
    model = module(backbone=backbone, neck=mlp(), head=module(), encoder_k=ema, queue=torch.randn(4, 8))
    return {"meta": {"epoch": 200}, "state_dict": model.state_dict()}


def mmselfsup_byol(backbone: ResNet) -> Any:
    ema = module(module=nn.Sequential(momentum(backbone), mlp()), steps=torch.tensor(3))
    model = module(backbone=backbone, neck=mlp(), head=module(predictor=mlp()), target_net=ema)
    return {"meta": {"epoch": 200}, "state_dict": model.state_dict()}


def mmpretrain(backbone: ResNet) -> Any:
    # open-mmlab/mmpretrain mmpretrain/models/classifiers/image.py: backbone, neck without tensors, head.fc.
    return {"meta": {}, "state_dict": module(backbone=backbone, head=module(fc=nn.Linear(4, 4))).state_dict()}


def solo_learn(backbone: ResNet) -> Any:
    # vturrisi/solo-learn solo/methods/base.py@9187ea39, simsiam.py; Lightning keeps the OmegaConf settings.
    model = module(backbone=backbone, classifier=nn.Linear(4, 4), projector=mlp(last=True), predictor=mlp())
    settings = OmegaConf.create({"cfg": {"backbone": {"name": "resnet50"}, "optimizer": {"lr": 0.5}}})
    return lightning(model.state_dict(), hyper_parameters=settings)


def solo_learn_byol(backbone: ResNet) -> Any:
    # solo/methods/base.py@9187ea39, BaseMomentumMethod; older versions say `encoder`.
    model = module(
        encoder=backbone, classifier=nn.Linear(4, 4), momentum_encoder=momentum(backbone),
        momentum_classifier=nn.Linear(4, 4), projector=mlp(), momentum_projector=mlp(), predictor=mlp(),
    )  # fmt: skip
    return lightning(model.state_dict())


def lightly(backbone: ResNet) -> Any:
    # lightly-ai/lightly benchmarks/imagenet/resnet50/byol.py@e8d317fc.
    model = module(
        backbone=backbone, projection_head=module(layers=mlp()), prediction_head=module(layers=mlp()),
        teacher_backbone=momentum(backbone), teacher_projection_head=module(layers=mlp()),
        online_classifier=module(classification_head=nn.Linear(4, 4)),
    )  # fmt: skip
    return lightning(model.state_dict(), hyper_parameters={"batch_size_per_device": 128})


def children(backbone: ResNet) -> nn.Sequential:
    return nn.Sequential(*list(backbone.children())[:-1])


def lightly_sequential(backbone: ResNet) -> Any:
    # lightly-ai/lightly examples/pytorch_lightning/byol.py@e8d317fc.
    model = module(
        backbone=children(backbone), projection_head=module(layers=mlp()), prediction_head=module(layers=mlp()),
        backbone_momentum=children(momentum(backbone)), projection_head_momentum=module(layers=mlp()),
    )  # fmt: skip
    return lightning(model.state_dict())


def radimagenet(backbone: ResNet) -> Any:
    # BMEII-AI/RadImageNet: nn.Sequential(*children[:-1]) under `backbone`, saved bare.
    return module(backbone=children(backbone)).state_dict()


def vissl(backbone: ResNet) -> Any:
    # facebookresearch/vissl vissl/models/trunks/resnext.py@09270ed2, vissl/utils/checkpoint.py for the nesting.
    blocks = nn.ModuleDict(
        {"conv1": backbone.conv1, "bn1": backbone.bn1, "conv1_relu": nn.ReLU(), "maxpool": nn.MaxPool2d(3)}
    )
    blocks.update({name: getattr(backbone, name) for name in ("layer1", "layer2", "layer3", "layer4")})
    trunk = module(_feature_blocks=blocks).state_dict()
    model = {"trunk": trunk, "heads": mlp().state_dict()}
    return {
        "phase_idx": 5,
        "iteration": 9,
        "classy_state_dict": {"base_model": {"model": model, "meta": {}}},
        "type": "x",
    }


def patrickhua(backbone: ResNet) -> Any:
    # PatrickHua/SimSiam models/simsiam.py@75a7c513: backbone and projector also lie in `encoder`.
    projector = module(layer1=mlp(), layer2=mlp(), layer3=mlp())
    predictor = module(layer1=mlp(), layer2=nn.Linear(4, 4))
    encoder = nn.Sequential(backbone, projector)
    model = module(backbone=backbone, projector=projector, encoder=encoder, predictor=predictor)
    return {"epoch": 800, "state_dict": model.state_dict()}


def taoyang1122(backbone: ResNet) -> Any:
    # taoyang1122/pytorch-SimSiam models/simsiam.py@3c335cd5.
    projection, prediction = module(l1=mlp(), l2=mlp(), l3=mlp()), module(l1=mlp(), l2=nn.Linear(4, 4))
    model = ddp(module(features=children(backbone), projection=projection, prediction=prediction))
    return {"epoch": 100, "arch": "resnet50", "state_dict": model.state_dict(), "optimizer": {}}


def bolts(backbone: ResNet) -> Any:
    # Lightning-Universe/lightning-bolts src/pl_bolts/models/self_supervised/byol/models.py@34958a88, SiameseArm.
    def arm(encoder: ResNet) -> nn.Module:
        return module(encoder=encoder, projector=module(model=mlp()))

    model = module(online_network=arm(backbone), target_network=arm(momentum(backbone)), predictor=module(model=mlp()))
    return lightning(model.state_dict(), hyper_parameters=argparse.Namespace(learning_rate=0.2))


def bolts_simclr(backbone: ResNet) -> Any:
    # …/simclr/simclr_module.py@34958a88.
    return lightning(module(encoder=backbone, projection=module(model=mlp())).state_dict())


def bolts_swav(backbone: ResNet) -> Any:
    # …/swav/swav_resnet.py@34958a88.
    model = copy.deepcopy(backbone)
    model.projection_head, model.prototypes = mlp(), nn.Linear(4, 6, bias=False)
    return lightning(module(model=model).state_dict())


def dino(backbone: ResNet) -> Any:
    # facebookresearch/dino main_dino.py@7c446df5, utils.py: MultiCropWrapper; DINOHead's last layer is weight-normed.
    def wrapper(network: ResNet) -> nn.Module:
        last = module(weight_g=torch.ones(4, 1), weight_v=torch.randn(4, 4))
        return module(backbone=network, head=module(mlp=mlp(), last_layer=last))

    student, teacher = ddp(wrapper(momentum(backbone))).state_dict(), wrapper(backbone).state_dict()
    return {
        "student": student,
        "teacher": teacher,
        "optimizer": {},
        "epoch": 800,
        "args": argparse.Namespace(arch="resnet50"),
    }


def torchvision_flat(backbone: ResNet) -> Any:
    # pytorch/vision torchvision/models/resnet.py; also timm, and the bare resnet50.pth of Barlow Twins, VICReg, DINO.
    return with_fc(backbone, nn.Linear(4, 4)).state_dict()


def imagenet_example(backbone: ResNet) -> Any:
    # pytorch/examples imagenet/main.py; facebookresearch/simsiam main_lincls.py@a7bc1772 writes the same.
    model = ddp(with_fc(backbone, nn.Linear(4, 4)))
    return {"epoch": 90, "arch": "resnet50", "state_dict": model.state_dict(), "best_acc1": torch.tensor(76.1)}


def extracted(backbone: ResNet) -> Any:
    # WXinlong/DenseCL tools/extract_backbone_weights.py@b64bbb6e.
    return {"state_dict": backbone.state_dict(), "author": "DenseCL"}


def huggingface_modules(backbone: ResNet) -> nn.Module:
    """transformers src/transformers/models/resnet/modeling_resnet.py@00cbbe53, around the same convolutions."""

    def unit(convolution: nn.Module, normalization: nn.Module) -> nn.Module:
        return module(convolution=convolution, normalization=normalization)

    def layer(block: Any) -> nn.Module:
        numbers = (1, 2, 3) if hasattr(block, "conv3") else (1, 2)
        units = [unit(getattr(block, f"conv{i}"), getattr(block, f"bn{i}")) for i in numbers]
        shortcut = nn.Identity() if block.downsample is None else unit(*block.downsample)
        return module(shortcut=shortcut, layer=nn.Sequential(*units))

    stages = [
        module(layers=nn.Sequential(*map(layer, stage)))
        for stage in (backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4)
    ]
    embedder = module(embedder=unit(backbone.conv1, backbone.bn1))
    return module(embedder=embedder, encoder=module(stages=nn.ModuleList(stages)))


def huggingface(backbone: ResNet) -> Any:
    model = module(resnet=huggingface_modules(backbone), classifier=nn.Sequential(nn.Flatten(), nn.Linear(4, 4)))
    return model.state_dict()


def huggingface_flax(backbone: ResNet) -> bytes:
    """…/modeling_flax_resnet.py@0006bb80 as flax.serialization.to_bytes packs it: arrays are extension 1."""

    def pack(tensor: Tensor) -> msgpack.ExtType:
        array = (tensor.permute(2, 3, 1, 0) if tensor.dim() == 4 else tensor).contiguous().numpy()
        return msgpack.ExtType(1, msgpack.packb((array.shape, "float32", array.tobytes())))

    tree: dict[str, Any] = {"params": {"classifier": {"1": {"kernel": pack(torch.ones(4, 4))}}}, "batch_stats": {}}
    names = {"running_mean": "mean", "running_var": "var", "bias": "bias"}
    for name, tensor in tensors(huggingface_modules(backbone)).items():
        *path, last = name.split(".")
        place = tree["batch_stats" if last.startswith("running") else "params"].setdefault("resnet", {})
        for part in path:
            place = place.setdefault(part, {})
        place[names.get(last, "kernel" if path[-1] == "convolution" else "scale")] = pack(tensor)
    return msgpack.packb(tree)


def haiku_trees(backbone: ResNet) -> tuple[dict[str, Any], dict[str, Any]]:
    """deepmind-research byol/utils/networks.py@500ffd89 with dm-haiku haiku/_src/nets/resnet.py, BlockV1."""
    params: dict[str, Any] = {}
    state: dict[str, Any] = {}

    def add(path: str, kind: str, convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
        params[f"{path}{kind.format('conv')}"] = {"w": convolution.weight.detach().permute(2, 3, 1, 0).numpy()}
        vector = [tensor.detach().reshape(1, 1, 1, -1).numpy() for tensor in (norm.weight, norm.bias)]
        name = f"{path}{kind.format('batchnorm')}"
        params[name] = {"scale": vector[0], "offset": vector[1]}
        for statistic, tensor in (("mean", norm.running_mean), ("var", norm.running_var)):
            average = tensor.reshape(1, 1, 1, -1).numpy()
            state[f"{name}/~/{statistic}_ema"] = {"average": average, "counter": np.int32(3), "hidden": average * 0.99}

    for group, stage in enumerate((backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4)):
        for index, block in enumerate(stage):
            path = f"res_net50/~/block_group_{group}/~/block_{index}/~/"
            if block.downsample is not None:
                add(path, "shortcut_{}", *block.downsample)
            for number in (1, 2, 3):
                add(path, f"{{}}_{number - 1}", getattr(block, f"conv{number}"), getattr(block, f"bn{number}"))
    add("res_net50/~/", "initial_{}", backbone.conv1, backbone.bn1)
    params["projector/linear"] = {"w": np.ones((4, 4), np.float32)}
    state["projector/batch_norm/~/mean_ema"] = {"average": np.ones(4, np.float32)}
    return params, state


class _ByolExperimentState(NamedTuple):
    online_params: Any
    target_params: Any
    online_state: Any
    target_state: Any
    opt_state: Any


def byol(backbone: ResNet) -> bytes:
    """…/byol/utils/checkpointing.py@500ffd89: a pickle of protocol 2 whose state is a NamedTuple of their module."""
    online, target = haiku_trees(backbone), haiku_trees(momentum(backbone))
    fake = types.ModuleType("byol.byol_experiment")
    sys.modules |= {"byol": types.ModuleType("byol"), "byol.byol_experiment": fake}
    _ByolExperimentState.__module__ = fake.__name__
    fake._ByolExperimentState = _ByolExperimentState  # type: ignore[attr-defined]
    try:
        state = _ByolExperimentState(online[0], target[0], online[1], target[1], {"momentum": online[0]})
        return pickle.dumps({"experiment_state": state, "step": 5, "rng": np.zeros(2, np.uint32)}, protocol=2)
    finally:
        del sys.modules["byol"], sys.modules["byol.byol_experiment"]


def simclr(backbone: ResNet) -> dict[str, np.ndarray]:
    """google-research/simclr resnet.py@383d4143: TensorFlow numbers layers as they are created, projections first."""
    units = [(backbone.conv1, backbone.bn1)]
    for stage in (backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4):
        for block in stage:
            if block.downsample is not None:
                units.append(tuple(block.downsample))
            units += [(getattr(block, f"conv{i}"), getattr(block, f"bn{i}")) for i in (1, 2, 3)]
    arrays: dict[str, np.ndarray] = {}
    for number, (convolution, norm) in enumerate(units):
        suffix = f"_{number}" if number else ""
        kernel = convolution.weight.detach().permute(2, 3, 1, 0).numpy()
        arrays[f"base_model/conv2d{suffix}/kernel"] = kernel
        arrays[f"base_model/conv2d{suffix}/kernel/Momentum"] = kernel * 0.1
        vectors = {
            "gamma": norm.weight,
            "beta": norm.bias,
            "moving_mean": norm.running_mean,
            "moving_variance": norm.running_var,
        }
        for name, vector in vectors.items():
            arrays[f"base_model/batch_normalization{suffix}/{name}"] = vector.detach().numpy()
    arrays["head_contrastive/nl_0/dense/kernel"] = np.ones((4, 4), np.float32)
    arrays["head_supervised/linear_layer/dense/bias"] = np.ones(4, np.float32)
    arrays["global_step"] = np.array(7)
    # A checkpoint lists its variables by name, so `conv2d_10` comes before `conv2d_2`.
    return dict(sorted(arrays.items()))


def detectron2_names(backbone: ResNet, prefix: str = "", res5: str = "") -> dict[str, np.ndarray]:
    """detectron2/modeling/backbone/resnet.py@a59f0563: the norm lies inside its convolution."""
    arrays: dict[str, np.ndarray] = {}

    def add(path: str, convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
        arrays[f"{path}.weight"] = convolution.weight.detach().numpy()
        for name in ("weight", "bias", "running_mean", "running_var"):
            arrays[f"{path}.norm.{name}"] = getattr(norm, name).detach().numpy()

    add(f"{prefix}stem.conv1", backbone.conv1, backbone.bn1)
    for number, stage in enumerate((backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4), start=2):
        for index, block in enumerate(stage):
            path = f"{res5 if number == 5 else prefix}res{number}.{index}"
            for i in (1, 2, 3):
                add(f"{path}.conv{i}", getattr(block, f"conv{i}"), getattr(block, f"bn{i}"))
            if block.downsample is not None:
                add(f"{path}.shortcut", *block.downsample)
    return arrays


def detectron2(backbone: ResNet) -> bytes:
    # facebookresearch/moco detection/convert-pretrain-to-detectron2.py@4397a04e, which also keeps the head.
    model = detectron2_names(backbone) | {"stem.fc.0.weight": np.ones((4, 4), np.float32)}
    return pickle.dumps({"model": model, "__author__": "MOCO", "matching_heuristics": True})


def detectron2_detector(backbone: ResNet) -> Any:
    # A trained C4 detector: detectron2/modeling/roi_heads/roi_heads.py@a59f0563, MoCo's norm after res5 included.
    arrays = detectron2_names(backbone, "backbone.", "roi_heads.")
    model = {name: torch.from_numpy(array) for name, array in arrays.items()}
    model |= {
        "roi_heads.res5.norm.weight": torch.ones(4),
        "proposal_generator.rpn_head.conv.weight": torch.ones(4, 4, 3, 3),
    }
    model |= {"roi_heads.box_predictor.cls_score.weight": torch.ones(4, 4), "pixel_mean": torch.ones(3, 1, 1)}
    return {"model": model, "iteration": 9}


def msra(backbone: ResNet) -> bytes:
    """The blobs of Caffe2's R-50.pkl, as detectron2/checkpoint/c2_model_loading.py@a59f0563 renames them."""
    blobs: dict[str, np.ndarray] = {}

    def add(conv: str, bn: str, convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
        blobs[f"{conv}_w"] = convolution.weight.detach().numpy()
        blobs[f"{bn}_bn_s"] = norm.weight.detach().numpy()
        blobs[f"{bn}_bn_b"] = norm.bias.detach().numpy()

    add("conv1", "res_conv1", backbone.conv1, backbone.bn1)
    for number, stage in enumerate((backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4), start=2):
        for index, block in enumerate(stage):
            for i, letter in zip((1, 2, 3), "abc", strict=True):
                name = f"res{number}_{index}_branch2{letter}"
                add(name, name, getattr(block, f"conv{i}"), getattr(block, f"bn{i}"))
            if block.downsample is not None:
                add(f"res{number}_{index}_branch1", f"res{number}_{index}_branch1", *block.downsample)
    blobs |= {
        "fc1000_w": np.ones((4, 4), np.float32),
        "fc1000_b": np.ones(4, np.float32),
        "conv1_b": np.zeros(16, np.float32),
    }
    return pickle.dumps(blobs, protocol=2)


def this_project(backbone: ResNet) -> Any:
    # pretrain/checkpoint.py: SimSiam's layout and one entry for the exact resume.
    return simsiam(backbone) | {"resume": {"step": 3}}


def this_project_moco(backbone: ResNet) -> Any:
    return moco(backbone) | {"resume": {"step": 3}}


@dataclass(frozen=True)
class Layout:
    """A format's name, the builder of one of its files, and how the project saves it."""

    format: str
    build: Callable[[ResNet], Any]
    suffix: str = ".pth"

    @property
    def id(self) -> str:
        return f"{self.format}-{self.build.__name__}"

    def write(self, folder: Path, backbone: ResNet) -> Path:
        path = folder / f"{self.build.__name__}{self.suffix}"
        content = self.build(copy.deepcopy(backbone))
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif self.suffix == ".safetensors":
            save_file({name: tensor.contiguous() for name, tensor in content.items()}, path, metadata={"format": "pt"})
        elif self.suffix == ".npz":
            np.savez(path, **content)
        else:
            # `.tar`: PyTorch before 1.6 wrote no zip; MoCo's, PCL's and PyContrast's files are of that age.
            torch.save(content, path, _use_new_zipfile_serialization=self.suffix != ".pth.tar")
        return path


LAYOUTS = [
    Layout("this-project", this_project),
    Layout("this-project", this_project_moco),
    Layout("simsiam", simsiam),
    Layout("moco", moco, ".pth.tar"),
    Layout("moco", moco_v1, ".pth.tar"),
    Layout("moco-v3", moco_v3),
    Layout("swav", swav, ".pth.tar"),
    Layout("swav", deepcluster),
    Layout("barlowtwins-vicreg", barlowtwins),
    Layout("barlowtwins-vicreg", vicreg),
    Layout("pixpro", pixpro),
    Layout("soco", soco),
    Layout("soco", soco_fpn),
    Layout("pycontrast", pycontrast, ".pth.tar"),
    Layout("openmmlab", densecl),
    Layout("openmmlab", mmselfsup),
    Layout("openmmlab", mmselfsup_moco),
    Layout("openmmlab", mmselfsup_byol),
    Layout("openmmlab", mmpretrain),
    Layout("solo-learn", solo_learn, ".ckpt"),
    Layout("solo-learn", solo_learn_byol, ".ckpt"),
    Layout("lightly", lightly, ".ckpt"),
    Layout("lightly", lightly_sequential, ".ckpt"),
    Layout("sequential", radimagenet),
    Layout("vissl", vissl, ".torch"),
    Layout("patrickhua", patrickhua),
    Layout("taoyang1122", taoyang1122),
    Layout("lightning-bolts", bolts, ".ckpt"),
    Layout("lightning-bolts-simclr", bolts_simclr, ".ckpt"),
    Layout("lightning-bolts-swav", bolts_swav, ".ckpt"),
    Layout("dino", dino),
    Layout("torchvision", torchvision_flat),
    Layout("torchvision", imagenet_example),
    Layout("torchvision", extracted),
    Layout("huggingface", huggingface, ".safetensors"),
    Layout("huggingface-flax", huggingface_flax, ".msgpack"),
    Layout("byol", byol, ".pkl"),
    Layout("simclr", simclr, ".npz"),
    Layout("detectron2", detectron2, ".pkl"),
    Layout("detectron2", detectron2_detector),
    Layout("msra", msra, ".pkl"),
]
