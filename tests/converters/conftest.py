"""One quarter-width ResNet-50 that looks trained, and the command line called in this process."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from torchvision.models.resnet import ResNet

from converters import vital_signs
from tests.converters.layouts import trained


@dataclass
class Outcome:
    status: int
    out: str
    err: str

    @property
    def report(self) -> dict[str, Any]:
        return json.loads(self.out)


@pytest.fixture(autouse=True)
def quick_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures that `layouts.trained` measures on; test_vital_signs.py takes others."""
    monkeypatch.setattr(vital_signs, "SIZES", {64: 8})


@pytest.fixture(scope="session")
def backbone() -> ResNet:
    return trained()


@pytest.fixture
def converters(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """`converters("inspect", path, "--json")`: exit status and both streams."""
    from converters.__main__ import main

    def call(*arguments: object) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        streams = capsys.readouterr()
        return Outcome(int(stop.value.code or 0), streams.out, streams.err)

    return call
