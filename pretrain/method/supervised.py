"""Supervised classification, the baseline of every transfer table: pytorch/examples imagenet/main.py."""

import torch
from torch.nn.functional import cross_entropy

from pretrain.layers import at_least_float32
from pretrain.method.base import Batch, Method, Output, TrainingPlan
from pretrain.method.config import SupervisedConfig


class Supervised(Method):
    """A ResNet with its linear classifier, `encoder.fc`."""

    sync_bn = False  # the reference normalizes each process's images by themselves
    views = 1

    def __init__(self, config: SupervisedConfig, plan: TrainingPlan) -> None:
        super().__init__()
        self.encoder = plan.base_encoder(num_classes=plan.classes)

    def forward(self, batch: Batch) -> Output:
        (x,) = batch.views  # N-by-3-by-H-by-W
        y = at_least_float32(self.encoder(x))  # logits, N-by-classes
        loss = cross_entropy(y, batch.labels)  # scalar
        with torch.no_grad():
            top1 = 100 * (y.argmax(dim=1) == batch.labels).float().mean()  # percent
        return {"loss": loss, "z": y, "top1": top1}
