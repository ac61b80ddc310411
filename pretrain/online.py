"""Evaluation of a backbone while it is pre-trained: a linear probe that learns beside it, and kNN.

Zhang et al., ICLR 2022, measure their accuracies so (appendix A.1, "online linear evaluation"), with solo-learn:
vturrisi/solo-learn@9187ea3 solo/methods/base.py has the classifier, scripts/pretrain/cifar/simsiam.yaml its settings.
"""

import random
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchvision.models.resnet import ResNet

from pretrain.augment import Transform, evaluation_view
from pretrain.collectives import all_reduce
from pretrain.config import PretrainConfig, ProbeConfig
from pretrain.data import Images
from pretrain.features import evaluating, extract_features
from pretrain.neighbours import knn_accuracy
from pretrain.networks import pooled
from runs.distributed import worker_count, world_size


class OnlineProbe:
    """A linear classifier of the pooled features that a pre-training step computes anyway, of all its views.

    NOTE: it starts at zero, where solo-learn draws: the problem is convex, and the run's own draws stay as they are.

    Args:
        config: its settings.
        network: the backbone; what its `fc` is given are the features.
        channels: C, their number.
        classes: of the training set.
        batch_size: images a step, all processes together.
        device: where it computes.
    """

    def __init__(
        self, config: ProbeConfig, network: ResNet, channels: int, classes: int, batch_size: int, device: torch.device
    ) -> None:
        self.config, self.network, self.device = config, network, device
        self.classifier = nn.Linear(channels, classes, device="meta").to_empty(device=device)
        for parameter in self.classifier.parameters():
            nn.init.zeros_(parameter)
        # No weight decay (solo/methods/base.py); the rate grows with the batch (solo/args/pretrain.py).
        self.lr = config.lr * batch_size / 256
        self.optimizer = torch.optim.SGD(self.classifier.parameters(), lr=self.lr, momentum=config.momentum)
        self.features: list[Tensor] = []
        self.top1: float | None = None
        self.step = -1
        network.fc.register_forward_pre_hook(self._keep)

    def _keep(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        # Detached: the backbone learns nothing of the labels.
        self.features.append(inputs[0].detach())

    def begin(self) -> None:
        """A training step begins: what the network has seen until now does not belong to it."""
        self.features.clear()

    def update(self, labels: Tensor, share: float) -> None:
        """Take a step on the features of the training step that ends.

        Args:
            labels: (N,), this process's.
            share: the encoder's learning rate over its largest.
        """
        features = torch.cat(self.features).float()  # views * N-by-C, view after view
        self.begin()
        with torch.enable_grad():
            loss = cross_entropy(self.classifier(features), labels.repeat(len(features) // len(labels)))
        parameters = list(self.classifier.parameters())
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = all_reduce(gradient) / world_size()
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * share
        self.optimizer.step()

    def evaluate(self, step: int, val: Images, view: Transform, workers: int, skip_broken: bool) -> float:
        """Measure the top-1 accuracy in percent and keep it as that of `step`.

        Raises:
            BrokenImage: an image cannot be decoded and `skip_broken` is off.
        """
        with evaluating(self.network), torch.no_grad():
            features, labels, _ = extract_features(
                lambda x: pooled(self.network, x), val, view, self.device, workers=workers, skip_broken=skip_broken
            )  # n-by-C, n
            correct = self.classifier(features).argmax(dim=1) == labels  # n
        self.top1, self.step = 100 * correct.float().mean().item(), step
        return self.top1

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        classifier, optimizer = self.classifier.state_dict(), self.optimizer.state_dict()
        return {"classifier": classifier, "optimizer": optimizer, "top1": self.top1, "step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.classifier.load_state_dict(state["classifier"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.top1, self.step = state["top1"], state["step"]


class OnlineKnn:
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

    def evaluate(self, network: ResNet) -> float:
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
