"""Weighted kNN on frozen features: what `python -m pretrain.knn` measures.

`torchrun` divides the images among any number of processes; the result has the same bits on all of them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from pretrain.collectives import all_reduce
from pretrain.config import KnnConfig
from pretrain.evaluation import Evaluation, EvaluationResult, evaluate
from runs.distributed import rank, world_size
from runs.errors import UserError

BANK_ROWS = 2**15
"""Rows of the bank compared at a time: 268 MB of them at C = 2048, and 134 MB of similarities with 1024 queries."""


def evaluate_knn(config: KnnConfig) -> float:
    """Classify the validation images by their nearest training images."""

    def measure(evaluation: Evaluation) -> EvaluationResult:
        if max(config.k) > len(evaluation.train):
            raise UserError(
                f"k={config.k}: the training set has only {len(evaluation.train)} images; give smaller numbers"
            )
        evaluation.print_data_sets()
        bank, queries = (
            evaluation.extract_features(images, batch_size=config.batch_size)
            for images in (evaluation.train, evaluation.val)
        )
        accuracies = knn_accuracy(
            bank.values, bank.labels, queries.values, queries.labels, len(evaluation.train.classes), config.k,
            config.temperature, config.chunk, distributed=True,
        )  # fmt: skip
        k, t = config.k[0], config.temperature[0]
        grid = [{"k": k, "temperature": t, "top1": accuracy} for (k, t), accuracy in accuracies.items()]
        broken = sorted({*bank.broken, *queries.broken})
        return EvaluationResult(
            {"top1": accuracies[k, t]},
            {"grid": grid, "train_images": len(bank.values), "broken_images": broken},
            f"kNN top-1 {accuracies[k, t]:.1f} % (k={k}, temperature={t})",
        )

    # Neither touches a result: they only divide the work.
    return evaluate("knn", config, measure, may_differ=("batch_size", "chunk"))


@torch.no_grad()
def knn_accuracy(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    query_labels: Tensor,
    classes: int,
    ks: Sequence[int],
    temperatures: Sequence[float],
    chunk: int = 1024,
    distributed: bool = False,
) -> dict[tuple[int, float], float]:
    """Classify by weighted nearest neighbours: Wu et al., arXiv:1805.01978, section 3.4.

    Each of the k nearest training images (cosine similarity s) votes for its class with weight exp(s / temperature).

    Args:
        bank: (n, C) features of the training images, of any length and type.
        bank_labels: (n,) their classes, from 0.
        queries: (m, C) features of the test images.
        query_labels: (m,) their classes.
        classes: the number of classes.
        ks: numbers of neighbours to try.
        temperatures: temperatures to try, above 0.
        chunk: queries that are compared at a time; beside both tables, memory grows with chunk * `BANK_ROWS` and
            `BANK_ROWS` * C, not with n.
        distributed: divide the chunks among the processes, each of which has to call this with all features.

    Returns:
        Top-1 accuracy in percent for every (k, temperature).
    """
    chunks = list(zip(queries.split(chunk), query_labels.split(chunk), strict=True))
    correct = torch.zeros(len(ks), len(temperatures), dtype=torch.int64, device=bank.device)
    for q, labels in chunks[rank() :: world_size()] if distributed else chunks:
        s, nearest = nearest_neighbours(bank, normalize(q.float(), dim=1), min(max(ks), len(bank)))  # chunk-by-k
        voters = bank_labels[nearest]  # chunk-by-k
        for j, t in enumerate(temperatures):
            # The largest similarity is taken out, which changes no order and keeps small temperatures finite.
            weights = ((s - s[:, :1]) / t).exp()  # chunk-by-k
            for i, k in enumerate(ks):
                votes = weights.new_zeros(len(q), classes).scatter_add_(1, voters[:, :k], weights[:, :k])
                correct[i, j] += (votes.argmax(dim=1) == labels).sum()
    if distributed:
        correct = all_reduce(correct)
    share = (100 * correct.double() / len(query_labels)).tolist()
    return {(k, t): share[i][j] for i, k in enumerate(ks) for j, t in enumerate(temperatures)}


def nearest_neighbours(bank: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The largest cosine similarities (m, k), falling, and the rows of the bank that have them (m, k), k at most n.

    The bank (n, C) has rows of any length and type, queries (m, C) are float32, each of length 1.
    """
    best, rows = queries.new_empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.int64).to(queries.device)
    for start in range(0, len(bank), BANK_ROWS):
        part = normalize(bank[start : start + BANK_ROWS].float(), dim=1)
        s, i = (queries @ part.T).topk(min(k, len(part)), dim=1)  # m-by-k
        best, rows = torch.cat([best, s], dim=1), torch.cat([rows, i + start], dim=1)
        if start:
            best, chosen = best.topk(min(k, best.shape[1]), dim=1)
            rows = rows.gather(1, chosen)
    return best, rows
