"""`python -m pretrain.knn checkpoint=FILE data=… data.root=DIR`: weighted kNN on frozen features."""

from dataclasses import dataclass, field

from pretrain.augment import evaluation_view
from pretrain.data import Images
from pretrain.evaluate import EvaluationConfig, Findings, Ready, evaluate
from pretrain.features import Plain, batches, extract, knn_accuracy
from pretrain.loader import choose_workers
from runs.app import hydra_app
from runs.errors import UserError
from runs.progress import progress


@dataclass
class KnnConfig(EvaluationConfig):
    """Settings of `python -m pretrain.knn`."""

    k: list[int] = field(default_factory=lambda: [200, 20, 10, 100])
    """Neighbours, all in one pass; the first is reported (Wu et al., arXiv:1805.01978, section 3.4: 200)."""
    temperature: list[float] = field(default_factory=lambda: [0.07, 0.1])
    """Temperatures, all in one pass; the first is reported (the same section: 0.07)."""
    batch_size: int = 256
    """Images at a time through the network."""
    chunk: int = 1024
    """Queries compared at a time; see `pretrain.features.knn_accuracy` for the memory."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.k or min(self.k) < 1:
            raise UserError(f"k={self.k}: must be a list of numbers of at least 1, e.g. k=[200,20]")
        if not self.temperature or min(self.temperature) <= 0:
            raise UserError(
                f"temperature={self.temperature}: must be a list of positive numbers, e.g. temperature=[0.07]"
            )
        if min(self.batch_size, self.chunk) < 1:
            raise UserError("batch_size and chunk must be at least 1")

    def check_data(self, train: Images) -> None:  # noqa: D102
        if max(self.k) > len(train):
            raise UserError(f"k={self.k}: the training set has only {len(train)} images; give smaller numbers")


@hydra_app("pretrain", "config_knn", KnnConfig)
def main(config: KnnConfig) -> int:
    """Classify the validation images by their nearest training images."""

    def measure(ready: Ready) -> Findings:
        view, workers = evaluation_view(ready.network.augment), choose_workers(config.data.workers, 1)
        broken: set[str] = set()
        parts = []
        with progress(len(ready.train) + len(ready.val), "features", "image", folder=ready.output) as bar:
            for images in (ready.train, ready.val):
                loader = batches(Plain(images, view), config.batch_size, workers, config.data.skip_broken, broken)
                bf16 = config.precision == "bf16"
                parts.append(extract(ready.network, loader, ready.device, bf16, bar, len(images)))
        (bank, labels), (queries, targets) = parts
        accuracies = knn_accuracy(
            bank, labels, queries, targets, len(ready.train.classes), config.k, config.temperature, config.chunk
        )
        k, t = config.k[0], config.temperature[0]
        grid = [{"k": k, "temperature": t, "top1": accuracy} for (k, t), accuracy in accuracies.items()]
        return Findings(
            {"top1": accuracies[k, t]},
            {"grid": grid, "train_images": len(bank), "broken_images": sorted(broken)},
            f"kNN top-1 {accuracies[k, t]:.1f} % (k={k}, temperature={t})",
        )

    # Neither touches a result: they only divide the work.
    return evaluate("knn", config, measure, free=("batch_size", "chunk"))


if __name__ == "__main__":
    main()
