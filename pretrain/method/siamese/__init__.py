"""SimSiam in parts: every experiment of two papers is a choice of them, and `pretrain/variants.yaml` names the choices.

Chen, He, Exploring Simple Siamese Representation Learning, CVPR 2021 ("the first paper"), and Zhang et al., How Does
SimSiam Avoid Collapse Without Negative Samples?, ICLR 2022 ("the second").

| file | the question | settings |
| --- | --- | --- |
| `heads.py` | what f ends in, and what h is | `projector_bn`, `output_affine`, `tail`, `predictor`, `predictor_bn` |
| `targets.py` | what a view is compared with: the latest output, a mean, a memory, a cache | `target` |
| `losses.py` | by which similarity, and which part of its gradient is left | `similarity`, `remove` |
| this one | which views are compared, and on which side h stands | `symmetry`, `arrangement` |
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn
from torchvision.models.resnet import ResNet

from pretrain.method.base import Batch, Group, Method, MethodConfig, Output, Plan, register
from pretrain.method.siamese import losses
from pretrain.method.siamese.heads import BoundedLinear, build_predictor, build_projector, build_tail
from pretrain.method.siamese.targets import Cached, Mean, MovingAverage, Target
from runs.errors import UserError
from runs.settings import choice

PAIRS = {
    "symmetric": ((0, 1), (1, 0)),  # the first paper, equation 4
    "asymmetric": ((0, 1),),  # equation 3
    "asymmetric_2x": ((0, 1), (2, 3)),  # section 4.6: "sampling two pairs for each image"
}
"""Ordered pairs of views: the first learns, the second is its target."""
REMOVABLE = ("o_e", "r_e")


@dataclass
class SiameseConfig(MethodConfig):
    """Settings of the composition; the defaults are SimSiam."""

    name: str = "siamese"
    dim: int = 2048
    """d: width of z and p."""
    hidden: int = 512
    """Width of the predictor's hidden layer."""
    layers: int = 3
    """Layers of the projector."""
    projector_bn: str = choice("all", "hidden", "none")
    """Which layers of the projector have batch norm."""
    output_affine: bool = False
    """Give the output's batch norm scale and offset."""
    tail: str = choice("none", "l2", "l2_bn")
    """What follows the projector. l2: a normalization; l2_bn: batch norm behind one."""
    predictor: str = choice("mlp", "two_fc", "one_fc", "one_fc_tanh", "bias", "none")
    """h. none: the identity."""
    predictor_bn: str = choice("hidden", "none", "all")
    """Which layers of mlp have batch norm."""
    train_predictor: bool = True
    """Off, h stays as it starts."""
    fix_predictor_lr: bool = True
    """Keep the predictor's learning rate constant."""
    arrangement: str = choice("predict", "mirror", "both", "inverse")
    """Where h stands. predict: before what learns; mirror: before the target; inverse: undone again."""
    target: str = choice("latest", "mean", "moving_average", "cached")
    """latest: the output of now; mean: over further views; moving_average: of an image's outputs; cached: for steps."""
    stop_gradient: bool = True
    """Make the target a constant (target=latest only; the others are constants)."""
    momentum: float = 0.8
    """m of target=moving_average."""
    alternate: int = 1
    """k of target=cached: steps between two computations of the targets; 0 for an epoch's."""
    mean_of: int = 10
    """Views of an image for target=mean: the first is compared with the mean of the others."""
    symmetry: str = choice(*PAIRS)
    """asymmetric_2x: two pairs of views an image, each compared one way."""
    similarity: str = choice("cosine", "cross_entropy", "mse", "infonce", "triplet", "self")
    """self: of a view with its own output."""
    temperature: float = 0.2
    """tau of infonce."""
    remove: list[str] = field(default_factory=list)
    """Parts of the extra gradient to leave out: o_e, its center, and r_e, its residual."""
    collapse_from: int = 0
    """Epochs after which h goes and the target is no constant, which collapses; 0 for never."""
    decorrelate_from: int = 0
    """Epochs after which de-correlation is the only loss; 0 for never."""

    def __post_init__(self) -> None:
        if self.layers not in (2, 3):
            raise UserError(f"method.layers={self.layers}: SimSiam's projector has 2 or 3 layers")
        if min(self.dim, self.hidden) < 1:
            raise UserError("method.dim and method.hidden must be at least 1")
        if min(self.alternate, self.collapse_from, self.decorrelate_from) < 0:
            raise UserError("method.alternate, collapse_from and decorrelate_from must not be negative")
        if not 0 <= self.momentum <= 1:
            raise UserError(f"method.momentum={self.momentum}: must lie in 0 to 1")
        if self.temperature <= 0:
            raise UserError(f"method.temperature={self.temperature}: must be positive")
        if self.mean_of < 2:
            raise UserError(f"method.mean_of={self.mean_of}: must be at least 2")
        self._check_together()

    def _check_together(self) -> None:
        """Refuse parts that do not fit each other, so that no setting is silently without effect."""
        if set(self.remove) - set(REMOVABLE):
            raise UserError(f"method.remove={self.remove}: may name {' and '.join(REMOVABLE)}")
        if self.remove and self.similarity not in ("cosine", "infonce", "triplet", "self"):
            raise UserError(f"method.remove: no components are known of method.similarity={self.similarity}")
        if self.similarity == "cosine" and self.remove and (self.arrangement != "predict" or self.target != "latest"):
            raise UserError("method.remove: of cosine it needs method.arrangement=predict and method.target=latest")
        if self.similarity in ("triplet", "self") and self.predictor != "none":
            raise UserError(f"method.similarity={self.similarity}: has no predictor; add method.predictor=none")
        if not self.stop_gradient and (self.target != "latest" or self.remove):
            raise UserError("method.stop_gradient=false: needs method.target=latest and nothing in method.remove")
        if self.target == "mean" and self.symmetry != "asymmetric":
            raise UserError("method.target=mean: the first view alone learns; add method.symmetry=asymmetric")
        if self.arrangement == "inverse" and (self.symmetry != "symmetric" or self.target != "latest"):
            raise UserError("method.arrangement=inverse: needs method.symmetry=symmetric and method.target=latest")


