"""The training loop: one process or many, stopped and continued anywhere, bit for bit."""

import os
import random
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from converters import Backbone
from pretrain.augment import build_transforms
from pretrain.augment.fast_views import build_views
from pretrain.batch_norm import synchronize_norms
from pretrain.checkpoint import Checkpoints
from pretrain.collapse.measure_checkpoint import compute_outputs
from pretrain.collapse.measures import bias_center_cosine
from pretrain.config import FREE, PretrainConfig
from pretrain.data import Images, fingerprints, open_training
from pretrain.initial_weights import load_initial_weights
from pretrain.loader import HostToDevice, StepSampler, Views, load_batches
from pretrain.method.base import Batch, Method, TrainingPlan, build_method
from pretrain.metrics import Metrics
from pretrain.online_evaluation import OnlineEvaluation
from pretrain.optim import Schedule, build_optimizer
from pretrain.view_grid import save_view_grid
from runs.distributed import all_gather_object, process_group, rank, set_precision, worker_count, world_size
from runs.errors import UserError
from runs.files import VIEWS, sha256
from runs.folder import RECORD, Run, claim_run
from runs.progress import Progress
from runs.record import Dataset, Subject, read_record
from runs.seeds import generator_states, seed_everything, set_generator_states
from runs.signals import DEADLINE, Stopped, StopSignals
from runs.tensor_files import restore_errors
from runs.typed import build

# Training images whose center the predictor's bias is compared with. Two views of each make a mean of 4096 outputs,
# whose standard error is a 64th of a residual.
CENTER = 2048
# What touches no weight either, besides `FREE`.
FREE_TOO = ("checkpoint", "log_every", "tensorboard", "wandb", "on_collapse", "init")


def pretrain(config: PretrainConfig) -> float | None:
    """Pre-train, continue, or say that it is done; returns the kNN top-1 in percent, where there is one, for sweepers.

    Raises:
        Stopped: a signal, behind a checkpoint.
    """
    with process_group(config.device) as device:
        evaluates = bool(config.monitor.knn_every or config.probe.enabled)
        train_set, val_set = open_training(config.data, evaluates)
        if not train_set.classes and (config.probe.enabled or config.method.name == "supervised"):
            learner = "probe.enabled=true" if config.probe.enabled else "method=supervised"
            raise UserError(
                f"{learner}: data.root={config.data.root} has no classes; put its images into class folders"
            )
        bound = fingerprints(train_set, val_set)
        initial = load_initial_weights(config)
        if initial:
            bound["init"] = initial.source_sha256
        with claim_run("pretrain", config.output, asdict(config), (*FREE, *FREE_TOO), bound) as run:
            if run.done:
                return run.done.metrics.get("knn_top1")
            trainer = Trainer(config, run, device, train_set, val_set, initial)
            trainer.resume()
            with trainer.signals.listen():
                trainer.train()
                signalled = trainer.stopped.startswith("SIG")
                if rank() == 0 and not signalled:
                    trainer.record()
    # Here, where the process group has been left.
    if signalled:
        raise Stopped(f"{trainer.stopped} after step {trainer.step}{', saved' if trainer.step else ''}")
    # Where several processes ran, the first has written it.
    return read_record(run.path).metrics.get("knn_top1") if (run.path / RECORD).exists() else None


