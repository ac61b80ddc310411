"""Every command that `plan --commands` prints is one that its own parsers take."""

import shlex

import pytest
from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from torch.distributed.elastic.rendezvous.utils import parse_rendezvous_endpoint
from torch.distributed.run import config_from_args
from torch.distributed.run import parse_args as parse_torchrun

from benchmarks.__main__ import main
from converters.__main__ import parser
from pretrain.config import KnnConfig, LinearConfig, PretrainConfig
from runs.settings import to_dataclass
from transfer.settings import TransferConfig

APPLICATIONS = {
    "pretrain": ("pretrain", "config", PretrainConfig),
    "pretrain.linear": ("pretrain", "config_linear", LinearConfig),
    "pretrain.knn": ("pretrain", "config_knn", KnnConfig),
    "transfer": ("transfer", "config", TransferConfig),
}
OF_A_TRIAL = ("seed", "output", "weights", "checkpoint")


def test_every_command_of_the_published_tables_parses(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["plan", "table4", "table5", "--scale", "paper", "--nodes", "8", "--gpus", "8", "--commands"])
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("python ", "torchrun "))]
    assert len(printed) == 167
    composed: set[tuple[str, frozenset[str]]] = set()
    for line in printed:
        program, *arguments = shlex.split(line.replace("$HEAD", "node1"))
        if program == "torchrun":
            launch = parse_torchrun(arguments)
            config, _, _ = config_from_args(launch)
            assert config.nproc_per_node == 8
            if config.max_nodes > 1:
                host, port = parse_rendezvous_endpoint(config.rdzv_endpoint, default_port=-1)
                assert host == "node1" and port > 1024 and config.rdzv_backend == "c10d"
            module, arguments = launch.training_script, launch.training_script_args
        else:
            _, module, *arguments = arguments
        if module in APPLICATIONS:
            # A trial differs in its seed and files only; to compose all settings takes a quarter of a second.
            overrides = OverridesParser.create().parse_overrides(arguments)
            kind = frozenset(w for w, o in zip(arguments, overrides, strict=True) if o.key_or_group not in OF_A_TRIAL)
            if (module, kind) not in composed:
                assert _settings(module, arguments).output.startswith("outputs/"), line
            composed.add((module, kind))
        else:
            assert module == "converters"
            parser().parse_args(arguments)
    assert {module for module, _ in composed} == set(APPLICATIONS)


def _settings(module: str, arguments: list[str]) -> PretrainConfig | LinearConfig | KnnConfig | TransferConfig:
    package, config, schema = APPLICATIONS[module]
    ConfigStore.instance().store(name=f"schema_{config}", node=schema)
    with initialize_config_module(package, version_base="1.3"):
        return to_dataclass(compose(config, arguments), schema)
