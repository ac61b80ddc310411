"""Settings as dataclasses: marks for their fields, and the `--help` that is made of them."""

import ast
import dataclasses
import inspect
import math
import operator
import shutil
import sys
import textwrap
import typing
from collections.abc import Iterator
from typing import Any

from runs.errors import UserError
from runs.plugins import search_path

MISSING = "???"  # OmegaConf's mark of a setting that has to be given
DOC_COLUMN = 34
INSIDE = {"at least": operator.ge, "above": operator.gt, "at most": operator.le, "below": operator.lt}


def choice(default: str, *choices: str) -> Any:
    """A field that takes one of `choices`; a string literal below it says what they mean."""
    return dataclasses.field(
        default=default, metadata={"choices": tuple(c for c in (default, *choices) if c != MISSING)}
    )


def number(
    default: Any, *, least: float | None = None, most: float | None = None, above: float | None = None,
    below: float | None = None,
) -> Any:  # fmt: skip
    """A field whose number, or each number of its list, lies in a range, the ends included or (`above`, `below`) not.

    The range is checked by `check_values`. `default` may be a function that makes a list.
    """
    limits = {"at least": least, "above": above, "at most": most, "below": below}
    limits = {words: limit for words, limit in limits.items() if limit is not None}
    if callable(default):
        return dataclasses.field(default_factory=default, metadata={"limits": limits})
    return dataclasses.field(default=default, metadata={"limits": limits})


def path(default: str = MISSING) -> Any:
    """A field that names a file or folder: on the command line, the whole rest of the argument."""
    return dataclasses.field(default=default, metadata={"path": True})


def path_settings(schema: type) -> set[str]:
    """Return the dotted keys of a dataclass's fields that are made by `path`."""
    return {key for key, field in _fields(schema) if "path" in field.metadata}


@dataclasses.dataclass
class CommandConfig:
    """Settings of every command that trains or evaluates a network."""

    official: bool = False
    """The official releases' arithmetic, bit for bit, in place of what is equal up to rounding and faster: sets
    precision and channels_last, and where there are such augment.pipeline and optimizer.fused, of which one that is
    given stays as given."""
    seed: int = number(0, least=0)
    output: str = path()
    """The run's folder."""
    device: str = choice("auto", "cpu", "cuda")
    precision: str = choice("auto", "fp32", "tf32", "bf16")
    """auto: tf32 on a GPU, fp32 on a CPU; tf32: fp32 with TF32 products and convolutions; bf16: mixed precision."""
    channels_last: bool = True
    """Lay images out with channels last, which convolutions are faster on."""
    threads: int = number(0, least=0, most=1024)
    """PyTorch's threads on the CPU; 0 leaves its choice."""


def check_values(config: Any, prefix: str = "") -> None:
    """Check the fields that are made by `choice` or `number` and all other numbers, those of nested dataclasses too.

    Behind its fields, a dataclass with a method `check` checks what they have to do with each other.

    Raises:
        UserError: a value is none of its field's choices, a number is outside its field's range or not finite, or a
            whole one has more than 63 bits, of which no generator and no tensor can be made.
    """
    for field in dataclasses.fields(config):
        value, key = getattr(config, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            check_values(value, f"{key}.")
        elif value == "" and "path" in field.metadata and field.default == MISSING:
            raise UserError(f"{key}=: is empty; give a path, `.` for the present folder")
        elif "choices" in field.metadata and value not in (MISSING, *field.metadata["choices"]):
            raise UserError(f"{key}={value}: choose one of {', '.join(field.metadata['choices'])}")
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, float) and not math.isfinite(item):
                raise UserError(f"{key}={value}: must be finite")
            if isinstance(item, int) and abs(item) >= 2**63:
                raise UserError(f"{key}={value}: must be below 2^63")
            for words, limit in field.metadata.get("limits", {}).items():
                if not INSIDE[words](item, limit):
                    raise UserError(f"{key}={value}: must be {words} {limit:g}")
    if hasattr(config, "check"):
        config.check()


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


