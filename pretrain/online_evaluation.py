"""Evaluation of a backbone while it is pre-trained: a linear probe that learns beside it, and kNN.

Zhang et al., ICLR 2022, measure accuracy this way (appendix A.1, "online linear evaluation"), with solo-learn:
vturrisi/solo-learn@9187ea3 solo/methods/base.py has the classifier, scripts/pretrain/cifar/simsiam.yaml its settings.
"""

import random
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchvision.models.resnet import ResNet

from pretrain.collectives import average_gradients
from pretrain.config import PretrainConfig, ProbeConfig
from pretrain.data import Images
from pretrain.evaluation import Features, extract_features
from pretrain.knn.evaluation import knn_accuracy


class OnlineProbe:
    """A linear classifier of the pooled features that a pre-training step computes anyway, of all its views.

    The features are what the `fc` of `network`, the backbone, is given. `batch_size` is that of all processes together.

    NOTE: it starts at zero, where solo-learn draws: the problem is convex, and the run's own draws stay as they are.
    """

    def __init__(
        self, config: ProbeConfig, network: ResNet, classes: int, batch_size: int, device: torch.device
    ) -> None:
        self.network = network
        # What `layer4` puts out.
        channels = network.inplanes
        self.classifier = nn.Linear(channels, classes, device="meta").to_empty(device=device)
        for parameter in self.classifier.parameters():
            nn.init.zeros_(parameter)
        # No weight decay (solo/methods/base.py); the rate grows with the batch (solo/args/pretrain.py).
        self.lr = config.lr * batch_size / 256
        self.optimizer = torch.optim.SGD(self.classifier.parameters(), lr=self.lr, momentum=config.momentum)
        self.features: list[Tensor] = []
        network.fc.register_forward_pre_hook(self._keep)

    def _keep(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        # Detached: the backbone learns nothing of the labels.
        self.features.append(inputs[0].detach())

    def update(self, labels: Tensor, lr_factor: float) -> None:
        """Take a step on the features of the training step that ends, whose labels (N,) are this process's.

        `lr_factor` is the encoder's learning rate over its largest.
        """
        features = torch.cat(self.features).float()  # views * N-by-C, view after view
        self.features.clear()
        self.optimizer.zero_grad()
        with torch.enable_grad():
            cross_entropy(self.classifier(features), labels.repeat(len(features) // len(labels))).backward()
        average_gradients(self.classifier)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * lr_factor
        self.optimizer.step()

    def state_dict(self) -> dict[str, Any]:  # noqa: D102
        return {"classifier": self.classifier.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: D102
        self.classifier.load_state_dict(state["classifier"])
        self.optimizer.load_state_dict(state["optimizer"])


class OnlineEvaluation:
    """Top-1 accuracies of a backbone in training, in percent; its mode is left as it was.

    The images of `train` vote in kNN, those of `val` are classified; `probe` is the classifier that learns beside it,
    where there is one.
    """

    def __init__(
        self, config: PretrainConfig, network: ResNet, train: Images, val: Images, device: torch.device
    ) -> None:
        self.config, self.device = config, device
        # All that comes before `fc`: the globally average-pooled features.
        self.network = nn.Sequential(*takewhile(lambda part: part is not network.fc, network.children()), nn.Flatten())
        self.val, self.classes, chance = val, len(train.classes), random.Random(0)
        self.probe: OnlineProbe | None = None
        if config.probe.enabled:
            self.probe = OnlineProbe(config.probe, network, self.classes, config.batch_size, device)
        limits = (config.monitor.knn_bank, config.monitor.knn_queries)
        # The splits are sorted by class, so a part has to be drawn.
        self.parts = [
            (images, sorted(chance.sample(range(len(images)), min(limit, len(images)))))
            for images, limit in zip((train, val), limits, strict=True)
        ]

    def _extract_features(self, images: Images, indices: Sequence[int] | None = None) -> Features:
        """Pooled features of whole images, or of those at `indices`."""
        config = self.config
        modes = {module: module.training for module in self.network.modules()}
        self.network.eval()
        try:
            return extract_features(self.network, images, config.augment, config.data, self.device, indices=indices)
        finally:
            for module, mode in modes.items():
                module.training = mode

    def knn_top1(self) -> float:
        """By kNN, on a fixed random part of the data."""
        bank, queries = (self._extract_features(images, indices) for images, indices in self.parts)
        k = max(1, min(self.config.monitor.knn_k, len(bank.values) // 10))
        t = self.config.monitor.knn_temperature
        return knn_accuracy(*bank[:2], *queries[:2], self.classes, [k], [t])[k, t]

    @torch.no_grad()
    def online_top1(self) -> float:
        """By the probe, on all validation images."""
        assert self.probe is not None
        features, labels, _ = self._extract_features(self.val)  # n-by-C, n
        correct = self.probe.classifier(features).argmax(dim=1) == labels  # n
        return 100 * correct.float().mean().item()
