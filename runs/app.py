"""How commands start and end: arguments in, one line and exit status 2 for whatever the user can put right."""

import argparse
import contextlib
import functools
import io
import os
import pkgutil
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, NoReturn, ParamSpec, TypeVar

from runs import __version__
from runs.distributed import torchrun_env_or_single_process
from runs.errors import UserError, user_message
from runs.help_text import help_text
from runs.plugins import check_folders, search_path_override
from runs.settings import explain_error, hydra_arguments, to_dataclass
from runs.signals import Stopped, raise_signals

PARENT = "RUNS_PARENT_PID"
# Hydra makes no folders and writes no log: a run has its own (`runs.folder`).
QUIET = (
    "hydra.run.dir=.", "hydra.output_subdir=null", "hydra.sweep.dir=outputs/multirun", "hydra.sweep.subdir=.",
    "hydra/job_logging=none", "hydra/hydra_logging=none",
)  # fmt: skip
# Exit status of a defect of the program, behind its traceback. 1 is a command's answer, e.g. the gate's: a drop.
DEFECT = 70
P = ParamSpec("P")
C = TypeVar("C")


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` whose complaint is one line.

    Attributes:
        program: what the user typed, where it was not `prog`; the next parser that is made takes it.
    """

    program: str | None = None

    def __init__(self, prog: str | None = None, **settings: Any) -> None:
        super().__init__(prog=Parser.program or prog, **settings)
        Parser.program = None
        self.add_argument("--version", action="version", version=f"siamese-transfer {__version__}")

    def error(self, message: str) -> NoReturn:
        """Print the complaint and where help is, and exit with status 2."""
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


def cli(main: Callable[P, int | None]) -> Callable[P, NoReturn]:
    """Wrap a command's main function: what the user can put right (`user_message`) ends it in one line, status 2.

    Any other exception is a defect of the program: its traceback, status 70. A signal by which a cluster ends a run is
    one line, status 75. Else the integer that `main` returns is the status.
    """

    @functools.wraps(main)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> NoReturn:
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is None:  # closed by the shell
                setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  until the process ends
            elif isinstance(stream, io.TextIOWrapper):
                # A terminal or a log file that is not UTF-8.
                stream.reconfigure(errors="backslashreplace")
        try:
            if sys.flags.optimize > 1:
                raise UserError("PYTHONOPTIMIZE=2: takes docstrings away, which Detectron2 and --help need; unset it")
            _follow_parent()
            check_folders()
            with raise_signals():
                sys.exit(main(*args, **kwargs))
        except Stopped as signal:
            _say(f"stopped by {signal.what}; run the same command again to continue")
            raise
        except BrokenPipeError:
            # The reader went away (`… | head`): nothing is wrong.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)
        except Exception as error:
            message = user_message(error)
            if message is None:
                traceback.print_exc()
                sys.exit(DEFECT)
            _say(f"error: {message}")
            sys.exit(2)
        except KeyboardInterrupt:
            _say("interrupted; run the same command again to continue")
            sys.exit(130)

    return wrapped


def hydra_app(
    config_module: str, config_name: str, schema: type[C], function: Callable[[C], Any] | str
) -> Callable[[], NoReturn]:
    """Make a command of a function that gets its settings, composed by Hydra, as a validated dataclass.

    The function runs as Hydra's job, so that `-m` with any launcher works, and what it returns is the job's result, a
    number for sweepers. An exit status other than 0 is raised, `sys.exit(75)`. `--help` begins with the docstring of
    the module that is run.

    Args:
        config_module: the importable package that holds the configuration files.
        config_name: the primary configuration's in it, without `.yaml`; its defaults begin with `schema_<config_name>`.
        schema: the dataclass that types every key; `check_values` checks it. Its fields' docs are what `--help` prints.
        function: it, or its name, `package.module:function`: its module is then imported when the settings are right,
            so that `--help` and a mistyped key do not wait for what it needs.
    """
    composed = False

    def job(settings: Any) -> Any:
        nonlocal composed
        composed = True
        try:
            checked = to_dataclass(settings, schema)
            called = pkgutil.resolve_name(function) if isinstance(function, str) else function
            return called(checked)
        except Exception as error:
            message = explain_error(error, schema)
            if message is None:
                raise
            # Hydra would print lines of its own around what a job raises, but lets this pass.
            raise _PassesHydra(message) from error

    def main() -> None:
        import hydra
        from hydra.core.config_store import ConfigStore

        # Hydra itself prints several lines and exits with 1; with this it hands us the exception.
        os.environ["HYDRA_FULL_ERROR"] = "1"
        ConfigStore.instance().store(name=f"schema_{config_name}", node=schema)
        arguments = hydra_arguments(sys.argv[1:], schema)
        if "--version" in arguments:
            print(f"siamese-transfer {__version__}")
            return
        given = [a for a in arguments if ("=" in a and a[0] != "-") or a.startswith("~")]
        if {"-h", "--help"} & set(arguments):
            print(help_text(sys.modules["__main__"].__doc__ or "", config_module, config_name, schema, given))
            return
        # Before the user's own, which win; behind the options, which must not stand between two settings.
        sys.argv[1:] = [*(a for a in arguments if a not in given), *QUIET, *search_path_override(), *given]
        try:
            hydra.main(version_base="1.3", config_path=f"pkg://{config_module}", config_name=config_name)(job)()
        except _PassesHydra as error:
            raise UserError(str(error)) from error
        except Exception as error:
            message = explain_error(error, schema)
            # What Hydra meets while it composes the settings comes from the command line.
            if message is None and composed:
                raise
            raise UserError(message or f"{error}; --help lists the settings and their choices") from error

    return cli(main)


class _PassesHydra(BaseException):
    """A `UserError` on its way through Hydra."""


def _say(line: str) -> None:
    # All processes that torchrun starts come to one and the same fault in the settings; the first one says it.
    with contextlib.suppress(UserError):
        if torchrun_env_or_single_process().rank > 0:
            return
    print(line, file=sys.stderr)


def _follow_parent() -> None:
    """End when the process named by `RUNS_PARENT_PID` has gone, so that a killed `benchmarks run` leaves no orphans."""
    parent = os.environ.get(PARENT)
    if not parent:
        return
    if not parent.isdecimal() or not 0 < int(parent) < 2**31:
        raise UserError(f"{PARENT}={parent}: must be the number of a process; unset it")

    def watch(pid: int) -> None:
        while True:
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                os._exit(143)
            except PermissionError:
                pass
            time.sleep(1.0)

    threading.Thread(target=watch, args=(int(parent),), daemon=True, name="follow-parent").start()
