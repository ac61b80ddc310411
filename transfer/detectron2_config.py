"""From a recipe (a plain Detectron2 YAML), a backbone and the user's own settings to Detectron2's configuration."""

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode, get_cfg

from converters.architecture import parse_arch
from runs.distributed import world_size
from runs.errors import UserError
from runs.files import read_yaml
from runs.settings import flatten
from transfer.backbone_file import BackboneFile
from transfer.model import as_user_errors  # and registers the heads that the recipes name
from transfer.read_splits import Split
from transfer.settings import RECIPES, TransferConfig

FOLDER = Path(__file__).parent / "recipes"
# Detectron2's settings that are settings of the command.
OWN = {
    "MODEL.WEIGHTS": "weights=", "MODEL.DEVICE": "device=", "MODEL.ROI_HEADS.NUM_CLASSES": "data.classes=",
    "DATALOADER.NUM_WORKERS": "data.workers=", "SOLVER.CHECKPOINT_PERIOD": "save_seconds=", "SEED": "seed=",
    "OUTPUT_DIR": "output=", "VIS_PERIOD": "pictures=",
}  # fmt: skip
# What is done otherwise than in Detectron2's own training loop, or not at all: the values that a setting may have, and
# what to do instead of others.
UNSUPPORTED: dict[str, tuple[tuple[Any, ...], str]] = {
    "SOLVER.AMP.ENABLED": ((False,), "use precision=bf16"),
    "SOLVER.REFERENCE_WORLD_SIZE": ((0,), "give SOLVER's numbers themselves"),
    "DATALOADER.SAMPLER_TRAIN": (("TrainingSampler",), "leave it out"),
    "INPUT.FORMAT": (("RGB", "BGR"), "use RGB or BGR"),
    "MODEL.LOAD_PROPOSALS": ((False,), "leave it out"),
    "MODEL.KEYPOINT_ON": ((False,), "leave it out"),
    "MODEL.META_ARCHITECTURE": (("GeneralizedRCNN", "RetinaNet", "FCOS"), "use one that finds boxes of classes"),
    "TEST.AUG.ENABLED": ((False,), "leave it out"),
    "CUDNN_BENCHMARK": ((False,), "leave it out"),
}
# The least and the largest number of a setting, by the last part of its name; others are at least 0.
LARGEST, ABOVE_ZERO = 1e9, 1e-9
POSITIVE = (
    "PIXEL_STD", "SIZES", "ASPECT_RATIOS", "BATCH_SIZE_PER_IMAGE", "BBOX_REG_WEIGHTS", "POOLER_RESOLUTION",
    "MAX_SIZE_TRAIN", "MAX_SIZE_TEST", "MAX_ITER", "IMS_PER_BATCH", "NUM_ITER", "STEM_OUT_CHANNELS",
    "RES2_OUT_CHANNELS", "NUM_GROUPS", "WIDTH_PER_GROUP", "CONV_DIM", "FC_DIM",
)  # fmt: skip
SHARES = (
    "POSITIVE_FRACTION", "IOU_THRESHOLDS", "NMS_THRESH", "NMS_THRESH_TEST", "SCORE_THRESH_TEST", "MOMENTUM",
    "WARMUP_FACTOR",
)  # fmt: skip
# -1 stands for none, for no limit, or for Detectron2's own choice.
NONE = (
    "FREEZE_AT", "BOUNDARY_THRESH", "IGNORE_VALUE", "EVAL_PERIOD", "CONV_DIMS", "IOU_LABELS", "SEED",
    "DETECTIONS_PER_IMAGE", "FOCAL_LOSS_ALPHA", "POOLER_SAMPLING_RATIO",
)  # fmt: skip
RANGES = {
    **dict.fromkeys(POSITIVE, (ABOVE_ZERO, LARGEST)),
    **dict.fromkeys(SHARES, (0.0, 1.0)),
    # 0: images keep their sizes.
    **dict.fromkeys(("MIN_SIZE_TRAIN", "MIN_SIZE_TEST"), (0.0, LARGEST)),
    **dict.fromkeys(NONE, (-1.0, LARGEST)),
    **dict.fromkeys(("PIXEL_MEAN", "ANGLES"), (-LARGEST, LARGEST)),
    # Of a rate that is too high, the losses tell.
    "BASE_LR": (ABOVE_ZERO, float(np.finfo(np.float32).max)),
}


