"""SimSiam in parts: every experiment of two papers is a choice of them, and `pretrain/variants.yaml` names the choices.

Chen, He, Exploring Simple Siamese Representation Learning, CVPR 2021 ("the first paper"), and Zhang et al., How Does
SimSiam Avoid Collapse Without Negative Samples?, ICLR 2022 ("the second").

| file | the question | settings |
| --- | --- | --- |
| `heads.py` | what f ends in, and what h is | `projector_bn`, `output_affine`, `tail`, `predictor`, `predictor_bn` |
| `targets.py` | what a view is compared with: the latest output, a mean, a memory, a cache | `target` |
| `losses.py` | by which similarity | `similarity` |
| `gradient_components.py` | which part of its gradient is left | `remove` |
| this one | which views are compared, and on which side h stands | `symmetry`, `arrangement` |
"""

from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from pretrain.method.base import Batch, Group, Method, Output, TrainingPlan
from pretrain.method.config import SiameseConfig
from pretrain.method.siamese import losses
from pretrain.method.siamese.gradient_components import (
    component_loss,
    infonce_components,
    random_negatives,
    self_components,
    simsiam_components,
    triplet_components,
)
from pretrain.method.siamese.heads import build_output_norm, build_predictor, build_projector
from pretrain.method.siamese.targets import MeanOfAllButFirst, MovingAverage, PeriodicCopy, Target

PAIRS = {
    "symmetric": ((0, 1), (1, 0)),  # the first paper, equation 4
    "asymmetric": ((0, 1),),  # equation 3
    "asymmetric_2x": ((0, 1), (2, 3)),  # section 4.6: "sampling two pairs for each image"
}
"""Ordered pairs of views: the first learns, the second is its target."""


