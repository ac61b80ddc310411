"""`siamese-transfer detectron2`: print the folder from which pip installs Detectron2.

    pip install "$(siamese-transfer detectron2)"

Its authors publish no package. The folder holds a small build backend that makes the wheel; see its own words.
"""

import sysconfig
from pathlib import Path

from runs.app import Parser, cli


def folder() -> Path:
    """Return the builder's folder: of the clone, or where the wheel put it."""
    clone = Path(__file__).parent.parent / "packaging" / "detectron2"
    return clone if clone.is_dir() else Path(sysconfig.get_path("data")) / "share" / "siamese-transfer" / "detectron2"


@cli
def main() -> None:
    """Print it."""
    Parser(description="Print the folder from which pip installs Detectron2.").parse_args()
    print(folder())


if __name__ == "__main__":
    main()