def build_cfg(config: TransferConfig, backbone: BackboneFile | None, device: str) -> CfgNode:
    """Resolve every Detectron2 setting of a run; the later wins: recipe, backbone, `config.detectron2`.

    It is not yet frozen: `set_classes_and_mask_format` adds what follows from the data set.

    Raises:
        UserError: a recipe or key that does not exist, a value of the wrong type, a setting without effect here, or a
            network that C4 cannot use.
    """
    cfg = get_cfg()
    path = recipe_path(config.recipe or RECIPES[config.task])
    _read_recipe(path)
    with as_user_errors(f"recipe={path}: not a Detectron2 recipe"):
        # Detectron2's default loader would run what a tag such as !!python/object/apply names.
        cfg.merge_from_file(str(path), allow_unsafe=False)
    _merge(cfg, _network_settings(config.arch) if backbone is None else backbone.settings, "weights")
    own = flatten(dict(config.detectron2))
    for key in own:
        if key in OWN:
            raise UserError(f"detectron2.{key}: use {OWN[key]}")
    _merge(cfg, own, "detectron2")
    _check_numbers(cfg)
    known = flatten(cfg)
    for key, (values, remedy) in UNSUPPORTED.items():
        if known[key] not in values:
            raise UserError(f"detectron2.{key}={known[key]}: is not supported; {remedy}")
    # The backbone is loaded and proved by transfer.model; Detectron2 would only warn about what it could not match.
    cfg.MODEL.WEIGHTS = "" if backbone is None else str(backbone.path)
    cfg.MODEL.DEVICE, cfg.SEED, cfg.VIS_PERIOD = device, config.seed, 0
    if config.data.train:
        cfg.DATASETS.TRAIN = tuple(config.data.train)
    if config.data.test:
        cfg.DATASETS.TEST = tuple(config.data.test)
    if len(cfg.DATASETS.TEST) != 1:
        raise UserError(f"data.test={list(cfg.DATASETS.TEST)}: one split is reported on; name it, data.test=[NAME]")
    if cfg.MODEL.RESNETS.DEPTH < 50:
        raise UserError(
            f"arch: ResNet-{cfg.MODEL.RESNETS.DEPTH} has no bottlenecks, which res5 heads need; use 50 or more"
        )
    _check_shares(cfg)
    start = f"scratch-{config.arch}" if backbone is None else backbone.path.stem
    cfg.OUTPUT_DIR = config.output or f"outputs/transfer/{config.task}_{start}_seed{config.seed}"
    return cfg


def set_classes_and_mask_format(cfg: CfgNode, train: Split) -> None:
    """Set the number of classes and INPUT.MASK_FORMAT, which follow from the images to train on.

    Raises:
        UserError: masks are asked for, and the data set has none.
    """
    if cfg.MODEL.MASK_ON and train.metric != "coco":
        raise UserError(f"detectron2.MODEL.MASK_ON=True: {train.name} has no masks; use COCO's splits, or False")
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = cfg.MODEL.RETINANET.NUM_CLASSES = len(train.classes)
    objects = (a for image in train.images for a in image["annotations"])
    if any(isinstance(a.get("segmentation"), dict) and not a["iscrowd"] for a in objects):
        # Detectron2 cuts polygons alone out of an image, unless all masks are made of pixels.
        cfg.INPUT.MASK_FORMAT = "bitmask"


