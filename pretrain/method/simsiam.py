"""SimSiam. Chen, He: Exploring Simple Siamese Representation Learning, CVPR 2021, Algorithm 1."""

from torch import Tensor

from pretrain.layers import l2_normalize, mlp
from pretrain.method.base import Batch, Group, Method, Output, TrainingPlan
from pretrain.method.config import SimSiamConfig


class SimSiam(Method):
    """f: backbone and projection MLP; h: prediction MLP; D: negative cosine similarity."""

    def __init__(self, config: SimSiamConfig, plan: TrainingPlan) -> None:
        super().__init__()
        self.config = config
        # The modules are made in the order of facebookresearch/simsiam@a7bc177 simsiam/builder.py, and named as there:
        # one seed gives the official initial weights, and the checkpoints exchange.
        self.encoder = plan.base_encoder(num_classes=config.dim)
        fc = self.encoder.fc
        # The last bias is useless before the norm, but the release keeps it, without a gradient.
        fc.bias.requires_grad = False
        # Section 3: two of fc, BN, ReLU, then fc and a BN without scale and offset; the predictor is fc, BN, ReLU, fc.
        self.encoder.fc = mlp([fc.in_features] * config.layers + [config.dim], output_norm="plain", last=fc)
        self.predictor = mlp([config.dim, config.hidden, config.dim], output_bias=True)

    def forward(self, batch: Batch) -> Output:
        f, h, D = self.encoder, self.predictor, self.D
        x1, x2 = batch.views  # n-by-3-by-H-by-W
        z1, z2 = f(x1), f(x2)  # projections, n-by-d
        p1, p2 = h(z1), h(z2)  # predictions, n-by-d
        loss = D(p1, z2) / 2 + D(p2, z1) / 2  # scalar in [-1, 1]
        return {"loss": loss, "z": z1, "z2": z2, "p": p1}

    def D(self, p: Tensor, z: Tensor) -> Tensor:
        """Negative cosine similarity of (n, d) and (n, d), averaged to a scalar."""
        if self.config.stop_gradient:
            z = z.detach()  # n-by-d
        p = l2_normalize(p)  # n-by-d
        z = l2_normalize(z)  # n-by-d
        return -(p * z).sum(dim=1).mean()

    def param_groups(self) -> list[Group]:
        # As released: the frozen bias is listed too, so that the optimizer's state has the official numbering.
        return [
            {"params": list(self.encoder.parameters()), "fix_lr": False},
            {"params": list(self.predictor.parameters()), "fix_lr": self.config.fix_predictor_lr},
        ]
