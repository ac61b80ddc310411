"""Settings as dataclasses: marks for their fields, the command line that fills them, their checks, their errors."""

import dataclasses
import difflib
import math
import os
import sys
import typing
from collections.abc import Iterator
from typing import Any, TypeVar

from runs.errors import UserError, user_message
from runs.typed import choice_or_range_fault

MISSING = "???"  # OmegaConf's mark of a setting that has to be given
C = TypeVar("C")


def choice(default: str, *choices: str) -> Any:
    """A field that takes one of `choices`; a string literal below it says what they mean."""
    return dataclasses.field(
        default=default, metadata={"choices": tuple(c for c in (default, *choices) if c != MISSING)}
    )


def number(
    default: Any = dataclasses.MISSING, *, least: float | None = None, most: float | None = None,
    above: float | None = None, below: float | None = None,
) -> Any:  # fmt: skip
    """A field whose number, or each number in it, lies in a range, the ends included or (`above`, `below`) not.

    The range is checked by `check_values` and by `typed.build`. `default` may be a function that makes a list or a
    dictionary; without one, and in `build` only, the field has to be given.
    """
    limits = {"at least": least, "above": above, "at most": most, "below": below}
    limits = {words: limit for words, limit in limits.items() if limit is not None}
    if callable(default):
        return dataclasses.field(default_factory=default, metadata={"limits": limits})
    return dataclasses.field(default=default, metadata={"limits": limits})


def path(default: str = MISSING) -> Any:
    """A field that names a file or folder: on the command line, the whole rest of the argument."""
    return dataclasses.field(default=default, metadata={"path": True})


@dataclasses.dataclass
class CommandConfig:
    """Settings of every command that trains or evaluates a network."""

    official: bool = False
    """Compute as the official releases do, bit for bit, instead of faster and equal up to rounding: sets precision,
    channels_last and, where they exist, augment.pipeline and optimizer.fused; one that is given stays as given."""
    seed: int = number(0, least=0)
    output: str = path()
    """The run's folder."""
    device: str = choice("auto", "cpu", "cuda")
    precision: str = choice("auto", "fp32", "pytorch", "tf32", "bf16")
    """auto: tf32 on a GPU, fp32 on a CPU; pytorch: PyTorch's default, as in the releases: fp32, with TF32 convolutions
    on a GPU; tf32: fp32 with TF32 products and convolutions; bf16: mixed precision."""
    channels_last: bool = True
    """Store images with channels last, which makes convolutions faster."""
    threads: int = number(0, least=0, most=1024)
    """PyTorch's threads on the CPU; 0 lets PyTorch choose."""


# What Hydra itself understands besides `key=value`.
FLAGS = {
    "-h", "--help", "--hydra-help", "--version", "-c", "--cfg", "--resolve", "-p", "--package", "-r", "--run", "-m",
    "--multirun", "-sc", "--shell-completion", "-cp", "--config-path", "-cn", "--config-name", "-cd", "--config-dir",
    "--experimental-rerun", "-i", "--info",
}  # fmt: skip


def hydra_arguments(given: list[str], schema: type) -> list[str]:
    """Return the command line as Hydra reads it: a path is the rest of its argument, whatever characters it has.

    Raises:
        UserError: an option that Hydra does not have.
    """
    paths = set(_path_keys(schema))
    arguments = []
    for number, argument in enumerate(given):
        if not argument.strip():  # "$MORE" of a shell that has no such variable
            continue
        name = argument.partition("=")[0]
        if argument.startswith("-") and name not in FLAGS:
            key = name.lstrip("-")
            value = argument.partition("=")[2] or (given[number + 1] if number + 1 < len(given) else "…")
            raise UserError(f"{argument}: settings are given as key=value; write {key}={value}, or see --help")
        if name in paths and not {"-m", "--multirun"} & set(given):
            # A shell leaves the ~ of `data.root=~/images` as it is.
            argument = f"{name}={_quoted(os.path.expanduser(argument.partition('=')[2]))}"
        arguments.append(argument)
    return arguments


def _quoted(value: str) -> str:
    """Quote a value for Hydra's grammar; one that is quoted already stays as it is."""
    if not value or value == "???" or (len(value) > 1 and value[0] == value[-1] and value[0] in "'\""):
        return value
    # OmegaConf would put another setting's value in the place of ${…}.
    value = value.replace("${", "\\${")
    # Hydra reads a backslash as one, unless a quote follows.
    quoted = value.replace("\\'", "\\\\'").replace("'", "\\'")
    return f"'{quoted}{chr(92) if quoted.endswith(chr(92)) else ''}'"


