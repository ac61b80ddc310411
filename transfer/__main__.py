"""`python -m transfer task=voc07 weights=FILE.pkl data.root=DIR seed=0`: one fine-tuning trial."""

import os
import sys
import traceback

from runs.app import hydra_app
from runs.errors import user_message
from transfer.settings import TransferConfig


@hydra_app("transfer", "config", TransferConfig)
def main(config: TransferConfig) -> None:
    """Fine-tune a detector and report its AP."""
    # Here, so that a mistyped key is answered before Detectron2's seconds of import.
    from transfer.distributed import choose_device, first_to_fail, join, joined, leave
    from transfer.trials import run

    join(choose_device(config.device))
    try:
        run(config)
    except Exception as error:
        if not joined():
            raise
        if first_to_fail():
            message = user_message(error)
            print(f"error: {message}" if message else traceback.format_exc(), file=sys.stderr, flush=True)
        # At once: to leave NCCL is a collective too, and the others, who wait in another one, would never come to it.
        os._exit(2)
    leave()


if __name__ == "__main__":
    main()
