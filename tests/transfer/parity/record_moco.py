"""Run MoCo's own detection code on the small case and record its configuration and losses.

    git clone https://github.com/facebookresearch/moco && git -C moco checkout 132aea9
    python -m tests.transfer.parity.record_moco moco

writes `moco_configs.json` (every recipe, resolved) and `moco_losses.json` (each loss of the first 20 iterations) beside
this file. It is run by hand; the tests read the two files.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.transfer.parity import case

HERE = Path(__file__).parent


def record(moco: Path, folder: Path, task: str, variant: str) -> list[dict[str, float]]:
    """MoCo's train_net.py in a process of its own; returns the losses of each iteration."""
    output = folder / f"{task}-{variant}.json"
    subprocess.run(
        [sys.executable, "-m", "tests.transfer.parity.record_moco", str(moco), "--inside", task, variant, str(folder),
         str(output)],
        check=True, env={**os.environ, "DETECTRON2_DATASETS": str(folder), **case.ENVIRONMENT},
    )  # fmt: skip
    losses: list[dict[str, float]] = json.loads(output.read_text())
    return losses


def inside(moco: Path, task: str, variant: str, folder: Path, output: Path) -> None:
    """Start MoCo's train_net.py; the only things added record its losses and, if augmented, set the seeds."""
    sys.path.insert(0, str(moco / "detection"))
    import numpy as np
    import train_net
    from detectron2.data import DatasetMapper
    from detectron2.data.samplers import TrainingSampler
    from detectron2.engine import SimpleTrainer, default_argument_parser

    losses: list[dict[str, float]] = []
    write = SimpleTrainer.write_metrics

    def listen(terms: Any, *rest: Any, **named: Any) -> None:
        losses.append({name: float(value.detach()) for name, value in terms.items()})
        write(terms, *rest, **named)

    SimpleTrainer.write_metrics = staticmethod(listen)
    if variant == "augmented":
        seeds: list[int] = []
        sampler, mapper = TrainingSampler.__init__, DatasetMapper.__call__
        positions: dict[int, int] = {}

        def remember(self: Any, *rest: Any, **named: Any) -> None:
            sampler(self, *rest, **named)
            seeds.append(self._seed)

        def seeded(self: Any, image: Any) -> Any:
            position = positions.get(id(self), 0)
            positions[id(self)] = position + 1
            # The first loader is the training one; what the other draws has no influence on the losses.
            np.random.seed(np.random.SeedSequence((seeds[0], position)).generate_state(1)[0])
            return mapper(self, image)

        TrainingSampler.__init__, DatasetMapper.__call__ = remember, seeded
    options: list[str] = []
    settings = case.SETTINGS | case.VARIANTS[variant]
    settings |= {
        "SEED": case.SEED, "DATALOADER.NUM_WORKERS": 0, "MODEL.WEIGHTS": str(folder / "weights.pkl"),
        "OUTPUT_DIR": str(output.with_suffix("")), "DATASETS.TEST": [],
    }  # fmt: skip
    if task == "voc0712":
        settings["DATASETS.TRAIN"] = ["voc_2007_trainval"]
    for key, value in settings.items():
        options += [key, str(value)]
    config = moco / "detection" / "configs" / f"{case.TASKS[task]}.yaml"
    train_net.main(default_argument_parser().parse_args(["--config-file", str(config), *options]))
    output.write_text(json.dumps(losses))


def configurations(moco: Path) -> dict[str, Any]:
    """Every recipe of MoCo, resolved by Detectron2."""
    from detectron2.config import get_cfg

    resolved = {}
    for path in sorted((moco / "detection" / "configs").glob("*_C4_*.yaml")):
        cfg = get_cfg()
        cfg.merge_from_file(str(path))
        resolved[path.stem] = json.loads(json.dumps(cfg))
    return resolved


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("moco", type=Path, help="a clone of facebookresearch/moco at 132aea9")
    parser.add_argument("--inside", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        task, variant, folder, output = arguments.inside
        inside(arguments.moco, task, variant, Path(folder), Path(output))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        case.write(folder)
        losses = {
            f"{task}-{variant}": record(arguments.moco, folder, task, variant)
            for task in case.TASKS
            for variant in case.VARIANTS
        }
    (HERE / "moco_losses.json").write_text(json.dumps(losses, indent=1) + "\n")
    (HERE / "moco_configs.json").write_text(json.dumps(configurations(arguments.moco), indent=1) + "\n")


if __name__ == "__main__":
    main()
