"""What a user gets wrong is one line and exit status 2, before anything is written."""

import hashlib
import json
import math
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runs.record import read_record
from transfer.coco_evaluation import METRICS

Command = Callable[..., subprocess.CompletedProcess[str]]

# arguments -> what the line must name
WRONG = {
    "unknown key": (["taks=voc07"], "taks"),
    "unknown key below data": (["task=voc07", "weights=scratch", "data.roots=x"], "data.roots"),
    "unknown task": (["task=voc08", "weights=scratch"], "task=voc08"),
    "no task": (["weights=scratch"], "task"),
    "no weights": (["task=voc07"], "weights"),
    "wrong type": (["task=voc07", "weights=scratch", "seed=one"], "seed"),
    "negative": (["task=voc07", "weights=scratch", "log_every=0"], "log_every"),
    "two test splits": (["task=voc07", "weights=scratch", "data.test=[voc_2007_test,voc_2007_val]"], "data.test"),
    "share": (["task=voc07", "weights=scratch", "data.held_out=1.5"], "data.held_out"),
}


def test_a_search_that_could_not_end_well_is_refused() -> None:
    """A metric that no record has would be missed after every rate was tried; one hash holds out both parts."""
    from runs.errors import UserError
    from runs.settings import check_values
    from transfer.settings import DataConfig, SearchConfig, TransferConfig

    masks, held_out = SearchConfig(enabled=True, metric="segm/AP"), DataConfig(held_out=0.2)
    with pytest.raises(UserError, match=r"search\.metric=segm/AP: task=voc07 has no masks"):
        check_values(TransferConfig(task="voc07", weights="scratch", search=masks))
    check_values(TransferConfig(task="coco", weights="scratch", search=masks))
    with pytest.raises(UserError, match=r"data\.held_out: is what a search chooses on"):
        check_values(TransferConfig(task="voc07", weights="scratch", search=SearchConfig(enabled=True), data=held_out))


# a recipe -> what the line says
RECIPES = {
    "INPUT: !!python/object/apply:os.mkdir [{folder}]": r"recipe\.yaml: not YAML: could not determine a constructor",
    "_BASE_: {base}": r"base\.yaml: not YAML: could not determine a constructor",
    "_BASE_: recipe.yaml": r"recipe\.yaml: is based on itself",
    "_BASE_: https://example.com/r.yaml": r"_BASE_=https://example\.com/r\.yaml is an address; fetch it first",
    "- a list": r"recipe\.yaml: must be a mapping",
    "INPUT: [": r"recipe\.yaml: not YAML",
    "MODEL: 3": r"recipe\.yaml: not a Detectron2 recipe",
    "\x00": r"recipe\.yaml: not YAML",
    "SEED: 1\nSOLVER:\n  MAX_ITER: 3\n  MAX_ITER: 4": r"recipe\.yaml: not YAML: MAX_ITER is given twice in it, line 4",
    "SOLVER: {{BASE_LR: -0.02}}": r"SOLVER\.BASE_LR=-0\.02: must be a number from 1e-09 to 3\.40",
    "SOLVER: {{GAMMA: .nan}}": r"SOLVER\.GAMMA=nan: must be a number from 0 to inf",
    "SOLVER: {{BASE_LR: .nan}}": r"SOLVER\.BASE_LR=nan: must be a number from",
    "SOLVER: {{IMS_PER_BATCH: 0}}": r"SOLVER\.IMS_PER_BATCH=0: must be a number from",
    "SOLVER: {{MOMENTUM: 9.0}}": r"SOLVER\.MOMENTUM=9\.0: must be a number from 0 to 1",
    "MODEL: {{ANCHOR_GENERATOR: {{SIZES: [[-32]]}}}}": r"SIZES=\[\[-32\]\]: must be a number from",
    "MODEL: {{RPN: {{CONV_DIMS: [-3]}}}}": r"CONV_DIMS=\[-3\]: must be a number from -1 to 1e\+09",
    "INPUT: {{FORMAT: x}}": r"INPUT\.FORMAT=x: is not supported; use RGB or BGR",
    "MODEL: {{META_ARCHITECTURE: ProposalNetwork}}": r"META_ARCHITECTURE=ProposalNetwork: is not supported",
    "INPUT: {{MIN_SIZE_TRAIN: []}}": r"INPUT\.MIN_SIZE_TRAIN: is empty",
    "MODEL: {{KEYPOINT_ON: True}}": r"MODEL\.KEYPOINT_ON=True: is not supported",
    "SOLVER: {{MAX_ITER: 100000000000}}": r"MAX_ITER=100000000000: must be a number from",
}


