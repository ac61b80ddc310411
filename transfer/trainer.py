"""The training loop: Detectron2's model, solver and events, with a checkpoint that continues bit for bit."""

import itertools
import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.utils.events import EventStorage
from fvcore.nn.precise_bn import get_bn_modules, update_bn_stats
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from runs.distributed import all_arrived_in_time, all_gather_object, rank, world_size
from runs.environment import peak_memory_mb
from runs.errors import UserError, raise_or_yield
from runs.files import write_json
from runs.folder import Run
from runs.metrics_log import METRICS_LOG, MetricsLog
from runs.progress import Progress
from runs.seeds import generator_states, set_generator_states
from runs.signals import DEADLINE, Stopped, StopSignals, raise_signals
from runs.tensor_files import load_torch_file, restore_errors, save_torch_file
from transfer.detections import Detections, Evaluation
from transfer.evaluate_detector import evaluate_and_save
from transfer.loader import DataLoaders
from transfer.model import as_user_errors
from transfer.read_splits import Split
from transfer.settings import TransferConfig

CHECKPOINT = "checkpoint.pth"
CANNOT_TRAIN = "recipe=, detectron2.…: Detectron2 cannot train this detector"
LOWER = "lower detectron2.SOLVER.BASE_LR or lengthen detectron2.SOLVER.WARMUP_ITERS, and choose another output="


class Diverged(UserError):
    """Losses or proposals stopped being numbers."""


