"""What a command with settings prints for `--help`."""

import ast
import dataclasses
import inspect
import shutil
import sys
import textwrap
import typing
from typing import Any

from runs.plugins import search_path_override

DOC_COLUMN = 34


def help_text(about: str, config_module: str, config_name: str, schema: type, overrides: list[str]) -> str:
    """Return what a command prints for `--help`; see `runs.app.hydra_app` for the configuration and its `schema`.

    `about` is the docstring of its module, "`python -m example …`: what it does". The defaults are shown as they are
    behind the choices among the `overrides`, `key=value`.
    """
    from hydra import compose, initialize_config_module
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.object_type import ObjectType

    with initialize_config_module(config_module, version_base="1.3"):
        settings = compose(config_name, [*search_path_override(), *overrides], return_hydra_config=True)
        # The loader's own method copies all configurations at each call: a quarter of the time that the answer takes.
        loader: Any = GlobalHydra.instance().config_loader()
        options = loader.repository.get_group_options
    chosen = {k: v for k, v in settings.hydra.runtime.choices.items() if not k.startswith("hydra/")}
    example, _, sentence = about.partition("\n\n")[0].strip().partition("`: ")
    width = min(shutil.get_terminal_size((120, 24)).columns, 120)
    lines = [*textwrap.wrap(sentence[:1].upper() + sentence[1:], width), "", f"  {example.strip('`')}", ""]
    if chosen:
        lines.append("Choices, each of which sets a group of settings (below, with the choices shown):")
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
