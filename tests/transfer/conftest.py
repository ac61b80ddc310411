"""A small generated data set for all tests of this package, and weights to start from."""

import copy
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from transfer.settings import DataConfig, TransferConfig

SIZES = {
    "images": 4, "val-images": 2, "voc07": 12, "voc07-test": 8, "voc12": 8, "coco": 12, "coco-val": 8, "scene-size": 96,
}  # fmt: skip
CLASSES = ["bricks", "checks", "crosses", "dots", "rings", "stripes", "triangles", "zigzags"]


@pytest.fixture(scope="session")
def generated(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    """VOC2007, VOC2012 and coco with a dozen scenes each."""
    folder = tmp_path_factory.mktemp("generated") / "data"
    flags = [text for name, value in SIZES.items() for text in (f"--{name}", str(value))]
    subprocess.run([sys.executable, "-m", "benchmarks.shapes", str(folder), *flags], check=True, cwd=root)
    return folder


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An eighth-width ResNet-50 with random tensors (statistics too), in the converters' form."""
    from detectron2.config import get_cfg
    from detectron2.modeling import build_backbone

    cfg = get_cfg()
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res5"]
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 8
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 32
    torch.manual_seed(1)
    network = build_backbone(cfg)
    for name, tensor in network.named_buffers():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
        elif name.endswith("running_mean"):
            tensor.normal_()
    tensors = {k: v.numpy() for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    convention = {
        "format": "RGB", "pixel_mean": [123.675, 116.28, 103.53], "pixel_std": [58.395, 57.12, 57.375],
        "stride_in_1x1": False,
    }  # fmt: skip
    provenance = {"arch": "resnet50x0.125", "input": convention, "source": "test.pth.tar", "sha256": "0" * 64}
    path = tmp_path_factory.mktemp("weights") / "backbone.pkl"
    path.write_bytes(
        pickle.dumps(
            {"model": tensors, "__author__": "tests", "matching_heuristics": True, "provenance": provenance}, protocol=4
        )
    )
    return path


# Everything a few iterations of a tiny detector need; each is an override of the recipe.
TINY = {
    "INPUT": {"MIN_SIZE_TRAIN": [96, 112], "MIN_SIZE_TEST": 96},
    "MODEL": {
        "ANCHOR_GENERATOR": {"SIZES": [[16, 32, 64]]},
        "RPN": {
            "BATCH_SIZE_PER_IMAGE": 32, "PRE_NMS_TOPK_TRAIN": 100, "POST_NMS_TOPK_TRAIN": 30,
            "PRE_NMS_TOPK_TEST": 60, "POST_NMS_TOPK_TEST": 8,
        },
        "ROI_HEADS": {"BATCH_SIZE_PER_IMAGE": 8},
        "ROI_BOX_HEAD": {"POOLER_RESOLUTION": 4},
        "ROI_MASK_HEAD": {"CONV_DIM": 16, "POOLER_RESOLUTION": 4},
    },
    "SOLVER": {"IMS_PER_BATCH": 4, "MAX_ITER": 6, "STEPS": [4], "WARMUP_ITERS": 2},
    "TEST": {"PRECISE_BN": {"NUM_ITER": 2}},
}  # fmt: skip


def overrides(settings: Any, prefix: str = "detectron2") -> list[str]:
    """A mapping as the command line takes it."""
    if not isinstance(settings, dict):
        return [f"{prefix}={settings}".replace(" ", "")]
    return [text for key, value in settings.items() for text in overrides(value, f"{prefix}.{key}")]


@pytest.fixture
def tiny(generated: Path, backbone: Path, tmp_path: Path) -> TransferConfig:
    """The same for tests that call functions: six iterations on the generated VOC2007."""
    return TransferConfig(
        task="voc07",
        weights=str(backbone),
        detectron2=copy.deepcopy(TINY),
        data=DataConfig(root=str(generated), classes=CLASSES, workers=0),
        output=str(tmp_path / "run"),
        device="cpu",
        pictures=0,
        log_every=2,
    )


@pytest.fixture(scope="session")
def command(generated: Path, root: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`python -m transfer` on the generated data with the tiny settings and more arguments."""

    def start(
        *arguments: str, tiny: bool = True, environment: dict[str, str] | None = None, **keywords: Any
    ) -> subprocess.CompletedProcess[str]:
        common = [f"data.root={generated}", f"data.classes=[{','.join(CLASSES)}]", "arch=resnet50x0.125", "device=cpu"]
        common += ["data.workers=0", *(overrides(TINY) if tiny else [])]
        given = {argument.partition("=")[0] for argument in arguments}
        line = [text for text in common if text.partition("=")[0] not in given]
        variables = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
        return subprocess.run(
            [sys.executable, "-m", "transfer", *line, *arguments],
            cwd=root, env=variables, text=True, capture_output=True, **keywords,
        )  # fmt: skip

    return start
