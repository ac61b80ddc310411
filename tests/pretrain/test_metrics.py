"""A run's numbers, without the run."""

import math

import torch

from pretrain.method.base import build_method
from pretrain.metrics import Metrics
from tests.pretrain import tiny, variants


def test_a_nan_among_a_methods_numbers_does_not_prevent_a_resume() -> None:
    config = variants.settings("log_every=1", "output=none")
    plan = tiny.plan()
    method = build_method(tiny.CONFIGS["simsiam"], plan)
    before, after = (Metrics(config, plan, method, None) for _ in range(2))
    before.update(1, {"loss": torch.tensor(-0.5), "share_of_pairs": torch.tensor(math.nan)}, lr=0.1)
    after.load_state_dict(before.state_dict())
    assert after.last_values() == before.last_values() == {"loss": -0.5}
