"""The training loop: one process or many, stopped and continued anywhere."""

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from converters.architecture import parse
from pretrain import pictures
from pretrain.batch_norm import synchronize_norms
from pretrain.checkpoint import Checkpoints
from pretrain.config import FREE, PretrainConfig, check_batch
from pretrain.data import Images, open_splits
from pretrain.loader import Ahead, EpochSampler, step_loader
from pretrain.method import Batch, Method, Plan, build_method
from pretrain.observer import Observer
from pretrain.optim import build_optimizer, clip_gradients, peak_lr, scheduled_lr
from pretrain.outcome import write_outcome
from pretrain.probe import OnlineProbe
from pretrain.resume import capture, restore
from pretrain.upload import Upload
from pretrain.views_fast import open_views
from runs.distributed import all_gather_object, process_group, rank, set_precision, worker_count, world_size
from runs.errors import UserError
from runs.folder import Run, claim_run
from runs.progress import progress
from runs.seeds import seed_everything

# sysexits.h EX_TEMPFAIL: "come again", for a cluster that requeues what it interrupted.
INTERRUPTED = 75


def run(config: PretrainConfig) -> int:
    """Pre-train, or continue, or say that it is done.

    Args:
        config: the settings.

    Returns:
        The exit status: 0, or 75 when a signal ended the run behind a checkpoint.

    Raises:
        UserError: whatever the user can mend.
    """
    with (
        process_group(config.device) as device,
        claim_run("pretrain", config.output, asdict(config), FREE) as claimed,
    ):
        return 0 if claimed.done else Training(config, device).run(claimed)