def _path_keys(schema: type, prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of a dataclass's fields that are made by `path`."""
    kinds = typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        if dataclasses.is_dataclass(kinds[field.name]):
            yield from _path_keys(kinds[field.name], f"{prefix}{field.name}.")
        elif "path" in field.metadata:
            yield f"{prefix}{field.name}"


def to_dataclass(settings: Any, schema: type[C]) -> C:
    """Turn composed settings into the dataclass.

    Raises:
        UserError: a key that it does not know (`+key=…`), or what `check_values` raises.
    """
    from omegaconf import OmegaConf

    config: Any = OmegaConf.to_object(settings)
    given, known = flatten(OmegaConf.to_container(settings)), flatten(dataclasses.asdict(config))
    for key in given:
        if key not in known and not any(k.startswith(key + ".") for k in known):
            raise UserError(_unknown_key(key, schema))
    check_values(config)
    return typing.cast(C, config)


def check_values(config: Any, prefix: str = "") -> None:
    """Check the fields that are made by `choice` or `number` and all other numbers, those of nested dataclasses too.

    Behind its fields, a dataclass with a method `check_consistency` checks what they have to do with each other.

    Raises:
        UserError: a value is not among its field's choices, a number is outside its field's range or not finite, or a
            whole one has more than 63 bits, of which no generator and no tensor can be made.
    """
    for field in dataclasses.fields(config):
        value, key = getattr(config, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            check_values(value, f"{key}.")
        elif value == "" and "path" in field.metadata and field.default == MISSING:
            raise UserError(f"{key}=: is empty; give a path, `.` for the present folder")
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, float) and not math.isfinite(item):
                raise UserError(f"{key}={value}: must be finite")
            if isinstance(item, int) and abs(item) >= 2**63:
                raise UserError(f"{key}={value}: must be below 2^63")
        if value != MISSING and (fault := choice_or_range_fault(field, value)):
            raise UserError(f"{key}={value}: {fault}")
    if hasattr(config, "check_consistency"):
        config.check_consistency()


def flatten(config: Any, prefix: str = "", most: int = 10_000) -> dict[str, Any]:
    """Turn nested dictionaries into one with dotted keys; lists stay values.

    Raises:
        UserError: it has more than `most` values, as aliases in a YAML file can make of a few lines.
    """
    if not isinstance(config, dict):
        return {prefix: config}
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key), most)
        if len(flat) > most:
            raise UserError(f"{prefix or 'settings'}: more than {most} values")
    return flat


def explain_error(error: Exception, schema: type) -> str | None:
    """One line that names the key and the remedy, from Hydra's and OmegaConf's many; None for anything else."""
    from hydra.errors import HydraException, MissingConfigException
    from omegaconf.errors import OmegaConfBaseException

    if not isinstance(error, HydraException | OmegaConfBaseException):
        return user_message(error)
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    for link in chain:
        if isinstance(link, MissingConfigException) and link.missing_cfg_file and link.options:
            group, _, name = link.missing_cfg_file.rpartition("/")
            return f"{group}={name}: choose one of {', '.join(o for o in link.options if not o.startswith('schema_'))}"
        key = getattr(link, "full_key", None)
        if not key:
            continue
        kind = type(link).__name__
        text = str(getattr(link, "msg", None) or link).splitlines()[0]
        if kind in ("ConfigAttributeError", "ConfigKeyError"):
            return _unknown_key(key, schema)
        if kind == "MissingMandatoryValue" or "mandatory value" in text.lower():
            return f"{key}: is required; add {key}=… to the command"
        removed = [argument for argument in sys.argv if argument.startswith("~")]
        if kind == "InterpolationKeyError" and removed:
            return f"{removed[0]}: other settings need it; leave {removed[0]} out"
        if "is not a ListConfig" in text:
            return f"{key}: is a list; write {key}=[…]"
        if "is not a subclass of" in text:
            return f"{key}: is a group of settings; give those in it, {key}.…=…; --help lists them"
        return f"{key}: {text}"
    text = " ".join(str(error).split())
    if text.startswith("LexerNoViableAlt"):
        name, _, value = text.split()[1].partition("=")
        return f"{name}={value}: has a character that must be quoted; write '{name}=\"{value}\"', or correct it"
    return text


def _unknown_key(key: str, schema: type) -> str:
    """One line for a key that the settings do not have, with the nearest that they have."""
    from omegaconf import OmegaConf

    keys = flatten(OmegaConf.to_container(OmegaConf.structured(schema)))
    near = difflib.get_close_matches(key, keys, n=1)
    close = [k for k in keys if k.endswith(f".{key}")] or [k for k in near if not key.startswith(f"{k}.")]
    nearest = f", did you mean '{close[0]}'?" if close else ""
    choices = [a for a in sys.argv[1:] if a.partition("=")[0] in {key.partition(".")[0], "variant"}]
    if len(choices) > 1 and not any(key in argument for argument in sys.argv):
        # One choice of settings brings a key that another one lacks.
        return f"{' and '.join(choices)}: do not go together, by {key}; leave one of them out"
    return f"unknown key '{key}'{nearest}; --help lists the keys"
