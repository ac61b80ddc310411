"""Every key of `python -m transfer`, typed. The detector's own settings stay Detectron2's: see `detectron2`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING, OmegaConf

from runs.errors import UserError
from runs.settings import path

# The classes of PASCAL VOC in Detectron2's order (detectron2/data/datasets/pascal_voc.py).
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip

SCRATCH = "scratch"  # in place of a file of weights
# task -> the recipe that Table 5 of the SimSiam paper means.
RECIPES = {"voc07": "voc07_R50_C4_9k", "voc0712": "voc0712_R50_C4_24k", "coco": "coco_R50_C4_1x"}
# The SimSiam paper searches "for each individual method" and publishes neither grid nor values. These span what is
# known: MoCo's 0.02 and the 0.1 that VISSL chose for SimCLR and SwAV on VOC
# (facebookresearch/vissl configs/.../voc0712/simclr_swav, cvpr21_scale/R50_VOC0712/sBNextraNorm_precBN.yaml).
GRIDS = {"voc07": (0.02, 0.05, 0.1, 0.15), "voc0712": (0.02, 0.05, 0.1, 0.15), "coco": (0.02, 0.04, 0.1)}
PRECISIONS = ("fp32", "tf32", "bf16")
_BOX = ("bbox/AP", "bbox/AP50", "bbox/AP75")
METRICS = {"voc07": _BOX, "voc0712": _BOX, "coco": (*_BOX, "segm/AP", "segm/AP50", "segm/AP75")}


@dataclass
class DataConfig:
    """Images and boxes in Detectron2's layout.

    Attributes:
        root: the folder that holds `VOC2007/`, `VOC2012/`, `coco/`.
        train: names of the training splits, e.g. `[voc_2007_train]`; empty: the recipe's.
        test: name of the split to report on, in a list; empty: the recipe's.
        classes: the VOC class names in order; COCO's come from its annotation file.
        images: train on so many images, a class-balanced subset that contains every smaller one; 0: on all.
        seed: of the subset, and of what is held out.
        held_out: share of the training images to leave out and report on instead of `test`; 0: none.
        workers: processes that load images; 0 loads in the training process, -1 takes what the machine has cores for.
    """

    root: str = path()
    train: list[str] = field(default_factory=list)
    test: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=lambda: list(VOC_CLASSES))
    images: int = 0
    seed: int = 0
    held_out: float = 0.0
    workers: int = -1


@dataclass
class SearchConfig:
    """Choice of the learning rate, on a part of the training split; the split that is reported on has no say.

    Attributes:
        enabled: whether to search.
        rates: values of SOLVER.BASE_LR to try with one seed; empty: the task's grid in `GRIDS`.
        held_out: share of the training images to choose on.
        metric: the metric that decides.
    """

    enabled: bool = False
    rates: list[float] = field(default_factory=list)
    held_out: float = 0.2
    metric: str = "bbox/AP"


@dataclass
class TransferConfig:
    """One fine-tuning trial.

    Attributes:
        task: `voc07`, `voc0712` or `coco`: a column of Table 5 of the SimSiam paper (arXiv:2011.10566).
        weights: the `.pkl` of `python -m converters detectron2` (or another in Detectron2's names), or `scratch`.
        arch: the network of `weights=scratch`; a file says itself what it holds.
        recipe: name of a file in transfer/recipes, or path of a Detectron2 YAML; empty: the task's.
        detectron2: settings of Detectron2 by their own names, e.g. `detectron2.SOLVER.MAX_ITER=100`; over the recipe.
        data: where the images are.
        trials: runs with seeds `seed`, `seed + 1`, ...; their mean and standard deviation are recorded.
        search: choice of the learning rate before the trials.
        seed: of initial layers, order of images, augmentation and sampling of regions.
        output: the run's folder; empty: `outputs/transfer/<task>_<weights>_seed<seed>`.
        device: `auto`, `cpu` or `cuda`.
        precision: `fp32` (as published), `tf32` or `bf16`.
        channels_last: memory layout of convolutions; faster on recent GPUs, equal up to rounding.
        log_every: iterations a line of metrics.jsonl averages over.
        save_seconds: seconds between checkpoints.
        pictures: test images on each sheet of detections; 0 draws none.
    """

    task: str = MISSING
    weights: str = path()
    arch: str = "resnet50"
    recipe: str = path("")
    # The flag lets keys be given that are not in the (empty) default; Detectron2 then checks their names and types.
    detectron2: dict[str, Any] = field(default_factory=lambda: OmegaConf.create({}, flags={"struct": False}))  # type: ignore[arg-type, return-value]
    data: DataConfig = field(default_factory=DataConfig)
    trials: int = 1
    search: SearchConfig = field(default_factory=SearchConfig)
    seed: int = 0
    output: str = path("")
    device: str = "auto"
    precision: str = "fp32"
    channels_last: bool = False
    log_every: int = 20
    save_seconds: float = 120.0
    pictures: int = 12

    @property
    def folder(self) -> Path:
        """The run's folder: `output`, or a name of its own."""
        start = f"scratch-{self.arch}" if self.weights == SCRATCH else Path(self.weights).stem
        return Path(self.output or f"outputs/transfer/{self.task}_{start}_seed{self.seed}")

    def __post_init__(self) -> None:
        if not isinstance(self.task, str) or self.task == MISSING:
            return  # the class as a schema, before any value
        _choice("task", self.task, tuple(RECIPES))
        _choice("precision", self.precision, PRECISIONS)
        _choice("device", self.device, ("auto", "cpu", "cuda"))
        if self.data.workers < -1:
            raise UserError(f"data.workers={self.data.workers}: must be -1 or more")
        for key, low in (("log_every", 1), ("pictures", 0), ("save_seconds", 0), ("seed", 0), ("trials", 1)):
            if getattr(self, key) < low:
                raise UserError(f"{key}={getattr(self, key)}: must be at least {low}")
        for key, share in (("data.held_out", self.data.held_out), ("search.held_out", self.search.held_out)):
            if not 0 <= share < 1:
                raise UserError(f"{key}={share}: must be at least 0 and below 1")
        if self.data.images < 0:
            raise UserError(f"data.images={self.data.images}: must be 0 (all) or more")
        if self.search.enabled and not self.search.held_out:
            raise UserError("search.held_out=0: a search needs images to choose on; hold some out, e.g. 0.2")
        if self.search.enabled and self.data.held_out:
            # The same hash holds both parts out: the rate would be chosen on images that are reported on.
            raise UserError("data.held_out: is what a search chooses on; leave it 0 with search.enabled=true")
        _choice("search.metric", self.search.metric, METRICS[self.task])
        if any(rate <= 0 for rate in self.search.rates):
            raise UserError(f"search.rates={self.search.rates}: must be above 0")
        # NumPy's generator, which Detectron2's augmentation reads, takes 32 bits.
        if self.seed >= 2**32:
            raise UserError(f"seed={self.seed}: must be below 2^32")
        if len(self.data.test) > 1:
            raise UserError(f"data.test={self.data.test}: one split is reported on; name one")


def _choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(f"{key}={value}: must be one of {', '.join(choices)}")
