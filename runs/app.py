"""How commands start and end: arguments in, one line and exit status 2 for whatever the user can mend."""

import argparse
import dataclasses
import difflib
import errno
import functools
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn, ParamSpec, TypeVar, cast

from runs.errors import UserError, from_os_error

PARENT = "RUNS_PARENT_PID"
P = ParamSpec("P")
C = TypeVar("C")


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` whose complaint is one line."""

    def error(self, message: str) -> NoReturn:
        """Print the complaint and where help is, and exit with status 2."""
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


def cli(main: Callable[P, int | None]) -> Callable[P, NoReturn]:
    """Wrap a command's main function: what the user can mend (see `mendable`) ends it in one line, status 2.

    Args:
        main: the command; its integer result becomes the exit status.
    """

    @functools.wraps(main)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> NoReturn:
        _follow_parent()
        try:
            sys.exit(main(*args, **kwargs))
        except BrokenPipeError:
            # The reader went away (`… | head`): nothing is wrong.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)
        except Exception as error:
            message = mendable(error)
            if message is None:
                raise
            fail(message if _speaks() else "")
        except KeyboardInterrupt:
            if _speaks():
                print("interrupted; run the same command again to continue", file=sys.stderr)
            sys.exit(130)

    return wrapped


def hydra_app(
    package: str, config: str, schema: type[C]
) -> Callable[[Callable[[C], int | None]], Callable[[], NoReturn]]:
    """Make a Hydra application whose function gets a validated dataclass.

    Args:
        package: the importable package that holds the configuration files.
        config: the primary configuration's name in it, without `.yaml`; its defaults begin with `schema_<config>`.
        schema: the dataclass that types every key; its `__post_init__` may raise `UserError`.
    """

    def decorate(main: Callable[[C], int | None]) -> Callable[[], NoReturn]:
        @functools.wraps(main)
        def start() -> int:
            import hydra
            from hydra.core.config_store import ConfigStore
            from hydra.errors import HydraException
            from omegaconf.errors import OmegaConfBaseException

            # Hydra itself prints several lines and exits with 1; with this it hands us the exception.
            os.environ["HYDRA_FULL_ERROR"] = "1"
            ConfigStore.instance().store(name=f"schema_{config}", node=schema)

            composed: list[Any] = []
            try:
                # The job only hands its settings out: Hydra prints lines of its own around a job that raises.
                hydra.main(version_base="1.3", config_path=f"pkg://{package}", config_name=config)(composed.append)()
                configurations = [_typed(settings, schema) for settings in composed]
            except (HydraException, OmegaConfBaseException) as error:
                raise UserError(_explain(error, schema)) from error
            # More than one under Hydra's --multirun: the worst status speaks for all.
            return max((main(configuration) or 0 for configuration in configurations), default=0)

        return cli(start)

    return decorate


def _typed(settings: Any, schema: type[C]) -> C:
    """Turn composed settings into the dataclass; a key that it does not know (`+key=…`) is an error too."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from runs.folder import flatten

    try:
        typed: Any = OmegaConf.to_object(settings)
    except OmegaConfBaseException as error:
        # OmegaConf wraps what a dataclass's __post_init__ raises.
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        raise
    given, known = flatten(OmegaConf.to_container(settings)), flatten(dataclasses.asdict(typed))
    for key in given:
        if key not in known and not any(k.startswith(key + ".") for k in known):
            raise UserError(f"unknown key '{key}'{_nearest(key, schema)}; --help lists the keys")
    return cast(C, typed)


def _explain(error: BaseException, schema: type) -> str:
    """One line that names the key and the remedy, from Hydra's and OmegaConf's many."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    for link in chain:
        key = getattr(link, "full_key", None)
        if not key:
            continue
        kind = type(link).__name__
        text = str(getattr(link, "msg", None) or link).splitlines()[0]
        if kind in ("ConfigAttributeError", "ConfigKeyError"):
            return f"unknown key '{key}'{_nearest(key, schema)}; --help lists the keys"
        if kind == "MissingMandatoryValue" or "mandatory value" in text.lower():
            return f"{key}: is required; add {key}=… to the command"
        return f"{key}: {text}"
    return " ".join(str(error).split())


def _nearest(key: str, schema: type) -> str:
    from omegaconf import OmegaConf

    from runs.folder import flatten

    keys = list(flatten(OmegaConf.to_container(OmegaConf.structured(schema))))
    close = difflib.get_close_matches(key, keys, n=1)
    return f", did you mean '{close[0]}'?" if close else ""


def mendable(error: BaseException) -> str | None:
    """Say in one line what the user can mend; None for a defect of the program."""
    if isinstance(error, OSError) and (error.filename is not None or error.errno == errno.ENOSPC):
        error = from_os_error(error)
    if _out_of_memory(error):
        asked = re.search(r"tried to allocate ([\d.]+ \w+)", str(error), re.IGNORECASE)
        error = UserError(
            f"out of memory{f' for {asked[1]} more' if asked else ''}: take a smaller batch or smaller images, "
            "precision=bf16, or a device with more"
        )
    return str(error) if isinstance(error, UserError) else None


def _out_of_memory(error: BaseException) -> bool:
    # PyTorch's exceptions are known by name and text, since this package does without PyTorch.
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error))
    )


def fail(message: str) -> NoReturn:
    """End with exit status 2 and one line on standard error, or with none where another process says it."""
    if message:
        print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def _speaks() -> bool:
    # All processes that torchrun starts come to one and the same fault in the settings.
    return os.environ.get("RANK", "0") == "0"


def _follow_parent() -> None:
    """End when the process named by `RUNS_PARENT_PID` has gone, so that a killed `benchmarks run` leaves no orphans."""
    parent = os.environ.get(PARENT)
    if not parent:
        return

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
