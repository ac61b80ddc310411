"""`python -m transfer task=voc07 weights=FILE.pkl data.root=DIR seed=0`: fine-tune a detector and report its AP."""

from runs.app import hydra_app
from transfer.settings import TransferConfig


def fine_tune(config: TransferConfig) -> float | None:
    """Run the trials that the settings ask for; returns the box AP, for sweepers."""
    # Here, so that a mistyped key is answered before Detectron2's seconds of import.
    from transfer.fine_tune import run_trials

    return run_trials(config).get("bbox/AP")


main = hydra_app("transfer", "config", TransferConfig, fine_tune)

if __name__ == "__main__":
    main()
