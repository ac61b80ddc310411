"""`compile=true`: the same run, the official names, and one line where there is no compiler."""

import functools
import signal
import time
from pathlib import Path

import pytest
import torch

from pretrain.trainer import check_compiler
from runs.errors import UserError
from tests.pretrain import processes
from tests.pretrain.processes import lines, newest, run, small, steps_logged


def without_code(arguments: list[str], log: str) -> None:
    """The command with a backend that traces as the default one does and builds no C++, which would take minutes."""
    torch.compile = functools.partial(torch.compile, backend="aot_eager")
    processes._main("pretrain", arguments, {}, log)


@pytest.mark.slow
def test_a_compiled_run_killed_and_continued_is_the_plain_run(images: Path, tmp_path: Path) -> None:
    plain, compiled = tmp_path / "plain", tmp_path / "compiled"
    more = ("monitor.knn_every=0", "epochs=2")
    assert run("pretrain", small("simsiam", images, plain, *more), plain)[0] == 0
    log = tmp_path / "log.txt"
    arguments = (small("simsiam", images, compiled, *more, "compile=true"), str(log))
    for kill in (True, False):
        process = processes.CONTEXT.Process(target=without_code, args=arguments)
        process.start()
        while kill and process.is_alive() and steps_logged(compiled) < 4:
            time.sleep(0.003)
        if kill:
            process.kill()
        process.join(200)
        assert process.exitcode == (-signal.SIGKILL if kill else 0), log.read_text()
    assert "continuing after step " in log.read_text()
    losses = [[line["loss"] for line in lines(folder) if "loss" in line] for folder in (plain, compiled)]
    assert len(losses[0]) == 8 and losses[1] == pytest.approx(losses[0], abs=1e-5)
    # Not those of the wrapper that compiles, `_orig_mod`.
    assert list(newest(compiled)["state_dict"]) == list(newest(plain)["state_dict"])


def test_without_a_compiler_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"compile=true: needs the C\+\+ compiler no-such-compiler; install it"):
        check_compiler()
