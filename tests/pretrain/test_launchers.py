"""`-m` with the launchers and the sweeper of Hydra's that the extra `integrations` installs: runs, and their metric."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from runs.record import read_record


@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "words"),
    [
        ("hydra_joblib_launcher", ["hydra/launcher=joblib", "seed=0,1"]),
        ("hydra_submitit_launcher", ["hydra/launcher=submitit_local", "seed=0,1"]),
        ("hydra_optuna_sweeper", ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=1",
                                  "hydra.sweeper.direction=maximize", "seed=choice(0,1)"]),
    ],
)  # fmt: skip
def test_runs_are_started_and_their_metric_comes_back(
    root: Path, tmp_path: Path, package: str, words: list[str]
) -> None:
    if not importlib.util.find_spec("hydra_plugins") or not importlib.util.find_spec(f"hydra_plugins.{package}"):
        pytest.skip("needs the extra integrations")
    rng = np.random.default_rng(0)
    for split, name, number in ((s, c, n) for s in ("train", "val") for c in "ab" for n in range(8)):
        (tmp_path / "data" / split / name).mkdir(parents=True, exist_ok=True)
        level = 60 if name == "a" else 190
        pixels = rng.normal(level, 20, (32, 32, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "data" / split / name / f"{number}.png")
    settings = ["checkpoint=random", "arch=resnet18x0.125", "data=imagefolder", f"data.root={tmp_path}/data", "k=[3]",
                "augment.size=32", "augment.eval_resize=32", "data.workers=0", "device=cpu",
                f"output={tmp_path}/out-${{hydra:job.num}}", f"hydra.sweep.dir={tmp_path}/sweep"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "pretrain.knn", "-m", *settings, *words], cwd=root, env=os.environ | {"COLUMNS": "200"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-1500:]
    found = [read_record(tmp_path / f"out-{number}").metrics["top1"] for number in range(2)]
    if package == "hydra_optuna_sweeper":
        results = yaml.safe_load((tmp_path / "sweep/optimization_results.yaml").read_text())
        assert results["best_value"] == max(found) > 50
