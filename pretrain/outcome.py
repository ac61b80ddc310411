"""The record of a finished pre-training."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from pretrain import distributed
from pretrain.machine import peak_memory
from runs.environment import command_line
from runs.files import sha256
from runs.record import Dataset, Record, Subject, write_record

if TYPE_CHECKING:
    from pretrain.engine import Training


def write_outcome(run: "Training") -> None:
    """Write `result.json`, from which on the run is done, and print the verdict.

    Raises:
        UserError: the last loss is not finite, or the disk refuses.
    """
    config, seen, path = run.config, run.observer, run.checkpoints.paths()[0]
    metrics = {"loss": seen.last["loss"]}
    if seen.health:
        metrics |= asdict(seen.health)
    metrics |= seen.details
    metrics |= {k: v for k, v in (("knn_top1", seen.knn), ("knn_top1_start", seen.knn_start)) if v is not None}
    verdict = seen.monitor.verdict + (", stopped there" if run.stopped == "collapse" else "")
    record = Record(
        kind="pretrain",
        subject=Subject(
            config.variant or config.method.name, config.arch, run.step // len(run.sampler), path.name, sha256(path)
        ),
        dataset=Dataset(run.train.name, "train", len(run.train), run.train.fingerprint),
        metrics=metrics,
        seed=config.seed,
        config=asdict(config),
        seconds=run.seconds,
        peak_memory_mb=peak_memory(run.device),
        command=command_line(),
        verdict=verdict,
        details={"steps": run.step, "broken_images": run.broken, "processes": distributed.world()},
    )
    write_record(config.output, record)
    print(f"{verdict}; kNN {seen.knn:.1f} %" if seen.knn is not None else verdict, f"-> {path}", sep=" ")
