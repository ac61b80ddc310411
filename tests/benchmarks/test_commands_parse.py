"""Every command that a plan prints is one that the other parts accept."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.tables import scale as scales
from benchmarks.tables import table as tables
from benchmarks.workflow.expand_tables import expand

ROOT = Path(__file__).parents[2]
# Hydra composes the settings of several commands in one process, which saves the imports of each.
COMPOSE = """
import dataclasses
import sys
from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf
from runs.settings import to_dataclass

def check(package, name, schema, lines):
    ConfigStore.instance().store(name=f"schema_{name}", node=schema)
    with initialize_config_module(package, version_base="1.3"):
        return [composed(name, schema, line) for line in lines]

def composed(name, schema, line):
    try:
        return to_dataclass(compose(name, overrides=line.split()), schema)
    except Exception as error:
        raise SystemExit(f"{line}: {error}")

lines = [line.strip().split(" ", 1) for line in sys.stdin]
from pretrain.config import KnnConfig, LinearConfig, PretrainConfig
from transfer.settings import TransferConfig
for module, package, name, schema in (("pretrain", "pretrain", "config", PretrainConfig),
        ("pretrain.linear", "pretrain", "config_linear", LinearConfig),
        ("pretrain.knn", "pretrain", "config_knn", KnnConfig), ("transfer", "transfer", "config", TransferConfig)):
    configs = check(package, name, schema, [rest for m, rest in lines if m == module])
# Of a network that is not there yet, Detectron2 can judge the other settings.
for config in configs:
    from transfer.detectron2_config import build_cfg
    build_cfg(dataclasses.replace(config, weights="scratch"), None, "cpu")
print(len(lines))
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("untraced")
def test_every_command_of_every_table_parses() -> None:
    # All tables at one scale; at the others those that are run at them.
    lab = [name for group in tables.groups().values() for name in group]
    both = ["table4", "table5"]
    lines = set()
    for scale, names in {"mini": both, "lab": lab, "small": [*both, *lab], "paper": tables.names()}.items():
        plan = expand([tables.load(name) for name in names], scales.load(scale), "outputs/x")
        found = set()
        for run in plan.runs.values():
            if run.kind not in ("data", "convert"):
                words = list(run.command)
                module = words[words.index("-m") + 1]
                # The seeds of one run differ in nothing that could fail.
                rest = [w for w in words[words.index("-m") + 2 :] if not w.startswith(("output=", "seed="))]
                # Nor do the files of other runs, unless their names have characters that Hydra gives a meaning.
                rest = [re.sub(r"=outputs/x/[\w./-]+$", "=outputs/x/file", w) for w in rest]
                found.add(" ".join([module, *rest, "output=x"]))
        assert len(found) >= 20, scale
        lines |= found
    result = subprocess.run(
        [sys.executable, "-c", COMPOSE],
        input="\n".join(sorted(lines)),
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert int(result.stdout) == len(lines) > 200