class Trainer:
    """One run in one process: without `val_set` nothing is evaluated, without `initial` weights they are drawn.

    Attributes:
        step: steps done.
        stopped: why the run ends before its last step: a signal's name, `collapse`, or nothing.
    """

    def __init__(
        self, config: PretrainConfig, run: Run, device: torch.device, train_set: Images, val_set: Images | None,
        initial: Backbone | None,
    ) -> None:  # fmt: skip
        self.config, self.run, self.device, self.initial = config, run, device, initial
        self.autocast = set_precision(config.precision, device, config.threads)
        self.train_set, self.val_set = train_set, val_set
        skip_broken, count = config.data.skip_broken, len(train_set)
        self.broken: set[str] = set()
        if config.data.cache:
            self.broken = {name for split in (train_set, val_set) if split for name in split.cache(skip_broken)}
        self.sampler = StepSampler(count, config.batch_size, config.seed, rank(), world_size())
        if config.batch_size // world_size() < 2:
            raise UserError(
                f"batch_size={config.batch_size}: {world_size()} processes get fewer than 2 images each, too few for "
                "batch norm; use a larger batch or fewer processes"
            )
        self.steps_per_epoch = self.sampler.steps_per_epoch
        self.plan = TrainingPlan(
            config.arch, config.zero_init_residual, config.epochs, self.steps_per_epoch, config.batch_size,
            len(train_set.classes), count, initial.state_dict if initial else None,
        )  # fmt: skip
        seed_everything(config.seed)
        self.method: Method = build_method(config.method, self.plan).to(device)
        if config.channels_last:
            self.method = self.method.to(memory_format=torch.channels_last)
        if self.method.sync_bn:
            synchronize_norms(self.method, device)
        self.schedule = Schedule(config.optimizer, config.batch_size, self.steps_per_epoch, config.epochs)
        self.optimizer = build_optimizer(self.method.groups(), config.optimizer, self.schedule.peak)
        self.views = build_views(train_set, config.augment, self.method.views, config.seed, skip_broken, device)
        self.host_to_device = HostToDevice(self.views, device, config.channels_last)
        self.model: nn.Module = self.method
        if world_size() > 1:
            ids = [device.index] if device.type == "cuda" else None
            self.model = DistributedDataParallel(self.model, device_ids=ids)
        if config.compile:
            check_compiler()
            self.model = torch.compile(self.model)  # type: ignore[assignment]
        online = OnlineEvaluation(config, self.method.backbone(), train_set, val_set, device) if val_set else None
        self.probe = online.probe if online else None
        self.metrics = Metrics(config, self.plan, self.method, online)
        self.checkpoints = Checkpoints(Path(config.output), config.checkpoint.keep, config.checkpoint.keep_every)
        self.signals = StopSignals(DEADLINE)
        self.step, self.seconds, self.stopped = 0, 0.0, ""

    def train(self) -> None:
        """Train to the last step, to a signal, or to a collapse with `on_collapse=stop`."""
        config, method, optimizer, metrics = self.config, self.method, self.optimizer, self.metrics
        if rank() == 0:
            self.print_plan()
            metrics.open_log(self.step)
        started = time.time() - self.seconds
        title = f"{config.method.name} {config.arch}"
        with Progress(self.plan.steps, title, "step", self.step, Path(config.output), disable=rank() > 0) as bar:
            metrics.evaluate(self.step, bool(self.stopped))
            method.train()
            for batch in self.batches():
                lr, peak = self.schedule(self.step), self.schedule.peak
                for group in optimizer.param_groups:
                    group["lr"] = peak if group.get("fix_lr") else lr
                if self.probe:
                    self.probe.begin()
                with self.autocast():
                    output: dict[str, Tensor] = self.model(batch)
                optimizer.zero_grad(set_to_none=True)
                output["loss"].backward()
                method.after_backward(self.step)
                optimizer.step()
                method.after_step(self.step)
                if self.probe:
                    self.probe.update(batch.labels, lr / peak)
                self.step += 1

                collapsed = metrics.update(self.step, output, lr)
                bar.update(1, **metrics.shown())
                self.seconds = time.time() - started
                self.stopped = "collapse" if collapsed and config.on_collapse == "stop" else self.agreed_signal()
                # A signal does not wait for the evaluation; the next start does it.
                if not self.stopped.startswith("SIG"):
                    metrics.evaluate(self.step, self.stopped == "collapse")
                if self.stopped or self.checkpoint_due():
                    self.save()
                if self.stopped:
                    break
            else:
                if self.step < self.plan.steps and not self.stopped:
                    # A signal has ended the waiting for images.
                    self.stopped = self.signals.name
                    if self.step:
                        self.save()
        self.seconds = time.time() - started
        if metrics.log:
            metrics.log.close()

    def batches(self) -> Iterator[Batch]:
        """Yield the batches from the present step to the last one, each on the device."""
        before = time.time()
        self.sampler.steps = steps = range(self.step, self.step if self.stopped else self.plan.steps)
        workers = worker_count(self.config.data.workers)
        loaded = load_batches(self.views, self.sampler, workers, self.device.type == "cuda")
        for step, batch in zip(steps, self.signals.interruptible(loaded), strict=False):
            views, labels = self.host_to_device(batch.views, batch.labels)
            self.metrics.waited += time.time() - before
            self.broken.update(name for names in batch.broken for name in names)
            yield Batch(views, labels, step, batch.indices)
            before = time.time()

    def print_plan(self) -> None:
        """Say what will be done, and draw some of the views."""
        val = self.val_set.describe() if self.val_set else "no validation images: neither kNN nor a probe"
        world, plan, config = world_size(), self.plan, self.config
        images = f"{world} x {config.batch_size // world}" if world > 1 else str(config.batch_size)
        print(
            f"{self.train_set.describe()}\n{val}\n"
            f"{plan.epochs} epochs x {plan.steps_per_epoch} steps of {images} images, "
            f"peak lr {self.schedule.peak:g} = {config.optimizer.lr:g} x {config.batch_size}/256"
        )
        filled = self.method.monitor_warmup
        if filled > max(plan.steps / 2, plan.steps_per_epoch):
            late = f"the queue is full of keys only after {filled} of {plan.steps} steps"
            print(f"NOTE: {late}; give a smaller method.queue or more epochs", file=sys.stderr)
        if self.broken:
            print(f"{len(self.broken)} broken images are left out: {', '.join(sorted(self.broken)[:3])} …")
        save_view_grid(self.views, config.augment, Path(config.output) / VIEWS)

    def agreed_signal(self) -> str:
        """The signal that ends the run before its last step; all processes agree on it."""
        # Asking at every step would cost a collective each.
        asks = world_size() == 1 or self.step % self.config.log_every == 0 or self.step % self.steps_per_epoch == 0
        return self.signals.agreed_signal() if asks and self.step < self.plan.steps else ""

    def checkpoint_due(self) -> bool:
        """Whether a checkpoint follows the present step."""
        due = self.config.checkpoint
        epoch, inside = divmod(self.step, self.steps_per_epoch)
        if inside:
            return bool(due.every_steps) and self.step % due.every_steps == 0
        return epoch % due.every_epochs == 0 or self.step == self.plan.steps

    def save(self) -> None:
        """Write a checkpoint; every process has to call it."""
        self.metrics.check_finite(self.step)
        self.broken = {name for names in all_gather_object(self.broken) for name in names}
        state = self.state_dict()
        if rank() == 0:
            epoch, inside = divmod(self.step, self.steps_per_epoch)
            self.checkpoints.save(state, epoch if inside else epoch - 1, self.step if inside else None)
        self.metrics.restart_clock(self.step)

    def resume(self) -> None:
        """Load the newest whole checkpoint, if there is one.

        Raises:
            UserError: there are checkpoints and none is whole, or another run or number of processes wrote it.
        """
        # Every process reads the same file; the first one chooses it.
        found = self.checkpoints.load_newest() if rank() == 0 else None
        path = all_gather_object(found[0] if found else None)[0]
        if path is None:
            return
        state = found[1] if found else self.checkpoints.load(path)
        self.run.check_identity(path, state["resume"].get("run"))
        written_by = len(state["resume"]["generators"])
        if written_by != world_size():
            raise UserError(
                f"{path}: written by {written_by} processes; continue with as many (torchrun --nproc_per_node)"
            )
        again = f"finish the run with the version that began it, or delete {path.parent} to start again"
        with restore_errors(path, again):
            self.load_state_dict(state)
        if rank() == 0:
            print(f"continuing after step {self.step} of {self.plan.steps} from {path.name}")

    def state_dict(self) -> dict[str, Any]:
        """The official release's entries, and `resume` with what else an exact resume needs.

        Every process has to call it. All of it loads with `torch.load(weights_only=True)`.
        """
        epoch, inside = divmod(self.step, self.steps_per_epoch)
        resume = {
            "run": self.run.identity, "step": self.step, "seconds": self.seconds, "broken": sorted(self.broken),
            "generators": all_gather_object(generator_states()), "metrics": self.metrics.state_dict(),
        }  # fmt: skip
        if self.probe:
            resume["probe"] = self.probe.state_dict()
        return {
            "epoch": epoch + bool(inside), "arch": self.config.arch,
            # The official release saves the DDP-wrapped module: every key starts with `module.`.
            "state_dict": {f"module.{k}": v for k, v in self.method.state_dict().items()},
            "optimizer": self.optimizer.state_dict(), "resume": resume,
            # What the network expects: the order of its channels, and mean and std of pixels from 0 to `range`.
            "input": {
                "channels": "RGB", "mean": list(self.config.augment.mean), "std": list(self.config.augment.std),
                "range": 1.0,
            },
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned, in a run that was just made."""
        resume = state["resume"]
        if resume["step"] not in range(1, self.plan.steps + 1):
            raise ValueError(f"step {resume['step']}")
        self.method.load_state_dict({k.removeprefix("module."): v for k, v in state["state_dict"].items()})
        self.optimizer.load_state_dict(state["optimizer"])
        set_generator_states(resume["generators"][rank()])
        self.step, self.seconds = int(resume["step"]), build(float, resume["seconds"], "seconds")
        self.broken = set(build(list[str], resume["broken"], "broken"))
        self.metrics.load_state_dict(resume["metrics"])
        if self.probe:
            self.probe.load_state_dict(resume["probe"])
        if self.config.on_collapse == "stop" and self.metrics.monitor.collapsed_at is not None:
            self.stopped = "collapse"

    def record(self) -> None:
        """Write `result.json`, after which the run is done, and print the verdict; for the first process."""
        config, metrics, path = self.config, self.metrics, self.checkpoints.paths()[0]
        epochs = self.step // self.steps_per_epoch
        init = {}
        if source := self.initial:
            words = {"sha256": source.source_sha256, "format": source.format}
            init = {"init": words | {"mean": list(source.input.mean), "std": list(source.input.std)}}
        verdict = metrics.monitor.verdict + (", stopped there" if self.stopped == "collapse" else "")
        self.run.finish(
            Subject(config.variant or config.method.name, config.arch, epochs, path.name, sha256(path)),
            Dataset(self.train_set.name, "train", len(self.train_set), self.train_set.fingerprint),
            metrics.summary() | self.training_set_bias_cosine(),
            verdict=verdict,
            details={"steps": self.step, "broken_images": sorted(self.broken), "processes": world_size(), **init},
            seconds=self.seconds,
        )
        knn = f"; kNN {metrics.accuracies['knn_top1']:.1f} %" if "knn_top1" in metrics.accuracies else ""
        print(f"{verdict}{knn} -> {path}")

    def training_set_bias_cosine(self) -> dict[str, float]:
        """The last bias against the center of the training set, where training compared it with that of a batch."""
        if "bias_center_cosine" not in self.metrics.details:
            return {}
        config, count = self.config, len(self.train_set)
        indices = sorted(random.Random(config.seed).sample(range(count), min(count, CENTER)))
        views = Views(self.train_set, build_transforms(config.augment, 2), config.seed, config.data.skip_broken)
        z, z2, _, bias = compute_outputs(self.method, views, indices)
        assert z2 is not None
        return {} if bias is None else {"bias_set_cosine": bias_center_cosine(bias, z, z2)}


def check_compiler() -> None:
    """Check that torch.compile finds the C++ compiler that it looks for (torch/_inductor/config.py, `cpp.cxx`).

    Raises:
        UserError: there is none.
    """
    name = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(name) is None:
        raise UserError(
            f"compile=true: needs the C++ compiler {name}; install it, name another in CXX, or leave it out"
        )
