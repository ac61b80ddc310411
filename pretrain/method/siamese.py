"""SimSiam in parts: every ablation of two papers is a choice of them. `pretrain.siamese` describes the parts."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn
from torchvision.models.resnet import ResNet

from pretrain.method.base import Batch, Group, Method, MethodConfig, Output, Plan, register
from pretrain.siamese import gradient, similarity
from pretrain.siamese.arrangement import ARRANGEMENTS
from pretrain.siamese.decorrelation import decorrelation
from pretrain.siamese.heads import NORMS, PREDICTORS, TAILS, BoundedLinear, build_encoder
from pretrain.siamese.inverse import inverse_loss
from pretrain.siamese.symmetry import PAIRS
from pretrain.siamese.target import Cached, Mean, MovingAverage, Target
from runs.errors import UserError

SIMILARITIES = ("cosine", "cross_entropy", "mse", "infonce", "triplet", "itself")
TARGETS = ("latest", "mean", "moving_average", "cached")


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
    projector_bn: str = "all"
    """Which layers of the projector have batch norm: `none`, `hidden` or `all`."""
    output_affine: bool = False
    """Give the output's batch norm scale and offset."""
    tail: str = "none"
    """What follows the projector: `none`; `l2`, a normalization; `l2_bn`, batch norm behind one."""
    predictor: str = "mlp"
    """h: `mlp`, `two_fc`, `one_fc`, `one_fc_tanh`, `bias` or `none`, the identity."""
    predictor_bn: str = "hidden"
    """Which layers of `mlp` have batch norm: `none`, `hidden` or `all`."""
    train_predictor: bool = True
    """Off, h stays as it starts."""
    fix_predictor_lr: bool = True
    """Keep the predictor's learning rate constant."""
    arrangement: str = "predict"
    """Where h stands: `predict`, before what learns; `mirror`, before the target; `both`; `inverse`, undone again."""
    target: str = "latest"
    """`latest` output; `mean` over further views; `moving_average` of an image's outputs; `cached` for some steps."""
    stop_gradient: bool = True
    """Make the target a constant (`latest` only; the others are constants)."""
    momentum: float = 0.8
    """m of `target=moving_average`."""
    alternate: int = 1
    """k of `target=cached`: steps between two computations of the targets; 0 for an epoch's."""
    mean_of: int = 10
    """Views of an image for `target=mean`: the first is compared with the mean of the others."""
    symmetry: str = "symmetric"
    """`symmetric`, `asymmetric` or `asymmetric_2x`, two pairs of views an image."""
    similarity: str = "cosine"
    """`cosine`, `cross_entropy`, `mse`, `infonce`, `triplet`, or `itself`: a view with its own output."""
    temperature: float = 0.2
    """tau of `infonce`."""
    remove: list[str] = field(default_factory=list)
    """Parts of the extra gradient to leave out: `o_e`, its center, and `r_e`, its residual."""
    collapse_from: int = 0
    """Epochs after which h goes and the target is no constant, which collapses; 0 for never."""
    decorrelate_from: int = 0
    """Epochs after which de-correlation is the only loss; 0 for never."""

    def __post_init__(self) -> None:
        choices = {
            "projector_bn": NORMS, "predictor_bn": NORMS, "tail": TAILS, "predictor": PREDICTORS, "target": TARGETS,
            "arrangement": (*ARRANGEMENTS, "inverse"), "symmetry": PAIRS, "similarity": SIMILARITIES,
        }  # fmt: skip
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise UserError(f"method.{name}={getattr(self, name)}: choose one of {', '.join(allowed)}")
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
        if set(self.remove) - set(gradient.REMOVABLE):
            raise UserError(f"method.remove={self.remove}: may name {' and '.join(gradient.REMOVABLE)}")
        if self.remove and self.similarity not in ("cosine", "infonce", "triplet", "itself"):
            raise UserError(f"method.remove: no components are known of method.similarity={self.similarity}")
        if self.similarity == "cosine" and self.remove and (self.arrangement != "predict" or self.target != "latest"):
            raise UserError("method.remove: of cosine it needs method.arrangement=predict and method.target=latest")
        if self.similarity in ("triplet", "itself") and self.predictor != "none":
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
        self.encoder = build_encoder(
            plan.arch, plan.zero_init_residual, c.dim, c.layers, c.projector_bn, c.output_affine
        )
        self.tail = TAILS[c.tail](c.dim)
        self.predictor = PREDICTORS[c.predictor](c.dim, c.hidden, c.predictor_bn).requires_grad_(c.train_predictor)
        if c.arrangement == "inverse":
            self.inverse = PREDICTORS[c.predictor](c.dim, c.hidden, c.predictor_bn)
        self.target = self._target()
        self.pairs = PAIRS[c.symmetry]
        self.views = c.mean_of if c.target == "mean" else 1 + max(view for pair in self.pairs for view in pair)
        self.D = {
            "cross_entropy": similarity.soft_cross_entropy,
            "mse": similarity.squared_distance,
            "infonce": similarity.infonce(c.temperature),
        }.get(c.similarity, similarity.cosine)

    def _target(self) -> Target:
        c = self.config
        if c.target == "mean":
            return Mean()
        if c.target == "moving_average":
            return MovingAverage(self.plan.images, c.dim, c.momentum)
        if c.target == "cached":
            return Cached(c.alternate or self.plan.steps_per_epoch)
        return Target(c.stop_gradient)

    def f(self, x: Tensor) -> Tensor:
        """Outputs (n, d) of views (n, 3, H, W)."""
        return cast(Tensor, self.tail(self.encoder(x)))

    def forward(self, batch: Batch) -> Output:  # noqa: D102
        z = self.outputs(batch)  # n-by-d a view
        phase = self.phase(batch.step)
        if phase != "train":
            loss = similarity.cosine(z[0], z[1]) if phase == "collapse" else decorrelation(*z)
            # DDP waits for a gradient of every parameter; the heads get zeros.
            idle = sum(0 * w.sum() for head in self.heads() for w in head.parameters())
            return {"loss": loss + idle, "z": z[0], "z2": z[1]}
        t = self.target(z, batch)  # n-by-d a view
        if self.config.arrangement == "inverse":
            return inverse_loss(self.predictor, self.inverse, z, self.D)
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
                z.append(self.f(x))  # n-by-d
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
        """The loss of one pair of views, a scalar."""
        c = self.config
        if c.similarity == "triplet":
            return gradient.pull(z[a], gradient.of_triplet(t[b], gradient.another(t[b])), c.remove)
        if c.similarity == "itself":
            return gradient.pull(z[a], gradient.of_itself(z[a]), c.remove)
        x, y = ARRANGEMENTS[c.arrangement](z, t, p, a, b)  # n-by-d
        if not c.remove:
            return self.D(x, y)
        if c.similarity == "infonce":
            return gradient.pull(x, gradient.of_infonce(x, y, c.temperature), c.remove)
        # NOTE: h learns by what is left of the gradient, as f does; the paper's section 3.3 does not say.
        return gradient.pull(x, gradient.of_simsiam(p[b], y), c.remove)

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