@pytest.mark.parametrize("text", RECIPES)
def test_a_recipe_is_read_and_never_run(tmp_path: Path, text: str) -> None:
    from runs.errors import UserError
    from transfer.detectron2_config import build_cfg
    from transfer.settings import TransferConfig

    folder, recipe, base = tmp_path / "made by the recipe", tmp_path / "recipe.yaml", tmp_path / "base.yaml"
    base.write_text(f"INPUT: !!python/object/apply:os.mkdir [{folder}]")
    recipe.write_text(text.format(folder=folder, base=base))
    with pytest.raises(UserError, match=RECIPES[text]):
        build_cfg(TransferConfig(task="voc07", weights="scratch", recipe=str(recipe)), None, "cpu")
    assert not folder.exists()


def test_a_recipe_is_told_by_what_it_says(tmp_path: Path) -> None:
    """And by what its bases say; not by where the files lie, nor by comments."""
    from transfer.detectron2_config import recipe_files_fingerprint
    from transfer.settings import TransferConfig

    def fingerprint(name: str, base: str, gamma: float, comment: str = "") -> str:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "base.yaml").write_text(f"SOLVER: {{GAMMA: {gamma}}}")
        (folder / "recipe.yaml").write_text(f"_BASE_: {base.format(folder)}{comment}")
        return recipe_files_fingerprint(
            TransferConfig(task="voc07", weights="scratch", recipe=str(folder / "recipe.yaml"))
        )

    first = fingerprint("one", "{}/base.yaml", 0.1)
    assert first == fingerprint("two", "{}/base.yaml", 0.1, "  # moved") == fingerprint("three", "base.yaml", 0.1)
    assert first != fingerprint("four", "base.yaml", 0.2)


def test_what_detectron2_gives_a_meaning_passes(tmp_path: Path) -> None:
    """No limit, no resizing, and -1 for none."""
    from transfer.detectron2_config import build_cfg
    from transfer.settings import TransferConfig

    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("""
        SOLVER: {CLIP_GRADIENTS: {NORM_TYPE: .inf}}
        INPUT: {MIN_SIZE_TRAIN: [0], MIN_SIZE_TEST: 0}
        MODEL: {BACKBONE: {FREEZE_AT: -1}, SEM_SEG_HEAD: {IGNORE_VALUE: -1}, RETINANET: {FOCAL_LOSS_ALPHA: -1.0},
          ROI_BOX_HEAD: {POOLER_SAMPLING_RATIO: -1}, ROI_MASK_HEAD: {POOLER_SAMPLING_RATIO: -1}}
        TEST: {EVAL_PERIOD: -1, DETECTIONS_PER_IMAGE: -1, EXPECTED_RESULTS: [[bbox, AP, 42.0, 0.1]]}
        DATASETS: {TEST: [voc_2007_test]}
    """)
    cfg = build_cfg(TransferConfig(task="voc07", weights="scratch", recipe=str(recipe)), None, "cpu")
    assert math.isinf(cfg.SOLVER.CLIP_GRADIENTS.NORM_TYPE) and cfg.INPUT.MIN_SIZE_TRAIN == (0,)
    assert (cfg.MODEL.BACKBONE.FREEZE_AT, cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE, cfg.TEST.EVAL_PERIOD) == (-1, -1, -1)
    assert (cfg.TEST.DETECTIONS_PER_IMAGE, cfg.MODEL.RETINANET.FOCAL_LOSS_ALPHA) == (-1, -1)
    assert cfg.MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO == cfg.MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO == -1


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_command_line_is_one_line(command: Command, case: str) -> None:
    arguments, named = WRONG[case]
    done = command(*arguments, tiny=False)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: ") and named in done.stderr