class Training:
    """One run in one process.

    Args:
        config: the settings.
        device: where this process computes.
    """

    def __init__(self, config: PretrainConfig, device: torch.device) -> None:
        self.config, self.device, self.main = config, device, rank() == 0
        self.autocast = set_precision(config.precision, device, config.threads)
        if config.compile:
            check_compiler()
        self.train, self.val = open_splits(config.data)
        self.broken = _prepare(self.train, config) + _prepare(self.val, config)
        check_batch(config.batch_size, len(self.train), world_size())
        self.sampler = EpochSampler(len(self.train), config.batch_size, config.seed, rank(), world_size())
        self.plan = Plan(
            arch=config.arch,
            zero_init_residual=config.zero_init_residual,
            epochs=config.epochs,
            steps_per_epoch=len(self.sampler),
            batch_size=config.batch_size,
            classes=len(self.train.classes),
            images=len(self.train),
        )
        seed_everything(config.seed)
        self.method: Method = build_method(config.method, self.plan).to(device)
        if config.channels_last:
            self.method = self.method.to(memory_format=torch.channels_last)
        if self.method.sync_bn:
            synchronize_norms(self.method, device)
        self.peak = peak_lr(config.optimizer, config.batch_size)
        self.optimizer = build_optimizer(self.method.groups(), config.optimizer, self.peak)
        skip = config.data.skip_broken
        self.views = open_views(self.train, config.augment, self.method.views, config.seed, skip, device)
        self.workers = worker_count(config.data.workers)
        self.upload = Upload(self.views, device, config.channels_last)
        self.loader = step_loader(self.views, self.sampler, self.workers, device.type == "cuda")
        self.model = self._wrap()
        self.online = self._online() if config.probe.enabled else None
        self.observer = Observer(config, self.plan, self.method, self.online)
        self.checkpoints = Checkpoints(Path(config.output), config.checkpoint.keep, config.checkpoint.keep_every)
        self.step, self.seconds = 0, 0.0
        self.signal = ""
        self.stopped = ""

    def _online(self) -> OnlineProbe:
        channels, classes = parse(self.config.arch).out_channels, len(self.train.classes)
        backbone, batch = self.method.backbone(), self.config.batch_size
        return OnlineProbe(self.config.probe, backbone, channels, classes, batch, self.device)

    def _wrap(self) -> nn.Module:
        model: nn.Module = self.method
        if world_size() > 1:
            ids = [self.device.index] if self.device.type == "cuda" else None
            model = DistributedDataParallel(model, device_ids=ids)
        return torch.compile(model) if self.config.compile else model  # type: ignore[return-value]

    def run(self, claimed: Run) -> int:
        """Train to the end; returns the exit status."""
        self._resume()
        if self.main:
            print(f"{self.train.describe()}\n{self.val.describe()}")
            print(_split(self.config, self.plan, self.peak))
            if self.broken:
                print(f"{len(self.broken)} broken images are left out: {', '.join(self.broken[:3])} …")
            pictures.save_views(self.views, self.config.augment, Path(self.config.output) / "views.png")
            self.observer.open(self.step, self.train, self.val, self.device)
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._on_signal)
        started = time.time() - self.seconds
        title = f"{self.config.method.name} {self.config.arch}"
        with (
            progress(self.plan.steps, title, "step", self.step, Path(self.config.output))
            if self.main
            else nullcontext() as bar
        ):
            self._evaluate()
            while self.step < self.plan.steps and not self.stopped:
                self._epoch(bar, started)
        self.seconds = time.time() - started
        self.observer.close()
        if self.stopped.startswith("SIG"):
            if self.main:
                print(
                    f"stopped by {self.stopped} after step {self.step}, saved; run the same command again to continue",
                    file=sys.stderr,
                )
            return INTERRUPTED
        if self.main:
            write_outcome(self, claimed)
        return 0

    def _epoch(self, bar: Any, started: float) -> None:
        per_epoch = len(self.sampler)
        epoch, self.sampler.position = divmod(self.step, per_epoch)
        self.sampler.epoch = epoch
        self.method.train()
        self.observer.begin(self.step)
        before = time.time()
        for batch in self.loader:
            if isinstance(batch, UserError):
                raise batch
            views, labels, broken = batch
            waited = time.time() - before
            self.broken += [name for name in broken if name not in self.broken]
            lr = scheduled_lr(self.config.optimizer, self.peak, self.step, per_epoch, self.config.epochs)
            self._look_ahead()
            output = self._step(views, labels, lr)
            self.step += 1
            if self.observer.see(self.step, output, lr, waited) and self.config.on_collapse == "stop":
                self.stopped = "collapse"
            if bar:
                bar.update(1, **self.observer.shown())
            self.seconds = time.time() - started
            if self.step % per_epoch == 0:
                break
            save_every = self.config.checkpoint.every_steps
            if self._must_stop() or (save_every and self.step % save_every == 0):
                self._evaluate()
                self._save()
            if self.stopped:
                break
            before = time.time()
        done = self.step // per_epoch
        last = self.step == self.plan.steps
        if self.step % per_epoch == 0:
            # A signal does not wait for the neighbours; the next start looks them up.
            if not self._must_stop(epoch_ends=True) or self.stopped == "collapse" or last:
                self._evaluate()
            if self.stopped or done % self.config.checkpoint.every_epochs == 0 or last:
                self._save()
        if last and self.stopped.startswith("SIG"):
            # Nothing is left to be continued.
            self.stopped = ""

    def _step(self, views: list[Tensor], labels: Tensor, lr: float) -> dict[str, Tensor]:
        batch = self._batch(views, labels, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = self.peak if group.get("fix_lr") else lr
        if self.online:
            self.online.begin()
        with self.autocast():
            output: dict[str, Tensor] = self.model(batch)
        self.optimizer.zero_grad(set_to_none=True)
        output["loss"].backward()
        self.method.after_backward(self.step)
        clip_gradients(self.method.parameters(), self.config.optimizer.clip)
        self.optimizer.step()
        self.method.after_step(self.step)
        if self.online:
            self.online.learn(batch.labels, lr / self.peak)
        return output

    def _batch(self, views: list[Tensor], labels: Tensor, step: int) -> Batch:
        views, labels = self.upload(views, labels)
        indices = torch.tensor([index for _, index in self.sampler.keys(*divmod(step, len(self.sampler)))])
        return Batch(views, labels, step, indices)

    def _look_ahead(self) -> None:
        """Show the method the steps that it wants to see before this one."""
        steps = min(self.method.look_ahead(self.step), self.plan.steps - self.step)
        if steps:
            ahead = Ahead(self.sampler, self.step, steps)
            loader = step_loader(self.views, ahead, self.workers, self.device.type == "cuda")
            with self.autocast():
                self.method.prepare(self._batches(loader))

    def _batches(self, loader: Iterable[Any]) -> Iterator[Batch]:
        for step, content in enumerate(loader, self.step):
            if isinstance(content, UserError):
                raise content
            yield self._batch(content[0], content[1], step)

    def _must_stop(self, epoch_ends: bool = False) -> bool:
        if self.stopped:
            return True
        # Processes agree before any of them leaves; asking at every step would cost a collective each.
        if world_size() > 1 and self.step % self.config.log_every and not epoch_ends:
            return False
        self.stopped = next((name for name in all_gather_object(self.signal) if name), "")
        return bool(self.stopped)

    def _on_signal(self, number: int, _: Any) -> None:
        self.signal = signal.Signals(number).name

    def _evaluate(self) -> None:
        self.observer.evaluate(self.step, self.step == self.plan.steps or self.stopped == "collapse")

    def _save(self) -> None:
        self.observer.check_finite(self.step)
        self.broken = sorted({name for names in all_gather_object(self.broken) for name in names})
        state = capture(self)
        if self.main:
            epoch, inside = divmod(self.step, len(self.sampler))
            self.checkpoints.save(state, epoch if inside else epoch - 1, self.step if inside else None)

    def _resume(self) -> None:
        # Every process reads the same file; the first one chooses it.
        found = self.checkpoints.newest() if self.main else None
        path = all_gather_object(found[0] if found else None)[0]
        if path is None:
            return
        restore(self, found[1] if found else self.checkpoints.load(path), path)
        if self.config.on_collapse == "stop" and self.observer.monitor.collapsed_at is not None:
            self.stopped = "collapse"
        if self.main:
            print(f"continuing after step {self.step} of {self.plan.steps} from {path.name}")


def _prepare(images: Images, config: PretrainConfig) -> list[str]:
    return images.cache(config.data.skip_broken) if config.data.cache else []


def _split(config: PretrainConfig, plan: Plan, peak: float) -> str:
    world = world_size()
    share = f"{world} x {config.batch_size // world}" if world > 1 else str(config.batch_size)
    return (
        f"{plan.epochs} epochs x {plan.steps_per_epoch} steps of {share} images, peak lr {peak:g} "
        f"= {config.optimizer.lr:g} x {config.batch_size}/256"
    )


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
