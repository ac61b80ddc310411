"""The training loop: one process or many, stopped and continued anywhere, bit for bit."""

import os
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from converters import Backbone
from pretrain.augment.views import build_views, save_view_grid
from pretrain.checkpoint import Checkpoints
from pretrain.collapse.measure_checkpoint import training_set_bias_cosine
from pretrain.config import MAY_DIFFER, PretrainConfig
from pretrain.data import Images, fingerprints, open_training
from pretrain.initial_weights import load_initial_weights
from pretrain.layers import synchronize_norms_
from pretrain.loader import DeviceLoader, StepSampler
from pretrain.method.base import Batch, Method, TrainingPlan, build_method
from pretrain.metrics import Metrics
from pretrain.online_evaluation import OnlineEvaluation
from pretrain.optim import Schedule, build_optimizer
from runs.distributed import all_gather_object, process_group, rank, set_precision, world_size
from runs.errors import UserError
from runs.files import VIEWS, sha256
from runs.folder import RECORD, Run, claimed_run
from runs.progress import Progress
from runs.record import Dataset, Subject, read_record
from runs.seeds import generator_states, seed_everything, set_generator_states
from runs.signals import DEADLINE, Stopped, StopSignals
from runs.typed import build


def pretrain(config: PretrainConfig) -> float | None:
    """Pre-train, continue, or say that it is done; returns the kNN top-1 in percent, where there is one, for sweepers.

    Raises:
        Stopped: a signal, behind a checkpoint.
    """
    with process_group(config.device) as device:
        set_precision(config.precision, device, config.threads)
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
        # What touches no weight, besides what no evaluation depends on either.
        free = (*MAY_DIFFER, "checkpoint", "log_every", "tensorboard", "wandb", "on_collapse", "init")
        with claimed_run("pretrain", config.output, asdict(config), free, bound) as run:
            if run.done:
                return run.done.metrics.get("knn_top1")
            trainer = Trainer(config, run, device, train_set, val_set, initial)
            with trainer.signals.listen():
                trainer.fit()
                signalled = trainer.stopped.startswith("SIG")
                if rank() == 0 and not signalled:
                    trainer.write_record()
    # Here, where the process group has been left.
    if signalled:
        raise Stopped(f"{trainer.stopped} after step {trainer.step}{', saved' if trainer.step else ''}")
    # Where several processes ran, the first has written it.
    return read_record(run.path).metrics.get("knn_top1") if (run.path / RECORD).exists() else None


