"""The kNN accuracy that watches a pre-training."""

import random

import torch
from torchvision.models.resnet import ResNet

from pretrain.augment import evaluation_view
from pretrain.config import PretrainConfig
from pretrain.data import Images
from pretrain.features import evaluating, extract_features
from pretrain.knn import knn_accuracy
from pretrain.networks import pooled
from runs.distributed import worker_count


class Neighbours:
    """kNN accuracy of a network in training, on a fixed random part of the data.

    Args:
        train: the images that vote.
        val: the images that are classified.
        config: the run's settings.
        device: where the network computes.
    """

    def __init__(self, train: Images, val: Images, config: PretrainConfig, device: torch.device) -> None:
        self.config, self.device, self.classes = config, device, len(train.classes)
        self.view, chance = evaluation_view(config.augment), random.Random(0)
        limits = (config.monitor.knn_bank, config.monitor.knn_queries)
        # The splits are sorted by class, so a part has to be drawn.
        self.parts = [
            (images, sorted(chance.sample(range(len(images)), min(limit, len(images)))))
            for images, limit in zip((train, val), limits, strict=True)
        ]

    def accuracy(self, network: ResNet) -> float:
        """Return top-1 in percent; the network's mode is left as it was."""
        config = self.config
        workers = worker_count(config.data.workers, processes=1)
        with evaluating(network):
            bank, queries = (
                extract_features(
                    lambda x: pooled(network, x), images, self.view, self.device,
                    indices=indices, workers=workers, skip_broken=config.data.skip_broken,
                )
                for images, indices in self.parts
            )  # fmt: skip
        k = max(1, min(config.monitor.knn_k, len(bank.values) // 10))
        t = config.monitor.knn_temperature
        return knn_accuracy(*bank[:2], *queries[:2], self.classes, [k], [t])[k, t]
