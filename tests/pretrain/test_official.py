"""`official=true` is one word for the releases' bits; the defaults are faster, and a setting that is given wins."""

from typing import Any

import pytest
from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from pretrain.config import CollapseConfig, KnnConfig, LinearConfig, PretrainConfig
from transfer.settings import TransferConfig

# setting -> its value by default, and with official=true
ALL = {"precision": ("auto", "pytorch"), "channels_last": (True, False)}
VIEWS = {"augment.pipeline": ("fast", "reference")}
# command -> its package, configuration and schema, and what the word sets
COMMANDS: dict[str, tuple[str, str, type, dict[str, Any]]] = {
    "pretrain": ("pretrain", "config", PretrainConfig, {**ALL, **VIEWS, "optimizer.fused": (True, False)}),
    "linear": ("pretrain", "config_linear", LinearConfig, {**ALL, **VIEWS}),
    "knn": ("pretrain", "config_knn", KnnConfig, ALL),
    "collapse": ("pretrain", "config_collapse", CollapseConfig, ALL),
    "transfer": ("transfer", "config", TransferConfig, ALL),
}


def settings(command: str, *arguments: str) -> dict[str, Any]:
    package, name, schema, keys = COMMANDS[command]
    ConfigStore.instance().store(name=f"schema_{name}", node=schema)
    with initialize_config_module(package, version_base="1.3"):
        composed = compose(name, list(arguments))
    return {key: OmegaConf.select(composed, key) for key in keys}


@pytest.mark.parametrize("command", COMMANDS)
def test_one_word_switches_a_command(command: str) -> None:
    expected = COMMANDS[command][3]
    assert settings(command) == {key: values[0] for key, values in expected.items()}
    assert settings(command, "official=true") == {key: values[1] for key, values in expected.items()}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_setting_that_is_given_wins(command: str) -> None:
    default, official = settings(command), settings(command, "official=true")
    for key, (fast, slow) in COMMANDS[command][3].items():
        assert settings(command, "official=true", f"{key}={fast}") == official | {key: fast}
        assert settings(command, f"{key}={slow}") == default | {key: slow}