class Trainer:
    """One run in one process, from its newest checkpoint on, where there is one.

    Without `val_set` nothing is evaluated, without `initial` weights they are drawn.

    Attributes:
        checkpoint: the newest, None before the first; processes but the first know only the one that they resumed from.
        step: steps done.
        stopped: why the run ends before its last step: a signal's name, `collapse`, or nothing.
    """

    def __init__(
        self, config: PretrainConfig, run: Run, device: torch.device, train_set: Images, val_set: Images | None,
        initial: Backbone | None,
    ) -> None:  # fmt: skip
        self.config, self.run, self.device, self.initial = config, run, device, initial
        self.train_set, self.val_set = train_set, val_set
        skip_broken, count = config.data.skip_broken, len(train_set)
        broken: set[str] = set()
        if config.data.cache:
            broken = {name for split in (train_set, val_set) if split for name in split.decode_into_memory(skip_broken)}
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
            synchronize_norms_(self.method, device)
        self.schedule = Schedule(config.optimizer, config.batch_size, self.steps_per_epoch, config.epochs)
        self.optimizer = build_optimizer(self.method.param_groups(), config.optimizer, self.schedule.peak)
        views = build_views(train_set, config.augment.for_views(self.method.views), config.seed, skip_broken, device)
        self.loader = DeviceLoader(views, self.sampler, config.data.workers, device, config.channels_last, broken)
        self.model: nn.Module = self.method
        if world_size() > 1:
            ids = [device.index] if device.type == "cuda" else None
            self.model = DistributedDataParallel(self.model, device_ids=ids)
        if config.compile:
            check_compiler()
            self.model = torch.compile(self.model)  # type: ignore[assignment]
        online = OnlineEvaluation(config, self.method.encoder, train_set, val_set, device) if val_set else None
        self.probe = online.probe if online else None
        self.metrics = Metrics(config, self.plan, self.method, online)
        self.signals = StopSignals(DEADLINE)
        self.step, self.seconds, self.stopped = 0, 0.0, ""
        self.checkpoints = Checkpoints(run.path, config.checkpoint.keep, config.checkpoint.keep_every)
        self.checkpoint = self.checkpoints.resume(run, self)

    def _train_step(self, batch: Batch) -> tuple[dict[str, Tensor], float]:
        """Take the next step; returns what the method returned and the encoder's learning rate."""
        method, optimizer, lr, peak = self.method, self.optimizer, self.schedule(self.step), self.schedule.peak
        for group in optimizer.param_groups:
            group["lr"] = peak if group.get("fix_lr") else lr
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            output: dict[str, Tensor] = self.model(batch)
        optimizer.zero_grad(set_to_none=True)
        output["loss"].backward()
        method.after_backward(self.step)
        optimizer.step()
        method.after_step(self.step)
        if self.probe:
            self.probe.update(batch.labels, lr / peak)
        self.step += 1
        return output, lr

    def fit(self) -> None:
        """Train to the last step, to a signal, or to a collapse with `on_collapse=stop`."""
        config, metrics = self.config, self.metrics
        if rank() == 0:
            self._print_plan()
            save_view_grid(self.loader.views, config.augment, self.run.path / VIEWS)
            metrics.open_log(self.step)
        started = time.time() - self.seconds
        title = f"{config.method.name} {config.arch}"
        with Progress(self.plan.steps, title, "step", self.step, Path(config.output), disable=rank() > 0) as bar:
            metrics.evaluate(self.step, bool(self.stopped))
            self.method.train()
            self.sampler.steps = range(self.step, self.step if self.stopped else self.plan.steps)
            for batch in metrics.time_waiting(self.signals.interruptible_if_single_process(self.loader)):
                output, lr = self._train_step(batch)
                collapsed = metrics.update(self.step, output, lr)
                bar.update(1, **metrics.progress_bar_values())
                self.seconds = time.time() - started
                self.stopped = "collapse" if collapsed and config.on_collapse == "stop" else self._agreed_signal()
                # A signal does not wait for the evaluation; the next start does it.
                if not self.stopped.startswith("SIG"):
                    metrics.evaluate(self.step, self.stopped == "collapse")
                if self.stopped or self._checkpoint_due():
                    self._save()
                if self.stopped:
                    break
            else:
                if self.step < self.plan.steps and not self.stopped:
                    # A signal has ended the waiting for images.
                    self.stopped = self.signals.name
                    if self.step:
                        self._save()
        self.seconds = time.time() - started
        if metrics.log:
            metrics.log.close()

    def _print_plan(self) -> None:
        """Say what will be done."""
        val = self.val_set.format_summary() if self.val_set else "no validation images: neither kNN nor a probe"
        world, plan, config = world_size(), self.plan, self.config
        if self.checkpoint:
            print(f"continuing after step {self.step} of {plan.steps} from {self.checkpoint.name}")
        images = f"{world} x {config.batch_size // world}" if world > 1 else str(config.batch_size)
        print(
            f"{self.train_set.format_summary()}\n{val}\n"
            f"{plan.epochs} epochs x {plan.steps_per_epoch} steps of {images} images, "
            f"peak lr {self.schedule.peak:g} = {config.optimizer.lr:g} x {config.batch_size}/256"
        )
        filled = self.method.monitor_warmup
        if filled > max(plan.steps / 2, plan.steps_per_epoch):
            late = f"the queue is full of keys only after {filled} of {plan.steps} steps"
            print(f"NOTE: {late}; give a smaller method.queue or more epochs", file=sys.stderr)
        if broken := self.loader.broken:
            print(f"{len(broken)} broken images are left out: {', '.join(sorted(broken)[:3])} …")

    def _agreed_signal(self) -> str:
        """The signal that ends the run before its last step; all processes agree on it."""
        # Asking at every step would cost a collective each.
        asks = world_size() == 1 or self.step % self.config.log_every == 0 or self.step % self.steps_per_epoch == 0
        return self.signals.agreed_signal() if asks and self.step < self.plan.steps else ""

    def _checkpoint_due(self) -> bool:
        """Whether a checkpoint follows the present step."""
        due = self.config.checkpoint
        epoch, inside = divmod(self.step, self.steps_per_epoch)
        if inside:
            return bool(due.every_steps) and self.step % due.every_steps == 0
        return epoch % due.every_epochs == 0 or self.step == self.plan.steps

    def _save(self) -> None:
        """Write a checkpoint; every process has to call it."""
        state = self.state_dict()
        self.metrics.check_finite(self.step)
        if rank() == 0:
            inside = self.step % self.steps_per_epoch
            self.checkpoint = self.checkpoints.save(state, self.step if inside else None)
        self.metrics.restart_clock(self.step)

    def state_dict(self) -> dict[str, Any]:
        """The official release's entries, and `resume` with what else an exact resume needs.

        Every process has to call it. All of it loads with `torch.load(weights_only=True)`.
        """
        epoch, inside = divmod(self.step, self.steps_per_epoch)
        generators, broken = zip(*all_gather_object((generator_states(), self.loader.broken)), strict=True)
        self.loader.broken = set().union(*broken)
        resume = {
            "run": self.run.identity, "step": self.step, "seconds": self.seconds, "broken": sorted(self.loader.broken),
            "generators": list(generators), "metrics": self.metrics.state_dict(),
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
        self.loader.broken = set(build(list[str], resume["broken"], "broken"))
        self.metrics.load_state_dict(resume["metrics"])
        if self.probe:
            self.probe.load_state_dict(resume["probe"])
        if self.config.on_collapse == "stop" and self.metrics.monitor.collapsed_at is not None:
            self.stopped = "collapse"

    def write_record(self) -> None:
        """Write `result.json`, after which the run is done, and print the verdict; for the first process."""
        config, metrics, path = self.config, self.metrics, self.checkpoint
        assert path is not None
        found = metrics.last_values()
        if "bias_center_cosine" in found:
            skip_broken = config.data.skip_broken
            found |= training_set_bias_cosine(self.method, self.train_set, config.augment, config.seed, skip_broken)
        epochs = self.step // self.steps_per_epoch
        broken = sorted(self.loader.broken)
        details: dict[str, Any] = {"steps": self.step, "broken_images": broken, "processes": world_size()}
        if source := self.initial:
            mean, std = list(source.input.mean), list(source.input.std)
            details["init"] = {"sha256": source.source_sha256, "format": source.format, "mean": mean, "std": std}
        verdict = metrics.monitor.verdict + (", stopped there" if self.stopped == "collapse" else "")
        self.run.finish(
            Subject(config.variant or config.method.name, config.arch, epochs, path.name, sha256(path)),
            Dataset(self.train_set.name, "train", len(self.train_set), self.train_set.metadata_fingerprint),
            found,
            verdict=verdict,
            details=details,
            seconds=self.seconds,
        )
        knn = f"; kNN {metrics.accuracies['knn_top1']:.1f} %" if "knn_top1" in metrics.accuracies else ""
        print(f"{verdict}{knn} -> {path}")


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
