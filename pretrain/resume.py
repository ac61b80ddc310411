"""What a checkpoint holds of a run, and how a run takes it up again: bit for bit, on a CPU."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from runs.distributed import all_gather_object, rank, world_size
from runs.errors import UserError
from runs.seeds import generator_states, set_generator_states

if TYPE_CHECKING:
    from pretrain.engine import Training


def capture(run: "Training") -> dict[str, Any]:
    """Collect the entries of a checkpoint; every process has to call it.

    Returns:
        The official release's entries, and `resume` with what else an exact resume needs. All of it loads with
        `torch.load(weights_only=True)`.
    """
    generators = all_gather_object(generator_states())
    epoch, inside = divmod(run.step, len(run.sampler))
    resume = {"step": run.step, "generators": generators, "seconds": run.seconds, "broken": run.broken}
    resume |= run.observer.state()
    if run.online:
        resume["online"] = run.online.state()
    return {
        "epoch": epoch + bool(inside), "arch": run.config.arch,
        # The official release saves the DDP-wrapped module: every key starts with `module.`.
        "state_dict": {f"module.{k}": v for k, v in run.method.state_dict().items()},
        "optimizer": run.optimizer.state_dict(), "resume": resume,
    }  # fmt: skip


def restore(run: "Training", state: dict[str, Any], path: Path) -> None:
    """Bring a run to where it stood when `capture` returned `state`.

    Args:
        run: freshly made.
        state: the checkpoint's entries.
        path: its file, for messages.

    Raises:
        UserError: another number of processes wrote it.
    """
    resume = state["resume"]
    if len(resume["generators"]) != world_size():
        raise UserError(
            f"{path}: written by {len(resume['generators'])} processes; continue with as many "
            "(torchrun --nproc_per_node)"
        )
    run.method.load_state_dict({k.removeprefix("module."): v for k, v in state["state_dict"].items()})
    run.optimizer.load_state_dict(state["optimizer"])
    set_generator_states(resume["generators"][rank()])
    run.step, run.seconds, run.broken = resume["step"], resume["seconds"], resume["broken"]
    run.observer.load_state(resume)
    if run.online:
        run.online.load_state(resume["online"])
