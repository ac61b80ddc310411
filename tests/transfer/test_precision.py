"""Lower precision and another memory layout train the same detector, up to their rounding."""

import copy
import json
from pathlib import Path

import pytest

from runs.errors import UserError
from transfer import fine_tune
from transfer.settings import TransferConfig

# setting -> (its value, how far what the region proposals lose in the first iteration may lie from fp32, relatively).
# bfloat16 has 8 bits, one rounding is 0.4 %. Later losses say less: other roundings choose other regions.
OPTIONS = {"channels_last": (True, 1e-4), "precision": ("bf16", 0.02)}


def log(config: TransferConfig, output: Path) -> list[dict[str, float]]:
    config = copy.deepcopy(config)
    config.task = "coco"  # masks too
    config.output, config.log_every = str(output), 1
    config.detectron2["SOLVER"] |= {"MAX_ITER": 3, "STEPS": [2], "BASE_LR": 0.001}
    metrics = fine_tune.run_trials(config)
    assert metrics and all(0 <= value <= 100 for value in metrics.values())
    lines: list[dict[str, float]] = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 3
    return lines


@pytest.fixture
def exact(tiny: TransferConfig, tmp_path: Path) -> list[dict[str, float]]:
    tiny.channels_last = False
    return log(tiny, tmp_path / "fp32")


@pytest.mark.parametrize("name", OPTIONS)
def test_trains_as_fp32_does(tiny: TransferConfig, tmp_path: Path, exact: list[dict[str, float]], name: str) -> None:
    value, tolerance = OPTIONS[name]
    setattr(tiny, name, value)
    found = log(tiny, tmp_path / "other")
    for term in ("loss_rpn_cls", "loss_rpn_loc"):
        assert found[0][term] == pytest.approx(exact[0][term], rel=tolerance)
    for mine, theirs in zip(found, exact, strict=True):
        assert mine["total_loss"] == pytest.approx(theirs["total_loss"], rel=0.3)
    # A setting that did nothing would give the very same bits.
    assert [line["total_loss"] for line in found] != [line["total_loss"] for line in exact]


def test_tf32_is_refused_where_there_is_none(tiny: TransferConfig) -> None:
    tiny.precision = "tf32"
    with pytest.raises(UserError, match="precision=tf32: a CPU has no TF32"):
        fine_tune.run_trials(tiny)
    assert not Path(tiny.output).exists()
