"""The training loop: one process or many, stopped and continued anywhere, bit for bit."""

import os
import random
import shutil
import signal
import sys
import threading
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
from pretrain.augment.fast import open_views
from pretrain.batch_norm import synchronize_norms
from pretrain.checkpoint import Checkpoints
from pretrain.collapse import measures
from pretrain.collapse.outputs import compute_outputs
from pretrain.config import FREE, PretrainConfig, check_batch
from pretrain.data import Images, open_images, open_val
from pretrain.initial import InitialWeights, load_initial_weights
from pretrain.loader import Ahead, EpochSampler, HostToDevice, step_loader
from pretrain.method.base import Batch, Method, Plan, build_method
from pretrain.metrics import Metrics
from pretrain.online import OnlineProbe
from pretrain.optim import build_optimizer, clip_gradients, peak_lr, scheduled_lr
from pretrain.pictures import save_views
from runs.distributed import all_gather_object, process_group, rank, set_precision, worker_count, world_size
from runs.errors import UserError
from runs.files import VIEWS, sha256
from runs.folder import Run, claim_run
from runs.progress import Progress
from runs.record import Dataset, Subject
from runs.seeds import generator_states, seed_everything, set_generator_states

# sysexits.h EX_TEMPFAIL: "come again", for a cluster that requeues what it interrupted.
INTERRUPTED = 75
# Training images whose center the predictor's bias is compared with. Two views of each make a mean of 4096 outputs, of
# which chance has a 64th part of a residual.
CENTER = 2048
# Seconds from a signal to the end of the run, if it has not come to save before.
DEADLINE = 300.0


def pretrain(config: PretrainConfig) -> int:
    """Pre-train, or continue, or say that it is done.

    Args:
        config: the settings.

    Returns:
        The exit status: 0, or 75 when a signal ended the run behind a checkpoint.

    Raises:
        UserError: whatever the user can put right.
    """
    with process_group(config.device) as device:
        train_set = open_images(config.data, "train")
        check_classes(config, train_set)
        evaluates = train_set.classes and (config.monitor.knn_every or config.probe.enabled)
        val_set = open_val(config.data, train_set) if evaluates else None
        bound = {images.split: images.content_fingerprint for images in (train_set, val_set) if images}
        initial = load_initial_weights(config)
        if initial:
            bound["init"] = initial.words["sha256"]
        with claim_run("pretrain", config.output, asdict(config), FREE, bound) as run:
            if run.done:
                return 0
            trainer = Trainer(config, device, train_set, val_set, initial)
            trainer.resume()
            trainer.train()
            if trainer.stopped.startswith("SIG"):
                where = f"step {trainer.step}, saved" if trainer.step else "step 0"
                again = "run the same command again to continue"
                trainer.say(f"stopped by {trainer.stopped} after {where}; {again}", sys.stderr)
                return INTERRUPTED
            if rank() == 0:
                trainer.record(run)
    return 0


class Signalled(BaseException):
    """A signal came while the training waited for images."""


def end_after(seconds: float, name: str) -> threading.Timer:
    """End the process if it is still there by then: what it waits for after a signal may never come."""

    def end() -> None:
        print(f"stopped by {name}, {seconds:g} s ago, and not saved since the last checkpoint", file=sys.stderr)
        os._exit(INTERRUPTED)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    return timer


