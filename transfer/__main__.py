"""`python -m transfer task=voc07 weights=FILE.pkl data.root=DIR seed=0`: one fine-tuning trial."""

import os
import sys

from runs.app import hydra_app
from runs.errors import UserError
from transfer.settings import TransferConfig


@hydra_app("transfer", "config", TransferConfig)
def main(config: TransferConfig) -> None:
    """Fine-tune a detector and report its AP."""
    # Here, so that a mistyped key is answered before Detectron2's seconds of import.
    from transfer.trials import run

    try:
        run(config)
    except UserError:
        # Every process meets the same mistake; one of them says so.
        if os.environ.get("RANK", "0") != "0":
            sys.exit(2)
        raise


if __name__ == "__main__":
    main()