def test_wrong_settings_and_files_are_one_line(tiny: Any, tmp_path: Path, generated: Path) -> None:
    from runs.errors import UserError
    from transfer import fine_tune

    cases: list[tuple[Callable[[Any], None], str]] = [
        (lambda c: c.detectron2["SOLVER"].update(MAXITER=3), r"detectron2\.SOLVER\.MAXITER"),
        (lambda c: c.detectron2["SOLVER"].update(STEPS="soon"), r"detectron2\.SOLVER\.STEPS=soon"),
        (lambda c: setattr(c, "recipe", "voc"), "recipe=voc: no such file.*voc07_R50_C4_9k"),
        (lambda c: setattr(c, "weights", str(tmp_path / "none.pkl")), r"none\.pkl"),
        (lambda c: setattr(c, "device", "cuda"), "device=cuda"),
        (lambda c: setattr(c.data, "train", ["voc_2007_trainvla"]), r"trainvla\.txt.*trainval"),
        (lambda c: setattr(c.data, "images", 10**6), r"data\.images"),
        (lambda c: (setattr(c, "weights", "scratch"), setattr(c, "arch", "resnet18")), "arch: ResNet-18"),
        (lambda c: (setattr(c, "weights", "scratch"), setattr(c, "arch", "resnet50_cifar")), "_cifar"),
        (lambda c: c.detectron2.update(SEED=1), r"detectron2\.SEED: use seed="),
        (lambda c: c.detectron2["SOLVER"].update(AMP={"ENABLED": True}), r"AMP\.ENABLED=True: .* precision=bf16"),
        (lambda c: c.detectron2["TEST"].update(AUG={"ENABLED": True}), r"TEST\.AUG\.ENABLED=True: is not supported"),
        (
            lambda c: c.detectron2["SOLVER"].update(LR_SCHEDULER_NAME="x"),
            r"cannot build this .* \(Unknown LR scheduler: x",
        ),
        (lambda c: c.detectron2["MODEL"]["ROI_HEADS"].update(NAME="x"), r"cannot build this .* \(No object named 'x'"),
        (lambda c: c.detectron2["MODEL"].update(MASK_ON=True), r"MASK_ON=True: voc_2007_trainval has no masks"),
    ]
    import copy

    for change, named in cases:
        config = copy.deepcopy(tiny)
        config.output = str(tmp_path / "never")
        change(config)
        with pytest.raises(UserError, match=named):
            fine_tune.run_trials(config)
        assert not (tmp_path / "never").exists()


def test_from_the_command_to_the_record_and_again(command: Command, backbone: Path, tmp_path: Path) -> None:
    """COCO, masks included; a second start says that it is done; other settings are refused."""
    line = ["task=coco", f"weights={backbone}", f"output={tmp_path / 'run'}", "pictures=3"]
    done = command(*line)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    record = read_record(tmp_path / "run")
    # Of COCO's twelve figures those of large objects are absent: the scenes have none.
    named = {f"{k}/{m}" for k in ("bbox", "segm") for m in METRICS if not m.endswith("l")}
    assert set(record.metrics) == named
    for name, digest in record.details["files"].items():
        assert hashlib.sha256((tmp_path / "run" / name).read_bytes()).hexdigest() == digest
    assert record.details["weights"]["equal"] and record.details["weights"]["tensors"] == 265
    assert (record.subject.arch, record.subject.checkpoint) == ("resnet50x0.125", "test.pth.tar")
    assert record.dataset is not None and (record.dataset.split, record.dataset.size) == ("coco_2017_val", 8)
    lines = [json.loads(text) for text in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert {"loss_mask", "loss_cls", "lr", "time", "data_time", "memory_mb"} <= set(lines[-1])
    files = {path.name.split(".out.")[0] for path in (tmp_path / "run").iterdir()}
    assert {"detections.npz", "matches.npz", "detections.png", "detectron2.yaml", "model_final.pth", "events"} <= files

    again = command(*line)
    assert again.returncode == 0 and "done already" in again.stdout
    other = command(*line, "seed=1")
    assert other.returncode == 2 and "belongs to another run" in other.stderr and other.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.shared
def test_a_short_run_on_real_images(command: Command, backbone: Path, shared: Path, tmp_path: Path) -> None:
    """The VOC subset: train on `train`, report on `val`, both by their names."""
    from transfer.settings import VOC_CLASSES

    done = command(
        "task=voc07", f"weights={backbone}", f"data.root={shared / 'data'}", "data.train=[voc_2007_train]",
        "data.test=[voc_2007_val]", f"data.classes=[{','.join(VOC_CLASSES)}]", f"output={tmp_path / 'run'}",
        "detectron2.INPUT.MAX_SIZE_TRAIN=200", "detectron2.INPUT.MAX_SIZE_TEST=200",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = read_record(tmp_path / "run")
    assert record.dataset is not None and record.dataset.size == 450
    assert record.details["train"]["size"] == 700 and len(record.details["per_class"]) == 20