def recipe_files_fingerprint(config: TransferConfig) -> str:
    """SHA-256 of what the recipe and the files it is based on say, comments aside, in hexadecimal digits.

    It does not depend on where the files lie.
    """
    recipe = _read_recipe(recipe_path(config.recipe or RECIPES[config.task]))
    return hashlib.sha256(json.dumps(recipe, default=str).encode()).hexdigest()


def _read_recipe(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A recipe, with what it is based on under `_BASE_`; refused are keys given twice, circles, and addresses."""
    if path in above:
        raise UserError(f"recipe={path}: is based on itself; correct _BASE_")
    recipe, read = read_yaml(path), []
    bases = recipe.get("_BASE_", [])
    for base in bases if isinstance(bases, list) else [bases]:
        if "://" in str(base):
            raise UserError(f"recipe={path}: _BASE_={base} is an address; fetch it first, and name the file")
        read.append(_read_recipe(path.parent / os.path.expanduser(str(base)), (*above, path)))
    return recipe | {"_BASE_": read}


def _check_numbers(cfg: CfgNode) -> None:
    """Refuse numbers and empty lists that no detector can be trained with; Detectron2 itself checks types alone."""
    defaults = flatten(get_cfg())
    for key, value in flatten(cfg).items():
        low, high = RANGES.get(key.rpartition(".")[2], (0.0, math.inf))
        if isinstance(value, list | tuple) and not value and defaults.get(key) and key != "SOLVER.STEPS":
            raise UserError(f"detectron2.{key}: is empty; give a value, or leave it out")
        if not all(low <= number <= high for number in _numbers(value)):
            raise UserError(f"detectron2.{key}={value}: must be a number from {low:g} to {high:g}")


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, list | tuple):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, int | float):
        yield value


def _check_shares(cfg: CfgNode) -> None:
    """Refuse to share a batch out where the processes would not compute what one does.

    The gradient is the mean of the processes' means, which is that of the whole batch if all have equally many images;
    naive SyncBN's statistics are then those of the batch too (detectron2/layers/batch_norm.py).
    """
    batch, processes = cfg.SOLVER.IMS_PER_BATCH, world_size()
    if batch % processes:
        raise UserError(
            f"detectron2.SOLVER.IMS_PER_BATCH={batch} does not divide by {processes} processes; start fewer or more"
        )
    if processes > 1 and cfg.MODEL.RESNETS.NORM == "BN":
        raise UserError(
            f"detectron2.MODEL.RESNETS.NORM=BN would normalise {batch // processes} images a process instead of "
            f"{batch}; use naiveSyncBN"
        )


def recipe_path(name: str) -> Path:
    """A file of transfer/recipes by its name, or any YAML by its path."""
    for path in (FOLDER / f"{name}.yaml", Path(name)):
        if path.is_file():
            return path
    names = sorted(p.stem for p in FOLDER.glob("*_*.yaml") if not p.stem.startswith("Base"))
    raise UserError(f"recipe={name}: no such file, nor one of {', '.join(names)}")


def _network_settings(arch: str) -> dict[str, Any]:
    spec = parse_arch(arch)
    if spec.cifar:
        raise UserError(f"arch={arch}: Detectron2's ResNet has no 3x3 stem; leave out _cifar")
    # Where the stride lies is the recipe's to say: no weights ask for either.
    settings = {k: v for k, v in spec.detectron2_settings().items() if k != "STRIDE_IN_1X1"}
    return {f"MODEL.RESNETS.{name}": value for name, value in settings.items()}


def _merge(cfg: CfgNode, settings: Mapping[str, Any], field: str) -> None:
    known = flatten(cfg)
    for key, value in settings.items():
        if value == {}:
            continue
        with as_user_errors(f"{field}.{key}={value}: Detectron2 has no such setting, or takes no such value"):
            # To yacs a whole number is no float.
            cfg.merge_from_list(
                [key, float(value) if isinstance(known.get(key), float) and type(value) is int else value]
            )