class Siamese(Method):
    """f: encoder with what follows it (`encoder`, `tail`); h: `predictor`; `target`: what they are compared with."""

    def __init__(self, config: SiameseConfig, plan: TrainingPlan) -> None:
        super().__init__()
        self.config, self.plan = config, plan
        c = config
        # In the order and with the names of `simsiam.py`: one seed starts both with the same weights.
        self.encoder = plan.base_encoder(num_classes=c.dim)
        self.encoder.fc = build_projector(self.encoder.fc, c.layers, c.projector_bn, c.output_affine)
        self.tail = build_output_norm(c.tail, c.dim)
        self.predictor = build_predictor(c.predictor, c.dim, c.hidden, c.predictor_bn)
        self.predictor.requires_grad_(c.train_predictor)
        self.predicts_from_z = c.predictor != "none"
        if c.arrangement == "inverse":
            self.inverse = build_predictor(c.predictor, c.dim, c.hidden, c.predictor_bn)
        self.target = {
            "latest": lambda: Target(c.stop_gradient),
            "mean": MeanOfAllButFirst,
            "moving_average": lambda: MovingAverage(plan.images, c.dim, c.momentum),
            "cached": lambda: PeriodicCopy(self.f, c.alternate or plan.steps_per_epoch),
        }[c.target]()
        self.pairs = PAIRS[c.symmetry]
        self.views = c.mean_of if c.target == "mean" else 1 + max(view for pair in self.pairs for view in pair)
        similarities: dict[str, losses.Similarity] = {
            "cross_entropy": losses.soft_cross_entropy,
            "mse": losses.half_mse,
            "infonce": partial(losses.infonce, temperature=c.temperature),
        }
        self.D = similarities.get(c.similarity, losses.negative_cosine)

    @property
    def f(self) -> nn.Module:
        """The encoder with its projector and what follows it."""
        return nn.Sequential(self.encoder, self.tail)

    def project(self, view: Tensor) -> Tensor:
        return cast(Tensor, self.f(view))

    def forward(self, batch: Batch) -> Output:
        z = self._project_views(batch)  # n-by-d a view
        objective = self.objective_name(batch.step)
        if objective != "train":
            loss = losses.negative_cosine(z[0], z[1]) if objective == "collapse" else losses.covariance_loss(*z)
            # DDP waits for a gradient of every parameter; the predictors get zeros.
            idle = sum(0 * w.sum() for h in self._predictors() for w in h.parameters())
            return {"loss": loss + idle, "z": z[0], "z2": z[1]}
        t = self.target(z, batch)  # n-by-d a view
        p = self._predictions_by_view(z)  # n-by-d by view
        if self.config.arrangement == "inverse":
            inverse = losses.inverse_predictor_losses(self.predictor, self.inverse, z, [p[0], p[1]], self.D)
            return {**inverse, "z": z[0], "z2": z[1], "p": p[0]}
        loss = torch.stack([self._pair_loss(z, t, p, a, b) for a, b in self.pairs]).mean()
        output = {"loss": loss, "z": z[0], "z2": z[1]}
        if self.predicts_from_z and 0 in p:
            output["p"] = p[0]
        return output

    def _project_views(self, batch: Batch) -> list[Tensor]:
        """Outputs (n, d) of all views; of those that only are targets without a gradient."""
        learning = {a for a, _ in self.pairs}
        training = self.objective_name(batch.step) == "train"
        constant = training and self.config.stop_gradient and self.config.arrangement == "predict"
        z = []
        for number, x in enumerate(batch.views):
            with torch.set_grad_enabled(torch.is_grad_enabled() and (number in learning or not constant)):
                z.append(self.project(x))  # n-by-d
        return z

    def _predictions_by_view(self, z: list[Tensor]) -> dict[int, Tensor]:
        """h's outputs (n, d) of the views on whose side it stands."""
        c = self.config
        if c.arrangement == "mirror":
            return {b: self.predictor(z[b].detach()) for b in sorted({b for _, b in self.pairs})}
        # The other view's prediction is the basic gradient, which needs it on both sides.
        sides = {view for pair in self.pairs for view in pair} if c.arrangement == "both" or c.remove else set()
        return {a: self.predictor(z[a]) for a in sorted({a for a, _ in self.pairs} | sides)}

    def _pair_loss(self, z: list[Tensor], t: list[Tensor], p: dict[int, Tensor], a: int, b: int) -> Tensor:
        """The loss of one pair of views, a scalar, from outputs z, targets t and predictions p by view."""
        c = self.config
        if c.similarity == "triplet":
            negatives = random_negatives(t[b])
            return component_loss(z[a], triplet_components(t[b], negatives), c.remove)
        if c.similarity == "self":
            return component_loss(z[a], self_components(z[a]), c.remove)
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
            return component_loss(x, infonce_components(x, y, c.temperature), c.remove)
        # NOTE: h learns by what is left of the gradient, as f does; the paper's section 3.3 does not say.
        return component_loss(x, simsiam_components(p[b], y), c.remove)

    def objective_name(self, step: int) -> str:
        """`train`, `collapse` or `decorrelate`, by the step (the second paper, figure 5 b)."""
        epoch, c = step // self.plan.steps_per_epoch, self.config
        if c.decorrelate_from and epoch >= c.decorrelate_from:
            return "decorrelate"
        return "collapse" if c.collapse_from and epoch >= c.collapse_from else "train"

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        self.target.after_step(self.f, step)
        if self.config.predictor == "one_fc_tanh":
            # A tanh bounds the weights after every step (the second paper, table 5, "one FC").
            for weight in self.predictor.parameters():
                weight.tanh_()

    def _predictors(self) -> list[nn.Module]:
        """What predicts: h, and what undoes it."""
        return [self.predictor, self.inverse] if self.config.arrangement == "inverse" else [self.predictor]

    def param_groups(self) -> list[Group]:
        return [
            {"params": list(self.encoder.parameters()), "fix_lr": False},
            {"params": [w for h in self._predictors() for w in h.parameters()], "fix_lr": self.config.fix_predictor_lr},
        ]
