"""The protocol is MoCo's: same configuration, same losses as facebookresearch/moco@132aea9 (detection/).

`parity/record_moco.py` made the figures by running that code.
"""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.config import get_cfg

from runs.settings import flatten
from tests.transfer.conftest import overrides
from tests.transfer.parity import case
from transfer.backbone_file import BackboneFile, read_backbone
from transfer.detectron2_config import build_cfg, recipe_path
from transfer.settings import TransferConfig

HERE = Path(__file__).parent / "parity"
# (task, recipe) -> MoCo's for its own weights, and for MSRA's; the 1x and the 9k recipe are not in MoCo's repository.
SAME = {
    ("voc0712", "voc0712_R50_C4_24k"): ("pascal_voc_R_50_C4_24k_moco", "pascal_voc_R_50_C4_24k"),
    ("coco", "coco_R50_C4_2x"): ("coco_R_50_C4_2x_moco", "coco_R_50_C4_2x"),
}
PATHS = {"MODEL.WEIGHTS", "MODEL.DEVICE", "OUTPUT_DIR", "SEED"}


def resolved(name: str) -> dict[str, Any]:
    cfg = get_cfg()
    cfg.merge_from_file(str(recipe_path(name)))
    return flatten(json.loads(json.dumps(cfg)))


def msra_weights(folder: Path) -> BackboneFile | None:
    """The form of MSRA's R-50.pkl: Caffe2's names, statistics folded, no word about the input."""
    shapes = {"conv1": (64, 3), "res2_0_branch2a": (64, 64), "res2_0_branch2b": (64, 64), "res2_0_branch2c": (256, 64)}
    shapes |= {f"res4_{n}_branch2a": (256, 1024) for n in range(6)}
    path = folder / "R-50.pkl"
    path.write_bytes(pickle.dumps({f"{name}_w": np.zeros(shape, np.float32) for name, shape in shapes.items()}))
    return read_backbone(path)


@pytest.mark.parametrize("ours", SAME)
@pytest.mark.parametrize("msra", [False, True])
def test_configuration_is_mocos(ours: tuple[str, str], msra: bool, tmp_path: Path) -> None:
    """With MSRA's weights too: what they expect at the input travels with them, not with a recipe."""
    theirs = flatten(json.loads((HERE / "moco_configs.json").read_text())[SAME[ours][msra]])
    config = TransferConfig(task=ours[0], weights="scratch", recipe=ours[1])
    mine = flatten(json.loads(json.dumps(build_cfg(config, msra_weights(tmp_path) if msra else None, "cpu"))))
    assert mine.keys() == theirs.keys()
    assert {k for k in mine if mine[k] != theirs[k]} <= PATHS


@pytest.mark.parametrize(
    ("shorter", "longer", "schedule"),
    [
        ("voc07_R50_C4_9k", "voc0712_R50_C4_24k", (9000, [6750, 8250])),
        ("coco_R50_C4_1x", "coco_R50_C4_2x", (90000, [60000, 80000])),
    ],
)
def test_the_other_recipes_differ_in_schedule_and_data_alone(shorter: str, longer: str, schedule: Any) -> None:
    one, other = resolved(shorter), resolved(longer)
    assert {k for k in one if one[k] != other[k]} <= {"SOLVER.MAX_ITER", "SOLVER.STEPS", "DATASETS.TRAIN"}
    assert (one["SOLVER.MAX_ITER"], one["SOLVER.STEPS"]) == schedule


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parity")
    case.write(folder)
    return folder


@pytest.mark.parametrize("variant", case.VARIANTS)
@pytest.mark.parametrize("task", case.TASKS)
def test_losses_are_mocos(data: Path, tmp_path: Path, task: str, variant: str, command: Callable[..., Any]) -> None:
    """The first 20 iterations, each loss to 1e-5: order of images, initial layers, sampling, warm-up, steps, decay."""
    settings = case.SETTINGS | case.VARIANTS[variant]
    # MoCo's command takes the device in Detectron2's words, ours in its own.
    assert settings.pop("MODEL.DEVICE") == "cpu"
    nested = [text for key, value in settings.items() for text in overrides(value, f"detectron2.{key}")]
    if task == "voc0712":
        nested += ["data.train=[voc_2007_trainval]"]
    else:
        nested += ["recipe=coco_R50_C4_2x"]
    done = command(
        f"task={task}", f"weights={data / 'weights.pkl'}", f"data.root={data}", f"seed={case.SEED}", "log_every=1",
        "pictures=0", f"output={tmp_path}", "data.classes=" + str(list(case.VOC_CLASSES)).replace(" ", ""), *nested,
        "official=true", tiny=False, environment=case.ENVIRONMENT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ours = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    theirs = json.loads((HERE / "moco_losses.json").read_text())[f"{task}-{variant}"]
    assert len(ours) == len(theirs) == case.ITERATIONS
    for line, expected in zip(ours, theirs, strict=True):
        assert {k: line[k] for k in expected} == pytest.approx(expected, abs=1e-5), f"iteration {line['step']}"
    assert theirs[-1] != theirs[0]
