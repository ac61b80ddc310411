"""`python -m pretrain.variants`: the experiments on collapse that `variant=` names (`variants.yaml`), as a table."""

import importlib.resources
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore

from runs.app import Parser, cli


def read_variants() -> dict[str, dict[str, Any]]:
    """Return `variants.yaml`: by name `what` it is, its `source`, and the settings that it changes."""
    text = importlib.resources.files("pretrain").joinpath("variants.yaml").read_text("utf-8")
    found: dict[str, dict[str, Any]] = yaml.safe_load(text)
    return found


def register_variants() -> None:
    """Make each a choice of Hydra's group `variant`."""
    for name, entry in read_variants().items():
        settings = {key: value for key, value in entry.items() if key not in ("what", "source")}
        method = settings.get("method", {}).get("name", "siamese")
        node = {"defaults": [{"override /method": method}], "variant": name, **settings}
        ConfigStore.instance().store(group="variant", name=name, node=node, package="_global_")


def markdown_table() -> str:
    """Return all of them as a Markdown table."""
    rows = [f"| `{name}` | {entry['what']} | {entry['source']} |" for name, entry in read_variants().items()]
    return "\n".join(["| `variant=` | what it is | source |", "| --- | --- | --- |", *rows]) + "\n"


@cli
def main() -> int:
    """Print the table."""
    Parser("python -m pretrain.variants", description=__doc__).parse_args()
    print(markdown_table(), end="")
    return 0


if __name__ == "__main__":
    main()
