"""MoCo v2. He et al., arXiv:1911.05722, Algorithm 1; Chen et al., arXiv:2003.04297; the loss symmetrized."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from torchvision.models.resnet import ResNet

from pretrain.collectives import all_gather
from pretrain.layers import autocast_off, l2_normalize, split_norms_
from pretrain.method.base import Batch, Method, Output, TrainingPlan
from pretrain.method.config import MoCoConfig
from runs.distributed import rank, world_size
from runs.errors import UserError


class MoCo(Method):
    """f_q, f_k: encoder networks for query and key; queue: dictionary as a queue of K keys, C-by-K."""

    # Batch norm over all images would tell a query which keys share its batch (section 3.3; issue 46 of the release).
    sync_bn = False
    queue: Tensor
    queue_ptr: Tensor

    def __init__(self, config: MoCoConfig, plan: TrainingPlan) -> None:
        super().__init__()
        self.config = config
        keys = plan.batch_size * (2 if config.symmetrized else 1)
        if config.queue % keys:
            near = max(1, config.queue // keys) * keys
            raise UserError(f"method.queue={config.queue}: must be a multiple of the {keys} keys a step, e.g. {near}")
        # Made in the order of facebookresearch/moco@7397dfe moco/builder.py, and named as there: one seed gives
        # the official initial weights, and checkpoints exchange.
        self.encoder_q = plan.base_encoder(num_classes=config.dim)
        self.encoder_k = plan.base_encoder(num_classes=config.dim)
        for encoder in (self.encoder_q, self.encoder_k):
            fc = encoder.fc
            encoder.fc = nn.Sequential(nn.Linear(fc.in_features, fc.in_features), nn.ReLU(), fc)
        for p_q, p_k in zip(self.encoder_q.parameters(), self.encoder_k.parameters(), strict=True):
            p_k.data.copy_(p_q.data)  # f_k.params = f_q.params
            p_k.requires_grad = False
        split_norms_(self, _groups_of_a_process(config.bn_groups, plan.batch_size))
        self.register_buffer("queue", normalize(torch.randn(config.dim, config.queue), dim=0))
        # Until the queue is full of keys its random vectors push all queries to one side; then they have to part again.
        self.monitor_warmup = max(config.queue // keys, plan.steps_per_epoch)
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))

    @property
    def encoder(self) -> ResNet:
        return self.encoder_q

    def forward(self, batch: Batch) -> Output:
        x1, x2 = batch.views  # x_q and x_k, N-by-3-by-H-by-W
        # NOTE: as released, before the keys; Algorithm 1 has it after the step before, which makes the same keys.
        self._update_key_encoder()
        # NOTE: the release broadcasts the first process's draw. The step's number gives all processes, and a resumed
        # run, one order.
        chance = torch.Generator().manual_seed(batch.step)
        q1 = self.f_q(x1)  # queries: N-by-C
        k2 = self.f_k(x2, chance)  # keys: N-by-C
        loss, keys = self.contrastive_loss(q1, k2), k2  # scalar
        if self.config.symmetrized:
            # NOTE: Algorithm 1 ends here. The release's colab notebook (facebookresearch/moco@f736491) is the authors'
            # only symmetrized code: one momentum update, both losses against the same queue, then 2N keys enter it.
            q2 = self.f_q(x2)  # queries: N-by-C
            k1 = self.f_k(x1, chance)  # keys: N-by-C
            loss, keys = loss + self.contrastive_loss(q2, k1), torch.cat([k1, k2])  # scalar, 2N-by-C
            if self.config.reduction == "mean":
                loss = loss / 2
        self._enqueue(keys)
        return {"loss": loss, "z": q1}

    def f_q(self, x: Tensor) -> Tensor:
        """Normalized queries (N, C) of images (N, 3, H, W)."""
        return l2_normalize(self.encoder_q(x))

    @torch.no_grad()
    def f_k(self, x: Tensor, chance: torch.Generator) -> Tensor:
        """Normalized keys (N, C) of images (N, 3, H, W), without a gradient; batch norm sees them in another order."""
        if not self.config.shuffle:
            return l2_normalize(self.encoder_k(x))
        x = all_gather(x)  # every process's images
        order = torch.randperm(len(x), generator=chance).to(x.device)
        k = self.encoder_k(x[order.chunk(world_size())[rank()]])  # N-by-C
        k = all_gather(l2_normalize(k))  # every process's keys, shuffled
        return k[order.argsort().chunk(world_size())[rank()]]  # N-by-C, in the order of x

    def contrastive_loss(self, q: Tensor, k: Tensor) -> Tensor:
        """InfoNCE (equation 1) of queries and their keys, both (N, C): scalar."""
        t = self.config.temperature
        with autocast_off(q):
            l_pos = torch.einsum("nc,nc->n", q, k)[:, None]  # positive logits: N-by-1
            # A copy, because new keys enter the queue before the backward pass.
            l_neg = torch.einsum("nc,ck->nk", q, self.queue.clone())  # negative logits: N-by-K
        logits = torch.cat([l_pos, l_neg], dim=1)  # N-by-(1+K)
        labels = torch.zeros(len(q), dtype=torch.long, device=q.device)  # positives are the 0-th
        return cross_entropy(logits / t, labels)

    @torch.no_grad()
    def _update_key_encoder(self) -> None:
        """Momentum update (equation 2)."""
        m = self.config.momentum
        for p_q, p_k in zip(self.encoder_q.parameters(), self.encoder_k.parameters(), strict=True):
            p_k.lerp_(p_q, 1 - m)  # m * p_k + (1 - m) * p_q

    @torch.no_grad()
    def _enqueue(self, keys: Tensor) -> None:
        """Enqueue every process's (n, C) keys, and with that dequeue the oldest."""
        keys = all_gather(keys)  # every process's n
        # The place stays on the device: asking for its value would make the processor wait at every step.
        places = (self.queue_ptr + torch.arange(len(keys), device=keys.device)) % self.config.queue  # n
        self.queue.index_copy_(1, places, keys.T.to(self.queue.dtype))
        self.queue_ptr.add_(len(keys)).remainder_(self.config.queue)


def _groups_of_a_process(bn_groups: int, batch_size: int) -> int:
    groups = max(bn_groups, world_size())
    if groups % world_size():
        raise UserError(f"method.bn_groups={bn_groups}: must be a multiple of the {world_size()} processes")
    if batch_size % groups or batch_size // groups < 2:
        raise UserError(
            f"method.bn_groups={bn_groups}: {batch_size} images do not split into {groups} equal groups of 2 or more; "
            "change it or batch_size"
        )
    return groups // world_size()
