"""A detector must hold exactly the file's tensors, or the command must stop."""

import dataclasses
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_model
from torch import nn

from runs.errors import UserError
from transfer import model
from transfer.backbone_file import read_backbone
from transfer.detectron2_config import build_cfg
from transfer.model import load_and_prove_equal
from transfer.settings import TransferConfig


def detector_for(path: Path) -> tuple[Any, Any]:
    file = read_backbone(path)
    return build_model(build_cfg(TransferConfig(task="voc07", weights=str(path)), file, "cpu")), file


def test_every_tensor_is_the_files(backbone: Path) -> None:
    detector, file = detector_for(backbone)
    proof = load_and_prove_equal(detector, file)
    # 53 convolutions and 53 batch norms of four tensors, as the architecture has them.
    assert proof["tensors"] == 53 + 53 * 4 == len(file.tensors)
    assert (
        proof["input"] == "provenance"
        and proof["unused"] == []
        and proof["elements"] == sum(t.size for t in file.tensors.values())
    )
    state = detector.state_dict()
    assert np.array_equal(state["roi_heads.res5.2.conv3.weight"], file.tensors["res5.2.conv3.weight"])
    assert np.array_equal(state["backbone.stem.conv1.norm.running_var"], file.tensors["stem.conv1.norm.running_var"])
    # The extra norm is new: it starts as the identity.
    assert torch.equal(state["roi_heads.res5.norm.weight"], torch.ones(256))


def test_agrees_with_detectron2s_own_loader(backbone: Path) -> None:
    from detectron2.checkpoint import DetectionCheckpointer

    torch.manual_seed(0)
    detector, file = detector_for(backbone)
    load_and_prove_equal(detector, file)
    torch.manual_seed(0)
    other, _ = detector_for(backbone)
    DetectionCheckpointer(other).load(str(backbone))
    mine, theirs = detector.state_dict(), other.state_dict()
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []


def test_folded_statistics_divide_by_one(backbone: Path) -> None:
    """In Detectron2's default norm too, which adds eps to the variance; so does a frozen extra norm."""
    file = read_backbone(backbone)
    assert file
    tensors = {name: array for name, array in file.tensors.items() if "running" not in name}
    folded = dataclasses.replace(file, tensors=tensors, folded=True)
    settings = {"MODEL": {"RESNETS": {"NORM": "FrozenBN"}}}
    detector = build_model(build_cfg(TransferConfig(task="voc07", detectron2=settings, weights="-"), folded, "cpu"))
    assert load_and_prove_equal(detector, folded)["tensors"] == 53 + 53 * 2
    norms = [module for module in detector.modules() if isinstance(module, FrozenBatchNorm2d)]
    assert len(norms) == 54 and all(torch.equal(n.running_var + n.eps, torch.ones(n.num_features)) for n in norms)
    assert not any(norm.running_mean.any() for norm in norms)


def test_the_architecture_and_the_input_come_from_the_file(backbone: Path, tmp_path: Path) -> None:
    def bgr(content: dict[str, Any]) -> None:
        content["provenance"]["input"] = {
            "format": "BGR", "pixel_mean": [1.0, 2.0, 3.0], "pixel_std": [4.0, 5.0, 6.0], "stride_in_1x1": True,
        }  # fmt: skip

    file = read_backbone(edited(backbone, tmp_path, bgr))
    cfg = build_cfg(TransferConfig(task="coco", weights="-"), file, "cpu")
    assert (cfg.INPUT.FORMAT, cfg.MODEL.PIXEL_MEAN, cfg.MODEL.RESNETS.STRIDE_IN_1X1) == ("BGR", [1.0, 2.0, 3.0], True)
    assert (cfg.MODEL.RESNETS.STEM_OUT_CHANNELS, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS) == (8, 32)
    assert (cfg.MODEL.RESNETS.WIDTH_PER_GROUP, cfg.MODEL.RESNETS.DEPTH) == (8, 50)


