"""The record of a finished pre-training."""

import random
from dataclasses import asdict
from typing import TYPE_CHECKING

from pretrain.collapse import measures
from pretrain.collapse.outputs import compute_outputs
from runs.distributed import world_size
from runs.files import sha256
from runs.folder import Run
from runs.record import Dataset, Subject

if TYPE_CHECKING:
    from pretrain.engine import Training


# Training images whose center the predictor's bias is compared with. Two views of each make a mean of 4096 outputs, of
# which chance has a 64th part of a residual.
CENTER = 2048


def write_outcome(run: "Training", claimed: Run) -> None:
    """Write `result.json`, from which on the run is done, and print the verdict.

    Raises:
        UserError: the last loss is not finite, or the disk refuses.
    """
    config, seen, path = run.config, run.observer, run.checkpoints.paths()[0]
    metrics = {"loss": seen.last["loss"]}
    if seen.health:
        metrics |= asdict(seen.health)
    metrics |= seen.details | _bias(run)
    tops = {
        "knn_top1": seen.knn,
        "knn_top1_start": seen.knn_start,
        "online_top1": run.online.top1 if run.online else None,
    }
    metrics |= {name: value for name, value in tops.items() if value is not None}
    verdict = seen.monitor.verdict + (", stopped there" if run.stopped == "collapse" else "")
    claimed.finish(
        Subject(
            config.variant or config.method.name, config.arch, run.step // len(run.sampler), path.name, sha256(path)
        ),
        Dataset(run.train.name, "train", len(run.train), run.train.fingerprint),
        metrics,
        verdict=verdict,
        details={"steps": run.step, "broken_images": run.broken, "processes": world_size()},
        seconds=run.seconds,
    )
    print(f"{verdict}; kNN {seen.knn:.1f} %" if seen.knn is not None else verdict, f"-> {path}", sep=" ")


def _bias(run: "Training") -> dict[str, float]:
    """The last bias against the center of the training set, where training compared it with that of a batch."""
    if "bias_center_cosine" not in run.observer.details:
        return {}
    config, count = run.config, len(run.train)
    indices = sorted(random.Random(config.seed).sample(range(count), min(count, CENTER)))
    skip = config.data.skip_broken
    z, z2, _ = compute_outputs(run.method, config.augment, run.train, indices, 256, config.seed, run.device, skip)
    bias = measures.last_bias(getattr(run.method, "predictor", None), z.shape[1])
    return {} if bias is None else {"bias_set_cosine": measures.bias_cosine(bias, z, z2)}
