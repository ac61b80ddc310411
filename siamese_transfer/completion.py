"""`siamese-transfer completion {bash,zsh,fish}`: print the shell's completion of commands, options, settings, choices.

    siamese-transfer completion bash > ~/.local/share/bash-completion/completions/siamese-transfer
    siamese-transfer completion zsh > ~/.zfunc/_siamese-transfer      # ~/.zfunc in $fpath, before compinit
    siamese-transfer completion fish > ~/.config/fish/completions/siamese-transfer.fish

The words are read once, from the commands themselves, so that a Tab starts no Python. What they do not name, a file of
the current folder completes.
"""

import argparse
import importlib
import shlex
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml

from runs.app import Parser, cli
from runs.child_environment import child_environment
from runs.errors import UserError
from siamese_transfer.__main__ import COMMANDS, Command

OPTIONS = ("--help", "--version")
# `--cfg job` and the like: Hydra's own, which its commands take besides settings.
HYDRA_OPTIONS = ("--help", "--cfg", "--multirun")

BASH = """\
_siamese_transfer() {
    # The word as typed: bash itself splits it at "=".
    local line=${COMP_LINE:0:COMP_POINT} words=() word
    word=${line##* }
    local command=${COMP_WORDS[1]}
    if [ "$COMP_CWORD" -le 1 ]; then command=; fi
    case $command in
CASES
    esac
    mapfile -t COMPREPLY < <(compgen -W "${words[*]}" -- "$word")
    if [ ${#COMPREPLY[@]} -eq 0 ]; then
        case $word in
            *=*) mapfile -t COMPREPLY < <(compgen -f -P "${word%%=*}=" -- "${word#*=}") ;;
            *) mapfile -t COMPREPLY < <(compgen -f -- "$word") ;;
        esac
        compopt -o filenames 2>/dev/null
    fi
    # A setting's name is followed by its value.
    case ${COMPREPLY[0]} in *=) compopt -o nospace 2>/dev/null ;; esac
    case $word in *=*)
        case $COMP_WORDBREAKS in *=*) COMPREPLY=("${COMPREPLY[@]#"${word%%=*}="}") ;; esac ;;
    esac
}
complete -F _siamese_transfer siamese-transfer
"""

ZSH = """\
#compdef siamese-transfer
local -a choices
case ${CURRENT}:$words[2] in
    2:*) choices=(COMMANDS) ;;
CASES
esac
compadd -S '' -- ${(M)choices:#*=}
compadd -- ${choices:#*=}
compset -P '*='
(( CURRENT == 2 )) || _files
"""


def words() -> dict[str, list[str]]:
    """Return each command's words: options, subcommands, `key=` of its settings and `key=choice`."""
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(COMMANDS, pool.map(_words, COMMANDS, COMMANDS.values()), strict=True))


def _words(name: str, command: Command) -> list[str]:
    if command.hydra:
        return [*HYDRA_OPTIONS, *settings(name, command.module.partition(".")[0])]
    if name == "completion":
        return ["bash", "zsh", "fish"]
    if name == "detectron2":
        return []
    module = command.module if "." in command.module else f"{command.module}.__main__"
    parser: argparse.ArgumentParser = importlib.import_module(module).parser()
    for word in command.words:
        parser = _subcommands(parser)[word]
    return sorted({*options(parser)})


def settings(name: str, package: str) -> Iterator[str]:
    """Yield a Hydra command's keys and the choices of its groups, from the settings that it prints."""
    command = [sys.executable, "-m", "siamese_transfer", name, "--cfg", "job"]
    done = subprocess.run(command, capture_output=True, text=True, env=child_environment())
    if done.returncode:
        raise UserError(f"{name}: its settings cannot be read ({done.stderr.strip().splitlines()[-1]})")
    tree = yaml.safe_load(done.stdout)
    folder = Path(__file__).parent.parent / package
    for group in sorted({path.parent.name for path in folder.glob("*/*.yaml")} & set(tree)):
        yield from (f"{group}={path.stem}" for path in sorted((folder / group).glob("*.yaml")))
    yield from (f"{key}=" for key in _keys(tree))


def _keys(tree: dict[str, object], prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _keys(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield a parser's options, subcommands and theirs, and the choices of its arguments."""
    for action in parser._actions:
        yield from (option for option in action.option_strings if option.startswith("--"))
        if action.metavar == "TABLE" or action.dest == "table":
            from benchmarks.tables import table

            yield from table.names()
        if action.dest == "scale":
            from benchmarks.tables import scale

            yield from scale.NAMES
        if not isinstance(action, argparse._SubParsersAction):
            yield from map(str, action.choices or ())
    for name, command in _subcommands(parser).items():
        yield name
        yield from options(command)


def _subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    found = [action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return found[0] if found else {}


def bash(found: dict[str, list[str]]) -> str:
    """Return the script for bash."""
    cases = [f"        '') words=({' '.join([*COMMANDS, *OPTIONS])}) ;;"]
    cases += [f"        {name}) words=({' '.join(choices)}) ;;" for name, choices in found.items()]
    return BASH.replace("CASES", "\n".join(cases))


def zsh(found: dict[str, list[str]]) -> str:
    """Return the script for zsh."""
    lines = [f"    *:{name}) choices=({' '.join(choices)}) ;;" for name, choices in found.items()]
    return ZSH.replace("COMMANDS", " ".join([*COMMANDS, *OPTIONS])).replace("CASES", "\n".join(lines))


def fish(found: dict[str, list[str]]) -> str:
    """Return the script for fish."""
    start = "complete -c siamese-transfer"
    lines = [f"{start} -n __fish_use_subcommand -f -a {name} -d {shlex.quote(c.help)}" for name, c in COMMANDS.items()]
    for name, choices in found.items():
        lines.append(f"{start} -n '__fish_seen_subcommand_from {name}' -a '{' '.join(choices)}'")
    return "\n".join(lines) + "\n"


@cli
def main(argv: list[str] | None = None) -> int:
    """Print the script."""
    parser = Parser(prog="siamese-transfer completion", description="Print the shell's completion.", epilog=__doc__,
                    formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    shells = {"bash": bash, "zsh": zsh, "fish": fish}
    parser.add_argument("shell", choices=shells)
    print(shells[parser.parse_args(argv).shell](words()), end="")
    return 0


if __name__ == "__main__":
    main()