def edited(backbone: Path, folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    content = pickle.loads(backbone.read_bytes())
    change(content)
    path = folder / "edited.pkl"
    path.write_bytes(pickle.dumps(content, protocol=4))
    return path


def test_every_layer_is_missed(backbone: Path) -> None:
    """Detectron2 warns about a layer that the file lacks, and trains it from random numbers."""
    detector, file = detector_for(backbone)
    layers = {name.rsplit(".", 1)[0] for name in file.tensors}
    assert len(layers) == 106
    for layer in layers:
        left = {name: tensor for name, tensor in file.tensors.items() if not name.startswith(f"{layer}.")}
        lost = len(file.tensors) - len(left)
        with pytest.raises(UserError, match=rf"lacks {lost} of 265 backbone tensors, first {layer}"):
            load_and_prove_equal(detector, dataclasses.replace(file, tensors=left))


def missing(content: dict[str, Any]) -> None:
    del content["model"]["res5.1.conv2.norm.bias"]


def misshapen(content: dict[str, Any]) -> None:
    content["model"]["res3.0.conv1.weight"] = np.zeros((3, 3, 1, 1), np.float32)


def not_a_number(content: dict[str, Any]) -> None:
    content["model"]["res3.0.conv1.weight"][0] = np.nan


def moco_of_simsiam(content: dict[str, Any]) -> None:
    # What MoCo's converter makes of a SimSiam checkpoint; Detectron2 alone would train from random weights.
    content["model"] = {}


def no_convention(content: dict[str, Any]) -> None:
    content["provenance"]["input"] = {"format": "RGB"}


def an_empty_convention(content: dict[str, Any]) -> None:
    content["provenance"]["input"] = {}


def no_deviation(content: dict[str, Any]) -> None:
    content["provenance"]["input"]["pixel_std"] = [0.0, float("nan"), 1.0]


def a_subject_of_other_types(content: dict[str, Any]) -> None:
    # It would stand in the record of a training of hours, which nothing could read.
    content["provenance"]["subject"] = {"method": {"a": 1}, "epochs": np.ones(2)}


def no_channels(content: dict[str, Any]) -> None:
    content["model"]["res2.0.conv2.weight"] = np.zeros((8, 0, 3, 3), np.float32)


def objects(content: dict[str, Any]) -> None:
    content["model"]["res3.0.conv1.weight"] = np.array([None, 1])


@pytest.mark.parametrize(
    ("change", "named"),
    [(missing, r"lacks 1 of 265 backbone tensors, first res5\.1\.conv2\.norm\.bias"),
     (misshapen, r"res3\.0\.conv1\.weight has shape \(3, 3, 1, 1\), the detector \(16, 32, 1, 1\); leave"),
     *((change, "") for change in (not_a_number, moco_of_simsiam, no_convention, an_empty_convention, no_deviation,
                                   a_subject_of_other_types, no_channels, objects))],
)  # fmt: skip
def test_a_wrong_file_is_refused(backbone: Path, tmp_path: Path, change: Any, named: str) -> None:
    path = edited(backbone, tmp_path, change)
    with pytest.raises(UserError, match=rf"edited\.pkl: .*{named}"):
        load_and_prove_equal(*detector_for(path))


def test_a_defect_of_ours_is_no_setting_that_detectron2_refuses(
    backbone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "build_model", Mock(side_effect=KeyError))
    with pytest.raises(KeyError):
        model.build_detector(
            build_cfg(TransferConfig(task="voc07", weights="-"), read_backbone(backbone), "cpu"), False
        )


def test_a_runtime_error_is_of_the_settings_where_detectron2_is_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of PyTorch's layers; not what a GPU's libraries say, which no setting causes."""
    with pytest.raises(RuntimeError, match="shapes cannot be"), model.as_user_errors("recipe="):
        nn.Linear(2, 3)(torch.zeros(1, 5))
    monkeypatch.setitem(globals(), "__name__", "detectron2.layers")
    with pytest.raises(UserError, match=r"recipe= \(.*shapes cannot be"), model.as_user_errors("recipe="):
        nn.Linear(2, 3)(torch.zeros(1, 5))
    for reason in ("CUDA error: device-side assert triggered", "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"):
        with pytest.raises(RuntimeError, match=reason), model.as_user_errors("recipe="):
            raise RuntimeError(reason)


class Evil:
    def __reduce__(self) -> Any:
        return print, ("run by a pickle",)


@pytest.mark.parametrize("kind", ["empty", "truncated", "text", "code", "checkpoint"])
def test_what_is_no_backbone_is_refused(backbone: Path, tmp_path: Path, capsys: Any, kind: str) -> None:
    whole = backbone.read_bytes()
    path = tmp_path / "bad.pkl"
    # What pre-training writes, not yet converted.
    torch.save({"state_dict": {"module.encoder.conv1.weight": torch.zeros(8, 3, 7, 7)}}, path)
    content = {
        "empty": b"", "truncated": whole[: len(whole) // 2], "text": b"hello", "code": pickle.dumps(Evil()),
        "checkpoint": path.read_bytes(),
    }  # fmt: skip
    path.write_bytes(content[kind])
    with pytest.raises(UserError, match=r"bad\.pkl: not a backbone file"):
        read_backbone(path)
    assert capsys.readouterr().out == ""


def test_a_proof_that_cannot_hold_fails(backbone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loader that forgets one tensor is caught by the comparison, not by its own bookkeeping."""
    detector, file = detector_for(backbone)
    load_and_prove_equal(detector, file)
    with torch.no_grad():
        detector.roi_heads.res5[0].conv1.weight[0, 0] += 1e-7
    with pytest.raises(UserError, match=r"res5\.0\.conv1\.weight"):
        model._prove(detector, file, model._file_to_detector_names(detector))
