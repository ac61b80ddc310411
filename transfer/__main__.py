"""`python -m transfer task=voc07 weights=FILE.pkl data.root=DIR seed=0`: one fine-tuning trial."""

from runs.app import fail, hydra_app, mendable
from transfer.settings import TransferConfig


@hydra_app("transfer", "config", TransferConfig)
def main(config: TransferConfig) -> None:
    """Fine-tune a detector and report its AP."""
    # Here, so that a mistyped key is answered before Detectron2's seconds of import.
    from transfer.distributed import choose_device, first_to_fail, join, leave
    from transfer.trials import run

    join(choose_device(config.device))
    try:
        run(config)
    except Exception as error:
        if not first_to_fail():
            raise SystemExit(2) from error
        message = mendable(error)
        if message is None:
            raise
        fail(message)
    finally:
        leave()


if __name__ == "__main__":
    main()
