"""`python -m converters`: what a checkpoint is, and its conversion with a proof.

Exit status: 0 done, 2 the file or the command line is at fault (one line on standard error, nothing written).
"""

import json
from pathlib import Path

from runs.app import Parser, cli


def parser() -> Parser:
    """The command line; importing torch is left to the commands."""
    root = Parser(
        prog="python -m converters",
        description="Say what a ResNet checkpoint is, and convert it with a proof. Formats: docs/formats.md.",
        epilog="Exit status: 0 done, 2 the file or the command line is at fault (one line, nothing written).",
    )
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    inspect = commands.add_parser("inspect", help="format, architecture, tensors, checks and proof; writes nothing")
    detectron2 = commands.add_parser("detectron2", help="Detectron2 C4 weights")
    torchvision = commands.add_parser("torchvision", help="torchvision's names, as .safetensors or .pth")
    commands.add_parser("zoo", help="list the well-known checkpoints that zoo:NAME fetches")
    for command in (inspect, detectron2, torchvision):
        command.add_argument("file", metavar="FILE", help="a checkpoint: a path, https://…, hf://… or zoo:NAME")
    detectron2.add_argument("out", type=Path, metavar="OUT.pkl")
    torchvision.add_argument("out", type=Path, metavar="OUT.safetensors")
    for command in (inspect, detectron2, torchvision):
        command.add_argument("--prefix", metavar="PATH", help="the network's path in the file, where it holds several")
        command.add_argument("--format", metavar="NAME", help="the project that wrote it, where another is recognised")
        command.add_argument("--sha256", metavar="HEX", help="refuse the file if its sha256 is another")
        command.add_argument(
            "--images", type=Path, metavar="DIR", help="pictures for the vital signs; by default generated ones"
        )
        command.add_argument(
            "--unchecked", action="store_true", help="leave the vital signs out, which the record says"
        )
        command.add_argument("--json", action="store_true", help="the report as JSON on standard output")
    return root


@cli
def main(argv: list[str] | None = None) -> int:
    """Run one command."""
    arguments = parser().parse_args(argv)
    if arguments.command == "zoo":
        from converters.fetching import zoo

        for name, entry in zoo().items():
            voc = "" if entry["voc0712"] is None else f", VOC 07+12 AP {entry['voc0712']}"
            print(f"zoo:{name:22} {entry['format']:12} linear top-1 {entry['top1']}{voc}; {entry['source']}")
        return 0
    from converters.fetching import fetch
    from converters.memory_limit import limited_memory
    from converters.untrusted_files import check_regular

    file = fetch(arguments.file)
    check_regular(file)  # before torch is imported: a mistyped name is answered at once
    from converters import conversion, report

    choice = {name: getattr(arguments, name) for name in ("format", "prefix", "sha256", "images")}
    choice["skip_vital_signs"] = arguments.unchecked
    with limited_memory(file):
        if arguments.command == "inspect":
            result = conversion.inspect(file, **choice)
        else:
            result = conversion.convert(file, arguments.out, arguments.command, **choice)
    if arguments.json:
        print(json.dumps(report.as_dict(result), indent=2))
    else:
        report.print_table(result)
    return 0


if __name__ == "__main__":
    main()