class Trainer:
    """One detector's training, from its initial weights.

    `loaders` give what to train on and what to test on, `test` is the split to report on, and `run` is the claimed
    folder. Where Detectron2 cannot build the solver, a `UserError` says why.
    """

    def __init__(
        self, cfg: Any, config: TransferConfig, detector: nn.Module, loaders: DataLoaders, test: Split, run: Run
    ) -> None:
        self.cfg, self.config, self.detector = cfg, config, detector
        self.loaders, self.test_split = loaders, test
        self.run, self.folder = run, run.path
        with as_user_errors("recipe=, detectron2.SOLVER…: Detectron2 cannot build this solver"):
            self.optimizer = build_optimizer(cfg, detector)
            self.scheduler = build_lr_scheduler(cfg, self.optimizer)
        self.model: nn.Module = detector
        if world_size() > 1:
            # As detectron2.engine.create_ddp_model(broadcast_buffers=False): naive SyncBN keeps them equal.
            devices = [torch.cuda.current_device()] if next(detector.parameters()).is_cuda else None
            self.model = DistributedDataParallel(detector, device_ids=devices, broadcast_buffers=False)
        self.iteration = 0
        self.seconds = 0.0  # of training, over all starts
        self._window: list[dict[str, float]] = []
        self.signals = StopSignals(DEADLINE)

    def train_and_evaluate(self) -> tuple[Evaluation, Detections] | None:
        """Train to SOLVER.MAX_ITER, from the folder's checkpoint if there is one, and measure the detector.

        Every TEST.EVAL_PERIOD iterations, too, the detector is measured; its metrics go into the log.

        Returns:
            What `evaluate_and_save` does.

        Raises:
            Diverged: a loss is no finite number.
            UserError: memory does not suffice, or an image cannot be read.
            Stopped: a signal, behind a checkpoint; during the measuring, the next start begins behind the last one.
        """
        self._train()
        return self._evaluate()

    def _train(self) -> None:
        generators = self._restore()
        self.loaders.train_sampler.start = self.iteration
        # Making it draws from PyTorch's generator, so the saved states follow it.
        batches = raise_or_yield(iter(self.loaders.train))
        if generators is not None:
            set_generator_states(generators)
        log = MetricsLog(self.folder / METRICS_LOG, self.iteration, self.folder) if rank() == 0 else None
        self.model.train()
        first, end, stopped = self.iteration, self.cfg.SOLVER.MAX_ITER, ""
        with (
            self.signals.listen(),
            EventStorage(self.iteration) as storage,
            Progress(end, "fine-tuning", "it", self.iteration, self.folder, disable=rank() > 0) as bar,
        ):
            start = saved = time.perf_counter()
            for batch in itertools.islice(self.signals.interruptible_if_single_process(batches), end - self.iteration):
                # What Detectron2 cannot do with its settings, it finds in the first step.
                with nullcontext() if self.iteration > first else as_user_errors(CANNOT_TRAIN):
                    values = self._step(batch, start)
                storage.step()
                self.iteration += 1
                self._window.append(values)
                bar.update(loss=values["total_loss"])
                if len(self._window) == self.config.log_every or self.iteration == end:
                    window, self._window = self._window, []
                    means = {name: sum(v[name] for v in window) / len(window) for name in window[0]}
                    if log is not None:
                        means |= {"lr": window[-1]["lr"], "memory_mb": round(peak_memory_mb())}
                        log.write(self.iteration - 1, **means)
                stopped = self.signals.agreed_signal()
                period = self.cfg.TEST.EVAL_PERIOD
                if not stopped and period > 0 and self.iteration % period == 0 and self.iteration < end:
                    found = self._evaluate()
                    self.model.train()
                    if log is not None and found is not None:
                        log.write(self.iteration - 1, **found[0].metrics)
                # By the clocks of all processes: they save together.
                due = any(all_gather_object(time.perf_counter() - saved > self.config.save_seconds))
                if due or stopped or self.iteration == end:
                    self._save()
                    saved = time.perf_counter()
                if stopped:
                    break
                start = time.perf_counter()
            if not stopped and self.iteration < end:
                # A signal has ended the waiting for images.
                stopped = self.signals.name
                self._save()
        if log is not None:
            log.close()
        if stopped:
            raise Stopped(f"{stopped} after iteration {self.iteration}, saved")

    def _evaluate(self) -> tuple[Evaluation, Detections] | None:
        """Measure the detector with precise batch norm."""
        if heard := self.signals.agreed_signal():
            raise Stopped(f"{heard} before the detector was measured")
        with raise_signals():
            self.precise_bn()
            # Without autocast, as Detectron2's own mixed precision: scores of 8 bits would be full of ties.
            return evaluate_and_save(self.cfg, self.detector, self.test_split, self.loaders.test)

    def _step(self, batch: list[dict[str, Any]], start: float) -> dict[str, float]:
        """One iteration, whose batch is waited for since `start`; returns its losses, learning rate and seconds."""
        data_time = time.perf_counter() - start
        try:
            with torch.autocast(self.cfg.MODEL.DEVICE, torch.bfloat16, enabled=self.config.precision == "bf16"):
                losses = self.model(batch)
            total = sum(losses.values())
            terms = _mean_over_processes(losses)
            if not math.isfinite(sum(terms.values())):
                values = {name: str(value) for name, value in terms.items()}
                raise self._diverged(batch, f"the loss is {sum(terms.values())}", values)
            self.optimizer.zero_grad()
            total.backward()
            self.optimizer.step()
        except FloatingPointError as error:
            # Detectron2 notices proposals that are no numbers before there is a loss, each process its own.
            if not all_arrived_in_time(f"not finite at {self.iteration}"):
                raise UserError(
                    f"proposals of one process are not finite at iteration {self.iteration}; {LOWER}"
                ) from error
            raise self._diverged(batch, "proposals are not finite", {}) from error
        except torch.OutOfMemoryError as error:
            height, width = (max(image["image"].shape[d] for image in batch) for d in (1, 2))
            raise UserError(
                f"out of memory at iteration {self.iteration} with {len(batch)} images of up to {width} x {height}: "
                "use more devices (torchrun), precision=bf16, or a lower detectron2.INPUT.MAX_SIZE_TRAIN"
            ) from error
        rate = self.optimizer.param_groups[0]["lr"]
        self.scheduler.step()
        elapsed = time.perf_counter() - start
        self.seconds += elapsed
        return {"total_loss": sum(terms.values()), **terms, "lr": rate, "time": elapsed, "data_time": data_time}

    def _diverged(self, batch: list[dict[str, Any]], what: str, losses: dict[str, str]) -> UserError:
        """Save which images it happened on, those of all processes; returns what to tell the user."""
        file = self.folder / "not_finite.json"
        shares = all_gather_object([image["image_id"] for image in batch])
        if rank() == 0:
            ids = [image_id for share in shares for image_id in share]
            write_json(file, {"iteration": self.iteration, "losses": losses, "image_ids": ids})
        return Diverged(f"{what} at iteration {self.iteration} (its images are in {file}); {LOWER}")

    def precise_bn(self) -> None:
        """Replace the running statistics of every batch norm by those of TEST.PRECISE_BN.NUM_ITER training batches.

        Wu and Johnson, "Rethinking 'Batch' in BatchNorm" (arXiv:2105.07576), section 3, as Detectron2's hook does it.
        """
        self.model.train()
        if not self.cfg.TEST.PRECISE_BN.ENABLED or not get_bn_modules(self.model):
            return
        count = self.cfg.TEST.PRECISE_BN.NUM_ITER
        with EventStorage(), Progress(count, "precise BN", folder=self.folder, disable=rank() > 0) as bar:
            update_bn_stats(self.model, _counted(raise_or_yield(self.loaders.precise_bn), bar), count)

    def _save(self) -> None:
        """Write the checkpoint that training continues from."""
        states = all_gather_object(generator_states())
        if rank():
            return
        save_torch_file(self.folder / CHECKPOINT, {
            "run": self.run.identity, "iteration": self.iteration, "model": self.detector.state_dict(),
            "optimizer": self.optimizer.state_dict(), "scheduler": self.scheduler.state_dict(), "generators": states,
            "window": self._window, "seconds": self.seconds,
        })  # fmt: skip

    def _restore(self) -> dict[str, Any] | None:
        """Load the folder's checkpoint; returns this process's generator states, None without a checkpoint."""
        path = self.folder / CHECKPOINT
        if not path.exists():
            return None
        remedy = f"delete {self.folder}"
        with restore_errors(path, remedy):
            state = dict(load_torch_file(path))
        self.run.check_identity(state.get("run"), path)
        with restore_errors(path, remedy):
            self.detector.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scheduler.load_state_dict(state["scheduler"])
            generators: list[dict[str, Any]] = state["generators"]
            if not 0 <= state["iteration"] <= self.cfg.SOLVER.MAX_ITER:
                raise ValueError("not an iteration of this run")
        if len(generators) != world_size():
            raise UserError(
                f"{path}: of {len(generators)} processes, not {world_size()}; start as many, or choose another output="
            )
        self.iteration, self._window, self.seconds = state["iteration"], state["window"], state["seconds"]
        return generators[rank()]


def _mean_over_processes(losses: dict[str, torch.Tensor]) -> dict[str, float]:
    """Each loss as a number: its mean over the processes."""
    stacked = torch.stack([value.detach().float() for value in losses.values()])  # (terms,)
    if world_size() > 1:
        torch.distributed.all_reduce(stacked)
        stacked /= world_size()
    return dict(zip(losses, stacked.tolist(), strict=True))


def _counted(batches: Any, bar: Any) -> Iterator[Any]:
    for batch in batches:
        yield batch
        bar.update()
