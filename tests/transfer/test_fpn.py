"""Weights in detectors with an FPN: of our recipes, of Detectron2's own files, of torchvision; proved, or refused."""

import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from detectron2 import model_zoo
from detectron2.modeling import build_model
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor

import converters
from converters.resnet_model import build_resnet
from runs.errors import UserError
from runs.record import read_record
from tests.converters import layouts
from transfer.backbone_file import read_backbone
from transfer.detectron2_config import build_cfg
from transfer.model import load_and_prove_equal
from transfer.settings import TransferConfig

LAYOUTS = [layouts.simsiam, layouts.moco, layouts.lightly, layouts.torchvision_flat, layouts.detectron2]
SMALL = {
    "INPUT": {"MIN_SIZE_TRAIN": [96], "MIN_SIZE_TEST": 96},
    "MODEL": {
        "ANCHOR_GENERATOR": {"SIZES": [[8], [16], [32], [64], [128]]},
        "FPN": {"OUT_CHANNELS": 32},
        "RPN": {"BATCH_SIZE_PER_IMAGE": 32, "PRE_NMS_TOPK_TRAIN": 50, "POST_NMS_TOPK_TRAIN": 20,
                "PRE_NMS_TOPK_TEST": 50, "POST_NMS_TOPK_TEST": 8},
        "ROI_HEADS": {"BATCH_SIZE_PER_IMAGE": 8},
        "ROI_BOX_HEAD": {"CONV_DIM": 16, "FC_DIM": 32},
        "ROI_MASK_HEAD": {"CONV_DIM": 16},
    },
    "SOLVER": {"IMS_PER_BATCH": 4, "MAX_ITER": 4, "STEPS": [2], "WARMUP_ITERS": 2},
    "TEST": {"PRECISE_BN": {"NUM_ITER": 2}},
}  # fmt: skip


@pytest.fixture(scope="module", params=LAYOUTS, ids=lambda build: build.__name__)
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(a checkpoint of a public project, what `python -m converters detectron2` makes of it)."""
    folder = tmp_path_factory.mktemp("fpn")
    [layout] = [entry for entry in layouts.LAYOUTS if entry.build is request.param]
    checkpoint = layout.write(folder, layouts.trained())
    converters.convert(checkpoint, folder / "backbone.pkl")
    return checkpoint, folder / "backbone.pkl"


def detectron2(path: Path, recipe: str) -> tuple[nn.Module, Any]:
    file = read_backbone(path)
    return build_model(build_cfg(TransferConfig(task="coco", weights=str(path), recipe=recipe), file, "cpu")), file


@pytest.mark.parametrize(
    "recipe", ["coco_R50_FPN_1x", model_zoo.get_config_file("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml")]
)
def test_detectron2s_detectors_compute_the_checkpoints_features(files: tuple[Path, Path], recipe: str) -> None:
    checkpoint, path = files
    detector, file = detectron2(path, recipe)
    assert load_and_prove_equal(detector, file)["tensors"] == 53 + 53 * 4
    proof = converters.prove_loaded(checkpoint, detector)
    assert proof and max(proof.errors.values()) < 1e-5, proof
    nn.init.normal_(detector.backbone.bottom_up.res3[1].conv2.weight)
    assert not converters.prove_loaded(checkpoint, detector)


def test_torchvisions_detector_computes_the_checkpoints_features(files: tuple[Path, Path]) -> None:
    checkpoint, _ = files
    body = build_resnet(layouts.ARCH)
    detector = FasterRCNN(_resnet_fpn_extractor(body, trainable_layers=5), num_classes=21)
    detector.backbone.body.load_state_dict(converters.load_backbone(checkpoint).state_dict, strict=False)
    assert converters.prove_loaded(checkpoint, detector)
    nn.init.normal_(detector.backbone.body.layer4[2].conv1.weight)
    assert not converters.prove_loaded(checkpoint, detector)


def test_a_lost_layer_is_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    content = pickle.loads(files[1].read_bytes())
    del content["model"]["res5.2.conv3.weight"]
    (tmp_path / "lost.pkl").write_bytes(pickle.dumps(content))
    detector, file = detectron2(tmp_path / "lost.pkl", "coco_R50_FPN_1x")
    with pytest.raises(UserError, match=r"lacks 1 of 265 backbone tensors, first res5\.2\.conv3\.weight"):
        load_and_prove_equal(detector, file)


@pytest.mark.slow
@pytest.mark.parametrize(("task", "recipe"), [("coco", "coco_R50_FPN_1x"), ("voc0712", "voc0712_R50_FPN")])
def test_a_recipe_trains(
    command: Callable[..., subprocess.CompletedProcess[str]], backbone: Path, tmp_path: Path, task: str, recipe: str
) -> None:
    from tests.transfer.conftest import overrides

    settings = [f"task={task}", f"recipe={recipe}", f"weights={backbone}", f"output={tmp_path}/run", "pictures=0"]
    done = command(*settings, *overrides(SMALL), tiny=False)
    assert done.returncode == 0, done.stderr[-1500:]
    record = read_record(tmp_path / "run")
    assert record.details["weights"]["tensors"] == 265 and ("segm/AP" in record.metrics) == (task == "coco")
