"""SwAV. Caron et al.: Unsupervised Learning by Contrasting Cluster Assignments, arXiv:2006.09882, appendix A."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, normalize

from pretrain.collectives import all_gather, all_reduce
from pretrain.layers import autocast_off, l2_normalize, mlp
from pretrain.method.base import Batch, Method, Output, TrainingPlan
from pretrain.method.config import SwAVConfig
from runs.distributed import rank, world_size
from runs.errors import UserError


class SwAV(Method):
    """model: backbone and projector (`encoder`, `encoder.fc`); C: prototypes, the rows of a K-by-D matrix."""

    predicts_from_z = False  # the predictor stands behind the prototypes
    queue: Tensor

    def __init__(self, config: SwAVConfig, plan: TrainingPlan) -> None:
        super().__init__()
        self.config, self.plan = config, plan
        if config.queue % plan.batch_size:
            raise UserError(
                f"method.queue={config.queue}: must be a multiple of batch_size={plan.batch_size}, "
                f"e.g. {max(1, config.queue // plan.batch_size) * plan.batch_size}"
            )
        self.encoder = plan.base_encoder(num_classes=config.dim)
        width = self.encoder.fc.in_features
        # facebookresearch/swav@06b1b7c src/resnet50.py: torch's own layers, so biases everywhere.
        hidden = [config.hidden] * (config.layers - 1)
        self.encoder.fc = mlp([width, *hidden, config.dim], hidden_bias=True, output_bias=True)
        self.prototypes = nn.Linear(config.dim, config.prototypes, bias=False)
        # Codes that are uniform ask for uniform predictions, whatever the projections: the loss then stays here.
        self.constant_loss = math.log(config.prototypes)
        self._normalize_prototypes()
        if config.predictor:
            self.predictor = mlp([config.prototypes, config.predictor, config.prototypes], output_bias=True)
        self.register_buffer("queue", torch.zeros(2, config.queue, config.dim))

    def forward(self, batch: Batch) -> Output:
        temp, eps, niters = self.config.temperature, self.config.epsilon, self.config.iterations
        x_t, x_s = batch.views  # B-by-3-by-H-by-W
        # Both views in one pass: they share the batch norms' statistics.
        z = self.encoder(torch.cat([x_t, x_s]))  # embeddings, 2B-by-D
        z = l2_normalize(z)  # 2B-by-D
        with autocast_off(z):
            scores = self.prototypes(z)  # prototype scores, 2B-by-K
        (z_t, z_s), (scores_t, scores_s) = z.chunk(2), scores.chunk(2)  # B-by-D, B-by-K
        B = len(scores_t)
        # Assignments. NOTE: the pseudo-code leaves out the queue of earlier embeddings (section 3.1).
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.stop_gradient):
            q_t = sinkhorn(self._with_queue(0, scores_t, z_t, batch.step), eps, niters)[-B:]  # B-by-K
            q_s = sinkhorn(self._with_queue(1, scores_s, z_s, batch.step), eps, niters)[-B:]  # B-by-K
        if self.config.predictor:
            scores_t, scores_s = self.predictor(scores_t), self.predictor(scores_s)  # B-by-K
        log_p_t, log_p_s = log_softmax(scores_t / temp, dim=1), log_softmax(scores_s / temp, dim=1)  # B-by-K
        # Swap prediction problem. NOTE: a mean over images, as released; the pseudo-code's is over prototypes too.
        loss = -0.5 * ((q_t * log_p_s).sum(dim=1).mean() + (q_s * log_p_t).sum(dim=1).mean())  # scalar
        return {"loss": loss, "z": z_t}

    def _with_queue(self, view: int, scores: Tensor, z: Tensor, step: int) -> Tensor:
        """Scores (queue / processes + B, K) of the queue's embeddings, if in use and full, and of a view's (B, K).

        The normalized z (B, D) of the view, 0 or 1, enter the queue; `step` counts steps done before this one.
        """
        config = self.config
        since = step - config.queue_from_epoch * self.plan.steps_per_epoch
        if not config.queue or since < 0:
            return scores
        # NOTE: the release has a queue a process; here one holds them all, and each process takes its share.
        earlier = self.queue[view].chunk(world_size())[rank()].clone()  # queue / processes-by-D
        newest = all_gather(z.detach())  # every process's B-by-D
        self.queue[view] = torch.cat([newest, self.queue[view, : -len(newest)]])
        if since * self.plan.batch_size < config.queue:
            return scores
        with autocast_off(z):
            return torch.cat([self.prototypes(earlier), scores])

    def after_backward(self, step: int) -> None:
        if step < self.config.freeze_epochs * self.plan.steps_per_epoch:
            # No gradient at all: a zero would still let weight decay and momentum move them.
            self.prototypes.weight.grad = None

    def after_step(self, step: int) -> None:
        self._normalize_prototypes()

    @torch.no_grad()
    def _normalize_prototypes(self) -> None:
        """Scale every prototype to unit length, also before the first step."""
        self.prototypes.weight.copy_(normalize(self.prototypes.weight, dim=1))


def sinkhorn(scores: Tensor, eps: float, niters: int) -> Tensor:
    """Sinkhorn-Knopp over all processes' images: soft assignments that use every prototype equally (section 3.1).

    From this process's scores (B, K) to (B, K), each row a distribution over the prototypes; eps is the smoothness.
    """
    Q = torch.exp(scores / eps).T  # K-by-B
    Q = Q / all_reduce(Q.sum())
    K, B = len(Q), Q.shape[1] * world_size()
    # NOTE: without the pseudo-code's u, r = 1/K and c = 1/B: the same numbers.
    for _ in range(niters):
        Q = Q / all_reduce(Q.sum(dim=1, keepdim=True)) / K  # each prototype: 1/K in all
        Q = Q / Q.sum(dim=0, keepdim=True) / B  # each image: 1/B in all
    return (Q * B).T  # B-by-K
