"""`python -m transfer task=voc07 weights=FILE.pkl data.root=DIR seed=0`: one fine-tuning trial."""

from runs.app import hydra_app
from transfer.settings import TransferConfig


@hydra_app("transfer", "config", TransferConfig)
def main(config: TransferConfig) -> None:
    """Fine-tune a detector and report its AP."""
    # Here, so that a mistyped key is answered before Detectron2's seconds of import.
    from transfer.trial import run

    run(config)


if __name__ == "__main__":
    main()