def help_text(about: str, package: str, config: str, schema: type, arguments: list[str]) -> str:
    """Return what a command prints for `--help`.

    Args:
        about: the docstring of its module, which begins "`python -m example …`: what it does".
        package: holds its configuration files.
        config: the primary one.
        schema: types its settings; the literals below the fields are their docs.
        arguments: of the command line; the defaults are shown as they are behind these choices.
    """
    from hydra import compose, initialize_config_module
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.object_type import ObjectType

    with initialize_config_module(package, version_base="1.3"):
        overrides = [*search_path(), *(argument for argument in arguments if not argument.startswith("-"))]
        settings = compose(config, overrides, return_hydra_config=True)
        # The loader's own method copies all configurations at each call: a quarter of the time that the answer takes.
        loader: Any = GlobalHydra.instance().config_loader()
        options = loader.repository.get_group_options
    chosen = {k: v for k, v in settings.hydra.runtime.choices.items() if not k.startswith("hydra/")}
    example, _, sentence = about.partition("\n\n")[0].strip().partition("`: ")
    width = min(shutil.get_terminal_size((120, 24)).columns, 120)
    lines = [*textwrap.wrap(sentence[:1].upper() + sentence[1:], width), "", f"  {example.strip('`')}", ""]
    if chosen:
        lines.append("Choices, each of which sets a group of settings; the settings below are those of these:")
        for group, name in chosen.items():
            names = ", ".join(
                option for option in options(group, ObjectType.CONFIG) if not option.startswith("schema_")
            )
            lines += _entry(f"{group}={name or ''}", names, width)
        lines.append("")
    lines += _group(settings, schema, "", width)
    lines += ["--cfg job prints the settings instead of running, -m key=1,2 runs once for each value (hydra.cc)."]
    return "\n".join(lines)


def _group(settings: Any, schema: type, prefix: str, width: int) -> list[str]:
    """The lines of one dataclass's settings, then those of the dataclasses in it."""
    from omegaconf import DictConfig, OmegaConf

    docs = field_docs(schema)
    lines = [f"{prefix.rstrip('.')}: {inspect.getdoc(schema)}".partition("\n")[0] if prefix else "Settings:"]
    nested: list[str] = []
    for field in dataclasses.fields(schema):
        key = f"{prefix}{field.name}"
        value = None if OmegaConf.is_missing(settings, field.name) else settings[field.name]
        inner = OmegaConf.get_type(value) if isinstance(value, DictConfig) else None
        if dataclasses.is_dataclass(inner):
            nested += _group(value, typing.cast(type, inner), f"{key}.", width)
            continue
        if isinstance(value, bool) or value is None:
            shown = "" if value is None else str(value).lower()
        else:
            shown = str(value).replace(" ", "").replace("'", "")
        choices = ", ".join(field.metadata.get("choices", ()))
        doc = " ".join(docs.get(field.name, "").split())
        # A setting without a default has to be given.
        required = "Required." if OmegaConf.is_missing(settings, field.name) else ""
        lines += _entry(f"{key}={shown}", " ".join(s for s in (required, choices and f"{choices}.", doc) if s), width)
    return [*lines, "", *nested]


def _entry(left: str, right: str, width: int) -> list[str]:
    wrapped = textwrap.wrap(right, max(width - DOC_COLUMN, 30))
    indent = " " * DOC_COLUMN
    beside = wrapped.pop(0) if wrapped and len(left) < DOC_COLUMN - 3 else ""
    return [line.rstrip() for line in (f"  {left}".ljust(DOC_COLUMN) + beside, *(indent + line for line in wrapped))]


def field_docs(schema: type) -> dict[str, str]:
    """Return the string literals below a dataclass's fields, those of its bases too, by field."""
    docs: dict[str, str] = {}
    for base in reversed(schema.__mro__):
        module = sys.modules.get(base.__module__)
        if not dataclasses.is_dataclass(base) or module is None:
            continue
        for node in ast.parse(inspect.getsource(module)).body:
            if isinstance(node, ast.ClassDef) and node.name == base.__name__:
                for above, below in zip(node.body, node.body[1:], strict=False):
                    match above, below:
                        case ast.AnnAssign(target=ast.Name(name)), ast.Expr(ast.Constant(str(doc))):
                            docs[name] = doc
    return docs


def _fields(schema: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    hints = typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        yield f"{prefix}{field.name}", field
        if dataclasses.is_dataclass(hints[field.name]):
            yield from _fields(hints[field.name], f"{prefix}{field.name}.")