class Trainer:
    """One run in one process.

    Args:
        config: the settings.
        device: where this process computes.
        train_set: the training images.
        val_set: the validation images; None where nothing is evaluated on them.
        initial: the backbone's weights; None draws them.

    Attributes:
        step: steps done.
        stopped: why the run ends before its last step: a signal's name, `collapse`, or nothing.
    """

    def __init__(
        self, config: PretrainConfig, device: torch.device, train_set: Images, val_set: Images | None,
        initial: InitialWeights | None = None,
    ) -> None:  # fmt: skip
        self.config, self.device, self.initial = config, device, initial
        self.autocast = set_precision(config.precision, device, config.threads)
        self.train_set, self.val_set = train_set, val_set
        images, skip_broken = self.train_set, config.data.skip_broken
        self.broken: list[str] = []
        if config.data.cache:
            self.broken = [name for split in (images, val_set) if split for name in split.cache(skip_broken)]
        check_batch(config.batch_size, len(images), world_size())
        self.sampler = EpochSampler(len(images), config.batch_size, config.seed, rank(), world_size())
        self.steps_per_epoch = len(self.sampler)
        self.plan = Plan(
            config.arch, config.zero_init_residual, config.epochs, self.steps_per_epoch, config.batch_size,
            len(images.classes), len(images), initial.state_dict if initial else None,
        )  # fmt: skip
        seed_everything(config.seed)
        self.method: Method = build_method(config.method, self.plan).to(device)
        if config.channels_last:
            self.method = self.method.to(memory_format=torch.channels_last)
        if self.method.sync_bn:
            synchronize_norms(self.method, device)
        self.peak_lr = peak_lr(config.optimizer, config.batch_size)
        self.optimizer = build_optimizer(self.method.groups(), config.optimizer, self.peak_lr)
        self.views = open_views(images, config.augment, self.method.views, config.seed, skip_broken, device)
        self.host_to_device = HostToDevice(self.views, device, config.channels_last)
        self.model: nn.Module = self.method
        if world_size() > 1:
            ids = [device.index] if device.type == "cuda" else None
            self.model = DistributedDataParallel(self.model, device_ids=ids)
        if config.compile:
            check_compiler()
            self.model = torch.compile(self.model)  # type: ignore[assignment]
        self.probe: OnlineProbe | None = None
        if config.probe.enabled:
            network, channels = self.method.backbone(), parse(config.arch).out_channels
            classes = len(images.classes)
            self.probe = OnlineProbe(config.probe, network, channels, classes, config.batch_size, device)
        self.metrics = Metrics(config, self.plan, self.method, self.probe)
        self.checkpoints = Checkpoints(Path(config.output), config.checkpoint.keep, config.checkpoint.keep_every)
        self.step, self.seconds = 0, 0.0
        self.signal = self.stopped = ""
        self.waiting = False
        self.deadline: threading.Timer | None = None

    def train(self) -> None:
        """Train to the last step, to a signal, or to a collapse with `on_collapse=stop`."""
        config, method, optimizer, metrics = self.config, self.method, self.optimizer, self.metrics
        self.open()
        started = time.time() - self.seconds
        with self.progress_bar() as bar:
            metrics.evaluate(self.step, bool(self.stopped))
            method.train()
            for batch in self.batches():
                lr = scheduled_lr(config.optimizer, self.peak_lr, self.step, self.steps_per_epoch, config.epochs)
                for group in optimizer.param_groups:
                    group["lr"] = self.peak_lr if group.get("fix_lr") else lr
                if self.probe:
                    self.probe.begin()
                with self.autocast():
                    output: dict[str, Tensor] = self.model(batch)
                optimizer.zero_grad(set_to_none=True)
                output["loss"].backward()
                method.after_backward(self.step)
                clip_gradients(method.parameters(), config.optimizer.clip)
                optimizer.step()
                method.after_step(self.step)
                if self.probe:
                    self.probe.update(batch.labels, lr / self.peak_lr)
                self.step += 1

                collapsed = metrics.update(self.step, output, lr)
                if bar:
                    bar.update(1, **metrics.shown())
                self.seconds = time.time() - started
                self.stopped = "collapse" if collapsed and config.on_collapse == "stop" else self.signalled()
                # A signal does not wait for the evaluation; the next start does it.
                if not self.stopped.startswith("SIG"):
                    metrics.evaluate(self.step, self.stopped == "collapse")
                if self.stopped or self.checkpoint_due():
                    self.save()
                if self.stopped:
                    break
            else:
                if self.stopped.startswith("SIG") and self.step:
                    self.save()
        self.seconds = time.time() - started
        metrics.close()

    def batches(self) -> Iterator[Batch]:
        """Yield the batches from the present step to the last one, each on the device."""
        loader = self.loader(self.sampler)
        while self.step < self.plan.steps and not self.stopped:
            self.sampler.epoch, self.sampler.position = divmod(self.step, self.steps_per_epoch)
            self.metrics.restart_clock(self.step)
            before = time.time()
            for content in self.interruptible(loader):
                batch, broken = self.batch(content, self.step)
                self.metrics.waited += time.time() - before
                self.broken += [name for name in broken if name not in self.broken]
                ahead = min(self.method.look_ahead(self.step), self.plan.steps - self.step)
                if ahead:
                    following = self.loader(Ahead(self.sampler, self.step, ahead))
                    with self.autocast():
                        self.method.prepare(self.batch(c, step)[0] for step, c in enumerate(following, self.step))
                yield batch
                before = time.time()

    def interruptible(self, loader: Iterable[Any]) -> Iterator[Any]:
        """Yield what the loader gives; a signal ends the waiting for it, as the batch may never come."""
        batches = iter(loader)
        while True:
            try:
                self.waiting = True
                content = next(batches, None)
            except Signalled:
                self.stopped, content = self.signal, None
            finally:
                self.waiting = False
            if content is None:
                return
            yield content

    def batch(self, content: Any, step: int) -> tuple[Batch, list[str]]:
        """Return what the loader gave for a step as a batch on the device, and the names of broken images."""
        if isinstance(content, UserError):
            raise content
        views, labels, broken = content
        views, labels = self.host_to_device(views, labels)
        indices = torch.tensor([index for _, index in self.sampler.keys(*divmod(step, self.steps_per_epoch))])
        return Batch(views, labels, step, indices), broken

    def loader(self, sampler: EpochSampler | Ahead) -> Iterable[Any]:
        """Build the loader of some steps."""
        return step_loader(self.views, sampler, worker_count(self.config.data.workers), self.device.type == "cuda")

    def open(self) -> None:
        """Say what will be done, open the log, and listen to the signals that end a run."""
        if self.initial and self.initial.warning:
            self.say(self.initial.warning, sys.stderr)
        if rank() == 0:
            val = self.val_set.describe() if self.val_set else "no validation images: neither kNN nor a probe"
            self.say(f"{self.train_set.describe()}\n{val}\n{self.describe()}")
            filled = self.method.monitor_warmup
            if filled > max(self.plan.steps / 2, self.steps_per_epoch):
                late = f"the queue is full of keys only after {filled} of {self.plan.steps} steps"
                self.say(f"NOTE: {late}; give a smaller method.queue or more epochs", sys.stderr)
            if self.broken:
                self.say(f"{len(self.broken)} broken images are left out: {', '.join(self.broken[:3])} …")
            save_views(self.views, self.config.augment, Path(self.config.output) / VIEWS)
            self.metrics.open(self.step, self.train_set, self.val_set, self.device)

        def on_signal(number: int, _: Any) -> None:
            self.signal = signal.Signals(number).name
            if self.waiting and world_size() == 1:
                raise Signalled
            self.deadline = self.deadline or end_after(DEADLINE, self.signal)

        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
            # `nohup` has its commands ignore the end of the terminal.
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, on_signal)

    def signalled(self) -> str:
        """The signal that ends the run before its last step; all processes agree on it."""
        # Asking at every step would cost a collective each.
        asks = world_size() == 1 or self.step % self.config.log_every == 0 or self.step % self.steps_per_epoch == 0
        if not asks or self.step == self.plan.steps:
            return ""
        found = next((name for name in all_gather_object(self.signal) if name), "")
        if found and self.deadline:
            self.deadline.cancel()
        return found

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
        self.broken = sorted({name for names in all_gather_object(self.broken) for name in names})
        state = self.state_dict()
        if rank() == 0:
            epoch, inside = divmod(self.step, self.steps_per_epoch)
            self.checkpoints.save(state, epoch if inside else epoch - 1, self.step if inside else None)

    def resume(self) -> None:
        """Load the newest whole checkpoint, if there is one.

        Raises:
            UserError: there are checkpoints and none is whole, or another number of processes wrote it.
        """
        # Every process reads the same file; the first one chooses it.
        found = self.checkpoints.newest() if rank() == 0 else None
        path = all_gather_object(found[0] if found else None)[0]
        if path is None:
            return
        state = found[1] if found else self.checkpoints.load(path)
        written_by = len(state["resume"]["generators"])
        if written_by != world_size():
            raise UserError(
                f"{path}: written by {written_by} processes; continue with as many (torchrun --nproc_per_node)"
            )
        self.load_state_dict(state)
        self.say(f"continuing after step {self.step} of {self.plan.steps} from {path.name}")

    def state_dict(self) -> dict[str, Any]:
        """The official release's entries, and `resume` with what else an exact resume needs.

        Every process has to call it. All of it loads with `torch.load(weights_only=True)`.
        """
        epoch, inside = divmod(self.step, self.steps_per_epoch)
        resume = {
            "step": self.step, "seconds": self.seconds, "broken": self.broken,
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
        """Bring a run that was just made to where it stood when `state_dict` returned `state`."""
        resume = state["resume"]
        self.method.load_state_dict({k.removeprefix("module."): v for k, v in state["state_dict"].items()})
        self.optimizer.load_state_dict(state["optimizer"])
        set_generator_states(resume["generators"][rank()])
        self.step, self.seconds, self.broken = resume["step"], resume["seconds"], resume["broken"]
        self.metrics.load_state_dict(resume["metrics"])
        if self.probe:
            self.probe.load_state_dict(resume["probe"])
        if self.config.on_collapse == "stop" and self.metrics.monitor.collapsed_at is not None:
            self.stopped = "collapse"

    def record(self, run: Run) -> None:
        """Write `result.json`, from which on the run is done, and print the verdict; for the first process.

        Raises:
            UserError: the last loss is not finite, or the disk refuses.
        """
        config, metrics, path = self.config, self.metrics, self.checkpoints.paths()[0]
        epochs = self.step // self.steps_per_epoch
        verdict = metrics.monitor.verdict + (", stopped there" if self.stopped == "collapse" else "")
        run.finish(
            Subject(config.variant or config.method.name, config.arch, epochs, path.name, sha256(path)),
            Dataset(self.train_set.name, "train", len(self.train_set), self.train_set.fingerprint),
            metrics.summary() | self.bias_of_the_training_set(),
            verdict=verdict,
            details={"steps": self.step, "broken_images": self.broken, "processes": world_size()}
            | ({"init": self.initial.words} if self.initial else {}),
            seconds=self.seconds,
        )
        self.say(f"{verdict}; kNN {metrics.knn:.1f} % -> {path}" if metrics.knn is not None else f"{verdict} -> {path}")

    def bias_of_the_training_set(self) -> dict[str, float]:
        """The last bias against the center of the training set, where training compared it with that of a batch."""
        if "bias_center_cosine" not in self.metrics.details:
            return {}
        config, count = self.config, len(self.train_set)
        indices = sorted(random.Random(config.seed).sample(range(count), min(count, CENTER)))
        z, z2, _ = compute_outputs(
            self.method, config.augment, self.train_set, indices, 256, config.seed, self.device, config.data.skip_broken
        )
        bias = measures.last_bias(getattr(self.method, "predictor", None), z.shape[1])
        return {} if bias is None else {"bias_set_cosine": measures.bias_cosine(bias, z, z2)}

    def progress_bar(self) -> Any:
        """The bar of the first process."""
        title = f"{self.config.method.name} {self.config.arch}"
        output = Path(self.config.output)
        return Progress(self.plan.steps, title, "step", self.step, output) if rank() == 0 else nullcontext()

    def describe(self) -> str:
        """The run's length and largest learning rate in words."""
        world, batch_size, plan = world_size(), self.config.batch_size, self.plan
        images = f"{world} x {batch_size // world}" if world > 1 else str(batch_size)
        return (
            f"{plan.epochs} epochs x {plan.steps_per_epoch} steps of {images} images, peak lr {self.peak_lr:g} "
            f"= {self.config.optimizer.lr:g} x {batch_size}/256"
        )

    def say(self, text: str, file: Any = None) -> None:
        """Print in the first process."""
        if rank() == 0:
            print(text, file=file)


def check_classes(config: PretrainConfig, train_set: Images) -> None:
    """Check that images without classes are not asked for them.

    Raises:
        UserError: they are.
    """
    learner = "probe.enabled=true" if config.probe.enabled else "method=supervised"
    if not train_set.classes and (config.probe.enabled or config.method.name == "supervised"):
        raise UserError(f"{learner}: data.root={config.data.root} has no classes; put its images into class folders")


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