@register("siamese", SiameseConfig)
class Siamese(Method):
    """f: encoder with what follows it (`encoder`, `tail`); h: `predictor`; `target`: what they are compared with."""

    def __init__(self, config: SiameseConfig, plan: Plan) -> None:
        super().__init__()
        self.config, self.plan = config, plan
        c = config
        # In the order and with the names of `simsiam.py`: one seed starts both with the same weights.
        self.encoder = plan.base_encoder(num_classes=c.dim)
        self.encoder.fc = build_projector(self.encoder.fc, c.layers, c.projector_bn, c.output_affine)
        self.tail = build_tail(c.tail, c.dim)
        self.predictor = build_predictor(c.predictor, c.dim, c.hidden, c.predictor_bn)
        self.predictor.requires_grad_(c.train_predictor)
        if c.arrangement == "inverse":
            self.inverse = build_predictor(c.predictor, c.dim, c.hidden, c.predictor_bn)
        self.target = {
            "latest": lambda: Target(c.stop_gradient),
            "mean": Mean,
            "moving_average": lambda: MovingAverage(plan.images, c.dim, c.momentum),
            "cached": lambda: Cached(c.alternate or plan.steps_per_epoch),
        }[c.target]()
        self.pairs = PAIRS[c.symmetry]
        self.views = c.mean_of if c.target == "mean" else 1 + max(view for pair in self.pairs for view in pair)
        self.D = {
            "cross_entropy": losses.soft_cross_entropy,
            "mse": losses.squared_distance,
            "infonce": losses.infonce(c.temperature),
        }.get(c.similarity, losses.cosine)

    def embed(self, x: Tensor) -> Tensor:  # noqa: D102
        return cast(Tensor, self.tail(self.encoder(x)))

    def predict(self, z: Tensor) -> Tensor | None:  # noqa: D102
        return None if self.config.predictor == "none" else cast(Tensor, self.predictor(z))

    def forward(self, batch: Batch) -> Output:  # noqa: D102
        z = self.outputs(batch)  # n-by-d a view
        phase = self.phase(batch.step)
        if phase != "train":
            loss = losses.cosine(z[0], z[1]) if phase == "collapse" else losses.decorrelation(*z)
            # DDP waits for a gradient of every parameter; the heads get zeros.
            idle = sum(0 * w.sum() for head in self.heads() for w in head.parameters())
            return {"loss": loss + idle, "z": z[0], "z2": z[1]}
        t = self.target(z, batch)  # n-by-d a view
        if self.config.arrangement == "inverse":
            return losses.inverse_loss(self.predictor, self.inverse, z, self.D)
        p = self.predictions(z)  # n-by-d by view
        loss = torch.stack([self.compare(z, t, p, a, b) for a, b in self.pairs]).mean()
        output = {"loss": loss, "z": z[0], "z2": z[1]}
        if self.config.predictor != "none" and 0 in p:
            output["p"] = p[0]
        return output

    def outputs(self, batch: Batch) -> list[Tensor]:
        """Outputs (n, d) of all views; of those that only are targets without a gradient."""
        learning = {a for a, _ in self.pairs}
        training = self.phase(batch.step) == "train"
        constant = training and self.config.stop_gradient and self.config.arrangement == "predict"
        z = []
        for number, x in enumerate(batch.views):
            with torch.set_grad_enabled(torch.is_grad_enabled() and (number in learning or not constant)):
                z.append(self.embed(x))  # n-by-d
        return z

    def predictions(self, z: list[Tensor]) -> dict[int, Tensor]:
        """h's outputs (n, d) of the views on whose side it stands."""
        c = self.config
        if c.arrangement == "mirror":
            return {b: self.predictor(z[b].detach()) for b in sorted({b for _, b in self.pairs})}
        # The other view's prediction is the basic gradient, which needs it on both sides.
        sides = {view for pair in self.pairs for view in pair} if c.arrangement == "both" or c.remove else set()
        return {a: self.predictor(z[a]) for a in sorted({a for a, _ in self.pairs} | sides)}

    def compare(self, z: list[Tensor], t: list[Tensor], p: dict[int, Tensor], a: int, b: int) -> Tensor:
        """The loss of one pair of views, a scalar, from outputs z, targets t and predictions p by view."""
        c = self.config
        if c.similarity == "triplet":
            negatives = losses.random_negatives(t[b])
            return losses.component_loss(z[a], losses.of_triplet(t[b], negatives), c.remove)
        if c.similarity == "self":
            return losses.component_loss(z[a], losses.of_self(z[a]), c.remove)
        if c.arrangement == "mirror":
            # The second paper, algorithm 2: one view's output learns the other's prediction, and h too.
            x, y = z[a], p[b]  # n-by-d
        elif c.arrangement == "both":
            # Algorithm 3. NOTE: the text of section 2.3 lets h learn by equation 2; the algorithm, which this is, by
            # the same loss as f.
            x, y = p[a], p[b].detach()  # n-by-d
        else:
            x, y = p[a], t[b]  # n-by-d
        if not c.remove:
            return self.D(x, y)
        if c.similarity == "infonce":
            return losses.component_loss(x, losses.of_infonce(x, y, c.temperature), c.remove)
        # NOTE: h learns by what is left of the gradient, as f does; the paper's section 3.3 does not say.
        return losses.component_loss(x, losses.of_simsiam(p[b], y), c.remove)

    def phase(self, step: int) -> str:
        """`train`, `collapse` or `decorrelate`, by the step (the second paper, figure 5 b)."""
        epoch, c = step // self.plan.steps_per_epoch, self.config
        if c.decorrelate_from and epoch >= c.decorrelate_from:
            return "decorrelate"
        return "collapse" if c.collapse_from and epoch >= c.collapse_from else "train"

    def look_ahead(self, step: int) -> int:  # noqa: D102
        return self.target.look_ahead(step)

    def prepare(self, batches: Iterable[Batch]) -> None:  # noqa: D102
        self.target.prepare(nn.Sequential(self.encoder, self.tail), batches)

    def after_step(self, step: int) -> None:  # noqa: D102
        self.target.after_step(step)
        if isinstance(self.predictor, BoundedLinear):
            self.predictor.constrain()

    def backbone(self) -> ResNet:  # noqa: D102
        return self.encoder

    def heads(self) -> list[nn.Module]:
        """What predicts: h, and what undoes it."""
        return [self.predictor, self.inverse] if self.config.arrangement == "inverse" else [self.predictor]

    def groups(self) -> list[Group]:  # noqa: D102
        return [
            {"params": list(self.encoder.parameters()), "fix_lr": False},
            {"params": [p for head in self.heads() for p in head.parameters()], "fix_lr": self.config.fix_predictor_lr},
        ]
