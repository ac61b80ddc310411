"""Every key of `python -m transfer`, typed. The detector's own settings stay Detectron2's: see `detectron2`."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING, OmegaConf

from runs.errors import UserError
from runs.settings import CommandConfig, choice, number, path

# The classes of PASCAL VOC in Detectron2's order (detectron2/data/datasets/pascal_voc.py).
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
# task -> the recipe that Table 5 of the SimSiam paper means.
RECIPES = {"voc07": "voc07_R50_C4_9k", "voc0712": "voc0712_R50_C4_24k", "coco": "coco_R50_C4_1x"}
# In the YAML files: ${if:${official},pytorch,auto}
OmegaConf.register_new_resolver("if", lambda condition, yes, no: yes if condition else no, replace=True)


@dataclass
class DataFolder:
    """Images and boxes in Detectron2's layout."""

    root: str = path()
    """The folder that holds `VOC2007/`, `VOC2012/`, `coco/`."""
    classes: list[str] = field(default_factory=lambda: list(VOC_CLASSES))
    """The VOC class names in order; COCO's come from its annotation file."""


@dataclass
class DataConfig(DataFolder):
    """Which images to train on, and which to report on."""

    train: list[str] = field(default_factory=list)
    """Names of the training splits, e.g. [voc_2007_train]; empty: the recipe's."""
    test: list[str] = field(default_factory=list)
    """Name of the split to report on, in a list; empty: the recipe's."""
    images: int = number(0, least=0)
    """Train on so many images, a class-balanced subset that contains every smaller one; 0: on all."""
    seed: int = number(0, least=0)
    """Of the subset, and of what is held out."""
    held_out: float = number(0.0, least=0, below=1)
    """Share of the training images to leave out and report on instead of `test`; 0: none."""
    workers: int = number(-1, least=-1)
    """Processes that load images; 0 loads in the training process, -1 takes what the machine has cores for."""


@dataclass
class SearchConfig:
    """Choice of the learning rate, on a part of the training split; the split that is reported on plays no part."""

    enabled: bool = False
    rates: list[float] = number(list, above=0)
    """Values of SOLVER.BASE_LR to try with one seed; empty: the task's, VOC 0.02 to 0.15, COCO 0.02 to 0.1."""
    held_out: float = number(0.2, above=0, below=1)
    """Share of the training images to choose on."""
    metric: str = choice("bbox/AP", "bbox/AP50", "bbox/AP75", "segm/AP", "segm/AP50", "segm/AP75")
    """The metric that decides."""


@dataclass
class TransferConfig(CommandConfig):
    """One fine-tuning trial, or several."""

    task: str = choice(MISSING, *RECIPES)
    """A column of Table 5 of the SimSiam paper (arXiv:2011.10566)."""
    weights: str = path()
    """The .pkl of `python -m converters detectron2` (or another in Detectron2's names), or `scratch`."""
    arch: str = "resnet50"
    """The network for weights=scratch; a file says which one it holds."""
    recipe: str = path("")
    """Name of a file in transfer/recipes, or path of a Detectron2 YAML; empty: the task's."""
    # The flag lets keys be given that are not in the (empty) default; Detectron2 then checks their names and types.
    detectron2: dict[str, Any] = field(default_factory=lambda: OmegaConf.create({}, flags={"struct": False}))  # type: ignore[arg-type, return-value]
    """Settings of Detectron2 by their own names, e.g. detectron2.SOLVER.MAX_ITER=100; over the recipe."""
    data: DataConfig = field(default_factory=DataConfig)
    trials: int = number(1, least=1)
    """Runs with seeds `seed`, `seed + 1`, …; their mean and standard deviation are recorded."""
    search: SearchConfig = field(default_factory=SearchConfig)
    seed: int = number(0, least=0)
    """Seed of the new layers, the order of images, augmentation and sampling of regions."""
    output: str = path("")
    """The run's folder; empty: outputs/transfer/<task>_<weights>_seed<seed>."""
    log_every: int = number(20, least=1)
    """Iterations that a line of metrics.jsonl averages over."""
    save_seconds: float = number(120.0, least=0)
    """Seconds between checkpoints."""
    pictures: int = number(12, least=0)
    """Test images on each sheet of detections; 0 draws none."""

    def check_consistency(self) -> None:
        """Refuse settings that exclude each other."""
        if self.search.metric.startswith("segm") and self.task != "coco":
            raise UserError(f"search.metric={self.search.metric}: task={self.task} has no masks; choose bbox/…")
        if self.search.enabled and self.data.held_out:
            # The same hash holds both parts out: the rate would be chosen on images that are reported on.
            raise UserError("data.held_out: is what a search chooses on; leave it 0 with search.enabled=true")
        # NumPy's generator, which Detectron2's augmentation reads, takes 32 bits.
        if self.seed + self.trials > 2**32:
            raise UserError(f"seed={self.seed}: must be below 2^32, with those of further trials")
