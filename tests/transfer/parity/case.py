"""The small case on which MoCo's code and ours run: images, boxes, polygons and weights from fixed numbers.

Images are stored without loss (PNG bytes under the names the layouts ask for), so no JPEG library has a say.
"""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from PIL import Image

from transfer.settings import VOC_CLASSES

SEED = 7
ITERATIONS = 20
COUNT = 10
# Over the recipe, for both codes: an eighth-width network on small images.
SETTINGS: dict[str, Any] = {
    "MODEL.DEVICE": "cpu",
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 32,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 8,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 6,
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": 6,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 16,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 16,
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 64,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 100,
    "MODEL.ANCHOR_GENERATOR.SIZES": [[16, 32, 64]],
    "SOLVER.IMS_PER_BATCH": 4,
    "SOLVER.MAX_ITER": ITERATIONS,
    "SOLVER.STEPS": [12, 16],
    "SOLVER.WARMUP_ITERS": 5,
    "TEST.PRECISE_BN.NUM_ITER": 1,
}
# Losses agree to 1e-5 only where sums are made in the same order, so both codes run with the instructions that every
# x86 processor of the last ten years has, whatever the machine could do beyond.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1", "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "COMPATIBLE",
}  # fmt: skip
# Two ways to draw: no augmentation at all, which leaves MoCo's code untouched; or the recipe's kind of augmentation,
# its draws seeded by each image's position in the stream in both codes.
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"INPUT.MIN_SIZE_TRAIN": [96], "INPUT.RANDOM_FLIP": "none"},
    "augmented": {"INPUT.MIN_SIZE_TRAIN": [80, 96, 112]},
}
TASKS = {"voc0712": "pascal_voc_R_50_C4_24k_moco", "coco": "coco_R_50_C4_2x_moco"}


def write(folder: Path) -> Path:
    """Write `VOC2007/`, `coco/` and `weights.pkl` under `folder`; returns the weights' path."""
    rng = np.random.RandomState(SEED)  # the legacy generator, whose numbers never change
    voc, coco = folder / "VOC2007", folder / "coco"
    for path in (voc / "JPEGImages", voc / "Annotations", voc / "ImageSets" / "Main", coco / "train2017"):
        path.mkdir(parents=True)
    (coco / "annotations").mkdir()
    (coco / "val2017").mkdir()
    document: dict[str, Any] = {
        "images": [], "annotations": [],
        "categories": [{"id": c["id"], "name": c["name"]} for c in COCO_CATEGORIES if c["isthing"]],
    }  # fmt: skip
    for number in range(COUNT):
        _image(number, rng, voc, coco / "train2017", document)
    # Drawn after the images to train on, so that those stay the ones that MoCo's losses were recorded with.
    few: dict[str, Any] = {"images": [], "annotations": [], "categories": document["categories"]}
    for number in (COUNT, COUNT + 1):
        _image(number, rng, voc, coco / "val2017", few)
    for split, numbers in (("trainval", range(COUNT)), ("test", range(COUNT, COUNT + 2))):
        (voc / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(f"{n:06d}" for n in numbers))
    (coco / "annotations" / "instances_train2017.json").write_text(json.dumps(document))
    (coco / "annotations" / "instances_val2017.json").write_text(json.dumps(few))
    return _weights(folder / "weights.pkl")


def _image(number: int, rng: np.random.RandomState, voc: Path, folder: Path, document: dict[str, Any]) -> None:
    width, height = ((120, 96), (96, 130))[number % 2]
    pixels = rng.randint(0, 256, (height // 8 + 1, width // 8 + 1, 3)).repeat(8, 0).repeat(8, 1)[:height, :width]
    objects = []
    for _ in range(rng.randint(1, 4)):
        x, y, w, h = rng.randint(0, width - 50), rng.randint(0, height - 50), rng.randint(20, 50), rng.randint(20, 50)
        category = int(rng.randint(0, 20))
        pixels[y : y + h, x : x + w] = rng.randint(0, 256, 3) + category
        objects.append(
            f"<object><name>{VOC_CLASSES[category]}</name><pose>x</pose><truncated>0</truncated><difficult>"
            f"{rng.randint(0, 2)}</difficult><bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + w}</xmax>"
            f"<ymax>{y + h}</ymax></bndbox></object>"
        )
        entry = {
            "id": len(document["annotations"]) + 1, "image_id": number, "iscrowd": 0,
            "category_id": COCO_CATEGORIES[category]["id"],
            "bbox": [int(x), int(y), int(w), int(h)], "area": int(w * h),
            "segmentation": [[int(v) for v in (x, y, x + w, y, x + w, y + h, x + w // 2, y + h // 2, x, y + h)]],
        }  # fmt: skip
        document["annotations"].append(entry)
    name = f"{number:06d}"
    picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    for path in (voc / "JPEGImages" / f"{name}.jpg", folder / f"{name}.jpg"):
        picture.save(path, "PNG")
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    (voc / "Annotations" / f"{name}.xml").write_text(f"<annotation>{size}{''.join(objects)}</annotation>")
    document["images"].append({"id": number, "file_name": f"{name}.jpg", "width": width, "height": height})


def _weights(path: Path) -> Path:
    from detectron2.config import get_cfg
    from detectron2.modeling import build_backbone

    cfg = get_cfg()
    for key, value in SETTINGS.items():
        if key.startswith("MODEL.RESNETS"):
            cfg.merge_from_list([key, value])
    cfg.MODEL.RESNETS.OUT_FEATURES, cfg.MODEL.RESNETS.NORM = ["res5"], "BN"
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    torch.manual_seed(SEED)
    network = build_backbone(cfg)
    tensors = {k: v.numpy() for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    path.write_bytes(pickle.dumps({"model": tensors, "__author__": "parity", "matching_heuristics": True}, protocol=4))
    return path
