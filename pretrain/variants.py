"""`python -m pretrain.variants`: the papers' experiments that `variant=` names, as the table of `variant/README.md`."""

import importlib.resources

from runs.app import cli


def table() -> str:
    """Return the Markdown table of all presets; the first comment lines of each say what it is and where it is from."""
    rows = ["| `variant=` | what it is | source |", "| --- | --- | --- |"]
    for file in sorted(importlib.resources.files("pretrain").joinpath("variant").iterdir(), key=lambda file: file.name):
        if file.name.endswith(".yaml"):
            # Behind Hydra's package line.
            what, source = (line.removeprefix("# ") for line in file.read_text("utf-8").splitlines()[1:3])
            rows.append(f"| `{file.name.removesuffix('.yaml')}` | {what} | {source} |")
    return "\n".join(rows) + "\n"


@cli
def main() -> int:
    """Print the table."""
    print(table(), end="")
    return 0


if __name__ == "__main__":
    main()
