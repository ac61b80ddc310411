"""`python -m converters {inspect,detectron2,torchvision}`: what a checkpoint is, and its conversion with a proof."""

from pathlib import Path

from runs.app import Parser, cli


def parser() -> Parser:
    root = Parser(prog="python -m converters", description=__doc__)
    commands = root.add_subparsers(dest="command", required=True)
    command = commands.add_parser("detectron2", help="Detectron2 C4 weights, proved")
    command.add_argument("file", type=Path, metavar="FILE")
    command.add_argument("out", type=Path, metavar="OUT.pkl")
    command.add_argument("--format")
    return root


@cli
def main(argv: list[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    from converters.architecture import parse
    from converters.detectron2 import build_c4, to_detectron2, write_pkl
    from converters.loading import load_backbone
    from converters.proof import TOLERANCE, feature_errors, source_network
    from runs.errors import UserError

    backbone = load_backbone(arguments.file, arguments.format)
    arch = parse(backbone.arch)
    if arch.cifar:
        raise UserError(
            f"{arguments.file}: {arch.name} has a 3x3 stem, which Detectron2's ResNet lacks; use the torchvision target"
        )
    renamed = {to_detectron2(name): tensor for name, tensor in backbone.state_dict.items()}
    errors = feature_errors(source_network(arch, backbone.state_dict), build_c4(arch, renamed, False))
    if not max(errors.values()) < TOLERANCE:
        raise UserError(f"{arguments.file}: features differ: {errors}")
    provenance = {
        "source": str(arguments.file.name),
        "sha256": backbone.source_sha256,
        "format": backbone.format,
        "arch": backbone.arch,
        "dropped": backbone.dropped,
        "input": backbone.input.detectron2(),
        "proof": {"features": errors, "tolerance": TOLERANCE},
    }
    write_pkl(arguments.out, renamed, provenance)
    print(f"{arguments.out}: {len(renamed)} tensors of {arch.name}, features equal to {max(errors.values()):.1e}")
    return 0


if __name__ == "__main__":
    main()
